"""Format of a scenario: services and their capacity, the load, faults with their times, and expectations.

1. Times of faults and of changes of the load count from the start of the phase `during`.
2. Quantities have units, as in policy files; an unknown key is an error with its place.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from chaos.scenario.expect import Expectation
from sidecar.core.spec import Model
from sidecar.core.units import Duration, DurationOrZero, Rate, Share, Size

Count = Annotated[int, Field(ge=0, le=100_000)]
Positive = Annotated[int, Field(ge=1, le=100_000)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Path = Annotated[str, Field(pattern=r"^/[!-~]*$")]
GrpcCode = Literal[
    "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
    "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
    "data_loss", "unauthenticated",
]  # fmt: skip
ARMS: Final[tuple[Literal["bare", "sidecar", "envoy"], ...]] = ("bare", "sidecar", "envoy")


class CallSpec(Model):
    """Call that a service makes for each request, one after the other."""

    to: Name
    """Service that is called."""
    path: Path
    """Path of the call."""
    method: Literal["GET", "POST", "PUT"] = "GET"
    """Method of the call."""
    timeout: Duration = 10.0
    """Timeout of the caller's own client."""
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """Attempts after the first, at once; only where no sidecar calls for the service."""
    optional: bool = False
    """True if the response is good without this call."""
    grpc: bool = False
    """True for a call of gRPC; the path names service and method."""


class WorkSpec(Model):
    """Cost of a request."""

    time: Duration
    """Median of the time that a worker is busy, without its calls."""
    spread: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sigma of the log-normal distribution of that time; 0 for always the same time."""
    calls: list[CallSpec] = Field(default_factory=list)
    """Calls of each request, one after the other."""
    body: Size = 64
    """Size of the response."""
    cache_control: str = ""
    """`Cache-Control` of the response; none if empty."""
    answer: Literal["", "keys", "active", "price"] = ""
    """Content of the response: of an issuer the `keys` of signed tokens, or that a token is `active` (RFC 7662); or a
    `price` as the gRPC service `shop.Prices` answers it."""


class ServiceSpec(Model):
    """Service."""

    workers: Positive
    """Number of requests that are worked on at the same time."""
    queue: Count
    """Number of requests that may wait for a worker; further ones are refused."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Number of instances, each with its own workers and queue."""
    warm_up: DurationOrZero = 0.0
    """Time after a restart in which work takes four times as long."""
    work: dict[Path, WorkSpec]
    """Cost by the beginning of the path; the first that matches."""
    tcp: Literal["", "client_first", "server_first"] = ""
    """Side that speaks first in the plain TCP that the service speaks in place of HTTP; empty for HTTP."""


class ChangeSpec(Model):
    """Change of the rate, at a time and over a time."""

    at: DurationOrZero
    """Time from the start of the phase `during`."""
    rate: Rate
    """Rate after the change."""
    over: DurationOrZero = 0.0
    """Time that the change takes; `0s` for a step."""


