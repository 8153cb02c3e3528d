"""Amount of work, counted in calls and not in seconds, so that it is the same on every machine."""

from __future__ import annotations

import gc
import re
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls(run: Callable[[], object]) -> Counter[str]:
    """Return the number of calls of each function while `run` ran, by its qualified name.

    Methods of a regular expression are distinguished by its source: `Pattern.match b'[0-9]'`.  Functions of Python
    and of C count alike; one that C calls counts if it is Python's.  A generator counts each time it is resumed.
    Functions compiled by mypyc are not counted; an upper bound still holds for them.
    """
    counted: Counter[str] = Counter()

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            counted[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            owner = getattr(function, "__self__", None)
            pattern = f" {owner.pattern!r}" if isinstance(owner, re.Pattern) else ""
            counted[function.__qualname__ + pattern] += 1

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # callbacks of the collector would be counted at any time
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return counted


def grows_with(make: Callable[[int], Callable[[], object]], size: int = 1024, factor: int = 8) -> str:
    """Return a message if work grows faster than its input; empty if it grows in proportion.

    `make(size)` prepares work on an input of that many bytes.  For an input eight times as long, quadratic work makes
    64 times as many calls; 12 times are allowed.  Single calls of C code are assumed to be linear.
    """
    small, large = calls(make(size)).total(), calls(make(size * factor)).total()
    return "" if large <= 1.5 * factor * small else f"{size} bytes take {small} calls, {size * factor} take {large}"
