"""Quota: named limits on the number of requests in an hour, a day, a week or a month.

- `spec.py`: the block in a policy file.
- `windows.py`: the hour, day, week or month that an instant is in, by a time zone.
- `stage.py`: the quotas of a route, and the state that survives a reload.

Keys, costs and fields of responses are those of `sidecar.limits`.  `docs/quotas.md` has the rules for users.
"""
