"""The `cache` block: answers from a store, fetches what is missing.

    spec        what a policy file may say
    stage       the stage: the ways in which a request is answered; start reading here
    observer    the stage in `mode: observe`
    refresh     background refresh of stale entries
    settings    a spec as key rule and limits
    selection   which requests the cache is for

Not here: the store and the rules of RFC 9111 (`sidecar.cache`).
"""
