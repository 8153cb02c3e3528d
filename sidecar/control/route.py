"""Route of the policies in force, ready to serve requests.

This module is compiled by mypyc, because each request reads attributes of its route; `compiler.py` is not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sidecar.config.spec import RouteSpec
from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.message import Headers
from sidecar.core.spec import Block
from sidecar.core.stage import Stage
from sidecar.engine.pipeline import Pipeline
from sidecar.routing.rule import Rule
from sidecar.upstream.slow_places import SlowPlaces


class Link(NamedTuple):
    """Stage of a route's chain, with the block that it was built from."""

    policy: str
    """Name of the block."""
    scope: str
    """Owner of the block: `route`, `upstream`, or `candidate` for one that only observes beside the route's own."""
    block: Block
    where: str
    """Place of the block, as `file:line`."""
    stage: Stage


class Route:
    """Route ready to serve requests; an exchange keeps its route from start to end."""

    __slots__ = (
        "_cors", "candidate_of", "chain", "criticality", "listener", "metrics", "name", "observed", "pipeline",
        "policies", "slow_places", "spec", "template", "upstream",
    )  # fmt: skip

    def __init__(self, spec: RouteSpec, chain: tuple[Link, ...], pipeline: Pipeline, slow_places: SlowPlaces) -> None:
        self.name = spec.name
        self.listener = spec.listener
        """Name of its listener; None for every listener."""
        self.upstream = spec.upstream
        self.spec = spec
        self.chain = chain
        """Stages, outermost first."""
        self.observed: tuple[Link, ...] = ()
        """Stages of a candidate with `mode: observe`, each outside of the route's own of its kind."""
        self.policies = frozenset(link.policy for link in chain)
        """Names of the blocks in the chain."""
        self.template = spec.match.template
        """Path, prefix or pattern that the route matches; empty for every path."""
        self.pipeline = pipeline
        """Stages and upstream, ready to be run."""
        self.slow_places = slow_places
        """Places of the upstream for requests that are sent on before their body is complete."""
        self.criticality = CRITICALITIES[spec.criticality]
        """Importance as a number; see `CRITICALITIES`."""
        self.candidate_of: Route | None = None
        """Route whose candidate this one is; None for all others."""
        self.metrics: Any = None
        """Histograms of its requests (`sidecar.telemetry.metrics.durations.RouteMetrics`)."""

        self._cors: Any = next((link.stage for link in chain if link.policy == "cors"), None)

    @property
    def stable(self) -> Route:
        """Route whose candidate this one is, or else the route itself."""
        return self if self.candidate_of is None else self.candidate_of

    @property
    def answers_preflights(self) -> bool:
        """True if the route answers CORS preflights for its requests."""
        return self._cors is not None and bool(self._cors.answers_preflights)

    def problem_fields(self, x: Exchange) -> Headers:
        """Return the fields that a policy of the route adds to problem documents."""
        fields: Headers = [] if self._cors is None else self._cors.problem_fields(x)
        return fields

    def __repr__(self) -> str:
        return f"<Route {self.name}: {' > '.join([*(link.policy for link in self.chain), self.upstream]).rstrip(' >')}>"


class InnerRoute(NamedTuple):
    """Route as parts of aggregated answers use it, without a listener."""

    route: Route
    rule: Rule[Route]
    """Rule that captures parts of the path."""
    pick: Any = None
    """Function that returns the arm for a request; None for a route without candidates."""

    @property
    def pipeline(self) -> Pipeline:
        """Stages and upstream of the route."""
        return self.route.pipeline

    @property
    def criticality(self) -> int:
        """Importance of the route as a number."""
        return self.route.criticality
