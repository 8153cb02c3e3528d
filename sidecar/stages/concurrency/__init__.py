"""Concurrency: a limit on requests in flight, with a short queue that serves important requests first.

- `spec.py`: the block in a policy file.
- `stage.py`: the plain limit, the limits with a queue or that adapt, and the state that they share.
- `permits.py`: permits and the queue for them, by rank, without HTTP.
- `limit.py`: the adaptive limit as plain arithmetic.

`docs/design/concurrency.md` has the reasons.
"""
