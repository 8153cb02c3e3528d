"""Env: time, randomness and the event loop, handed in.  Stages reach them in no other way.

`Env.on` assembles one on a loop: once in each process, and once in each simulation on a virtual clock.  The linter bans
the global clocks and generators everywhere else.  `BuildContext` is all that a stage sees while it is built.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sidecar.core.metrics import Meter

E = TypeVar("E", bound="Env")


class Handle(Protocol):
    """Timer that can be cancelled."""

    def cancel(self) -> None: ...


class Pending(Protocol):
    """Coroutine that runs beside its starter, such as an `asyncio.Task`."""

    def cancel(self) -> bool: ...
    def done(self) -> bool: ...


class Loop(Protocol):
    """Event loop, as far as an `Env` needs it."""

    def time(self) -> float: ...
    def create_future(self) -> Any: ...
    @property
    def call_later(self) -> Callable[..., Handle]: ...
    @property
    def create_task(self) -> Callable[[Coroutine[Any, Any, Any]], Any]: ...


class Names(Protocol):
    """Looks names up and connects to them.  See `sidecar.upstream.resolver`."""

    def look_up(self, name: str) -> Coroutine[Any, Any, Sequence[str]]:
        """Return the addresses of a name, at least one.  Raises OSError."""

    async def open_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to one of the addresses of a host.  Raises OSError."""

    def awaits(self, name: str) -> bool:
        """True if connections to a name wait for its look-up."""

    def tuned(self, settings: Any) -> Any:
        """Return names under the `resolve` block of an upstream; None for the usual settings."""


@dataclass(frozen=True, slots=True)
class Env:
    """Clock, timers, tasks, randomness, events and instruments, as a stage gets them."""

    now: Callable[[], float]
    """Return seconds of a clock that never jumps; its zero is arbitrary."""
    wall: Callable[[], float]
    """Return seconds since 1970 (UTC), for HTTP dates and logs."""
    sleep: Callable[[float], Awaitable[None]]
    """Wait for so many seconds."""
    call_later: Callable[..., Handle]
    """Start a timer: `call_later(seconds, function, *args)`."""
    spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    """Run a coroutine in an `asyncio.Task`.  For background work: creating a task is dear on a request's path."""
    future: Callable[[], Any]
    """Return a new `asyncio.Future` of the loop."""
    rng: random.Random
    """Source of jitter and sampling; seeded in tests."""
    emit: Callable[..., None]
    """Report a transition or a trouble: `emit(event, **attributes)` (`sidecar.core.events`).  Never once a request."""
    meter: Meter
    """Gives out instruments."""
    names: Names | None = None
    """Looks names up.  None where the loop does so itself when it connects, as a virtual one does."""

    @classmethod
    def on(
        cls: type[E],
        loop: Loop,
        *,
        wall: Callable[[], float],
        rng: random.Random,
        emit: Callable[..., None],
        meter: Meter,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        names: Names | None = None,
    ) -> E:
        """Return an env whose timers and tasks are those of `loop`; `now` is the loop's clock unless it is given."""
        return cls(
            now=now or loop.time,
            wall=wall,
            sleep=sleep,
            call_later=loop.call_later,
            spawn=loop.create_task,
            future=loop.create_future,
            rng=rng,
            emit=emit,
            meter=meter,
            names=names,
        )


class Describable(Protocol):
    """State that can be shown; every object in the state store is one."""

    def describe(self) -> dict[str, Any]:
        """Return JSON-ready facts for `/state`."""


StateKey = tuple[str, ...]
"""Identity of a piece of state, such as `("breaker", "upstream", "payments")`: what it is about, and no setting."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Everything that a stage is built with, besides its spec."""

    env: Env
    route: str
    """Name of the route; `*` for a block that all routes of an upstream share."""
    upstream: str
    """Name of the upstream."""
    scope: str
    """`route` or `upstream`: where the block stands."""
    where: str
    """`file:line` of the block."""
    obtain: Callable[[StateKey, Any, Callable[[], Any]], Any]
    """Return the state that lives under a key: `obtain(key, spec, make)`.  It is made if there is none, and survives
    reloads.  If the spec differs from its own, `retune(spec)` is called when the new policies are committed."""
    resources: Callable[[str, str], Any]
    """Return what another section declares: `resources(kind, name)`, such as `("upstream", name)`, which is a
    `Service`, or `("cache", name)`.  Raises `ValueError` for what is not declared."""
    service: str = ""
    """Name of the service beside the sidecar."""
    endpoint: str = ""
    """URL of the endpoint that the stage is for; empty for all of them."""

    @property
    def owner(self) -> StateKey:
        """Part of a state key that says whose the state is."""
        owner = (self.scope, self.upstream if self.scope == "upstream" else self.route)
        return (*owner, self.endpoint) if self.endpoint else owner
