"""Spec of the block `concurrency`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, model_validator

from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class AdaptiveSpec(Model):
    """Adaptive limit that follows the latency of responses (Gradient2 of Netflix's concurrency-limits)."""

    min: Count = 4
    """Lowest limit.  That many requests may always be in flight, so that latency can be measured."""
    max: Count = 1000
    """Highest limit."""

    @model_validator(mode="after")
    def _is_ordered(self) -> AdaptiveSpec:
        if self.min > self.max:
            raise ValueError(f"has a min of {self.min} above its max of {self.max}; swap them")
        return self


class Spec(Block):
    """Limits how many requests may be in flight at once."""

    max: Count | None = None
    """Requests in flight at most; beside `adaptive`, the upper bound of the adaptive limit."""
    adaptive: AdaptiveSpec | None = None
    """Bounds of a limit that follows the latency of responses."""
    queue: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of requests that may wait for a permit; by default none, so that excess requests are refused at once."""
    queue_timeout: Duration = 0.1
    """Longest time for which a request waits."""

    @model_validator(mode="after")
    def _is_limited(self) -> Spec:
        if self.max is None and self.adaptive is None:
            raise ValueError("has no limit; write max: 100 or adaptive: {min: 4, max: 400}")
        return self


EXAMPLES: Final = (
    {"max": 3},
    {"max": 2, "queue": 2},
    {"adaptive": {"min": 1, "max": 3}, "queue": 1},
)
