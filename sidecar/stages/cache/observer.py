"""`mode: observe` of the cache: all requests go to the upstream, and what the store could have answered is counted.

Answers are stored in full, bodies included; otherwise hit ratio and evictions would not be the real ones.
"""

from __future__ import annotations

from sidecar.cache.fetcher import Fetcher
from sidecar.cache.rfc.reuse import FRESH, NO_DIRECTIVES, VALIDATE, judge, read_fields, request_directives
from sidecar.cache.store import Store
from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service
from sidecar.stages.cache.settings import key_rule, limits
from sidecar.stages.cache.spec import Spec


class CacheObserver:
    """Cache that never answers."""

    __slots__ = ("_env", "_fetcher", "_handle", "_honours", "_inner", "_results", "_rule", "_store")

    def __init__(self, spec: Spec, ctx: BuildContext, inner: Service) -> None:
        env = self._env = ctx.env
        store: Store = ctx.resources("cache", spec.store)
        self._store = store
        self._inner = inner
        self._rule = key_rule(spec, ctx)
        self._handle = store.register(self._rule)
        self._fetcher = Fetcher(inner, store, self._rule, limits(spec), env)
        self._honours = spec.request_directives == "honor"
        self._results = store.results[ctx.route] = {
            result: env.meter.counter(metrics.CACHE_LOOKUPS, route=ctx.route, result=result, mode="observe")
            for result in ("hit", "stale", "miss")
        }

    async def call(self, x: Exchange) -> Outcome:
        """Forward a request, count what the store has for it, and store the answer."""
        if x.method != b"GET" or x.body or x.stream is not None or x.upgrade is not None:
            outcome = await self._inner(x)
            self._store.invalidate(x, outcome)
            return outcome
        key = self._rule.key(x)
        now = self._env.now()
        entry_key, entry, _ = self._store.find(key, x, now)
        asked = request_directives(read_fields(x.lines)) if self._honours else NO_DIRECTIVES
        verdict = VALIDATE if entry is None else judge(entry, asked, now)
        if entry is not None and verdict != VALIDATE:
            entry.hits += 1
            self._results["hit" if verdict == FRESH else "stale"].value += 1
            return await self._inner(x)
        self._results["miss"].value += 1
        fetch = self._store.fetches.start(x, key, entry_key, entry, now, is_shared=False)
        await self._fetcher.run(fetch, as_it_is=True)
        assert fetch.outcome is not None
        return fetch.outcome
