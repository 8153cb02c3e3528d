"""Slow clients: limits on their time, and on the memory that is buffered for them.

A slow client occupies its own connection and a bounded buffer, but no upstream connection for long.  Rules:

1. A request body is collected before its route runs, until it is complete or `core.body.HIGH_WATER` bytes have arrived.
   For a longer body, or one of unknown length, the route runs after `START_AFTER` seconds, since the client may wait
   for an early response.  Such requests, and those whose first bytes arrived slowly (`FAIR`), share a limited number of
   places at the upstream (`connections.slow_share`).
2. A response that arrives faster than the client reads it is read ahead, up to `buffer` bytes.
3. Each client has an allowance of waiting time (`Pace`).  Waiting for the client reduces it; bytes moved restore it.
4. All bytes collected and read ahead on a listener are in one account (`SlowClients.buffered`).  When it is full,
   nothing more is read ahead, and slow bodies in collection are refused.  Since a read of the upstream's socket may
   exceed the account, readers are cut off above `OVERDRAFT`: those that have been behind longest, and for more than
   `SLOW_AFTER` seconds.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.config.process_spec import SlowClientsSpec
from sidecar.core.exchange import NEVER

START_AFTER: Final = 0.25
"""Seconds after which the route of a request runs although its long body has not arrived."""
SLOW_AFTER: Final = 1.0
"""Seconds after which a body in collection, or a reader that is behind, counts as slow when the account is full.  Also
the seconds between two attempts to get a place at the upstream."""
FAIR: Final = 8
"""Multiple of the minimum rate at which a body must arrive to need no place for slow requests."""
OVERDRAFT: Final = 1.5
"""Multiple of `buffer_total` above which readers are cut off."""
CREDIT_SECONDS: Final = 15.0
"""Most seconds that a client can earn in addition to the grace."""


class Reader(Protocol):
    """Connection, or stream of HTTP/2, whose client reads too slowly."""

    def cut_off(self) -> None:
        """End it with a reset."""


class SlowClients:
    """Settings of a listener for slow clients, and the account of all bytes buffered for them."""

    __slots__ = ("behind", "buffer", "buffered", "grace", "min_rate", "total")

    def __init__(self, spec: SlowClientsSpec) -> None:
        self.use(spec)
        self.buffered = 0
        """Bytes currently buffered."""
        self.behind: dict[Reader, float] = {}
        """Readers that are behind, with the instant at which each was last seen to read; the earliest is first."""

    def use(self, spec: SlowClientsSpec) -> None:
        """Apply new settings to later requests; the account and the allowances of current ones do not change."""
        self.min_rate = spec.min_rate
        """Minimum rate of a client in bytes per second."""
        self.grace = spec.grace
        """Seconds of waiting that each client is allowed."""
        self.buffer = spec.buffer
        """Most bytes read ahead for one client."""
        self.total = spec.buffer_total
        """Most bytes buffered for all clients."""

    @property
    def is_tight(self) -> bool:
        """True if an eighth of the account is used.  Saving memory is then worth more copies."""
        return self.buffered * 8 > self.total

    @property
    def is_full(self) -> bool:
        """True if no more may be buffered."""
        return self.buffered >= self.total

    @property
    def is_overdrawn(self) -> bool:
        """True if readers have to be cut off."""
        return self.buffered >= OVERDRAFT * self.total

    def make_room(self, now: float) -> None:
        """Cut off the reader that has been behind longest, if that is more than `SLOW_AFTER` seconds and necessary."""
        if self.is_overdrawn and self.behind:
            reader, since = next(iter(self.behind.items()))
            if now - since > SLOW_AFTER:
                del self.behind[reader]
                reader.cut_off()


class Pace:
    """Allowance of one client: the seconds for which the sidecar still waits for it."""

    __slots__ = ("_left", "_most", "_rate", "_since")

    def __init__(self, slow: SlowClients) -> None:
        self._rate = slow.min_rate
        self._left = slow.grace
        self._most = slow.grace + CREDIT_SECONDS
        self._since = NEVER
        """Instant up to which waiting is accounted for; `NEVER` while the sidecar does not wait for the client."""

    def wait(self, now: float) -> None:
        """Start counting waiting time; without effect if it is being counted."""
        if self._since == NEVER:
            self._since = now

    def stop(self, now: float) -> None:
        """Stop counting waiting time."""
        self._spend(now)
        self._since = NEVER

    def move(self, size: int, now: float) -> None:
        """Extend the allowance for `size` bytes that the client has sent or read."""
        self._spend(now)
        self._left = min(self._most, self._left + size / self._rate)

    def _spend(self, now: float) -> None:
        """Reduce the allowance by the time waited until `now`."""
        if self._since != NEVER:
            self._left -= now - self._since  # may become negative: a trickle of bytes must not restore the allowance
            self._since = now

    @property
    def expires(self) -> float:
        """Instant at which the allowance is used up; `NEVER` while the sidecar does not wait for the client."""
        return NEVER if self._since == NEVER else self._since + self._left
