"""Slow clients on streams: the waiting time and the buffered bytes of one upload or download.

The rules are those of HTTP/1.1 (`sidecar.downstream.slow_clients`).  The streams of a connection share its bandwidth.
So each of those that the sidecar waits for has to keep to its share of the minimum rate: a byte of one of five such
streams restores as much of its allowance as five bytes on a connection of HTTP/1.1.

Bytes are credited when a connection looks at its streams, once a second.
"""

from __future__ import annotations

from sidecar.core.exchange import NEVER
from sidecar.downstream.slow_clients import FAIR, SLOW_AFTER, Pace, SlowClients


class Upload:
    """Request body that is still arriving."""

    __slots__ = ("_collected", "_last", "_moved", "_pace", "_slow", "began", "is_paused")

    def __init__(self, slow: SlowClients, now: float, is_endless: bool) -> None:
        """An endless body, such as one of gRPC, has no minimum rate and no deadline."""
        self._slow = slow
        self._pace = None if is_endless else Pace(slow)
        self.began = self._last = now
        """Instant at which the head was complete."""
        self._moved = 0
        """Bytes that have arrived since the last look."""
        self._collected = 0
        """Collected bytes in the listener's account."""
        self.is_paused = False
        """True while the route does not take the body."""

    @property
    def is_awaited(self) -> bool:
        """True while the sidecar waits for the client, and its time is limited."""
        return self._pace is not None and not self.is_paused

    def wait(self, now: float) -> None:
        """Start to count the time until the client sends the next bytes."""
        self.is_paused = False
        self._last = now
        if self._pace is not None:
            self._pace.wait(now)

    def pause(self, now: float) -> None:
        """Stop counting, because the route does not take the body."""
        self.is_paused = True
        if self._pace is not None:
            self._pace.stop(now)

    def move(self, size: int, now: float) -> None:
        """Note bytes that have arrived."""
        self._moved += size
        self._last = now

    def is_late(self, now: float, share: int, timeout: float) -> bool:
        """True if the allowance is used up, or nothing has come for `timeout` seconds.

        `share` is the number of uploads on the connection that the sidecar waits for.
        """
        pace = self._pace
        if pace is None or self.is_paused:
            return False
        pace.move(self._moved * share, now)
        self._moved = 0
        return min(pace.expires, self._last + timeout) <= now

    # ----- while the body is collected

    def collect(self, received: int) -> bool:
        """Enter all bytes received so far in the account; True if it is full."""
        self._slow.buffered += received - self._collected
        self._collected = received
        return self._slow.is_full

    def release(self) -> None:
        """Remove the body from the account when its collection ends."""
        self._slow.buffered -= self._collected
        self._collected = 0

    def needs_place(self, received: int, now: float) -> bool:
        """True if the bytes came so slowly that the request needs one of the upstream's places for slow requests."""
        return received < FAIR * self._slow.min_rate * (now - self.began)

    def has_waited(self, now: float) -> bool:
        """True if the body has waited for such a place for longer than the grace of a slow client."""
        return self.is_paused and now - self._last > self._slow.grace

    def is_slow(self, now: float) -> bool:
        """True if the body has been collected for more than `SLOW_AFTER` seconds."""
        return now - self.began > SLOW_AFTER


class Download:
    """Response body of which some bytes wait, or have waited, for the client."""

    __slots__ = ("_is_endless", "_pace", "_progress", "_taken", "is_waiting")

    def __init__(self, slow: SlowClients, now: float, taken: int, is_endless: bool) -> None:
        """Take the number of bytes that the client has taken so far.

        An endless body needs some progress, but no minimum rate.
        """
        self._pace = Pace(slow)
        self._is_endless = is_endless
        self._taken = taken
        """Bytes that the client had taken at the last look."""
        self._progress = now
        """Instant at which the client was last seen to take something."""
        self.is_waiting = False
        """True while some bytes wait for the client."""

    def wait(self, now: float) -> None:
        """Start to count the time until the client takes the bytes that wait."""
        if not self.is_waiting:
            self.is_waiting = True
            self._progress = now
            self._pace.wait(now)

    def stop(self, now: float) -> None:
        """Stop counting: nothing waits."""
        self.is_waiting = False
        self._pace.stop(now)

    def look(self, taken: int, now: float, share: int) -> bool:
        """Credit the client with what it has taken, in all `taken` bytes; True if that is more than at the last look.

        `share` is the number of downloads on the connection that wait for the client.
        """
        size, self._taken = taken - self._taken, taken
        if not size:
            return False
        self._pace.move(size * share, now)
        self._progress = now
        return True

    def expires(self, timeout: float) -> float:
        """Instant at which the client is given up; `timeout` is the longest pause of an endless stream in seconds."""
        if not self.is_waiting:
            return NEVER
        return self._progress + timeout if self._is_endless else self._pace.expires
