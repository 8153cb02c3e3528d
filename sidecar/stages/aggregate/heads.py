"""Heads of parts' answers: what their fields say that matters to an aggregated answer.

A resource has the same head until its Date changes.  Each part therefore remembers the latest one, unless it is long or
sets a cookie, and does not search it again.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.outcome import Outcome
from sidecar.stages.aggregate.lifetime import speaks_of_storing
from sidecar.transform.validators import coding_of

PARTIAL: Final = b"x-sidecar-partial"
"""Field of a partial answer, with the names of what is missing."""
LONGEST: Final = 2048
"""Bytes of the longest field lines that are remembered."""


class Head:
    """Head of an answer."""

    __slots__ = ("coding", "lines", "partial", "speaks")

    def __init__(self, lines: bytes, coding: bytes, partial: bytes | None, speaks: bool) -> None:
        self.lines = lines
        """Field lines."""
        self.coding = coding
        """Content coding in lower case; empty without one."""
        self.partial = partial
        """Names of what the answer itself misses; None if it is whole."""
        self.speaks = speaks
        """True if a field says something about storing."""


NO_HEAD: Final = Head(b"", b"", None, False)
"""Head of an answer without fields."""


def read_head(outcome: Outcome) -> Head:
    """Return the head of an answer."""
    lines = outcome.raw if outcome.parsed is None else outcome.lines
    lower = b"\n" + lines.lower()
    coding = b"" if lower.find(b"\ncontent-encoding:") < 0 else coding_of(outcome)
    partial = None if lower.find(b"\n" + PARTIAL + b":") < 0 else outcome.header(PARTIAL)
    return Head(lines, coding, partial, speaks_of_storing(lower))


def may_remember(head: Head) -> bool:
    """True if a head is short, and has no secret for one client."""
    return len(head.lines) <= LONGEST and head.lines.lower().find(b"set-cookie") < 0
