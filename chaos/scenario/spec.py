"""A scenario file: services and their capacity, the load, what goes wrong when, and what must be true then.

Times of faults and of changes of the load count from the start of the phase `during`.  Quantities have units, as in the
policy files, and an unknown key is an error with its place.
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
ARMS: Final[tuple[Literal["bare", "sidecar", "envoy"], ...]] = ("bare", "sidecar", "envoy")


class CallSpec(Model):
    """A call that the service makes for each request, in a row with the others."""

    to: Name
    path: Path
    method: Literal["GET", "POST", "PUT"] = "GET"
    timeout: Duration = 10.0
    """The naive time-out of the caller's own client."""
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """Naive tries after the first, at once.  Where a sidecar calls for the service, retries are its matter."""
    optional: bool = False
    """Is the answer good without it?"""


class WorkSpec(Model):
    """What a request costs."""

    time: Duration
    """Median of the time that a worker is busy, calls apart."""
    spread: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sigma of the log-normal distribution of that time; 0 is always the same time."""
    calls: list[CallSpec] = Field(default_factory=list)
    body: Size = 64
    cache_control: str = ""


class ServiceSpec(Model):
    """A service."""

    workers: Positive
    queue: Count
    """Requests that may wait for a worker; one more is refused."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    warm_up: DurationOrZero = 0.0
    """After a start it is four times as slow for so long."""
    work: dict[Path, WorkSpec]
    """By the beginning of the path; the first that fits."""


class ChangeSpec(Model):
    """From then on another rate."""

    at: DurationOrZero
    rate: Rate
    over: DurationOrZero = 0.0


class ClassSpec(Model):
    """Requests of one kind."""

    to: Name
    path: Path
    """`{key}` in it is one of `keys`."""
    rate: Rate
    method: Literal["GET", "POST", "PUT"] = "GET"
    timeout: Duration = 3.0
    """How long the user waits; a later answer is none."""
    good_within: Duration | None = None
    """How fast an answer has to be to be of use; the time-out unless given."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    changes: list[ChangeSpec] = Field(default_factory=list)
    retries: Annotated[int, Field(ge=0, le=5)] = 0
    """How often users try again."""
    retry_after: Duration = 0.1
    criticality: Literal["", "critical", "default", "sheddable"] = ""
    keys: Count = 0
    is_write: bool = Field(False, alias="write")
    """Must be done once: carrying it out twice is a duplicate."""
    idempotency_key: bool = False


class FaultSpec(Model):
    """What all faults have."""

    on: Name
    """The service, or store, that it strikes."""
    at: DurationOrZero = 0.0
    for_: Duration = Field(alias="for")
    """Its time to live."""
    replicas: list[int] | None = None
    """Those of the service's replicas that it strikes; all unless given."""
    flap: Duration | None = None
    """On and off in turns of this length."""


class TcpFault(FaultSpec):
    """On the wire in front of the service: see `chaos.faults.tcp`."""

    fault: Literal[
        "latency", "bandwidth", "slice", "blackhole", "corrupt", "truncate", "reset", "half_open", "slow_close",
        "refuse", "backlog",
    ]  # fmt: skip
    direction: Literal["up", "down", "both"] = "down"
    share: Share = 1.0
    by: DurationOrZero = 0.0
    jitter: DurationOrZero = 0.0
    distribution: Literal["uniform", "normal", "pareto"] = "uniform"
    rate: Size = 10**9
    """Bytes a second."""
    size: Positive = 1
    after: Size = 0


class AnswerFaultSpec(FaultSpec):
    """In the service's answers: see `chaos.faults.answer`."""

    fault: Literal["status", "delay", "dribble", "wrong_length", "malformed"]
    status: Annotated[int, Field(ge=200, le=599)] = 503
    share: Share = 1.0
    path: Path = "/"
    pattern: Annotated[str, Field(pattern=r"^[F.]*$", max_length=100)] = ""
    first: Positive | None = None
    per_request: bool = False
    by: DurationOrZero = 0.0
    retry_after: str = ""


