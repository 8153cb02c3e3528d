"""Cors: which pages of other origins may read responses (Fetch standard, "HTTP extensions").

- `spec.py`: the block in a policy file.
- `origins.py`: origins, exact or by pattern.
- `stage.py`: the stage, which answers preflights and adds fields to responses.

`docs/design/cors.md` has the reasons.
"""
