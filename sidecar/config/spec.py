"""Policies as a whole, read and resolved: the input of the compiler.

Sections of a file are pydantic models.  `RouteSpec` and `PolicySpec` are made by `load.py`, with the blocks of each
route merged from its layers.  Specs are compared by their values, not by their places in files, so that a moved line
changes nothing at a reload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema

from sidecar.cache.spec import CacheSpec
from sidecar.config.node import BUILT_IN, Mark, Node
from sidecar.config.process_spec import AdminSpec, LimitsSpec, ListenerSpec, ProcessSpec
from sidecar.core.spec import Block, Model
from sidecar.identity.outgoing.spec import CredentialsSpec
from sidecar.rollout.spec import CandidateSpec, RolloutSpec, SplitSpec
from sidecar.routing.match_spec import MatchSpec
from sidecar.stages import BY_NAME
from sidecar.stages.circuit_breaker.spec import Spec as BreakerSpec
from sidecar.stages.concurrency.spec import Spec as ConcurrencySpec
from sidecar.stages.pacing.spec import Spec as PacingSpec
from sidecar.stages.quota.spec import Spec as QuotaSpec
from sidecar.stages.rate_limit.spec import Spec as RateLimitSpec
from sidecar.store.spec import StoreSpec
from sidecar.telemetry.plain import Masks
from sidecar.upstream.spec import RetryBudgetSpec
from sidecar.upstream.spec import UpstreamSpec as PlainUpstreamSpec

if TYPE_CHECKING:
    from sidecar.identity.spec import IdentitySpec
    from sidecar.telemetry.spec import TelemetrySpec

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
"""Pattern of names in policy files."""


def check_name(name: str) -> str:
    """Return the name unchanged.  Raises `ValueError` if it is not a name."""
    if not re.fullmatch(NAME, name):
        raise ValueError("is not a name; use letters, digits, `-`, `_` and `.`, at most 63, a letter or digit first")
    return name


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
"""Name of a route, upstream, listener or bundle, as metrics, logs and URLs of the admin listener contain it."""
Criticality = Literal["critical", "default", "sheddable"]

CRITICALITY: Final = "criticality"
POLICIES: Final = (*BY_NAME, CRITICALITY)
"""Keys of policies that a route, a bundle, `defaults` and the `policy` of an upstream may have."""
DEFAULT_CACHE: Final = "default"
"""Name of the cache that exists without being declared."""
NO_LISTENER: Final = "none"
"""Value of `listener` of a route that only parts of aggregated answers use."""
AGGREGATE: Final = "aggregate"
CANDIDATE: Final = "candidate"
"""Key under a route for a canary of its policies, and the name of that arm."""
AUTHENTICATE: Final = "authenticate"
INBOUND: Final = "inbound"
"""Listener of routes that name none; used only if a listener with this name is declared."""


def _split_spelling(value: Any) -> str:
    return "mapping" if isinstance(value, dict | SplitSpec) else "word"


class RouteHead(Model):
    """Route without its policies."""

    name: Name
    """Unique name of the route, as in metrics, logs and refusals."""
    listener: Name | None = None
    """Listener whose requests the route takes; without it `inbound`, or every listener if none has that name.  A route
    with `none` is only for parts of `aggregate`."""
    match: MatchSpec = MatchSpec.built_in()
    upstream: (
        Annotated[Annotated[Name, Tag("word")] | Annotated[SplitSpec, Tag("mapping")], Discriminator(_split_spelling)]
        | None
    ) = None
    """Upstream to which the requests go, or a split over several; a route with `aggregate` has none."""
    candidate: CandidateSpec | None = None
    """Canary of a policy: a share of the requests meets the policies that stand here."""
    use: list[Name] = Field(default=[])
    """Bundles of `policies` that the route inherits; where they differ, the last one wins."""


class ByCallerSpec(Model):
    """Importance of requests by their caller, on a route with `authenticate`."""

    by_caller: Annotated[dict[str, Criticality], Field(min_length=1, max_length=1000)]
    """Importance by the caller's name."""
    otherwise: Criticality = "default"
    """Importance of all other requests."""


def _spelling(value: Any) -> str:
    return "mapping" if isinstance(value, dict | ByCallerSpec) else "word"


class CriticalitySpec(Model):
    """Importance of requests: under pressure sheddable ones are refused first."""

    criticality: Annotated[
        Annotated[Criticality, Tag("word")] | Annotated[ByCallerSpec, Tag("mapping")], Discriminator(_spelling)
    ] = "default"
    """Importance of a request.  The header x-criticality of a trusted client replaces it; of another client, the header
    can only lower it.  `{by_caller: {batch: sheddable}, otherwise: default}` distinguishes authenticated callers."""

    @property
    def general(self) -> Criticality:
        """Importance of requests whose caller is not named."""
        chosen = self.criticality
        return chosen.otherwise if isinstance(chosen, ByCallerSpec) else chosen

    @property
    def by_caller(self) -> dict[str, Criticality]:
        """Importance by the caller's name."""
        chosen = self.criticality
        return chosen.by_caller if isinstance(chosen, ByCallerSpec) else {}


