"""Recordings made by hand, for the tests of the judge."""

from __future__ import annotations

from typing import Any

from chaos.scenario.spec import Scenario
from chaos.verdict.recording import Call, Event, FaultRecord, Recording, Request, Sample

PHASES = {"before": (-4.0, 0.0), "during": (0.0, 4.0), "after": (4.0, 10.0)}


def scenario(*contained: dict[str, Any], cascade: list[dict[str, Any]] | None = None) -> Scenario:
    """Return a scenario with a service `pay` behind `shop`, and classes `buy` and `look`."""
    return Scenario.model_validate({
        "title": "t", "story": "s",
        "services": {
            "shop": {"workers": 2, "queue": 2, "work": {"/": {"time": "10ms", "calls": [{"to": "pay", "path": "/"}]}}},
            "pay": {"workers": 2, "queue": 2, "work": {"/": {"time": "10ms"}}},
        },
        "policies": {"shop": []},
        "load": {
            "buy": {"to": "shop", "path": "/", "rate": "10/s", "timeout": "1s"},
            "look": {"to": "shop", "path": "/", "rate": "10/s"},
        },
        "expect": {"contained": list(contained), "cascade": cascade or []},
    })  # fmt: skip


def recording(arm: str = "sidecar", **parts: Any) -> Recording:
    """Return a quiet run, ten requests a second of each class, answered in 20 ms; `parts` replace its rows."""
    return Recording(
        "test", arm, 1, dict(PHASES), **{"requests": quiet(), "faults": [FaultRecord("slow pay", 0.0, 4.0)], **parts}
    )


def quiet() -> list[Request]:
    return [
        Request(cls, -4 + n / 10, 0.02, 200, "", 1, f"{cls}-{n}") for cls in ("buy", "look") for n in range(140)
    ]  # fmt: skip


def with_bad(cls: str, start: float, end: float, **changes: Any) -> list[Request]:
    """Return the requests of the quiet run, with changes to one class in an interval."""
    return [r._replace(**changes) if r.cls == cls and start <= r.due < end else r for r in quiet()]


def call(node: str, at: float, *, cls: str = "buy", id: str = "", write: str = "", status: int = 200) -> Call:
    return Call(node, "/", cls, id, write, "shop", at, at, at + 0.01, status)


def event(at: float, name: str, **facts: Any) -> Event:
    return Event(at, "shop-sidecar", name, facts)


def sample(at: float, node: str = "pay", **values: int) -> Sample:
    return Sample(
        node, at, values.get("busy", 0), values.get("queue", 0), values.get("connections", 0), values.get("memory", 0)
    )
