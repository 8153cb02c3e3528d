"""The `cache` block: answers from a store, fetches what is missing.

    spec        what a policy file may say
    stage       the layer: the ways in which a request is answered; start reading here
    observer    the layer in `mode: observe`
    refresh     background refresh of stale entries
    settings    a spec as key rule and limits

Not here: the store and the rules of RFC 9111 (`sidecar.cache`).
"""
