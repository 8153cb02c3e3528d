"""Inspection of policies without serving them: `sidecar routes` and `sidecar explain`.

dry              policies compiled with a clock that stands still and a loop that does not run
explain          start here: routes as text, and the way of one request with the reason for it
explain_cache    what a cache would do with the request and its answer
effective        effective values of a block, each with the place that it comes from
"""
