"""The order of things for a request: what is stored, another's call, or one of its own; and what the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from sidecar.cache.answer import answer, has_already, not_modified, with_age
from sidecar.cache.entry import Entry, Item
from sidecar.cache.fill import Flight
from sidecar.cache.intake import Intake
from sidecar.cache.rfc import status
from sidecar.cache.rfc.directives import Directives
from sidecar.cache.rfc.location import speaks_of_target
from sidecar.cache.rfc.reuse import (
    FRESH,
    NO_WISH,
    REVALIDATE_BEHIND,
    VALIDATE,
    Fields,
    has_failed,
    is_for_origin,
    is_last_resort,
    is_patient,
    judge,
    may_stand_in,
    read_fields,
    wishes,
)
from sidecar.cache.rfc.validation import CONDITIONS, own_cookies
from sidecar.cache.rfc.vary import selecting
from sidecar.cache.store import Store
from sidecar.cache.tee import KEPT, LOST
from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service
from sidecar.stages.cache.refresh import Refresher
from sidecar.stages.cache.spec import Spec

RESULTS: Final = ("hit", "stale", "revalidated", "coalesced", "miss", "bypass")
"""What `x.cache` and the metrics call it."""
JOINS: Final = 2
"""How often a request waits for another's call before it makes its own."""


