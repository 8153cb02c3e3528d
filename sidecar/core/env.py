"""Env: injected clock, timers, randomness and instruments.  Stages reach them in no other way.

`Env.on` makes an env for an event loop: one in each process, and one in each simulation, on a virtual clock.  The
linter bans global clocks and random generators everywhere else.  `BuildContext` is all that a stage sees while it is
built.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sidecar.core.metrics import Meter

E = TypeVar("E", bound="Env")


def system_time() -> float:
    """Return the Unix time of the system in seconds, for commands that run once and have no env."""
    return time.time()


class TimerHandle(Protocol):
    """Timer that can be cancelled."""

    def cancel(self) -> None: ...


class TaskHandle(Protocol):
    """Coroutine that runs beside its starter, such as an `asyncio.Task`."""

    def cancel(self) -> bool: ...
    def done(self) -> bool: ...


class Loop(Protocol):
    """Methods of an event loop that an `Env` uses."""

    def time(self) -> float: ...
    def create_future(self) -> Any: ...
    @property
    def call_later(self) -> Callable[..., TimerHandle]: ...
    @property
    def create_task(self) -> Callable[[Coroutine[Any, Any, Any]], Any]: ...


class NameResolver(Protocol):
    """Resolver of host names that also connects to hosts (`sidecar.upstream.resolver`)."""

    def look_up(self, name: str) -> Coroutine[Any, Any, Sequence[str]]:
        """Return the addresses of a name, at least one.  Raises `OSError`."""

    async def open_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to one of a host's addresses.  Raises `OSError`."""

    def is_awaited(self, name: str) -> bool:
        """True if connections wait for the look-up of `name`."""

    def with_settings(self, settings: Any) -> Any:
        """Return a resolver with the settings of an upstream's `resolve` block; None means the defaults."""


class PermitLease(Protocol):
    """Permits of a limit that this worker holds, out of those that all workers share."""

    @property
    def held(self) -> int:
        """Number of permits that the worker may use."""

    @property
    def is_exhausted(self) -> bool:
        """True if there is nothing left to ask for at the moment."""

    def want(self, waiting: int) -> None:
        """Ask for the permits that so many waiting requests need."""

    def resize(self, total: int) -> None:
        """Apply another number of permits for all workers together."""

    def end(self) -> None:
        """Give all permits back, because the limit no longer exists."""


class TokenLease(Protocol):
    """Tokens of a retry budget that this worker holds, out of those that all workers share."""

    def withdraw(self) -> bool:
        """Spend a token; False if the worker holds none."""

    @property
    def held(self) -> int:
        """Number of tokens that the worker may spend."""

    def retune(self, ratio: float, floor: float, window: float) -> None:
        """Apply settings: ratio, floor in tokens, and window in seconds."""

    def end(self) -> None:
        """Give all tokens back, because the budget no longer exists."""


