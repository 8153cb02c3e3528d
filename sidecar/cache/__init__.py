"""Storage of the response cache, and the rules of HTTP caching.

    spec                        the `caches` section of a policy file
    store                       one cache: start reading here
    table, lru, entry           its memory: items by key, their order of use, what an item is
    redis_tier, redis_client    an optional Redis behind the memory; the client is the adapter to aiocache
    codec                       entries as bytes, for Redis
    fetch, fetcher              fetches in flight; how they are made, and what is stored of their responses
    refreshes                   counts of stored answers that were fetched anew, changed or not
    tee                         copies a body to several readers and into the store
    stored_response             an entry as the response to a request
    rule_handle                 registration of a policy's key rule
    rfc/                        the rules of RFC 9110, 9111 and 9211, as pure functions

Not here: the order in which a request asks memory, fetches and upstream (`sidecar.stages.cache`), and the
administration of caches (`sidecar.admin.cache`).
"""
