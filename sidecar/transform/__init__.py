"""Rewriting of messages: pure functions, and operations that are compiled when policies are loaded.

    headers, cookies               header fields, as raw lines; attributes of Set-Cookie
    path_rewrite, query            where a request is sent
    reverse_rewrite                Location and Set-Cookie of a response, in the client's terms
    buffering                      bodies buffered whole and parsed as documents: start reading here for bodies
    jsonbody, pointer              JSON documents; operations on them by JSON Pointers (RFC 6901)
    structure                      check of a JSON text that streams
    selection                      texts of single values in JSON documents, with their spelling
    forms, coding                  form bodies as documents; gzip, deflate and br
    validators                     fields that are wrong once a body has changed
    values                         templates of a policy

No I/O and no clock.  Each operation takes time linear in what it rewrites.  Not here: the choice of
messages and the treatment of errors (`sidecar.stages.transform`); comparison of paths for routing (`sidecar.core.uri`).
"""
