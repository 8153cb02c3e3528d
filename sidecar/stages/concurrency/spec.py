"""What a policy file says of concurrency."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class AdaptiveSpec(Model):
    """A limit that finds itself by watching the latency: Gradient2 of Netflix's concurrency-limits."""

    min: Count = 4
    """Never fewer permits than this."""
    max: Count = 1000
    """Never more."""

    @model_validator(mode="after")
    def _is_ordered(self) -> AdaptiveSpec:
        if self.min > self.max:
            raise ValueError(f"has a min of {self.min} above its max of {self.max}; swap them")
        return self


class Spec(Block):
    """How many requests may be in flight at once."""

    max: Count | None = None
    """Permits.  With `adaptive` beside it a cap that the adaptive limit does not pass either."""
    adaptive: AdaptiveSpec | None = None
    """Find the limit by the latency instead of naming it."""
    queue: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Requests that may wait for a permit."""
    queue_timeout: Duration = 0.1
    """How long one may wait."""

    @model_validator(mode="after")
    def _is_limited(self) -> Spec:
        if self.max is None and self.adaptive is None:
            raise ValueError("has no limit; write max: 100 or adaptive: {min: 4, max: 400}")
        return self