class ClassSpec(Model):
    """Requests of one kind."""

    to: Name
    """Service that gets the requests."""
    path: Path
    """Path; `{key}` in it is one of `keys`."""
    rate: Rate
    """Requests a second."""
    method: Literal["GET", "POST", "PUT"] = "GET"
    """Method of the requests."""
    timeout: Duration = 3.0
    """Time that the user waits; a later answer does not count."""
    good_within: Duration | None = None
    """Time within which a response is of use; by default the timeout."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """Distribution of the time between two requests."""
    changes: list[ChangeSpec] = Field(default_factory=list)
    """Changes of the rate."""
    retries: Annotated[int, Field(ge=0, le=5)] = 0
    """Attempts of a user after the first."""
    retry_after: Duration = 0.1
    """Wait of a user before the next attempt."""
    criticality: Literal["", "critical", "default", "sheddable"] = ""
    """`x-criticality` of the requests; none if empty."""
    keys: Count = 0
    """Number of values that `{key}` in the path takes."""
    is_write: bool = Field(False, alias="write")
    """True if it must be carried out only once; a second time is a duplicate."""
    idempotency_key: bool = False
    """True if each write has an `Idempotency-Key`."""
    token: Literal["", "signed", "opaque"] = ""
    """Bearer token of the requests; none if empty."""
    tokens: Count = 0
    """Number of different tokens; 0 for a new one in each request."""
    grpc: bool = False
    """True for calls of gRPC; the path names service and method."""


class FaultSpec(Model):
    """Base of all faults."""

    on: Name
    """Service or store that the fault strikes."""
    at: DurationOrZero = 0.0
    """Time from the start of the phase `during`."""
    for_: Duration = Field(alias="for")
    """Time to live of the fault."""
    replicas: list[int] | None = None
    """Replicas of the service that the fault strikes; by default all."""
    flap: Duration | None = None
    """Length of the turns in which the fault is on and off."""


class TcpFault(FaultSpec):
    """Fault on the wire in front of the service: see `chaos.faults.tcp`."""

    fault: Literal[
        "latency", "bandwidth", "slice", "blackhole", "corrupt", "truncate", "reset", "half_open", "slow_close",
        "refuse", "backlog",
    ]  # fmt: skip
    direction: Literal["up", "down", "both"] = "down"
    """`up` strikes requests, `down` answers."""
    share: Share = 1.0
    """Share of the connections, drawn when one opens; of the pieces for `corrupt`."""
    by: DurationOrZero = 0.0
    """Delay, for `latency`, `slice` and `slow_close`."""
    jitter: DurationOrZero = 0.0
    """Variation of the delay, for `latency`."""
    distribution: Literal["uniform", "normal", "pareto"] = "uniform"
    """Distribution of that variation."""
    rate: Size = 10**9
    """Bytes a second."""
    size: Positive = 1
    """Bytes of a piece, for `slice`."""
    after: Size = 0
    """Bytes that pass before, for `truncate` and `reset`."""
    only_open: bool = False
    """True to strike only connections that are open when the fault begins, as a NAT does that has lost its table."""


class AnswerFaultSpec(FaultSpec):
    """Fault in the service's responses: see `chaos.faults.answer`."""

    fault: Literal["status", "delay", "dribble", "wrong_length", "malformed", "grpc_status"]
    status: Annotated[int, Field(ge=200, le=599)] = 503
    """Status of the responses, for `status`."""
    share: Share = 1.0
    """Share of the requests that the fault strikes."""
    path: Path = "/"
    """Beginning of the paths that the fault strikes."""
    pattern: Annotated[str, Field(pattern=r"^[F.]*$", max_length=100)] = ""
    """Word of `F` and `.`, repeated over the requests: `FF.` fails two of three, in order."""
    first: Positive | None = None
    """Number of requests that fail; all later ones pass."""
    per_request: bool = False
    """True to count `first` for each `x-request-id`."""
    code: GrpcCode = "unavailable"
    """Status of gRPC in the trailers, for `grpc_status`."""
    by: DurationOrZero = 0.0
    """Delay, for `delay`, `dribble` and `grpc_status`."""
    retry_after: str = ""
    """`Retry-After` of the responses; none if empty."""


class SlowFault(FaultSpec):
    """Work of the service takes longer and holds its workers: a slow database, a lock, a cold disk."""

    fault: Literal["slow"]
    times: Annotated[float, Field(ge=1, le=1000)] = 1.0
    """Factor on the time of the work."""
    by: DurationOrZero = 0.0
    """Time that is added to the work."""


class InsideFault(FaultSpec):
    """Fault in the service's process: see `chaos.faults.inside`."""

    fault: Literal["cpu", "memory", "files"]
    share: Share = 0.5
    """Share of one core, for `cpu`."""
    rate: Size = 2**20
    """Bytes a second, for `memory`."""


class ProcessFault(FaultSpec):
    """Fault of a process: `kill` (and start again at the end), `stop` (SIGSTOP), `restart` (SIGTERM, wait, start)."""

    fault: Literal["kill", "stop", "restart"]
    of: Literal["service", "sidecar", "both"] = "service"
    """Process that the fault strikes."""
    one_by_one: bool = False
    """True to strike the replicas one after the other, each ready again before the next; `for` is each one's time."""


