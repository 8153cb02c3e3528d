"""Fault: latency, error responses and resets for a share of the attempts, for tests and drills.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage.

`docs/design/fault.md` says why it stands innermost.
"""
