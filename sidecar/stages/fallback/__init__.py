"""Fallback: responses in place of failures.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the steps that it tries in order.

`docs/design/fallback.md` has the reasons.
"""
