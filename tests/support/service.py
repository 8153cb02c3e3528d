"""Innermost service of a test: it follows a script and remembers its requests.

    service = ScriptedService(CONNECT_FAILURE, after(0.2, 503), response(200, b"ok"))

Each call takes the next item; the last one is repeated.  An item is an `Outcome`, a `Failure`, a status, or an
exception to raise (a bug); a function of the exchange that returns one of these; `after(seconds, item)`; or `HANG`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sidecar.core.env import BuildContext, Env, StateKey
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome, failed
from tests.support.clock import make_env


class After(NamedTuple):
    """Item with a delay."""

    seconds: float
    item: Any


def after(seconds: float, item: Any) -> After:
    """Return an item that comes `seconds` later."""
    return After(seconds, item)


HANG = After(float("inf"), 200)
"""Item that never comes."""


class ScriptedService:
    """`Service` that follows a script."""

    def __init__(self, *script: Any, env: Env | None = None) -> None:
        self.script = list(script) or [200]
        self.env = env
        """Env whose `sleep` delays use; None for asyncio's."""
        self.exchanges: list[Exchange] = []
        self.active = 0
        self.peak = 0
        self.cancelled = 0

    @property
    def calls(self) -> int:
        return len(self.exchanges)

    async def __call__(self, x: Exchange) -> Outcome:
        item = self.script[min(self.calls, len(self.script) - 1)]
        self.exchanges.append(x)
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            return await self._play(item, x)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1

    async def _play(self, item: Any, x: Exchange) -> Outcome:
        while not isinstance(item, Outcome):
            if isinstance(item, After):
                if item is HANG:
                    await asyncio.get_running_loop().create_future()
                await (self.env.sleep if self.env else asyncio.sleep)(item.seconds)
                item = item.item
            elif isinstance(item, Failure):
                item = failed(item)
            elif isinstance(item, int):
                item = response(item)
            elif isinstance(item, BaseException) or (isinstance(item, type) and issubclass(item, BaseException)):
                raise item
            else:
                item = item(x)
        return item


def fields(headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return header fields from a mapping of strings or from pairs."""
    if isinstance(headers, Mapping):
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return list(headers)


def response(
    status: int = 200, body: bytes = b"", headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (), **more: Any
) -> Outcome:
    """Return the outcome of a real response."""
    return Outcome(status, fields(headers), body, **more)


def exchange(
    method: str | bytes = "GET",
    path: str | bytes = "/",
    headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
    **facts: Any,
) -> Exchange:
    """Return a request; `facts` are attributes of the exchange (`deadline=...`, `body=...`)."""
    x = Exchange(
        method.encode() if isinstance(method, str) else method,
        path.encode() if isinstance(path, str) else path,
        fields(headers),
    )
    for name, value in facts.items():
        if not hasattr(x, name):
            raise TypeError(f"an exchange has no {name}")
        setattr(x, name, value)
    return x


@dataclass
class ScriptedBudget:
    """Retry budget of a fixed number of tokens, which deposits do not raise."""

    tokens: float = 100
    deposits: int = 0
    withdrawals: int = 0

    def deposit(self, now: float) -> None:
        self.deposits += 1

    def withdraw(self) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        self.withdrawals += 1
        return True


@dataclass
class Store:
    """Store of state by key, as in the control plane; another spec retunes the state at once."""

    objects: dict[StateKey, Any] = field(default_factory=dict)
    specs: dict[StateKey, Any] = field(default_factory=dict)

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        if key not in self.objects:
            self.objects[key] = make()
        elif self.specs[key] != spec:
            self.objects[key].retune(spec)
        self.specs[key] = spec
        return self.objects[key]


def context(
    env: Env | None = None,
    *,
    route: str = "order",
    upstream: str = "app",
    scope: str = "route",
    where: str = "policies.yaml:7",
    store: Store | None = None,
    resources: Mapping[tuple[str, str], Any] | None = None,
    has_callers: bool = False,
) -> BuildContext:
    """Return a build context, with a retry budget for `upstream`; pass the same `store` again for a reload."""
    declared: dict[tuple[str, str], Any] = {
        ("retry_budget", upstream): ScriptedBudget(),
        ("reclaim", upstream): lambda *_: False,
        ("criticality", route): {},
        ("caller_fields", route): frozenset(),
        ("origins", route): lambda _: False,
        **(resources or {}),
    }
    return BuildContext(
        env=env or make_env(),
        route=route,
        upstream=upstream,
        scope=scope,
        where=where,
        obtain=(store or Store()).obtain,
        resources=lambda kind, name: declared[kind, name],
        has_callers=has_callers,
    )
