"""Slow clients: how long they may keep the sidecar waiting, and how much is buffered for them.

A client costs its own connection and a bounded buffer, never a connection of the upstream for long.  Rules:

1. The body of a request is collected before its route runs, until it is whole or `core.body.HIGH_WATER` bytes are here.
   One that is longer, or says no length, may have a client that waits for an early answer: its route runs after
   `START_AFTER` seconds in any case, but such requests, and those whose first bytes came slowly (`FAIR`), hold a share
   of the upstream's places at most (`connections.slow_share`).
2. What the upstream sends faster than the client reads is taken in advance, up to `buffer` bytes.
3. Whoever keeps the sidecar waiting spends an allowance (`Pace`), and earns some with every byte that moves.  Only time
   spent waiting for the client counts.
4. All bytes collected and read in advance on a listener are one account (`SlowClients.buffered`).  When it is full,
   nothing more is read in advance, and a body that is still being collected is refused.  What one read of the
   upstream's socket has brought is in memory whether there is room or not: when half as much again is buffered, each
   reader that falls behind ends the one that has been behind longest, over `SLOW_AFTER` seconds.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.config.process_spec import SlowClientsSpec
from sidecar.core.exchange import NEVER

START_AFTER: Final = 0.25
"""Seconds after which the route of a request runs whose body is long and not here."""
SLOW_AFTER: Final = 1.0
"""Seconds after which a body that is still collected gives way when the account is full, and between two looks for a
place; and for which a reader may be behind when it is full."""
FAIR: Final = 8
"""Times the minimum rate at which a body arrives that is sent on without a place for slow requests."""
OVERDRAFT: Final = 1.5
"""Times `buffer_total` at which readers are ended: what one read of a socket brings is more than is asked for."""
CREDIT_SECONDS: Final = 15.0
"""Most seconds that a client can have in advance beside the grace."""


class Reader(Protocol):
    """Connection whose client reads more slowly than it is written to."""

    def cut_off(self) -> None:
        """End the connection with a reset."""


class SlowClients:
    """Settings of a listener for slow clients, and what is buffered for all of them."""

    __slots__ = ("behind", "buffer", "buffered", "grace", "min_rate", "total")

    def __init__(self, spec: SlowClientsSpec) -> None:
        self.use(spec)
        self.buffered = 0
        """Bytes buffered at present."""
        self.behind: dict[Reader, float] = {}
        """Readers that are behind, with the instant at which each was last seen to take something, the first at the
        front."""

    def use(self, spec: SlowClientsSpec) -> None:
        """Apply other settings; what is buffered stays in the account, and allowances under way stay as they are."""
        self.min_rate = spec.min_rate
        """Bytes a second that a client must move."""
        self.grace = spec.grace
        """Seconds that any client may keep the sidecar waiting."""
        self.buffer = spec.buffer
        """Bytes read in advance for one client."""
        self.total = spec.buffer_total
        """Most bytes buffered for all clients."""

    @property
    def is_tight(self) -> bool:
        """True if an eighth of the account is used: memory then counts for more than a copy."""
        return self.buffered * 8 > self.total

    @property
    def is_full(self) -> bool:
        """True if no more may be buffered."""
        return self.buffered >= self.total

    @property
    def is_overdrawn(self) -> bool:
        """True if readers have to be ended."""
        return self.buffered >= OVERDRAFT * self.total


class Pace:
    """Allowance of one client: seconds that it may still keep the sidecar waiting."""

    __slots__ = ("_left", "_most", "_rate", "_since")

    def __init__(self, slow: SlowClients) -> None:
        self._rate = slow.min_rate
        self._left = slow.grace
        self._most = slow.grace + CREDIT_SECONDS
        self._since = NEVER
        """Instant up to which waiting is accounted for; `NEVER` while nobody waits for the client."""

    def wait(self, now: float) -> None:
        """The client's turn begins."""
        if self._since == NEVER:
            self._since = now

    def stop(self, now: float) -> None:
        """The client's turn ends."""
        self._spend(now)
        self._since = NEVER

    def move(self, size: int, now: float) -> None:
        """The client has sent or taken `size` bytes."""
        self._spend(now)
        self._left = min(self._most, self._left + size / self._rate)

    def _spend(self, now: float) -> None:
        if self._since != NEVER:
            self._left -= now - self._since  # below zero too: who trickles may not live on what the last second brought
            self._since = now

    @property
    def expires(self) -> float:
        """Instant at which the allowance is spent; `NEVER` while nobody waits for the client."""
        return NEVER if self._since == NEVER else self._since + self._left
