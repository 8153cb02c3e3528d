"""Work of other threads in steps that requests do not feel.

A thread that computes takes the interpreter from the loop again and again, which costs requests more than the time that
it works.  In steps of 0.1 to 0.3 ms with a pause after each, the loop waits for one step at most, and seldom.
"""

from __future__ import annotations

import time
from typing import Final

PAUSE: Final = 0.002
"""Seconds.  200 reloads of five routes in 20 s under full load: p99 1.4 times that without at 0.5 ms, 1.05 at 2."""


def give_way() -> None:
    """Pause the thread that calls it, which must not be the loop's."""
    time.sleep(PAUSE)
