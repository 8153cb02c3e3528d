"""The policies as a whole, read and resolved: what the compiler works from.

Parts that a file says literally are pydantic models; `RouteSpec` and `PolicySpec` are made by `load.py`, with every
block of a route already merged from the route, its bundles, its upstream's policy and the defaults.  Two of them are
equal if they mean the same: places in files take no part, so that moving a line changes nothing at a reload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from sidecar.cache.spec import CacheSpec
from sidecar.config.node import BUILT_IN, Mark, Node
from sidecar.config.process_spec import AdminSpec, LimitsSpec, ListenerSpec
from sidecar.core.spec import Block, Model
from sidecar.routing.match_spec import MatchSpec
from sidecar.stages import BY_NAME
from sidecar.stages.circuit_breaker.stage import Spec as BreakerSpec
from sidecar.stages.concurrency.stage import Spec as ConcurrencySpec
from sidecar.telemetry.spec import TelemetrySpec
from sidecar.upstream.budget import Spec as BudgetSpec
from sidecar.upstream.spec import UpstreamSpec as Whereabouts

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"


def check_name(name: str) -> str:
    """A name as it is; `ValueError` says what is one."""
    if not re.fullmatch(NAME, name):
        raise ValueError("is not a name; use letters, digits, `-`, `_` and `.`, at most 63, a letter or digit first")
    return name


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
"""Of a route, upstream, listener or bundle: it goes into metrics, logs and addresses of the admin page."""
Criticality = Literal["critical", "default", "sheddable"]

CRITICALITY: Final = "criticality"
POLICIES: Final = (*BY_NAME, CRITICALITY)
"""The keys of a policy: what a route, a bundle, an upstream's `policy` and `defaults` may hold."""
DEFAULT_CACHE: Final = "default"
"""The cache that need not be declared."""
INBOUND: Final = "inbound"
"""The listener of a route that names none, where there is one of this name."""


class RouteHead(Model):
    """A route without its policies."""

    name: Name
    """Unique; it stands in metrics, logs and refusals."""
    listener: Name | None = None
    """The listener whose requests it takes; `inbound` without it, or all where no listener has that name."""
    match: MatchSpec = MatchSpec()
    upstream: Name
    """Where its requests go."""
    use: list[Name] = Field(default_factory=list)
    """Bundles of `policies`; the last one wins."""


class CriticalitySpec(Model):
    """How much requests matter: under pressure the sheddable go first."""

    criticality: Criticality = "default"
    """The header x-criticality, where it came in, wins."""


class UpstreamSpec(Whereabouts):
    """An upstream with the policies that hold for all its routes together."""

    retry_budget: BudgetSpec = BudgetSpec()
    """Shared by the retries and hedges of all its routes."""
    circuit_breaker: BreakerSpec | None = None
    """One for all its routes, or with `per: endpoint` one for each endpoint; it stands beside a route's own."""
    concurrency: ConcurrencySpec | None = None
    """One limit for all its routes; it stands beside a route's own."""


class ServiceSpec(Model):
    """What stands at the top of the files and is no section."""

    version: Literal[1]
    """Of the policy format."""
    service: Annotated[str, Field(min_length=1, max_length=255)] = "sidecar"
    """`service.name` in traces and metrics."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route with its policies resolved."""

    name: str
    listener: str | None
    """None: every listener."""
    scheme: str
    """`http` or `https`, by how that listener is reached; empty where listeners of both kinds are meant."""
    match: MatchSpec
    upstream: str
    use: tuple[str, ...]
    criticality: Criticality
    blocks: dict[str, Block]
    """The policies that are in its way, by the name of their block; what is absent or off is not here."""
    node: Node = field(repr=False, compare=False)

    def where(self, *path: str | int) -> Mark:
        """Where an effective value was written, or the nearest thing around it; `BUILT_IN` for a block's default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """All that the policy files say."""

    service: str
    listeners: dict[str, ListenerSpec]
    admin: AdminSpec | None
    limits: LimitsSpec
    upstreams: dict[str, UpstreamSpec]
    routes: list[RouteSpec]
    caches: dict[str, CacheSpec]
    """Those that are declared, and `default`, which is always there."""
    node: Node = field(repr=False, compare=False)
    version: int = 1
    telemetry: TelemetrySpec | None = None

    def where(self, *path: str | int) -> Mark:
        """Where a value was written; `BUILT_IN` for a default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place
