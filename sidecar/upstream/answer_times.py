"""Answer times of one endpoint: how long it usually takes, and whether an attempt gave it that long.

An upstream is judged by its own time.  An attempt that a caller's short deadline or a slow client has ended says
nothing about it, unless it had as long as it usually takes.  Rules:

1. Usual is the 99th percentile of the recent times from the start of an attempt to the head of its response, without
   what the client took.  Of the first `WARM_UP` it is the longest.  After that each answer moves it by a step, upwards
   `STEP` * 0.99 and downwards `STEP` * 0.01, which come to rest where one answer in a hundred is above (stochastic
   approximation, Robbins and Monro 1951).
2. An endpoint that has never answered is given `UNKNOWN` seconds.
3. Callers whose deadlines are all short must not hide an endpoint that is dead.  So one attempt at a time is listened
   to beyond its caller's deadline (`late`).  If nothing at all comes from the endpoint meanwhile, it is silent, and
   until it answers again every attempt counts, however short.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.upstream.connection import UpstreamConnection

UNKNOWN: Final = 1.0
"""Seconds that an answer may take while nothing is known of the endpoint, and those of the shortest late attempt."""
WARM_UP: Final = 100
"""Answers of which the longest is the 99th percentile."""
STEP: Final = 0.1
"""Step of the estimate, as a share of it."""
SAMPLED: Final = 8
"""Answers within the usual time that are noted together."""
UP: Final = 1 + STEP * 0.99
DOWN: Final = 1 - STEP * 0.01
PATIENCE: Final = 2.0
"""Usual times for which a late attempt is listened to at least."""


class AnswerTimes:
    """Usual time of an endpoint's answers.  It belongs to a pool, and so survives reloads."""

    __slots__ = ("_answers", "_silent", "heard", "late", "late_since", "quick", "usual")

    def __init__(self) -> None:
        self.usual = 0.0
        """99th percentile in seconds; 0.0 before the first answer."""
        self.late: UpstreamConnection | None = None
        """Connection that still waits for an answer after its caller's deadline; None if none does."""
        self.late_since = 0.0
        """Instant at which that attempt began."""
        self._answers = 0
        self.quick = 0
        """Answers within the usual time since the last `decay`."""
        self.heard = -inf
        """Instant of the last answer."""
        self._silent = -inf

    def note(self, seconds: float, now: float) -> None:
        """Note an answer that took so many seconds.  (`AttemptInFlight` does the same without the call.)"""
        self.heard = now
        if seconds > self.usual:
            self.learn(seconds)
        else:
            self.quick += 1
            if self.quick == SAMPLED:
                self.decay()

    def learn(self, seconds: float) -> None:
        """Note an answer that took longer than usual."""
        usual = self.usual
        if self._answers < WARM_UP:
            self._answers += 1
            if seconds > usual:
                self.usual = seconds
        elif seconds > usual:
            self.usual = min(seconds, usual * UP)
        else:
            self.usual = usual * DOWN

    def decay(self) -> None:
        """Note `quick` answers that took no longer than usual."""
        if self._answers < WARM_UP:
            self._answers += self.quick
        else:
            self.usual *= DOWN**self.quick
        self.quick = 0

    @property
    def expected(self) -> float:
        """Seconds that an answer may be expected to take."""
        return self.usual or UNKNOWN

    def is_too_short(self, seconds: float) -> bool:
        """True if an attempt that was given so many seconds, and was not answered, says nothing about the endpoint."""
        return self._silent <= self.heard and seconds < self.expected

    # ----- the late attempt

    @property
    def patience(self) -> float:
        """Seconds from its start for which a late attempt is listened to."""
        return max(UNKNOWN, PATIENCE * self.usual)

    def begin_late(self, connection: UpstreamConnection, since: float) -> None:
        """Note the connection of a late attempt that began at the instant `since`."""
        self.late = connection
        self.late_since = since

    def end_late(self, now: float) -> None:
        """Note the answer to the late attempt."""
        self.late = None
        self.note(now - self.late_since, now)

    def fall_silent(self, since: float, now: float) -> None:
        """Note that an attempt, which began at `since`, has waited in vain for as long as can be asked.  The endpoint
        is silent unless it has answered another one meanwhile."""
        if self.heard <= since:
            self._silent = now

    def __repr__(self) -> str:
        return f"<AnswerTimes {self.usual:.3g} s{' silent' if self._silent > self.heard else ''}>"
