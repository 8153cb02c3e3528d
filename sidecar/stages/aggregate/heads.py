"""Answers of parts: what their fields say that matters to an aggregated answer, and the text that was checked.

A resource has the same head until its Date changes, and often the same text.  Each part therefore remembers the latest
answer, and reads neither again.  It does not remember a head that is long or sets a cookie, nor a text that is long or
whose head says something about storing.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.outcome import Outcome
from sidecar.stages.aggregate.lifetime import speaks_of_storing
from sidecar.stages.aggregate.texts import Value
from sidecar.transform.validators import coding_of

PARTIAL: Final = b"x-sidecar-partial"
"""Field of a partial answer, with the names of what is missing."""
LONGEST: Final = 2048
"""Bytes of the longest field lines, and of the longest text, that are remembered."""


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


class Answered:
    """Answer of a part that has succeeded."""

    __slots__ = ("head", "value")

    def __init__(self, head: Head, value: Value) -> None:
        self.head = head
        """Head; `NO_HEAD` for an answer that the sidecar has made itself."""
        self.value = value
        """JSON value."""


NO_VALUE: Final = Value(b"")
"""Value of an answer whose text is not remembered; no text is equal to it."""
NO_ANSWER: Final = Answered(NO_HEAD, NO_VALUE)
"""Latest answer before the first."""


def read_head(outcome: Outcome) -> Head:
    """Return the head of an answer."""
    lines = outcome.raw if outcome.parsed is None else outcome.lines
    lower = b"\n" + lines.lower()
    coding = b"" if lower.find(b"\ncontent-encoding:") < 0 else coding_of(outcome)
    partial = None if lower.find(b"\n" + PARTIAL + b":") < 0 else outcome.header(PARTIAL)
    return Head(lines, coding, partial, speaks_of_storing(lower))


def remembered(latest: Answered, answered: Answered, is_whole: bool) -> Answered:
    """Return what a part remembers after an answer: the answer as far as it may be, or else still the latest one.

    `is_whole` is True if the text of the answer is the body as it was received.
    """
    head = answered.head
    if not is_whole or head.speaks or len(answered.value.text) > LONGEST:
        answered = Answered(head, NO_VALUE)
    if head is latest.head:
        return latest if answered.value is NO_VALUE else answered
    return answered if may_remember(head) else latest


def may_remember(head: Head) -> bool:
    """True if a head is short, and has no secret for one client."""
    return len(head.lines) <= LONGEST and head.lines.lower().find(b"set-cookie") < 0
