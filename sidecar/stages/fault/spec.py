"""Spec of the block `fault`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, model_validator

from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, DurationOrZero, Share
from sidecar.expression.spec import RequestWhen


class UniformSpec(Model):
    """Durations between two bounds, all equally likely."""

    min: DurationOrZero
    """Shortest wait."""
    max: Duration
    """Longest wait."""

    @model_validator(mode="after")
    def _is_ordered(self) -> UniformSpec:
        if self.min > self.max:
            raise ValueError("has a min above its max; swap them")
        return self


class LatencySpec(Model):
    """Latency before the upstream is asked."""

    fixed: Duration | None = None
    """Duration of every wait."""
    uniform: UniformSpec | None = None
    """Bounds of a wait that is random each time."""
    share: Share
    """Share of all attempts."""

    @model_validator(mode="after")
    def _is_one(self) -> LatencySpec:
        if (self.fixed is None) == (self.uniform is None):
            raise ValueError("takes one of fixed: 200ms and uniform: {min: 50ms, max: 1s}")
        return self


class AbortSpec(Model):
    """Response in the upstream's place."""

    status: Annotated[int, Field(ge=200, le=599)] = 503
    """Status of the response."""
    share: Share
    """Share of all attempts."""


class ResetSpec(Model):
    """Reset of the connection."""

    share: Share
    """Share of all attempts."""


class Spec(Block):
    """Injects faults."""

    when: RequestWhen | None = None
    """Condition on the head of the request, such as `request.headers['x-drill'] == 'yes'`; by default all requests."""
    latency: LatencySpec | None = None
    abort: AbortSpec | None = None
    reset: ResetSpec | None = None

    @model_validator(mode="after")
    def _is_any(self) -> Spec:
        if self.latency is None and self.abort is None and self.reset is None:
            raise ValueError("injects nothing; write latency, abort or reset, such as abort: {status: 503, share: 10%}")
        return self


EXAMPLES: Final = (
    {"abort": {"status": 503, "share": "30%"}, "reset": {"share": "30%"}},
    {"latency": {"fixed": "50ms", "share": "50%"}},
)
