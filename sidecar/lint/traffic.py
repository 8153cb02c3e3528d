"""Traffic that rules compute with: stated in a file, or bounded by the rate limits of the policies.

    routes:
      order: {rate: 3/s, errors: 0.5%, latency: {p50: 40ms, p95: 120ms, p99: 400ms}}

The rates are those of one sidecar.  What is not stated is not guessed: rules that need it stay silent.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.files import Source, parse
from sidecar.config.report import Report
from sidecar.config.validate import validate
from sidecar.core.spec import Model, Problem
from sidecar.core.units import Duration, Rate, Share


class LatencySpec(Model):
    """Latency of good days, to the last byte of the upstream's response."""

    p50: Duration | None = None
    """Median."""
    p95: Duration | None = None
    """95th percentile."""
    p99: Duration | None = None
    """99th percentile."""


class RouteTraffic(Model):
    """Traffic of one route through one sidecar."""

    rate: Rate | None = None
    """Requests per unit of time."""
    errors: Share | None = None
    """Share of calls that fail on a good day."""
    latency: LatencySpec = LatencySpec.built_in()
    """Latency of the upstream."""


class TrafficSpec(Model):
    """Content of a traffic file."""

    routes: dict[str, RouteTraffic]
    """Traffic by the name of the route."""


NO_TRAFFIC: Final = TrafficSpec.built_in(routes={})
"""Traffic of which nothing is known."""


def load_traffic(source: Source) -> tuple[TrafficSpec | None, list[Problem]]:
    """Return the traffic that a file states; None with problems if the file is wrong."""
    report = Report()
    root = parse(source, {}, report)
    if root is None:
        return (None, report.problems) if report.problems else (NO_TRAFFIC, [])
    spec = validate(TrafficSpec, root, report)
    return (None if report.problems else spec), report.problems