class UpstreamSpec(PlainUpstreamSpec):
    """An upstream with the policies that hold for all its routes together."""

    retry_budget: RetryBudgetSpec = RetryBudgetSpec.built_in()
    """Budget that the retries and hedges of all its routes share."""
    circuit_breaker: BreakerSpec | None = None
    """Breaker for all its routes, or with `per: endpoint` one for each endpoint; it acts in addition to a route's
    own."""
    concurrency: ConcurrencySpec | None = None
    """Limit for all its routes together; it acts in addition to a route's own."""
    rate_limit: RateLimitSpec | None = None
    """Rate limits for all its routes together; they act in addition to a route's own."""
    quota: QuotaSpec | None = None
    """Quotas for all its routes together; they act in addition to a route's own."""
    pacing: PacingSpec | None = None
    """Pacing of the attempts of all its routes together."""
    credentials: CredentialsSpec | None = None


class ServiceSpec(Model):
    """Settings at the top of a file, outside of the sections."""

    version: Literal[1]
    """Version of the policy format."""
    service: Annotated[str, Field(min_length=1, max_length=255)] = "sidecar"
    """Name of the service: `service.name` in traces and metrics.  Limits and quotas in a store have one count for all
    processes with the same name."""


def name_of_part(route: str, part: str) -> str:
    """Return the name of the route that a part has of its own, because it names an upstream."""
    return f"{route}:{part}"


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """Route with its policies resolved."""

    name: str
    listener: str | None
    """Name of its listener; None for every listener."""
    scheme: str
    """Scheme of its listeners, `http` or `https`; empty if they differ."""
    match: MatchSpec
    upstream: str
    """Name of its upstream; empty for a route with `aggregate`."""
    use: tuple[str, ...]
    """Names of its bundles."""
    criticality: Criticality
    blocks: dict[str, Block]
    """Policies in force, by block name; blocks that are absent or off are left out."""
    node: Node = field(repr=False, compare=False)
    """Merged mapping that the route was made from."""
    is_open: bool = field(default=False, repr=False, compare=False)
    """True if the files turn `authenticate` off for the route, so that everyone may call it on purpose."""
    by_caller: dict[str, Criticality] = field(default_factory=dict)
    """Criticality of callers by their ID; callers that it does not name have `criticality`."""
    arms: tuple[RouteSpec, ...] = ()
    """Candidates: routes that get a share of its requests; empty without a rollout."""
    shares: tuple[float, ...] = ()
    """Share of each candidate at the start."""
    rollout: RolloutSpec | None = None
    """Settings of the rollout; None without one."""
    observes: tuple[str, ...] = ()
    """Names of the blocks that only observe beside those of the route; of a candidate with `mode: observe` alone."""

    @property
    def is_observed(self) -> bool:
        """True if the route has a candidate that only observes."""
        return self.rollout is not None and self.rollout.is_observed

    @property
    def parts(self) -> dict[str, str]:
        """Name of the route of each part of its answer, by the part's name; empty without `aggregate`."""
        block: Any = self.blocks.get(AGGREGATE)
        if block is None:
            return {}
        return {name: part.route or name_of_part(self.name, name) for name, part in block.parts.items()}

    def where(self, *path: str | int) -> Mark:
        """Return the place of an effective value in the files; `BUILT_IN` for a default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Policies of one set of files."""

    service: str
    listeners: dict[str, ListenerSpec]
    admin: AdminSpec | None
    """Admin listener; None if it is off."""
    limits: LimitsSpec
    upstreams: dict[str, UpstreamSpec]
    routes: list[RouteSpec]
    caches: dict[str, CacheSpec]
    """Declared caches, and `default`, which always exists."""
    node: Node = field(repr=False, compare=False)
    """Joined document of all files."""
    stores: dict[str, StoreSpec] = field(default_factory=dict)
    """Stores by name."""
    identities: dict[str, IdentitySpec] = field(default_factory=dict)
    """Identities by name."""
    version: int = 1
    """Version of the policy format."""
    candidate: CandidateSpec | None = None
    """Rollout of the policies of the directory `candidate`; None without one."""
    process: ProcessSpec = field(default_factory=ProcessSpec.built_in)
    """Settings of the worker processes."""
    telemetry: TelemetrySpec | None = None
    """Settings of telemetry; None if the files have none, or turn it off."""
    masks: Masks = field(default=Masks({}), repr=False, compare=False)
    """Masks in messages about the files for values from environment variables."""
    facts: Masks = field(default=Masks({}), repr=False, compare=False)
    """Masks in the process's own output, such as `/state`, for values from environment variables."""

    @property
    def all_routes(self) -> list[RouteSpec]:
        """Routes, each followed by its candidates: everything that has policies of its own."""
        return [each for route in self.routes for each in (route, *route.arms)]

    def routes_with_callers(self) -> set[str]:
        """Return the names of the routes whose requests may have callers.

        These are routes with `authenticate`, and those without a listener all of whose requests are parts of such ones.
        """
        users: dict[str, list[RouteSpec]] = {}
        for each in self.all_routes:
            for part in set(each.parts.values()):
                users.setdefault(part, []).append(each)
        found = {route.name for route in self.routes if AUTHENTICATE in route.blocks}
        inner = [route.name for route in self.routes if route.listener == NO_LISTENER and route.name in users]
        size = -1
        while size != len(found):  # each round is one level of parts
            size = len(found)
            found |= {
                name for name in inner if all(AUTHENTICATE in each.blocks or each.name in found for each in users[name])
            }
        return found.union(
            arm.name
            for route in self.routes
            for arm in route.arms
            if AUTHENTICATE in arm.blocks or (route.name in found and AUTHENTICATE not in route.blocks)
        )

    def where(self, *path: str | int) -> Mark:
        """Return the place of a value in the files; `BUILT_IN` for a default."""
        found = self.node.find(path)
        return BUILT_IN if found is None else found.place
