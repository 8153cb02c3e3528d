"""Concurrency: a limit on requests in flight, a short queue for it, and the important requests first.

- `spec.py`: what a policy file may say.
- `stage.py`: a plain limit, one with a queue or one that adapts, and the state that they share.
- `permits.py`: permits and the queue for them, by rank; knows nothing of HTTP.
- `limit.py`: the adaptive limit as plain arithmetic.

`docs/design/concurrency.md` has the reasons.
"""
