"""Expectations of a scenario: each has a `measure` and a limit, `at_least` or `at_most`.

The limit of a latency may be a multiple of its value in the quiet phase, such as `1.2x`.
`chaos.verdict.judge` takes the measures.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Share, Size, parse_duration

Phase = Literal["before", "during", "after"]
ALL = "all"
"""Name that stands for all classes together."""


class Multiple(float):
    """Factor on the value in the quiet phase."""


def _latency(value: Any) -> float:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)x", value)):
        return Multiple(match[1])
    return parse_duration(value)


LatencyLimit = Annotated[float, PlainValidator(_latency), WithJsonSchema({"type": "string", "examples": ["1.2x"]})]
Number = Annotated[float, Field(ge=0)]


class Measure(Model):
    """Base of all expectations."""

    because: str = ""
    """Reason of the expectation, for the report."""

    @property
    def classes(self) -> list[str]:
        """Classes that the expectation names."""
        return [name for name in (getattr(self, "of", None),) if name and name != ALL]


class ShareMeasure(Measure):
    """Share of a class's requests.  `availability`: answered without a server error.  `goodput`: answered well within
    `good_within`.  `refused`: refused by a sidecar."""

    measure: Literal["availability", "goodput", "refused"]
    of: str
    """Class of requests; `all` for all classes together."""
    phase: Phase
    """Phase in which it is measured."""
    at_least: Share | None = None
    """Lowest share that is as expected."""
    at_most: Share | None = None
    """Highest share that is as expected."""


class LatencyMeasure(Measure):
    """Percentile of the time from when a request was due to the end of its response, failures included."""

    measure: Literal["latency"]
    of: str
    """Class of requests; `all` for all classes together."""
    phase: Phase
    """Phase in which it is measured."""
    percentile: Share = 0.99
    """Percentile that is compared."""
    at_most: LatencyLimit | None = None
    """Highest latency; `1.2x` is a multiple of that of the quiet phase."""
    at_least: LatencyLimit | None = None
    """Lowest latency, in the same forms."""


class AmplificationMeasure(Measure):
    """Calls that reached a service for each request of a class."""

    measure: Literal["amplification"]
    of: str
    """Class of requests."""
    to: str
    """Service whose calls are counted."""
    phase: Phase
    """Phase in which it is measured."""
    at_most: Number | None = None
    at_least: Number | None = None


class UpstreamLoadMeasure(Measure):
    """Calls a second that reached a service, as a multiple of the quiet phase."""

    measure: Literal["upstream_load"]
    to: str
    """Service whose calls are counted."""
    phase: Phase
    """Phase in which it is measured."""
    at_most: Number | None = None
    at_least: Number | None = None


class DuplicatesMeasure(Measure):
    """Number of times that a write was carried out again."""

    measure: Literal["duplicates"]
    at_most: Number | None = None
    at_least: Number | None = None


class DetectionMeasure(Measure):
    """Time from the start of the first fault to the first event of a sidecar."""

    measure: Literal["detection"]
    event: Literal[
        "breaker.transition", "endpoint.ejected", "endpoint.health", "retry_budget.exhausted", "rollout.returned"
    ] = "breaker.transition"
    """Event that counts as detection."""
    at_most: Duration
    """Longest time that is as expected."""


class RecoveryMeasure(Measure):
    """Time from the end of the last fault until goodput has reached `to` for good."""

    measure: Literal["recovery"]
    of: str
    """Class of requests; `all` for all classes together."""
    to: Share = 0.99
    """Goodput that counts as recovered."""
    at_most: Duration | None = None
    at_least: Duration | None = None


class EventsMeasure(Measure):
    """Number of events of the sidecars; for a breaker's transitions, of those into the state `to`."""

    measure: Literal["events"]
    event: str = "breaker.transition"
    """Name of the event."""
    to: str = ""
    """State of a breaker's transitions that count; all if empty."""
    reason: str = ""
    """`reason` of the events that count; all if empty."""
    at_least: Number | None = None
    at_most: Number | None = None


class PeakMeasure(Measure):
    """Largest sample of a node, such as `payments` or `shop-sidecar`."""

    measure: Literal["peak"]
    of_: Literal["busy", "queue", "connections"] = Field(alias="what")
    """Quantity that is sampled."""
    node: str
    """Service or sidecar that is sampled."""
    at_most: Number | None = None
    at_least: Number | None = None


class GrowthMeasure(Measure):
    """Resident memory of a sidecar at the end, beyond that of the quiet phase."""

    measure: Literal["growth"]
    at_most: Size
    """Most memory that is as expected."""


class BlastRadiusMeasure(Measure):
    """Classes that may suffer; every other class keeps 99 % goodput in all phases."""

    measure: Literal["blast_radius"]
    only: list[str]
    """Classes that may suffer."""

    @property
    def classes(self) -> list[str]:
        return self.only


Expectation = Annotated[
    ShareMeasure | LatencyMeasure | AmplificationMeasure | UpstreamLoadMeasure | DuplicatesMeasure | DetectionMeasure
    | RecoveryMeasure | EventsMeasure | PeakMeasure | GrowthMeasure | BlastRadiusMeasure,
    Field(discriminator="measure"),
]  # fmt: skip
