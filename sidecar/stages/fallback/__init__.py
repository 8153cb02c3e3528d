"""Fallback: what to respond when the response would be a failure.

- `spec.py`: what a policy file may say.
- `stage.py`: the stage, and the steps that it takes in order.

`docs/design/fallback.md` has the reasons.
"""
