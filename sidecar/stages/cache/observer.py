"""Cache in `mode: observe`: all requests go to the upstream, and those that the store could have answered are counted.

Responses are stored in full, bodies included; otherwise hit ratio and evictions would not be the real ones.
"""

from __future__ import annotations

from sidecar.cache.fetch import Fetch
from sidecar.cache.fetcher import Fetcher
from sidecar.cache.rfc.reuse import FRESH, NO_DIRECTIVES, VALIDATE, judge, read_fields, request_directives
from sidecar.cache.store import Store
from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service, Wait
from sidecar.stages.cache.selection import Selects
from sidecar.stages.cache.settings import key_rule, limits
from sidecar.stages.cache.spec import Spec


class CacheObserver:
    """Cache stage that stores and counts, and never responds itself."""

    __slots__ = ("_env", "_fetcher", "_handle", "_honours", "_results", "_rule", "_selects", "_store")

    def __init__(self, spec: Spec, ctx: BuildContext, selects: Selects | None) -> None:
        env = self._env = ctx.env
        store: Store = ctx.resources("cache", spec.store)
        self._store = store
        self._selects = selects
        self._rule = key_rule(spec, ctx)
        self._handle = store.register(self._rule)
        self._fetcher = Fetcher(store, self._rule, limits(spec, self._rule.per_caller), env, ctx.route)
        self._honours = spec.request_directives == "honor"
        self._results = store.results[ctx.route] = {
            result: env.meter.counter(metrics.CACHE_LOOKUPS, route=ctx.route, result=result, mode="observe")
            for result in ("hit", "stale", "miss")
        }

    @property
    def inner(self) -> Service:
        """Stages further in."""
        return self._fetcher.inner

    @inner.setter
    def inner(self, inner: Service) -> None:
        self._fetcher.inner = inner

    def admit(self, x: Exchange) -> bool | Wait:
        """Count the result that the cache would have had.  The ticket is True if the request may invalidate entries."""
        if self._selects is not None and not self._selects(x):
            return False
        if x.method != b"GET" or x.body or x.stream is not None or x.upgrade is not None:
            return True
        key = self._rule.key(x)
        now = self._env.now()
        entry_key, entry, _ = self._store.find(key, x, now)
        asked = request_directives(read_fields(x.lines)) if self._honours else NO_DIRECTIVES
        verdict = VALIDATE if entry is None else judge(entry, asked, now)
        if entry is not None and verdict != VALIDATE:
            entry.hits += 1
            self._results["hit" if verdict == FRESH else "stale"].value += 1
            return False
        self._results["miss"].value += 1
        return Wait(self._fetch(self._store.fetches.start(x, key, entry_key, entry, now, is_shared=False)))

    async def _fetch(self, fetch: Fetch) -> Outcome:
        """Forward a request and store the response."""
        await self._fetcher.run(fetch, as_it_is=True)
        assert fetch.outcome is not None
        return fetch.outcome

    def answer(self, x: Exchange, ticket: bool, outcome: Outcome) -> Outcome:
        if ticket:
            self._store.invalidate(x, outcome)
        return outcome
