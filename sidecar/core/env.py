"""Time, chance and the loop, handed in: the only way by which a stage may reach them.

`Env` is made once, in `app.py` for production and in the tests for a virtual clock; the linter bans the global clocks
and generators everywhere else.  `BuildContext` is all that a stage may see while it is being built.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sidecar.core.metrics import Meter

T = TypeVar("T")


class Handle(Protocol):
    """A timer that can be called off."""

    def cancel(self) -> None: ...


class Pending(Protocol):
    """A coroutine that runs beside its starter."""

    def cancel(self) -> bool: ...
    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Env:
    """The world as a stage sees it."""

    now: Callable[[], float]
    """Seconds of a clock that never jumps; its zero means nothing."""
    wall: Callable[[], float]
    """Seconds since 1970 (UTC), for HTTP dates and logs."""
    sleep: Callable[[float], Awaitable[None]]
    call_later: Callable[..., Handle]
    """`call_later(seconds, function, *args)`."""
    spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    """Run a coroutine beside this one; an `asyncio.Task`.  For hedges and background work: one costs 2 to 3 us."""
    future: Callable[[], Any]
    """A new `asyncio.Future` of the loop."""
    rng: random.Random
    emit: Callable[..., None]
    """`emit(event, **attributes)`: for transitions and troubles (`sidecar.core.events`), never once a request."""
    meter: Meter


class Describable(Protocol):
    """State that can be shown: every object kept in the state store is one."""

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for `/state`."""


StateKey = tuple[str, ...]
"""Identity of a piece of state: what it is about and nothing else, for example `("breaker", "upstream",
"payments")`."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a stage may know while it is being built."""

    env: Env
    route: str
    upstream: str
    scope: str
    """`route` or `upstream`: where the block stands."""
    where: str
    """`file:line` of the block."""
    obtain: Callable[[StateKey, Any, Callable[[], Any]], Any]
    """`obtain(key, spec, make)`: the object that lives under this identity; made where there is none.  Where the spec
    differs from the one it was made with, its `retune(spec)` is called when the new policies are committed."""
    resources: Callable[[str, str], Any]
    """`resources(kind, name)`: what other sections declare, such as `("upstream", name)` (a Service) or `("cache",
    name)`."""
    service: str = ""
    """The name of the service beside us."""

    @property
    def owner(self) -> StateKey:
        """The part of a state key that says whose it is."""
        return (self.scope, self.upstream if self.scope == "upstream" else self.route)
