"""Spec of the block `pacing`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from sidecar.core.spec import Block
from sidecar.core.units import Duration, DurationOrZero, Rate, Share


class Spec(Block):
    """Sends attempts more slowly while the upstream asks for less load.

    Answers that ask are 429, 503 with Retry-After, and of gRPC RESOURCE_EXHAUSTED, and UNAVAILABLE with a time in
    `grpc-retry-pushback-ms`."""

    decrease: Annotated[Share, Field(ge=0.1, le=0.95)] = 0.7
    """Rate after such an answer, as a share of the rate at which attempts were sent, 10% to 95%."""
    min_rate: Rate = 1.0
    """Rate below which it is never slowed down."""
    max_wait: DurationOrZero = 0.1
    """Longest wait of an attempt for its turn, half of it for a sheddable one; an attempt that would have to wait
    longer is refused."""
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Number of attempts that may wait at once, for a sheddable one half of it; more are refused."""
    max_hold: Duration = 10.0
    """Longest time for which Retry-After, the reset of RateLimit or `grpc-retry-pushback-ms` keep the rate from
    rising."""
    ahead: bool = False
    """True to send no faster than `RateLimit` of any answer allows until its reset.  Only for an upstream that counts
    all callers together; most count by caller."""


EXAMPLES: Final = ({"min_rate": "5/s", "max_wait": "200ms"}, {"ahead": True, "mode": "observe"})
