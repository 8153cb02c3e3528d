"""Cache: responses from a store, and fetches of missing responses.

    spec        the block in a policy file
    stage       the stage: the ways in which a request is answered; start reading here
    observer    the stage in `mode: observe`
    refresh     background refresh of stale entries
    settings    a spec as key rule and limits
    selection   the requests that the cache answers

Not here: the store and the rules of RFC 9111 (`sidecar.cache`).
"""
