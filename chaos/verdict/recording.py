"""Recording of one arm: the only input of judge and report, as JSON.

Times are seconds; 0 is the start of the phase `during`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Request(NamedTuple):
    """Request of a user, all its attempts together.

    - `due`: when it was to be sent; `seconds`: time from then to the end of the last response.
    - `status`: 0 where there was no response; `reason`: why, or the reason of a sidecar's refusal.
    """

    cls: str
    due: float
    seconds: float
    status: int
    reason: str
    tries: int
    id: str


class Call(NamedTuple):
    """Request as a service saw it.

    - `id`, `write`, `caller`: the user's request, its write if it is one, and the calling service.
    - `started`: when a worker took it; `ended` where none did.
    """

    node: str
    target: str
    cls: str
    id: str
    write: str
    caller: str
    arrived: float
    started: float
    ended: float
    status: int


class Sample(NamedTuple):
    """State of a part or a sidecar at an instant.

    - `memory`: resident bytes; 0 where not known.
    """

    node: str
    at: float
    busy: int
    queue: int
    connections: int
    memory: int = 0


class Event(NamedTuple):
    """Event that a sidecar logged."""

    at: float
    node: str
    name: str
    facts: dict[str, Any]


class FaultRecord(NamedTuple):
    """Fault as it happened: its kind and service, start and end."""

    what: str
    began: float
    ended: float


@dataclass
class Recording:
    """Recording of one arm.

    - `phases`: start and end of each phase.
    - `without`: policy blocks that were taken out.
    - `trouble`: why the run was stopped; empty where it ended as planned.
    - `notes`: what the arm could not do.
    - `seconds`: how long the run took.
    """

    scenario: str
    arm: str
    seed: int
    phases: dict[str, tuple[float, float]]
    is_simulated: bool = False
    without: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    faults: list[FaultRecord] = field(default_factory=list)
    trouble: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, row: tuple[Any, ...], zero: float) -> None:
        """Add a row as a part reports it; `zero` is the instant from which times count."""
        kind, *values = row
        if kind == "request":
            cls, due, *rest = values
            self.requests.append(Request(cls, round(due - zero, 4), *rest))
        elif kind == "call":
            *head, arrived, started, ended, status = values
            times = [round(t - zero, 4) if t else 0.0 for t in (arrived, started, ended)]
            row_values: list[Any] = [*head, times[0], times[1] if started else times[2], times[2], status]
            self.calls.append(Call(*row_values))
        elif kind == "sample":
            node, at, *rest = values
            self.samples.append(Sample(node, round(at - zero, 3), *rest))
        elif kind == "event":
            at, *rest = values
            self.events.append(Event(round(at - zero, 3), *rest))

    def json(self) -> dict[str, Any]:
        """Return the recording as JSON-ready values."""
        return asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Recording:
        """Return a recording from JSON-ready values."""
        data = dict(data)
        data["phases"] = {name: tuple(times) for name, times in data["phases"].items()}
        rows: dict[str, Any] = {
            "requests": Request, "calls": Call, "samples": Sample, "events": Event, "faults": FaultRecord,
        }  # fmt: skip
        for name, kind in rows.items():
            data[name] = [kind(*row) for row in data[name]]
        return cls(**data)

    @property
    def fault_time(self) -> tuple[float, float]:
        """Return the start of the first fault and the end of the last; the phase `during` without faults."""
        if not self.faults:
            return self.phases["during"]
        return min(f.began for f in self.faults), max(f.ended for f in self.faults)
