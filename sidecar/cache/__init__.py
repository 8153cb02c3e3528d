"""The response cache below its stage: HTTP caching (RFC 9111 and its neighbours) as pure functions, and the stores.

    dates, structured, directives      what the fields say
    key, vary                          which stored answer a request means
    freshness, validation, ranges      may it be stored, is it fresh, what does a conditional or partial request get
    status                             what was done, said in Cache-Status (RFC 9211)
    entry, codec, answer               a stored answer; as bytes; as a response
    store, redis                       where entries live
    fill                               one upstream call for many callers

It imports only `core`, and only the stage `sidecar.stages.cache` and the control plane import it.  The semantics do no
I/O and have no clock: instants are handed in, seconds as floats.  Each rule has its RFC section beside it.
"""
