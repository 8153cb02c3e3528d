"""Authorize: who may do what, by rules of which the first that allows decides.

- `spec.py`: the block in a policy file.
- `rules.py`: compiled rules, and the decision on a request.
- `networks.py`: addresses of clients in networks.
- `stage.py`: the stage.

`docs/design/authorization.md` has the reasons.
"""
