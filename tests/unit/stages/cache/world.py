"""Cache stage on a clock of its own, in front of an upstream that a test scripts."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.cache.rfc.dates import format_date
from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store
from sidecar.core.exchange import Exchange
from sidecar.core.message import parse_fields
from sidecar.core.outcome import Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.cache import stage as cache
from tests.support.clock import FakeEnv, make_env
from tests.support.service import ScriptedService, context, exchange


def reply(status: int = 200, body: bytes = b"body", /, **headers: str) -> Callable[[Exchange], Outcome]:
    """Return a function that makes a new response for each call; `Cache_Control="max-age=60"` is a field."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    return lambda x: Outcome(status, None, b"" if x.method == b"HEAD" else body, lines=lines)


class World:
    """Cache stage, its clock and its upstream.

    `get()` sends a request through the cache; `upstream.exchanges` has the requests that reached the upstream;
    `env.advance(s)` lets time pass.  The script is that of a `ScriptedService`, or a service.
    """

    def __init__(
        self,
        *script: Any,
        env: FakeEnv | None = None,
        store: Store | None = None,
        route: str = "order",
        has_callers: bool = False,
        **block: Any,
    ) -> None:
        self.env = env or make_env()
        self.upstream = ScriptedService(*script, env=self.env)
        self.store = store or Store("default", CacheSpec(), self.env)
        spec = cache.Spec.model_validate(block)
        ctx = context(self.env, route=route, resources={("cache", spec.store): self.store}, has_callers=has_callers)
        inner = script[0] if len(script) == 1 and inspect.iscoroutinefunction(script[0]) else self.upstream
        self.service: Callable[[Exchange], Awaitable[Outcome]] = Pipeline([cache.build(spec, ctx)], inner)

    def date(self, offset: float = 0) -> str:
        """Return an HTTP date, so many seconds from now."""
        return format_date(self.env.wall() + offset).decode()

    def request(self, method: str = "GET", path: str = "/a", /, **headers: str) -> Exchange:
        """Return a request; `If_None_Match='"a"'` is a field."""
        query = path.partition("?")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        x = exchange(method, query[0], fields, authority=b"orders")
        x.query = query[2].encode() if query[1] else None
        x.arrived = self.env.now()
        return x

    async def ask(self, method: str = "GET", path: str = "/a", /, **headers: str) -> Outcome:
        return await self.service(self.request(method, path, **headers))

    async def get(self, path: str = "/a", /, **headers: str) -> Outcome:
        return await self.ask("GET", path, **headers)

    @property
    def calls(self) -> int:
        return self.upstream.calls

    def sent(self, name: bytes, number: int = -1) -> bytes | None:
        """Return a field of a request that reached the upstream, by default of the last one."""
        return self.upstream.exchanges[number].header(name)


def said(outcome: Outcome) -> bytes:
    """Return the sidecar's member of Cache-Status."""
    return [value for name, value in parse_fields(outcome.lines) if name == b"cache-status"][-1]


def is_hit(outcome: Outcome) -> bool:
    return said(outcome).startswith(b"sidecar; hit")