class WorkerFault(FaultSpec):
    """Crash of one worker of the service's sidecar, again and again: each process of it is killed."""

    fault: Literal["worker_crash"]
    every: Duration = 0.1
    """Time between two looks for a new process to kill."""


class NamesFault(FaultSpec):
    """Fault of the service's name: no answer, an answer after the time `by`, an address without a listener, or such an
    address beside the right one."""

    fault: Literal["names_fail", "names_slow", "names_wrong", "names_stale"]
    by: DurationOrZero = 0.0
    """Time that a look-up takes, for `names_slow`."""


class PolicyFault(FaultSpec):
    """Policy that is pushed to the sidecar of the service; the end of the fault restores the previous policies."""

    fault: Literal["policy"]
    file: str
    """Policy file or directory that is pushed, relative to this file."""


class GoawayFault(FaultSpec):
    """GOAWAY on all connections of HTTP/2 to the service, again and again; requests that have begun are answered."""

    fault: Literal["goaway"]
    every: Duration = 1.0
    """Time between two."""


class StoreFault(FaultSpec):
    """Store that refuses writes for want of memory."""

    fault: Literal["full"]


Fault = Annotated[
    TcpFault
    | AnswerFaultSpec
    | SlowFault
    | InsideFault
    | ProcessFault
    | WorkerFault
    | NamesFault
    | PolicyFault
    | GoawayFault
    | StoreFault,
    Field(discriminator="fault"),
]


class PhasesSpec(Model):
    """Length of the phases."""

    warm_up: Duration = 1.5
    """Load that is not measured."""
    before: Duration = 3.0
    """Quiet phase, which measures are compared with."""
    during: Duration = 5.0
    """Phase of the faults."""
    after: Duration = 6.0
    """Phase of the recovery."""


class GuardSpec(Model):
    """Bounds of a run; a run that exceeds one is stopped and has failed."""

    memory: Size = 512 * 2**20
    """Resident memory of any one process."""
    rows: Positive = 100_000
    """Rows of the recording."""
    overtime: Duration = 20.0
    """Time beyond the sum of the phases."""


class ExpectSpec(Model):
    """Expectations of a scenario."""

    cascade: list[Expectation] = Field(default_factory=list)
    """Expectations of the bare arm: the failure that the scenario is named for must be seen, or it proves nothing."""
    contained: Annotated[list[Expectation], Field(min_length=1)]
    """Expectations of the arms with sidecars."""


RECOMMENDED: Final = "recommended"
"""Arm with the recommended starting values in place of the policies of each sidecar."""


