"""View of the process for the admin listener, and the document `/state`.

The live page and `sidecar top` get the parts of this document, each part again when it has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sidecar.config.process_spec import LimitsSpec
from sidecar.core.env import Env, StateKey
from sidecar.telemetry.metrics import process
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets

TURN: Final = 5
"""Number of objects that are described in one turn of the loop."""


class Reloaded(Protocol):
    """Result of a reload."""

    @property
    def problems(self) -> Sequence[object]:
        """Problems of the policy files, one line each; empty if they were applied or had not changed."""

    def describe(self) -> dict[str, Any]:
        """Return the changes as JSON-ready values."""


class Readiness:
    """Readiness of the process: set by `process.lifecycle`, read by probes."""

    def __init__(self) -> None:
        self.obstacle = "starting"
        """Reason why the process is not ready; empty while it is ready."""


async def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class AdminView:
    """Parts of the process that the admin listener may use."""

    env: Env
    registry: Registry
    version: str
    build: str
    """Build of the engine: `pure` or `compiled` (`engine.build`)."""
    started: float
    """Start of the process, as an instant of `Env.now`."""
    readiness: Readiness
    reload: Callable[[], Awaitable[Reloaded]]
    """Reads the policy files again."""
    states: Callable[[], Mapping[StateKey, Any]]
    """Returns every state object in use by its key (`StateStore.objects`).

    Objects with `describe()` are shown.  Objects under `("breaker", …)` also have `force(mode)`, which takes `open`,
    `closed` and `auto`."""
    recent: Iterable[Mapping[str, Any]] = ()
    """Latest events (`Emitter.recent`)."""
    sections: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """Functions that return further parts of `/state`, by name, such as `policies` and `routes`."""
    secrets: Secrets = field(default_factory=Secrets)
    """Remover of secrets from everything that the listener shows."""
    limits: Callable[[], LimitsSpec] = LimitsSpec.built_in
    """Returns the limits in force; their times also hold for clients of the admin listener."""
    commands: Any = None
    """Carries commands out (`sidecar.admin.commands.Commands`); None for those of this process alone."""
    joined: Callable[[], AsyncIterator[tuple[str, Any]]] | None = None
    """Yields the parts of the state of several workers, joined; None for the state of this process alone."""
    path: str = ""
    """Path of the policies; empty if they are not in files."""
    refresh: Callable[[], Awaitable[None]] = _nothing
    """Brings `registry` up to date before its metrics are shown."""


async def document(view: AdminView) -> dict[str, Any]:
    """Return the process state as JSON-ready values without secrets, with turns of the loop in between."""
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
    """Yield the parts of the state: `about`, each section, `state.KIND` for each kind of state object, `events`."""
    if view.joined is not None:
        async for part in view.joined():
            yield part
        return
    env, plain = view.env, view.secrets.plain
    obstacle = view.readiness.obstacle
    yield (
        "about",
        {
            "version": view.version,
            "build": view.build,
            "uptime_seconds": round(env.now() - view.started, 3),
            "ready": not obstacle,
            "not_ready_because": obstacle or None,
            "process": plain({"rss_bytes": process.memory(), "cpu_seconds": process.cpu(), "files": process.files()}),
        },
    )
    for name, section in view.sections.items():
        yield name, plain(section())
        await env.sleep(0)
    kinds: dict[str, dict[str, Any]] = {}
    for number, (key, state) in enumerate(list(view.states().items()), 1):
        if (describe := getattr(state, "describe", None)) is not None:
            kinds.setdefault(key[0], {})[view.secrets.text(name_of(key))] = plain(describe())
        if number % TURN == 0:
            await env.sleep(0)
    for kind, described in kinds.items():
        yield f"state.{kind}", described
    yield "events", list(view.recent)


def name_of(key: StateKey) -> str:
    """Return the name of a state object among those of its kind, such as `upstream:payments`."""
    return ":".join(key[1:])
