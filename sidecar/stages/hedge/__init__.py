"""Hedge: a second request when the first one is slow; the first good response wins.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the race of one request with its hedges.

`docs/design/hedge.md` has the reasons.
"""
