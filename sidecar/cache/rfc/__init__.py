"""Rules of HTTP caching as pure functions: no I/O and no clock; instants are arguments in seconds.

    lines                                raw field lines: search and removal
    dates, etag, structured, directives  values of fields
    facts                                what a response states to a cache, from all its fields
    freshness                            may a response be stored, how long is it fresh    (RFC 9111 3 and 4.2)
    storing                              parts of a request and its response to store       (RFC 9111 3)
    key, vary                            which requests share a response                   (RFC 9111 2 and 4.1)
    reuse                                may an entry be used for this request, now       (RFC 9111 4)
    validation, ranges                   conditional and partial requests                 (RFC 9110 13 and 14)
    location                             URIs that an unsafe request changes              (RFC 9111 4.4)
    status                               values of Cache-Status                           (RFC 9211)

Each rule has its section beside it.  Start reading with `freshness.assess` and `reuse.judge`: everything else serves
these two.  Not here: storage (`sidecar.cache`), and the order in which a request asks (`sidecar.stages.cache`).
"""