class SlowFault(FaultSpec):
    """The service's work takes longer, so its workers are held: a database that crawls, a lock, a cold disk."""

    fault: Literal["slow"]
    times: Annotated[float, Field(ge=1, le=1000)] = 1.0
    by: DurationOrZero = 0.0


class InsideFault(FaultSpec):
    """In the service's process: see `chaos.faults.inside`."""

    fault: Literal["cpu", "memory", "files"]
    share: Share = 0.5
    """Of one core, for `cpu`."""
    rate: Size = 2**20
    """Bytes a second, for `memory`."""


class ProcessFault(FaultSpec):
    """The process: `kill` (back when its time is over), `stop` (SIGSTOP), `restart` (SIGTERM, wait, start)."""

    fault: Literal["kill", "stop", "restart"]
    of: Literal["service", "sidecar", "both"] = "service"
    one_by_one: bool = False
    """The replicas one after the other, each back and ready before the next; `for` is how long each is away."""


class NamesFault(FaultSpec):
    """The name of the service: does not resolve, takes `by`, is an address where nobody is, or one of them is stale."""

    fault: Literal["names_fail", "names_slow", "names_wrong", "names_stale"]
    by: DurationOrZero = 0.0


class PolicyFault(FaultSpec):
    """A policy is pushed to the sidecar of the service; the one before comes back when its time is over."""

    fault: Literal["policy"]
    file: str


class StoreFault(FaultSpec):
    """A store refuses writes for want of memory."""

    fault: Literal["full"]


Fault = Annotated[
    TcpFault | AnswerFaultSpec | SlowFault | InsideFault | ProcessFault | NamesFault | PolicyFault | StoreFault,
    Field(discriminator="fault"),
]


class PhasesSpec(Model):
    """How long what lasts."""

    warm_up: Duration = 1.5
    """Load that is not looked at."""
    before: Duration = 3.0
    during: Duration = 5.0
    after: Duration = 6.0


class GuardSpec(Model):
    """Bounds of a run; it is stopped when it exceeds one, and has failed."""

    memory: Size = 512 * 2**20
    """Resident memory of any one process."""
    rows: Positive = 100_000
    """Of the recording."""
    overtime: Duration = 20.0
    """Beyond the sum of the phases."""


class ExpectSpec(Model):
    """What must be true."""

    cascade: list[Expectation] = Field(default_factory=list)
    """Without sidecars: the failure that the scenario is named for must be seen, or it proves nothing."""
    contained: Annotated[list[Expectation], Field(min_length=1)]
    """With them."""


class Scenario(Model):
    """One named failure."""

    title: str
    story: str
    """What happens, to whom and why, for someone who has not been there."""
    source: str = ""
    """Where it is known from."""
    arms: Annotated[list[Literal["bare", "sidecar", "envoy"]], Field(min_length=1)] = Field(default=[*ARMS])
    """`[sidecar]` alone: it is about the sidecar itself."""
    services: dict[Name, ServiceSpec]
    stores: list[Name] = Field(default_factory=list)
    collectors: list[Name] = Field(default_factory=list)
    policies: dict[Name, list[str]]
    """The policy files of each service's sidecar, seen from this file.  They are told `${APP}`, the addresses of
    the other services as `${NAME}` (or `${NAME_0}` ... for replicas), `${INBOUND}`, `${OUTBOUND}` and `${ADMIN}`."""
    decisive: dict[Name, list[str]] = Field(default_factory=dict)
    """By sidecar: the policy blocks without which the sidecar arm must fail."""
    load: dict[Name, ClassSpec]
    phases: PhasesSpec = PhasesSpec()
    faults: list[Fault] = Field(default_factory=list)
    expect: ExpectSpec
    guard: GuardSpec = GuardSpec()
    simulated: bool = True
    """Can `chaos simulate` run it?"""

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        known = {*self.services, *self.stores, *self.collectors}
        named = [("load", name, spec.to) for name, spec in self.load.items()]
        named += [("faults", fault.fault, fault.on) for fault in self.faults]
        named += [("policies", name, name) for name in self.policies]
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
        return self


def levels(scenario: Scenario) -> list[list[str]]:
    """Services by how far they are from the end of the call chain, the last first.  ValueError for a circle."""
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
