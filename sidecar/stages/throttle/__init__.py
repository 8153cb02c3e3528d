"""Throttle: sends less to an upstream that refuses or fails, by requests against accepts (SRE book, chapter 21).

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the counts that survive a reload.
"""
