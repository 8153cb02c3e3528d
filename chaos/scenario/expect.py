"""Expectations: what a scenario file may ask of a recording.

Each has a `measure` and a limit, `at_least` or `at_most`.  A limit on a latency may be a multiple of the quiet phase,
`1.2x`.  How each is measured stands in `chaos.verdict.judge`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Share, Size, parse_duration

Phase = Literal["before", "during", "after"]
ALL = "all"
"""In the place of a class: every one together."""


class Multiple(float):
    """So many times what it was in the quiet phase."""


def _latency(value: Any) -> float:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)x", value)):
        return Multiple(match[1])
    return parse_duration(value)


LatencyLimit = Annotated[float, PlainValidator(_latency), WithJsonSchema({"type": "string", "examples": ["1.2x"]})]
Number = Annotated[float, Field(ge=0)]


class Measure(Model):
    """What all have."""

    because: str = ""
    """Why it must be so, for the report."""

    @property
    def classes(self) -> list[str]:
        """The classes that it names."""
        return [name for name in (getattr(self, "of", None),) if name and name != ALL]


class ShareMeasure(Measure):
    """`availability`: answers that are no server error.  `goodput`: good answers within `good_within`.
    `refused`: answers by a sidecar's own refusal.  `degraded`: by a fallback or a stale copy."""

    measure: Literal["availability", "goodput", "refused"]
    of: str
    """The class; `all` for every one together."""
    phase: Phase
    at_least: Share | None = None
    at_most: Share | None = None


class LatencyMeasure(Measure):
    """A percentile of the time from the intended send to the end, failures included."""

    measure: Literal["latency"]
    of: str
    phase: Phase
    percentile: Share = 0.99
    at_most: LatencyLimit | None = None
    at_least: LatencyLimit | None = None


class AmplificationMeasure(Measure):
    """Calls that reached a service for each request of the class."""

    measure: Literal["amplification"]
    of: str
    to: str
    phase: Phase
    at_most: Number | None = None
    at_least: Number | None = None


class UpstreamLoadMeasure(Measure):
    """Calls that reached a service a second, as a multiple of the quiet phase."""

    measure: Literal["upstream_load"]
    to: str
    phase: Phase
    at_most: Number | None = None
    at_least: Number | None = None


class DuplicatesMeasure(Measure):
    """Writes that were carried out more than once."""

    measure: Literal["duplicates"]
    at_most: Number | None = None
    at_least: Number | None = None


class DetectionMeasure(Measure):
    """Time from the start of the first fault to an event of a sidecar."""

    measure: Literal["detection"]
    event: Literal["breaker.transition", "endpoint.ejected", "endpoint.health", "retry_budget.exhausted"] = (
        "breaker.transition"
    )
    at_most: Duration


class RecoveryMeasure(Measure):
    """Time from the end of the last fault until goodput is `to` and stays."""

    measure: Literal["recovery"]
    of: str
    to: Share = 0.99
    at_most: Duration | None = None
    at_least: Duration | None = None


class EventsMeasure(Measure):
    """How often sidecars said something; for breakers, into which state."""

    measure: Literal["events"]
    event: str = "breaker.transition"
    to: str = ""
    at_least: Number | None = None
    at_most: Number | None = None


class PeakMeasure(Measure):
    """The largest sample of a node (`payments`, `shop-sidecar`)."""

    measure: Literal["peak"]
    of_: Literal["busy", "queue", "connections"] = Field(alias="what")
    node: str
    at_most: Number | None = None
    at_least: Number | None = None


class GrowthMeasure(Measure):
    """Resident memory of the sidecars at the end, beyond that of the quiet phase."""

    measure: Literal["growth"]
    at_most: Size


class BlastRadiusMeasure(Measure):
    """Only these classes may suffer: every other one keeps 99 % goodput in all phases."""

    measure: Literal["blast_radius"]
    only: list[str]

    @property
    def classes(self) -> list[str]:
        return self.only


Expectation = Annotated[
    ShareMeasure | LatencyMeasure | AmplificationMeasure | UpstreamLoadMeasure | DuplicatesMeasure | DetectionMeasure
    | RecoveryMeasure | EventsMeasure | PeakMeasure | GrowthMeasure | BlastRadiusMeasure,
    Field(discriminator="measure"),
]  # fmt: skip