class Scenario(Model):
    """Scenario: one named failure."""

    title: str
    """Failure in one line."""
    story: str
    """Story of the failure for readers who do not know it: what happens, to whom and why."""
    source: str = ""
    """Source from which the failure is known."""
    arms: Annotated[list[Literal["bare", "sidecar", "envoy"]], Field(min_length=1)] = Field(default=[*ARMS])
    """Arms that can run; `[sidecar]` alone for a scenario about the sidecar itself."""
    services: dict[Name, ServiceSpec]
    """Services by name."""
    stores: list[Name] = Field(default_factory=list)
    """Names of the stores (Redis) that sidecars use."""
    collectors: list[Name] = Field(default_factory=list)
    """Names of the collectors that sidecars export to."""
    api_servers: dict[Name, Name] = Field(default_factory=dict)
    """API servers of Kubernetes by name, and the service whose replicas each of them lists.  A `restart` tells them
    first that the replica terminates."""
    policies: dict[Name, list[str]]
    """Policy files of each service's sidecar, relative to this file.  Their variables: `${APP}`, the service beside the
    sidecar; `${INBOUND}`, `${OUTBOUND}`, `${ADMIN}`, its listeners; `${NAME}` (or `${NAME_0}` ... for replicas), the
    other services.  See "Variables of the policies" in the README of chaos."""
    captured: list[Name] = Field(default_factory=list)
    """Services whose connections the kernel redirects to their sidecars.  They dial the others by their addresses, as
    without a sidecar; a run with real processes gives each a network namespace, and needs root."""
    decisive: dict[Name, list[str]] = Field(default_factory=dict)
    """Policy blocks, by service, without which the sidecar arm must fail."""
    credit: dict[Name, list[str]] = Field(default_factory=dict)
    """Policy blocks, by service, that contain the failure although a run without them need not fail; the report names
    them where there are no decisive ones."""
    load: dict[Name, ClassSpec]
    """Classes of requests by name."""
    phases: PhasesSpec = PhasesSpec()
    faults: list[Fault] = Field(default_factory=list)
    """Faults, and when they are in force."""
    expect: ExpectSpec
    guard: GuardSpec = GuardSpec()
    simulated: bool = True
    """True if `chaos simulate` can run it."""

    @property
    def runnable(self) -> tuple[str, ...]:
        """Arms that can run; where sidecars can, they can with recommended values too."""
        return (*self.arms, RECOMMENDED) if "sidecar" in self.arms else tuple(self.arms)

    def replicas(self, service: str) -> list[str]:
        """Return the names of a service's replicas; a store has one."""
        spec = self.services.get(service)
        count = 1 if spec is None else spec.replicas
        return [service] if count == 1 else [f"{service}.{number}" for number in range(count)]

    @property
    def captured_replicas(self) -> list[str]:
        """Names of the replicas of captured services."""
        return [replica for service in self.captured for replica in self.replicas(service)]

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        known = {*self.services, *self.stores, *self.collectors, *self.api_servers}
        named = [("load", name, spec.to) for name, spec in self.load.items()]
        named += [("faults", fault.fault, fault.on) for fault in self.faults]
        named += [("policies", name, name) for name in self.policies]
        named += [("api_servers", name, service) for name, service in self.api_servers.items()]
        for section, blocks in (("decisive", self.decisive), ("credit", self.credit)):
            for name in blocks:
                if name not in self.policies:
                    raise ValueError(f"{section}: `{name}` has no policies; known are {', '.join(self.policies)}")
        named += [
            (f"services.{name}", path, call.to)
            for name, spec in self.services.items()
            for path, work in spec.work.items()
            for call in work.calls
        ]
        for section, what, name in named:
            if name not in known:
                raise ValueError(f"{section}: {what} names `{name}`; known are {', '.join(sorted(known))}")
        for expectation in (*self.expect.cascade, *self.expect.contained):
            for name in expectation.classes:
                if name not in self.load:
                    raise ValueError(f"expect: names the class `{name}`; known are {', '.join(self.load)}")
        levels(self)
        self._check_plain_tcp()
        return self

    def _check_plain_tcp(self) -> None:
        """Raise `ValueError` for a captured service without a sidecar, and for plain TCP where only HTTP is spoken."""
        for name in self.captured:
            if name not in self.services or name not in self.policies:
                raise ValueError(f"captured: `{name}` has no sidecar; known are {', '.join(self.policies)}")
        plain = [name for name, spec in self.services.items() if spec.tcp]
        for section, names in (("policies", list(self.policies)), ("load", [each.to for each in self.load.values()])):
            if both := [name for name in names if name in plain]:
                raise ValueError(f"{section}: `{both[0]}` speaks plain TCP; name a service that speaks HTTP")
        for fault in self.faults:
            if fault.on in plain and isinstance(fault, AnswerFaultSpec | GoawayFault):
                raise ValueError(f"faults: {fault.fault} needs HTTP, which `{fault.on}` does not speak; use one of TCP")
        for name in self.policies:
            work = self.services[name].work.values() if name in self.services else ()
            for call in (call for each in work for call in each.calls):
                if call.to in plain and name not in self.captured:
                    raise ValueError(f"services: `{name}` calls `{call.to}` by plain TCP; list `{name}` in captured")


def levels(scenario: Scenario) -> list[list[str]]:
    """Return the services by their distance from the end of the call chain, the last first.  Raises `ValueError` for a
    circle."""
    calls = {
        name: {call.to for work in spec.work.values() for call in work.calls} & set(scenario.services)
        for name, spec in scenario.services.items()
    }
    found: list[list[str]] = []
    while calls:
        leaves = sorted(name for name, to in calls.items() if not to & set(calls))
        if not leaves:
            raise ValueError(f"services: {', '.join(sorted(calls))} call each other in a circle")
        found.append(leaves)
        for name in leaves:
            del calls[name]
    return found
