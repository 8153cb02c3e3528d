"""Costs by the size of the answer, which are charged once it is known.

Rules:

1. A request counts as one when it is admitted.  What its answer costs beyond that is charged at its end, or each second
   while a streamed one goes on.  So a count may go beyond its limit, and the key then waits until that is made up for.
2. The size is that of the body as it passes the limit, without the head, and without chunks or frames.  An answer that
   breaks off counts as far as it came.
3. A request that is never answered, or whose answer is a switch of protocols, stays at one.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Protocol

from sidecar.core.body import OPEN, Body
from sidecar.core.env import Env, TimerHandle
from sidecar.core.outcome import Failure, Outcome

EVERY: Final = 1.0
"""Seconds between two charges of an answer that is streamed."""
LONGEST_DEBT: Final = 3600.0
"""Seconds for which a key of a rate limit is refused after answers that cost more than it had, at most."""


class Charged(Protocol):
    """Limit whose costs are those of the answers."""

    @property
    def unit(self) -> int:
        """Bytes of an answer that count as one."""

    def charge(self, key: str, cost: float) -> None:
        """Count more for a request that was admitted, whatever is left."""


class AnswerCost:
    """Ticket of an admitted request that is charged for its answer."""

    __slots__ = ("_env", "_limits", "_stream", "_timer", "lines")

    def __init__(self, env: Env, lines: bytes = b"") -> None:
        self.lines = lines
        """Field lines that the response gets."""
        self._env = env
        self._limits: list[tuple[Charged, str, int]] = []
        """Limits that are charged, with the key of the request and what was charged so far."""
        self._stream: Body | None = None
        self._timer: TimerHandle | None = None

    def add(self, limit: Charged, key: str) -> None:
        """Add a limit that has admitted the request as one."""
        self._limits.append((limit, key, 1))

    def begin(self, outcome: Outcome) -> None:
        """Charge for the answer, now or while it is streamed."""
        stream = outcome.stream
        if stream is None:
            self._charge(len(outcome.body))
            return
        self._stream = stream
        if stream.state == OPEN:
            self._timer = self._env.call_later(EVERY, self._go_on)
        stream.on_close(self._end)

    def _go_on(self) -> None:
        """Charge for what has passed of an answer that goes on."""
        if self._stream is not None:
            self._charge(self._stream.received)
            self._timer = self._env.call_later(EVERY, self._go_on)

    def _end(self, failure: Failure | None) -> None:
        """Charge for the rest; the answer has ended."""
        stream, self._stream = self._stream, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if stream is not None:
            self._charge(stream.received)

    def _charge(self, size: int) -> None:
        for index, (limit, key, charged) in enumerate(self._limits):
            cost = ceil(size / limit.unit)
            if cost > charged:
                self._limits[index] = (limit, key, cost)
                limit.charge(key, float(cost - charged))
