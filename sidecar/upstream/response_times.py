"""Response times: the usual response time of an endpoint, to judge attempts that had little time.

If a caller's short deadline or a slow client ends an attempt, the endpoint is not blamed, unless the attempt lasted as
long as its responses usually take.  Rules:

1. The usual time is the 99th percentile of recent times from the start of an attempt to the head of its response,
   without delays by the client.  Of the first `WARM_UP` responses it is the longest.  Then each response moves it by a
   step, up by a share of `STEP` * 0.99 or down by `STEP` * 0.01.  The steps balance if one response in a hundred takes
   longer (stochastic approximation, Robbins and Monro 1951).
2. For an endpoint without a response yet, the usual time is `UNKNOWN`.
3. Short deadlines of all callers must not hide a dead endpoint.  One attempt at a time is therefore continued after
   its caller's deadline (`continued`).  If the endpoint sends no response to any attempt until it ends, the endpoint is
   silent.  Until its next response, every attempt then counts, however short.
"""

from __future__ import annotations

from math import inf
from typing import Final

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import CLIENT_TIMEOUT, SHORT_DEADLINE, SLOW_READER, TIMEOUT, Failure

UNKNOWN: Final = 1.0
"""Usual time in seconds of an endpoint without a response yet, and the shortest duration of a continued attempt."""
WARM_UP: Final = 100
"""Number of first responses of which the longest is taken as the 99th percentile."""
STEP: Final = 0.1
"""Step of the estimate, as a share of it."""
SAMPLED: Final = 8
"""Number of responses within the usual time that `decay` processes together."""
UP: Final = 1 + STEP * 0.99
"""Factor of a step upwards."""
DOWN: Final = 1 - STEP * 0.01
"""Factor of a step downwards."""
PATIENCE: Final = 2.0
"""Duration of a continued attempt, as a multiple of the usual time."""


class ResponseTimes:
    """Usual response time of an endpoint.  Its owner is a pool, so it survives reloads."""

    __slots__ = ("_responses", "_silent", "continued", "continued_since", "heard", "quick", "usual")

    def __init__(self) -> None:
        self.usual = 0.0
        """Estimate of the 99th percentile in seconds; 0.0 before the first response."""
        self.continued: object = None
        """Connection or stream that waits for a response after its caller's deadline; None without one."""
        self.continued_since = 0.0
        """Instant at which the continued attempt began."""
        self._responses = 0
        """Number of responses, counted up to `WARM_UP`."""
        self.quick = 0
        """Number of responses within the usual time since the last `decay`."""
        self.heard = -inf
        """Instant of the last response."""
        self._silent = -inf
        """Instant at which the endpoint was last found silent."""

    def note(self, seconds: float, now: float) -> None:
        """Record the time of a response.  `AttemptInFlight` has an inlined copy of this method."""
        self.heard = now
        if seconds > self.usual:
            self.learn(seconds)
        else:
            self.quick += 1
            if self.quick == SAMPLED:
                self.decay()

    def learn(self, seconds: float) -> None:
        """Update the estimate with one response, usually one that took longer than usual."""
        usual = self.usual
        if self._responses < WARM_UP:
            self._responses += 1
            if seconds > usual:
                self.usual = seconds
        elif seconds > usual:
            self.usual = min(seconds, usual * UP)
        else:
            self.usual = usual * DOWN

    def decay(self) -> None:
        """Update the estimate with the `quick` responses, and reset their number."""
        if self._responses < WARM_UP:
            self._responses += self.quick
        else:
            self.usual *= DOWN**self.quick
        self.quick = 0

    @property
    def expected(self) -> float:
        """Usual time in seconds; `UNKNOWN` before the first response."""
        return self.usual or UNKNOWN

    def is_too_short(self, seconds: float) -> bool:
        """True if an attempt without a response of this duration is not to be blamed on the endpoint."""
        return self._silent <= self.heard and seconds < self.expected

    def judge_unanswered(self, x: Exchange, started: float, blocked: float, now: float) -> Failure:
        """Return the failure of an exchange that has no response head at its deadline: whose fault it is.

        `started` is the start of the attempt, `blocked` the seconds for which it waited for the client.
        """
        given = now - started - blocked
        is_too_short = given < x.attempt_timeout and self.is_too_short(given)
        if is_too_short and blocked > (0.0 if self.usual else given):
            return CLIENT_TIMEOUT
        return SHORT_DEADLINE if is_too_short and is_hurried(x, now) else TIMEOUT

    def judge_body(self, x: Exchange, body: Body, since: float, started: float, is_paused: bool, now: float) -> Failure:
        """Return the failure of an exchange whose response is incomplete at its deadline: whose fault it is.

        `since` is the instant of the last piece, `started` the start of the attempt; `is_paused` is True while the
        client takes no more.
        """
        if is_paused or 2 * body.blocked_for(now) > now - started:
            return SLOW_READER
        return SHORT_DEADLINE if is_hurried(x, now) and now - since < self.expected else TIMEOUT

    # ----- the continued attempt

    @property
    def patience(self) -> float:
        """Seconds from its start after which a continued attempt ends."""
        return max(UNKNOWN, PATIENCE * self.usual)

    def begin_continued(self, carrier: object, since: float) -> None:
        """Record the connection or stream of a continued attempt, which began at the instant `since`."""
        self.continued = carrier
        self.continued_since = since

    def record_continued(self, now: float) -> None:
        """Record the response to the continued attempt."""
        self.continued = None
        self.note(now - self.continued_since, now)

    def fall_silent(self, since: float, now: float) -> None:
        """Record that an attempt got no response in its full time.

        The endpoint is then silent, unless it has responded to another attempt after `since`, the start of this one.
        """
        if self.heard <= since:
            self._silent = now

    def __repr__(self) -> str:
        return f"<ResponseTimes {self.usual:.3g} s{' silent' if self._silent > self.heard else ''}>"


def is_hurried(x: Exchange, now: float) -> bool:
    """True if the deadline that the caller has set ends the exchange."""
    return x.deadline == x.caller_deadline and now >= x.deadline
