"""Route: a route of the policies in force, ready to serve.

Compiled, because each request reads its attributes; the compiler of policies is not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sidecar.config.spec import RouteSpec
from sidecar.core.exchange import CRITICALITIES
from sidecar.core.spec import Block
from sidecar.core.stage import Stage
from sidecar.engine.pipeline import Pipeline
from sidecar.upstream.slow_places import SlowPlaces


class Link(NamedTuple):
    """Stage of a chain, with the block that it was built from."""

    policy: str
    """Name of the block."""
    scope: str
    """`route` or `upstream`, by where the block stands."""
    block: Block
    where: str
    """`file:line` of the block."""
    stage: Stage


class Route:
    """A route ready to serve.  An exchange keeps the one that it was matched to."""

    __slots__ = (
        "chain", "criticality", "listener", "metrics", "name", "pipeline", "policies", "slow_places", "spec",
        "template", "upstream",
    )  # fmt: skip

    def __init__(self, spec: RouteSpec, chain: tuple[Link, ...], pipeline: Pipeline, slow_places: SlowPlaces) -> None:
        self.name = spec.name
        self.listener = spec.listener
        """None: it serves every listener."""
        self.upstream = spec.upstream
        self.spec = spec
        self.chain = chain
        """Stages, outermost first."""
        self.policies = frozenset(link.policy for link in chain)
        """Names of the blocks of its stages."""
        self.template = spec.match.template
        """Path, prefix or pattern that it matches; empty if it matches every path."""
        self.pipeline = pipeline
        """Its stages before its upstream."""
        self.slow_places = slow_places
        """Places for requests that are sent on before their body is here; those of its upstream."""
        self.criticality = CRITICALITIES[spec.criticality]
        self.metrics: Any = None
        """Durations of its requests (`sidecar.telemetry.metrics.durations.RouteMetrics`)."""

    def __repr__(self) -> str:
        return f"<Route {self.name}: {' > '.join([*(link.policy for link in self.chain), self.upstream])}>"
