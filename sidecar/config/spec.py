"""Policies as a whole, read and resolved: the input of the compiler.

Parts that a file says literally are pydantic models.  `RouteSpec` and `PolicySpec` are made by `load.py`, with every
block of a route already merged from its layers.  Two specs are equal if they mean the same: places in files take no
part, so that a moved line changes nothing at a reload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from sidecar.cache.spec import CacheSpec
from sidecar.config.node import BUILT_IN, Mark, Node
from sidecar.config.process_spec import AdminSpec, LimitsSpec, ListenerSpec
from sidecar.core.spec import Block, Model
from sidecar.routing.match_spec import MatchSpec
from sidecar.stages import BY_NAME
from sidecar.stages.circuit_breaker.spec import Spec as BreakerSpec
from sidecar.stages.concurrency.spec import Spec as ConcurrencySpec
from sidecar.telemetry.plain import Masks
from sidecar.upstream.spec import RetryBudgetSpec
from sidecar.upstream.spec import UpstreamSpec as Whereabouts

if TYPE_CHECKING:
    from sidecar.telemetry.spec import TelemetrySpec

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"


def check_name(name: str) -> str:
    """Return a name as it is.  Raises `ValueError`, which says what a name is."""
    if not re.fullmatch(NAME, name):
        raise ValueError("is not a name; use letters, digits, `-`, `_` and `.`, at most 63, a letter or digit first")
    return name


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
"""Name of a route, upstream, listener or bundle: it goes into metrics, logs and URLs of the admin listener."""
Criticality = Literal["critical", "default", "sheddable"]

CRITICALITY: Final = "criticality"
POLICIES: Final = (*BY_NAME, CRITICALITY)
"""Keys of a policy, which a route, a bundle, an upstream's `policy` and `defaults` may have."""
DEFAULT_CACHE: Final = "default"
"""Name of the cache that need not be declared."""
INBOUND: Final = "inbound"
"""Name of the listener that takes the routes that name none, if it is declared."""


class RouteHead(Model):
    """Route without its policies."""

    name: Name
    """Unique name of the route, as in metrics, logs and refusals."""
    listener: Name | None = None
    """Listener whose requests the route takes; without it `inbound`, or every listener if none has that name."""
    match: MatchSpec = MatchSpec.built_in()
    upstream: Name
    """Upstream to which its requests go."""
    use: list[Name] = Field(default=[])
    """Bundles of `policies` that the route takes over; the last one wins."""


class CriticalitySpec(Model):
    """Importance of requests: under pressure sheddable ones are refused first."""

    criticality: Criticality = "default"
    """The header x-criticality of a trusted client wins; of others it can only lower this."""


class UpstreamSpec(Whereabouts):
    """An upstream with the policies that hold for all its routes together."""

    retry_budget: RetryBudgetSpec = RetryBudgetSpec.built_in()
    """Budget that the retries and hedges of all its routes share."""
    circuit_breaker: BreakerSpec | None = None
    """Breaker for all its routes, or with `per: endpoint` one for each endpoint; it stands beside a route's own."""
    concurrency: ConcurrencySpec | None = None
    """Limit for all its routes together; it stands beside a route's own."""


class ServiceSpec(Model):
    """Settings that stand at the top of the files, outside of the sections."""

    version: Literal[1]
    """Version of the policy format."""
    service: Annotated[str, Field(min_length=1, max_length=255)] = "sidecar"
    """Name of the service: `service.name` in traces and metrics."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """Route with its policies resolved."""

    name: str
    listener: str | None
    """None: every listener."""
    scheme: str
    """`http` or `https`, as its listeners are reached; empty where they differ."""
    match: MatchSpec
    upstream: str
    use: tuple[str, ...]
    criticality: Criticality
    blocks: dict[str, Block]
    """Policies in force by the name of their block; one that is absent or off is not here."""
    node: Node = field(repr=False, compare=False)

    def where(self, *path: str | int) -> Mark:
        """Return the place where an effective value was written; `BUILT_IN` for a default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Policies of one set of files."""

    service: str
    listeners: dict[str, ListenerSpec]
    admin: AdminSpec | None
    limits: LimitsSpec
    upstreams: dict[str, UpstreamSpec]
    routes: list[RouteSpec]
    caches: dict[str, CacheSpec]
    """Caches that are declared, and `default`, which is always there."""
    node: Node = field(repr=False, compare=False)
    version: int = 1
    telemetry: TelemetrySpec | None = None
    masks: Masks = field(default=Masks({}), repr=False, compare=False)
    """What is shown in messages for values that came from environment variables."""
    facts: Masks = field(default=Masks({}), repr=False, compare=False)
    """What a process shows of itself for such values."""

    def where(self, *path: str | int) -> Mark:
        """Return the place where a value was written; `BUILT_IN` for a default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place
