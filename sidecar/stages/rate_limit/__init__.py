"""Rate limit: named limits on the rate of requests, each for all requests together or for each value of a key.

- `spec.py`: the block in a policy file.
- `fleet.py`: limits whose counts are in a store that several processes share.
- `stage.py`: the limits of a route, and the state that survives a reload.

Keys, costs, fields of responses and the counts of a process are those of `sidecar.limits`.  `docs/rate-limits.md` has
the rules for users.
"""
