"""Hedge: a second request when the first one is slow; the first good response wins.

- `spec.py`: what a policy file may say.
- `stage.py`: the stage, and the race of one request with its hedges.

`docs/design/hedge.md` has the rules' reasons, and why the first attempt runs without a task.
"""
