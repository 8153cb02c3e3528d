"""What one arm of a run leaves behind: all that the judge and the report look at, as JSON.

Times are seconds, 0 is the start of the phase `during`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A user's request, all its tries together."""

    cls: str
    due: float
    """When it was to be sent."""
    seconds: float
    status: int
    """0: no answer."""
    reason: str
    tries: int
    id: str


class Call(NamedTuple):
    """A request as a service saw it."""

    node: str
    target: str
    cls: str
    id: str
    write: str
    caller: str
    arrived: float
    started: float
    """When a worker took it; its end where none did."""
    ended: float
    status: int


class Sample(NamedTuple):
    """A look at a node."""

    node: str
    at: float
    busy: int
    queue: int
    connections: int
    memory: int = 0
    """Resident bytes; 0 where not known."""


class Event(NamedTuple):
    """Something that a sidecar said."""

    at: float
    node: str
    name: str
    facts: dict[str, Any]


class Struck(NamedTuple):
    """A fault as it happened."""

    what: str
    began: float
    ended: float


@dataclass
class Recording:
    """One arm."""

    scenario: str
    arm: str
    seed: int
    phases: dict[str, tuple[float, float]]
    is_simulated: bool = False
    without: list[str] = field(default_factory=list)
    """Policy blocks that were taken out."""
    requests: list[Request] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    faults: list[Struck] = field(default_factory=list)
    trouble: str = ""
    """Why the run was stopped; empty where it ended as planned."""
    notes: list[str] = field(default_factory=list)
    """What the arm could not do, for example."""
    seconds: float = 0.0
    """What the run took."""

    def add(self, row: tuple[Any, ...], zero: float) -> None:
        """A row as a part reports it."""
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
        return asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Recording:
        """From JSON."""
        data = dict(data)
        data["phases"] = {name: tuple(times) for name, times in data["phases"].items()}
        rows: dict[str, Any] = {
            "requests": Request, "calls": Call, "samples": Sample, "events": Event, "faults": Struck,
        }  # fmt: skip
        for name, kind in rows.items():
            data[name] = [kind(*row) for row in data[name]]
        return cls(**data)

    @property
    def fault_time(self) -> tuple[float, float]:
        """From the start of the first fault to the end of the last; the phase `during` where there is none."""
        if not self.faults:
            return self.phases["during"]
        return min(f.began for f in self.faults), max(f.ended for f in self.faults)
