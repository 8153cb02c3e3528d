"""`mode: observe`: everything goes to the upstream, and what the store could have answered is counted.

Answers are stored as they would be, bodies and all, or the hit ratio and the evictions would not be the real ones.
"""

from __future__ import annotations

from sidecar.cache.intake import Intake
from sidecar.cache.rfc.directives import NOTHING
from sidecar.cache.rfc.reuse import FRESH, VALIDATE, judge, read_fields, wishes
from sidecar.cache.store import Store
from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service
from sidecar.stages.cache.spec import Spec


class Observer:
    """Looks on."""

    __slots__ = ("_env", "_honours", "_inner", "_intake", "_results", "_rule", "_store", "_use")

    def __init__(self, spec: Spec, ctx: BuildContext, inner: Service) -> None:
        env = self._env = ctx.env
        store: Store = ctx.resources("cache", spec.store)
        self._store = store
        self._inner = inner
        self._rule = spec.rule(ctx)
        self._use = store.learn(self._rule)
        self._intake = Intake(inner, store, self._rule, spec.limits, env)
        self._honours = spec.request_directives == "honor"
        self._results = store.results[ctx.route] = {
            result: env.meter.counter(metrics.CACHE_LOOKUPS, route=ctx.route, result=result, mode="observe")
            for result in ("hit", "stale", "miss")
        }

    async def call(self, x: Exchange) -> Outcome:
        """Forward, count and store."""
        if x.method != b"GET" or x.body or x.stream is not None or x.upgrade is not None:
            outcome = await self._inner(x)
            self._store.heed(x, outcome)
            return outcome
        key = self._rule.key(x)
        now = self._env.now()
        slot, entry, _ = self._store.find(key, x, now)
        wish = wishes(read_fields(x.lines)) if self._honours else NOTHING
        use = VALIDATE if entry is None else judge(entry, wish, now)
        if entry is not None and use != VALIDATE:
            entry.hits += 1
            self._results["hit" if use == FRESH else "stale"].value += 1
            return await self._inner(x)
        self._results["miss"].value += 1
        flight = self._store.flights.start(x, key, slot, entry, now, is_open=False)
        await self._intake.bring(flight, as_it_is=True)
        assert flight.outcome is not None
        return flight.outcome