class Workers(Protocol):
    """All workers of this sidecar, and what they share."""

    count: int
    """Number of workers."""

    def subscribe(self, topic: str, apply: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        """Apply the values that other workers tell under a topic: `apply(key, value)`; those of the past at once.

        Returns a function that tells all other workers a JSON-ready value: `tell(key, value)`.
        """

    def leave(self, topic: str, apply: Callable[[str, Any], None]) -> None:
        """End a subscription."""

    def may_probe(self, topic: str, seconds: float) -> bool:
        """True if this worker alone may probe for `topic`; else ask for that, for about `seconds`."""

    def lease_permits(
        self, name: str, total: int, active: Callable[[], int], waiting: Callable[[], int], changed: Callable[[], None]
    ) -> PermitLease:
        """Return the lease of a limit with `total` permits for all workers together.

        `active()` and `waiting()` return the numbers of permits in use and of requests that wait for one; `changed()`
        is called after the lease has changed.
        """

    def lease_tokens(self, name: str, deposits: Callable[[], int], part: Callable[[], int]) -> TokenLease:
        """Return the lease of a retry budget; call its `retune` next.

        `deposits()` returns the number of first attempts so far, and `part()` the tokens to hold.
        """

    def declare_rate(self, name: str, rate: float, capacity: float, lease: float, max_keys: int, debt: float) -> None:
        """Declare a rate limit of all workers together, or its new settings (`sidecar.leases.rate.RateLessor`)."""

    def end_rate(self, name: str) -> None:
        """Take note that this worker no longer has a rate limit."""

    async def lease_rates(self, asks: list[list[Any]]) -> tuple[float, list[tuple[float, float, float]]]:
        """Return the supervisor's instant, and tokens, start and wait for each ask (`sidecar.leases.rate.Grant`).

        An ask is a list of the limit's name, the key, and the other members of `sidecar.leases.rate.Ask`.
        """

    @property
    def is_first(self) -> bool:
        """True if this worker does what only one worker should do, such as health checks."""

    def when_first(self, topic: str, start: Callable[[], None]) -> None:
        """Call `start` when this worker becomes the first, until `leave(topic)`."""


@dataclass(frozen=True, slots=True)
class Env:
    """Clock, timers, tasks, randomness, events and instruments of a stage."""

    now: Callable[[], float]
    """Return the time of a monotonic clock in seconds; its zero is arbitrary."""
    wall: Callable[[], float]
    """Return the Unix time in seconds, for HTTP dates and logs."""
    sleep: Callable[[float], Awaitable[None]]
    """Wait for a number of seconds."""
    call_later: Callable[..., TimerHandle]
    """Start a timer: `call_later(seconds, function, *args)`."""
    spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    """Run a coroutine in an `asyncio.Task`.  For background work: creating a task is expensive on a request's path."""
    future: Callable[[], Any]
    """Return a new `asyncio.Future` of the loop."""
    rng: random.Random
    """Random generator for jitter, sampling and load balancing; seeded in tests."""
    emit: Callable[..., None]
    """Log an event of `sidecar.core.events`: `emit(event, **attributes)`.  For state changes, not for each request."""
    meter: Meter
    """Source of counters, histograms and gauges."""
    names: NameResolver | None = None
    """Resolver of host names.  None if the loop resolves them itself when it connects, as a virtual loop does."""
    workers: Workers | None = None
    """All workers of the sidecar; None if it is one process."""
    instance: str = ""
    """Name of the sidecar among those of its fleet, the same for all its workers; empty if it has none."""

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
        names: NameResolver | None = None,
        workers: Workers | None = None,
        instance: str = "",
    ) -> E:
        """Return an env with the timers and tasks of `loop`, and with its clock unless `now` is given."""
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
            workers=workers,
            instance=instance,
        )


class Describable(Protocol):
    """Object that `/state` of the admin listener shows; every object in the state store is one."""

    def describe(self) -> dict[str, Any]:
        """Return the object's state as JSON-ready values."""


StateKey = tuple[str, ...]
"""Identity of an object in the state store, such as `("breaker", "upstream", "payments")`.  Settings are no part of it,
so the object survives their change."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Context in which a stage is built from its spec."""

    env: Env
    route: str
    """Name of the route; `*` for a block that all routes of an upstream share."""
    upstream: str
    """Name of the upstream."""
    scope: str
    """Section that contains the block: `route` or `upstream`."""
    where: str
    """`file:line` of the block."""
    obtain: Callable[[StateKey, Any, Callable[[], Any]], Any]
    """Return the object with a key from the state store: `obtain(key, spec, make)`.  `make()` creates it if the store
    has none.  An existing one survives a reload; if its spec has changed, `retune(spec)` is called at commit."""
    resources: Callable[[str, str], Any]
    """Return a declared resource: `resources("upstream", name)`, which is a `Service`, or `resources("cache", name)`.
    Raises `ValueError` if it is not declared."""
    service: str = ""
    """Name of the service beside the sidecar."""
    has_callers: bool = False
    """True if the route authenticates its callers."""
    endpoint: str = ""
    """URL of the only endpoint that the stage is for; empty if it is for all."""
    places: Callable[..., str] | None = None
    """Return `file:line` of a key within the block: `places("limits", 0)`; empty if the files do not have it."""

    @property
    def owner(self) -> StateKey:
        """Part of a state key that names the route, upstream or endpoint of the block."""
        owner = (self.scope, self.upstream if self.scope == "upstream" else self.route)
        return (*owner, self.endpoint) if self.endpoint else owner

    def where_of(self, *path: str | int) -> str:
        """Return `file:line` of a key within the block, or of the block if the files do not have the key."""
        return (self.places(*path) if self.places is not None else "") or self.where
