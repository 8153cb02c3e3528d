"""The rules of HTTP caching, as pure functions: no I/O and no clock, instants are handed in as seconds.

    lines                                field lines, searched where they stand
    dates, etag, structured, directives  values of fields
    facts                                what an answer states to a cache, from all its fields
    freshness                            may an answer be stored, how long is it fresh    (RFC 9111 3 and 4.2)
    storing                              what of a request and its answer is stored       (RFC 9111 3)
    key, vary                            which requests share an answer                   (RFC 9111 2 and 4.1)
    reuse                                may an entry be used for this request, now       (RFC 9111 4)
    validation, ranges                   conditional and partial requests                 (RFC 9110 13 and 14)
    location                             URIs that an unsafe request changes              (RFC 9111 4.4)
    status                               what was done, for Cache-Status                  (RFC 9211)

Each rule has its section beside it.  Start reading with `freshness.assess` and `reuse.judge`: everything else serves
these two.  Not here: where entries are (`sidecar.cache`), and in which order a request asks (`sidecar.stages.cache`).
"""
