"""Numbers and times, formatted for people."""

from __future__ import annotations

from typing import Any, Final

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
"""Characters of a sparkline, from the lowest to the highest."""
STEPS: Final = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h"))
"""Units of durations: seconds below which the unit is used, its length in seconds, and its name."""


def duration(seconds: float | None) -> str:
    """Return a duration in seconds as text with a fitting unit, such as `3.4 s` or `12 min`; `–` for None."""
    if not isinstance(seconds, float | int):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, unit, word in STEPS:
        if seconds < below:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86400:.0f} d"


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as a percentage; `–` for None."""
    return "–" if share is None else f"{share * 100:.1f} %"


def sparkline(values: list[int]) -> str:
    """Return a line of characters, one for each value, whose height is relative to the greatest value."""
    top = max(values, default=0) or 1
    return "".join(BLOCKS[round(value * (len(BLOCKS) - 1) / top)] for value in values)


def bar(share: float, width: int = 12) -> str:
    """Return a bar of `width` characters, of which a share from 0 to 1 is full."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "█" * full + "░" * (width - full)


def plain(text: Any) -> str:
    """Return a foreign text without characters that could move the cursor of a terminal."""
    return "".join(c if c.isprintable() else "·" for c in str(text))
