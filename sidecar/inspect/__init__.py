"""Inspection of policies without serving them: `sidecar routes` and `sidecar explain`.

dry              policies compiled with a clock that stands still and a loop that does not run
explain          start here: routes as text, and the way of one request with the reason for it
explain_cache    what a cache would do with the request and its answer
documents        shapes of the JSON documents that the commands print with `--json`
explain_json     documents of routes and of one request, from the same facts as `explain`
effective        effective values of a block, each with the place that it comes from
"""
