"""Retry: another attempt if it may help, can do no harm, and the budget allows it.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the checks that can end retrying.  Start reading here.
- `peek.py`: how to wait for the first message of a gRPC answer.
- `strategies.py`: the adapter of tenacity, and the only file that imports it: when to stop, how long to wait.

The retry budget belongs to the upstream (`sidecar.upstream.budget`).  `docs/design/retry.md` has the reasons.
"""
