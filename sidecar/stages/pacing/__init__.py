"""Pacing: sends more slowly to an upstream that asks for less, by 429, Retry-After, RateLimit or RESOURCE_EXHAUSTED.

- `spec.py`: the block in a policy file.
- `fields.py`: what the field RateLimit of an answer says.
- `pace.py`: the rate, which answers lower and time raises, without HTTP and without a clock.
- `stage.py`: the stage, and the rate that survives a reload.

`docs/rate-limits.md` has the rules for users.
"""
