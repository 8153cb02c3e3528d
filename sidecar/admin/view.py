"""What the admin listener may see of the process, and the one document that says all of it.

`/state` is that document; the live page and `sidecar top` get the same parts, each again when it has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sidecar.core.env import Env, StateKey
from sidecar.telemetry.metrics import process
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets

TURN: Final = 5
"""Objects that describe themselves in one turn of the loop."""


class Reloaded(Protocol):
    """How a reload went."""

    @property
    def problems(self) -> Sequence[object]:
        """What is wrong with the files, each as a line; empty where the reload was applied (or changed nothing)."""

    def describe(self) -> dict[str, Any]:
        """What changed."""


@dataclass(frozen=True, slots=True)
class AdminView:
    """All that the admin listener may see of the process."""

    env: Env
    registry: Registry
    version: str
    started: float
    """`env.now` at the start."""
    ready: Callable[[], str]
    """Why it is not ready; empty where it is."""
    reload: Callable[[], Awaitable[Reloaded]]
    states: Callable[[], Mapping[StateKey, Any]]
    """Every living state object by its identity (`StateStore.objects`): shown if it has `describe()`; those under
    `("breaker", …)` also have `force(mode)`, which takes `open`, `closed` and `auto`."""
    recent: Iterable[Mapping[str, Any]] = ()
    """The latest events (`Emitter.recent`)."""
    sections: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """What else `/state` shows, by name: `policies`, `routes`, `reloads`, `refusals`, `loop`, …"""
    secrets: Secrets = field(default_factory=Secrets)
    token: str | None = None


async def document(view: AdminView) -> dict[str, Any]:
    """All that is known, as JSON values without secrets.  Made in pieces: nothing else is held up meanwhile."""
    whole: dict[str, Any] = {}
    state: dict[str, Any] = {}
    async for name, value in parts(view):
        kind, dot, rest = name.partition(".")
        if dot:
            state[rest] = value
        else:
            whole |= value if kind == "about" else {kind: value}
    events = whole.pop("events")
    return {**whole, "state": state, "events": events}


async def parts(view: AdminView) -> AsyncIterator[tuple[str, Any]]:
    """The document's parts: `about`, each section, `state.KIND` for each kind of state object, `events`."""
    env, plain = view.env, view.secrets.plain
    yield (
        "about",
        {
            "version": view.version,
            "uptime_seconds": round(env.now() - view.started, 3),
            "ready": not view.ready(),
            "not_ready_because": view.ready() or None,
            "process": plain({"rss_bytes": process.memory(), "cpu_seconds": process.cpu(), "files": process.files()}),
        },
    )
    for name, section in view.sections.items():
        yield name, plain(section())
        await env.sleep(0)
    kinds: dict[str, dict[str, Any]] = {}
    for number, (key, thing) in enumerate(list(view.states().items()), 1):
        if (describe := getattr(thing, "describe", None)) is not None:
            kinds.setdefault(key[0], {})[name_of(key)] = plain(describe())
        if number % TURN == 0:
            await env.sleep(0)
    for kind, things in kinds.items():
        yield f"state.{kind}", things
    yield "events", list(view.recent)


def name_of(key: StateKey) -> str:
    """The name of a state object among its kind: `upstream:payments`."""
    return ":".join(key[1:])