class Cached:
    """The cache before one inner service."""

    __slots__ = (
        "_coalesce",
        "_env",
        "_flights",
        "_hits",
        "_honours",
        "_inner",
        "_intake",
        "_memory",
        "_misses",
        "_now",
        "_refresher",
        "_results",
        "_rule",
        "_store",
        "_stored",
        "_use",
    )

    def __init__(self, spec: Spec, ctx: BuildContext, inner: Service) -> None:
        env = self._env = ctx.env
        store: Store = ctx.resources("cache", spec.store)
        self._store = store
        self._flights = store.flights
        self._inner = inner
        self._rule = spec.rule(ctx)
        self._use = store.learn(self._rule)
        self._intake = Intake(inner, store, self._rule, spec.limits, env)
        self._coalesce = spec.coalesce
        self._honours = spec.request_directives == "honor"
        self._now = env.now
        self._memory = store.memory
        self._stored = status.Stored()
        self._refresher = Refresher(store, self._intake, env)
        self._results = store.results[ctx.route] = {
            result: env.meter.counter(metrics.CACHE_LOOKUPS, route=ctx.route, result=result, mode=spec.mode)
            for result in RESULTS
        }
        self._hits, self._misses = self._results["hit"], self._results["miss"]

    def call(self, x: Exchange) -> Coroutine[Any, Any, Outcome]:
        """Answer from the store, or through it."""
        is_get = x.method == b"GET"
        if not (is_get or x.method == b"HEAD") or x.body or x.stream is not None or x.upgrade is not None:
            return self._write_through(x)
        fields = read_fields(x.lines) if x.speaks_to_caches else None
        key = self._rule.key(x)
        now = x.arrived  # nobody has waited since
        if not now:
            now = x.arrived = self._now()
        item = self._memory.peek(key, now)
        if item is None and fields is None and is_get and self._store.shared is None and self._flights.note(key, x):
            return self._miss(x, key, now)
        if isinstance(item, Entry) and now < item.fresh_until and not item.no_cache and fields is None and is_get:
            return self._hit(x, item, now)
        return self._look_up(x, key, fields, item, now)

    async def _hit(self, x: Exchange, entry: Entry, now: float) -> Outcome:
        x.cache = "hit"
        self._hits.value += 1
        entry.hits += 1
        lines = b"%bage: %d\r\ncache-status: sidecar; hit; ttl=%d\r\n" % (
            entry.lines,
            now - entry.born,
            entry.fresh_until - now,
        )
        return Outcome(entry.status, None, entry.body, lines=lines)

    async def _miss(self, x: Exchange, key: bytes, sent: float) -> Outcome:
        """Nothing was stored and nobody asked for it."""
        try:
            outcome = await self._inner(x)
        except BaseException:
            self._flights.fail(key)
            raise
        return self._brought(x, key, outcome, sent)

    def _brought(self, x: Exchange, key: bytes, outcome: Outcome, sent: float) -> Outcome:
        """The answer to such a miss.  Most go the short way: nobody has asked meanwhile, and it is stored."""
        flights = self._flights
        try:
            if flights.open[key] is x:
                now = self._now()
                entry = self._intake.keep(x, key, outcome, sent, now)
                if entry is not None:
                    del flights.open[key]
                    x.cache = "miss"
                    self._misses.value += 1
                    outcome.add_lines(self._stored.line("uri-miss", int(entry.fresh_until - now)))
                    return outcome
            flight = flights.get(key)
            assert flight is not None
            self._intake.received(flight, outcome)
        except BaseException:
            flights.fail(key)
            raise
        flight.land()
        return self._conclude(flight, None, NO_WISH, "uri-miss")

    async def _look_up(
        self, x: Exchange, key: bytes, fields: Fields | None, item: Item | None, now: float, joins: int = JOINS
    ) -> Outcome:
        """With what was stored under the key a moment ago, `now`."""
        wish = NO_WISH
        if fields is not None:
            if self._honours:
                wish = wishes(fields)
            if wish.no_store or is_for_origin(fields):
                return await self._pass_by(x, "request", b"no-store" if wish.no_store else b"precondition")
        store = self._store
        slot, entry, has_variants = store.choose(item, key, x, now)
        why: status.Forward = "vary-miss" if has_variants else "uri-miss"
        if entry is not None:
            use = judge(entry, wish, now)
            if use != VALIDATE:
                if use == REVALIDATE_BEHIND:
                    self._refresher.refresh(x, key, slot, entry)
                return self._serve(x, entry, fields, "hit" if use == FRESH else "stale")
            why = "stale" if entry.no_cache or entry.fresh_until <= now else "request"
            if is_last_resort(entry, wish):
                x.stale = partial(self._serve, x, entry, fields, "stale", b"fallback")
        if wish.only_if_cached:  # RFC 9111 5.2.1.7
            return self._noted(x, "miss", Outcome(504), why, b"only-if-cached")
        if x.method == b"HEAD":
            return self._noted(x, "miss", await self._intake.head(x, key, entry), why)
        if entry is None and fields is not None and b"range" in fields:
            return await self._pass_by(x, why, b"range")
        is_uncacheable = entry is None and self._flights.is_uncacheable(slot, now)
        flight = None if is_uncacheable else self._flights.get(slot)
        if flight is not None and joins and is_patient(wish) and flight.waiting < self._coalesce.max_waiters:
            landed = await flight.join(self._env, min(self._coalesce.timeout, x.deadline - now))
            shared = None if landed is None else self._share(x, landed, entry, fields, wish, why)
            if shared is not None:
                return shared
            differs = landed is not None and landed.entry is not None and landed.entry.vary
            now = self._now()
            return await self._look_up(x, key, fields, self._memory.peek(key, now), now, joins - 1 if differs else 0)
        is_conditional = fields is not None and not CONDITIONS.isdisjoint(fields)
        is_open = flight is None and not is_uncacheable
        flight = self._flights.start(x, key, slot, entry, now, is_conditional, is_open)
        await self._intake.bring(flight, as_it_is=is_uncacheable)
        return self._conclude(flight, fields, wish, why)

    # ----- answers

    def _serve(self, x: Exchange, entry: Entry, fields: Fields | None, result: str, detail: bytes = b"") -> Outcome:
        """From the store."""
        now = self._now()
        x.cache = result
        self._results[result].value += 1
        entry.hits += 1
        return answer(entry, x, fields, now, self._env.wall(), status.hit(entry.fresh_until - now, detail))

    def _share(
        self, x: Exchange, flight: Flight, own: Entry | None, fields: Fields | None, wish: Directives,
        why: status.Forward,
    ) -> Outcome | None:  # fmt: skip
        """What another request's call brought, as far as it answers this one; None to go on alone."""
        entry, tee = flight.entry, flight.tee
        now = self._now()
        if entry is None:
            outcome = flight.outcome
            if own is None or outcome is None or not has_failed(outcome) or not may_stand_in(own, wish, now):
                return None
            return self._serve(x, own, fields, "stale", _reason(outcome))
        if judge(entry, wish, now) != FRESH or flight.why or (tee is not None and tee.state == LOST):
            return None
        if entry.vary and selecting(x, entry.vary) != selecting(flight.x, entry.vary):
            return None
        x.cache = "coalesced"
        if x.trace is not None and flight.x.trace is not None:
            x.trace.link(flight.x.trace)
        self._results["coalesced"].value += 1
        said = status.forwarded(why, 304 if flight.is_validated else 0, collapsed=True, ttl=entry.fresh_until - now)
        if tee is None or tee.state == KEPT:
            return answer(entry, x, fields, now, self._env.wall(), said)
        if has_already(entry, fields, self._env.wall()):
            return not_modified(entry, now, said)
        return Outcome(entry.status, stream=tee.reader(), lines=with_age(entry.lines, entry, now, said))

    def _conclude(self, flight: Flight, fields: Fields | None, wish: Directives, why: status.Forward) -> Outcome:
        """What this request's own call brought."""
        if not flight.is_led:
            raise asyncio.CancelledError
        x, outcome, entry, stale = flight.x, flight.outcome, flight.entry, flight.stale
        now = flight.received or self._now()
        if outcome is None:
            assert entry is not None
            return self._serve(x, entry, fields, "hit", b"redis")
        if stale is not None and has_failed(outcome) and may_stand_in(stale, wish, now):
            if outcome.stream is not None:
                outcome.stream.cancel()
            return self._serve(x, stale, fields, "stale", _reason(outcome))
        if entry is None:
            return self._noted(x, "miss", outcome, why, flight.why)
        ttl = entry.fresh_until - now
        if flight.is_validated:
            said = status.forwarded(why, 304, stored=not flight.why, ttl=ttl, detail=flight.why)
            validated = answer(entry, x, fields, now, self._env.wall(), said)
            for value in own_cookies(outcome.headers, entry.headers):
                validated.add(b"set-cookie", value)
            x.cache = "revalidated"
            self._results["revalidated"].value += 1
            return validated
        x.cache = "miss"
        self._misses.value += 1
        if flight.is_conditional and (flight.tee is None or has_already(entry, fields, self._env.wall())):
            if outcome.stream is not None:
                outcome.stream.cancel()
            return answer(entry, x, fields, now, self._env.wall(), status.forwarded(why, stored=True, ttl=ttl))
        outcome.add_lines(self._stored.line(why, int(ttl)))
        return outcome

    def _noted(self, x: Exchange, result: str, outcome: Outcome, why: status.Forward, detail: bytes = b"") -> Outcome:
        """An answer that goes on as it is, with a note."""
        x.cache = result
        self._results[result].value += 1
        outcome.add(status.FIELD, status.forwarded(why, detail=detail))
        return outcome

    # ----- other ways

    async def _pass_by(self, x: Exchange, why: status.Forward, detail: bytes) -> Outcome:
        return self._noted(x, "bypass", await self._inner(x), why, detail)

    async def _write_through(self, x: Exchange) -> Outcome:
        """Forward what the cache has no answer to, and hear what it changes (RFC 9111 4.4)."""
        sent = self._now()
        outcome = await self._inner(x)
        if self._store.heed(x, outcome) and x.method == b"POST" and speaks_of_target(x, outcome.headers):
            self._intake.keep_post(x, self._rule.key(x), outcome, sent)
        return self._noted(x, "bypass", outcome, "bypass" if x.method in SAFE_METHODS else "method")


def _reason(outcome: Outcome) -> bytes:
    """Why something stale stands in, as a token."""
    return (outcome.reason or f"status-{outcome.status}").replace("_", "-").encode()
