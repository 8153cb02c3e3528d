"""Rate of attempts to one upstream, which answers that ask for less lower, and time raises again.

Rules:

1. There is no limit until an answer asks for less.  The rate is then `decrease` times the one at which attempts were
   sent, and never below `min_rate`.
2. Of all attempts in flight at that moment, and of those that waited for their turn, one answer counts: only an
   attempt that got its turn at the lower rate says that it is still too high (the fast recovery of TCP, RFC 6582).
3. The rate rises as in CUBIC (RFC 9438 4.2, and the adaptive retry mode of the AWS SDKs): fast, then slowly around the
   rate that was too high, then fast again; by accepted attempts only, and no further than twice what is sent.
4. While the upstream has asked to wait (`hold`), the rate does not rise.
5. After `FORGET` seconds in which no answer has asked, there is no limit, whether attempts were sent or not.

No I/O and no clock: the caller passes the instant.
"""

from __future__ import annotations

from typing import Final

from sidecar.leases.rate import NEVER

SCALE: Final = 0.4
"""Constant `C` of CUBIC."""
TICK: Final = 0.5
"""Seconds in which attempts are counted to measure their rate."""
NEWEST: Final = 0.8
"""Weight of the newest count in the measured rate."""
BURST: Final = 0.05
"""Seconds whose attempts may be sent at once."""
FORGET: Final = 60.0
"""Seconds without an answer that asks for less, after which the limit ends."""


class Pace:
    """Rate of attempts."""

    __slots__ = (
        "_ahead", "_ahead_until", "_count", "_decreased_at", "_furthest", "_held_until", "_peak", "_pressed_at",
        "_smoothed", "_tat", "_tick", "decrease", "max_hold", "min_rate", "rate",
    )  # fmt: skip

    def __init__(self, decrease: float, min_rate: float, max_hold: float, max_wait: float = 0.0) -> None:
        """`min_rate` is in attempts per second, `max_hold` and `max_wait` in seconds."""
        self.rate = NEVER
        """Attempts per second; infinite without a limit."""
        self._peak = 0.0
        """Rate that was too high."""
        self._decreased_at = -NEVER
        """Instant of the last decrease."""
        self._pressed_at = -NEVER
        """Instant of the last answer that asked for less."""
        self._held_until = -NEVER
        """Instant from which the rate may rise."""
        self._tat = -NEVER
        """Theoretical arrival time of the next attempt at this rate (GCRA)."""
        self._ahead = NEVER
        """Rate that the upstream allows until `_ahead_until`."""
        self._ahead_until = -NEVER
        self._tick = 0.0
        """Number of the period that is counted."""
        self._count = 0
        """Attempts in this period."""
        self._smoothed = 0.0
        """Attempts per second before this period."""
        self.retune(decrease, min_rate, max_hold, max_wait, -NEVER)

    def retune(self, decrease: float, min_rate: float, max_hold: float, max_wait: float, now: float) -> None:
        """Apply other settings; the rate stays, and what holds now holds for `max_hold` at most."""
        self.decrease = decrease
        self.min_rate = min_rate
        self.max_hold = max_hold
        self._furthest = max_wait + max(BURST, 1.0 / min_rate)
        self.rate = max(self.rate, min_rate)
        self._held_until = min(self._held_until, now + max_hold)
        self._ahead_until = min(self._ahead_until, now + max_hold)

    def limit(self, now: float) -> float:
        """Return the attempts per second that may be sent; infinite without a limit."""
        rate = NEVER if self._is_over(now) else self.rate
        if now >= self._ahead_until:
            return rate
        return min(rate, self._ahead)

    def delay(self, now: float) -> float:
        """Return the seconds until the next attempt may be sent; 0 or less if it may be sent now."""
        rate = self.limit(now)
        if rate == NEVER:
            return 0.0
        interval = 1.0 / rate
        if self._tat < now:
            self._tat = now
        self._tat = min(self._tat, now + self._furthest)  # a clock was set back
        return self._tat - max(0.0, BURST - interval) - now

    def send(self, now: float, delay: float) -> None:
        """Count an attempt that is sent `delay` seconds from now."""
        rate = self.limit(now)
        if rate != NEVER:
            self._tat = max(self._tat, now) + 1.0 / rate
        tick = (now + max(0.0, delay)) // TICK
        if tick > self._tick:
            self._close(tick)
        self._count += 1

    def measured(self, now: float) -> float:
        """Return the attempts per second that are sent."""
        tick = now // TICK
        if tick > self._tick:
            self._close(tick)
        return max(self._smoothed, self._count / TICK)

    def press(self, sent_at: float, now: float, hold: float) -> bool:
        """Take an answer that asks for less, and return True if a limit begins.

        `sent_at` is the instant at which the attempt got its turn, which may be before it was sent.  `hold` is the time
        in seconds for which the upstream has asked to wait; 0 without one.
        """
        self._pressed_at = now
        self._held_until = max(self._held_until, now + min(hold, self.max_hold))
        if sent_at <= self._decreased_at:
            return False
        begins = self.rate == NEVER
        rate = min(self.measured(now), self.rate)
        self._peak = max(rate, self.min_rate)
        self.rate = max(self.min_rate, rate * self.decrease)
        self._decreased_at = now
        return begins

    def accept(self, now: float) -> None:
        """Take an answer of an upstream that accepts the attempt."""
        if self.rate == NEVER or now < self._held_until:
            return
        since = now - max(self._decreased_at, self._held_until)
        turn: float = (self._peak * (1.0 - self.decrease) / SCALE) ** (1.0 / 3.0)
        risen = SCALE * (since - turn) ** 3 + self._peak
        self.rate = max(self.rate, min(risen, 2.0 * self.measured(now)))

    def lapse(self, now: float) -> bool:
        """End the limit if no answer has asked for less for long; return True if it ends."""
        if self.rate == NEVER or not self._is_over(now):
            return False
        self.rate = NEVER
        return True

    def _is_over(self, now: float) -> bool:
        """True if no answer has asked for less for long."""
        return now - max(self._pressed_at, self._held_until) >= FORGET

    def allow_ahead(self, remaining: float, seconds: float, now: float) -> None:
        """Send no faster than the attempts that remain until a reset in so many seconds."""
        self._ahead = max(self.min_rate, remaining / seconds)
        self._ahead_until = now + min(seconds, self.max_hold)

    def _close(self, tick: float) -> None:
        """Begin a period."""
        measured = self._count / TICK
        self._smoothed = measured * NEWEST + self._smoothed * (1.0 - NEWEST)
        if tick > self._tick + 1.0:  # periods without attempts
            self._smoothed *= (1.0 - NEWEST) ** min(tick - self._tick - 1.0, 50.0)
        self._tick, self._count = tick, 0
