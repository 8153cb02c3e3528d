"""Stage `cache`: a shared HTTP cache (RFC 9111) that responds from a store and stores fetched responses.

A request is answered by the first of these that applies:

1. a fresh entry, or a stale one that may be used; the latter is refreshed in the background (RFC 5861 3);
2. the response to a fetch in flight for the same key, within the bounds of `coalesce`;
3. a fetch of its own, which validates a stale entry if there is one;
4. if the upstream fails, the stale entry within `stale_if_error`; beyond it `fallback: [stale]` may use it.

A request with a body, an upgrade, `If-Match` or `no-store` bypasses the cache.  Unsafe methods are written through, and
invalidate what they change (RFC 9111 4.4), also in stores that their route does not use (`invalidating`).  The field
Cache-Status of each response says what the cache did (RFC 9211).  `docs/design/response-cache.md` has the reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from sidecar.cache.entry import Entry, Item
from sidecar.cache.fetch import Fetch
from sidecar.cache.fetcher import Fetcher
from sidecar.cache.rfc import status
from sidecar.cache.rfc.directives import Directives
from sidecar.cache.rfc.location import is_about_target
from sidecar.cache.rfc.reuse import (
    FRESH,
    NO_DIRECTIVES,
    REFRESH,
    VALIDATE,
    Fields,
    accepts_shared,
    can_replace_error,
    has_failed,
    is_for_origin,
    is_last_resort,
    judge,
    read_fields,
    request_directives,
)
from sidecar.cache.rfc.validation import CONDITIONS, own_cookies
from sidecar.cache.rfc.vary import selecting
from sidecar.cache.store import Store
from sidecar.cache.stored_response import is_held_by_client, make_response, not_modified, with_age
from sidecar.cache.tee import STORED, UNSTORED
from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.outcome import ABANDONED, Outcome
from sidecar.core.stage import Service, Stage, Wait
from sidecar.stages.cache.observer import CacheObserver
from sidecar.stages.cache.refresh import Refresher
from sidecar.stages.cache.selection import Selects, selection
from sidecar.stages.cache.settings import key_rule, limits
from sidecar.stages.cache.spec import Spec

__all__ = ["Spec", "build", "invalidating"]

RESULTS: Final = ("hit", "stale", "revalidated", "coalesced", "miss", "bypass")
"""Values of `Exchange.cache` and of the metrics' label."""
MAX_JOINS: Final = 2
"""Fetches of other requests for which a request waits, at most, before it makes its own."""


Ticket = bytes | tuple[float, int] | None
"""Ticket of a request: the key of the fetch that it has claimed; for a write-through request, its instant and the
number of changes to the store before it; None if the cache does not handle it."""


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of one `cache` block."""
    selects = selection(spec.when, has_callers=ctx.has_callers)
    return CacheStage(spec, ctx, selects) if spec.is_enforced else CacheObserver(spec, ctx, selects)


def invalidating(stores: Sequence[Store]) -> Stage:
    """Return a stage by which unsafe requests invalidate the responses of their URI in these stores."""
    return Invalidator(stores)


class CacheStage:
    """Cache of one route."""

    __slots__ = (
        "_coalesce",
        "_env",
        "_fetcher",
        "_fetches",
        "_handle",
        "_hits",
        "_honours",
        "_memory",
        "_misses",
        "_now",
        "_refresher",
        "_results",
        "_rule",
        "_selects",
        "_store",
        "_stored",
    )

    def __init__(self, spec: Spec, ctx: BuildContext, selects: Selects | None) -> None:
        env = self._env = ctx.env
        store: Store = ctx.resources("cache", spec.store)
        self._store = store
        self._fetches = store.fetches
        self._selects = selects
        self._rule = key_rule(spec, ctx)
        self._handle = store.register(self._rule)
        self._fetcher = Fetcher(store, self._rule, limits(spec, self._rule.per_caller), env, ctx.route)
        self._coalesce = spec.coalesce
        self._honours = spec.request_directives == "honor"
        self._now = env.now
        self._memory = store.memory
        self._stored = status.StoredLine()
        self._refresher = Refresher(store, self._fetcher, env)
        self._results = store.results[ctx.route] = {
            result: env.meter.counter(metrics.CACHE_LOOKUPS, route=ctx.route, result=result, mode=spec.mode)
            for result in RESULTS
        }
        self._hits, self._misses = self._results["hit"], self._results["miss"]

    @property
    def inner(self) -> Service:
        """Stages further in."""
        return self._fetcher.inner

    @inner.setter
    def inner(self, inner: Service) -> None:
        self._fetcher.inner = inner

    def admit(self, x: Exchange) -> Ticket | Outcome | Wait:
        """Respond from the store, or claim the fetch of a missing response."""
        if self._selects is not None and not self._selects(x):
            return None
        is_get = x.method == b"GET"
        if not (is_get or x.method == b"HEAD") or x.body or x.stream is not None or x.upgrade is not None:
            return (self._now(), self._store.changes)
        fields = read_fields(x.lines) if x.speaks_to_caches else None
        key = self._rule.key(x)
        now = x.arrived  # the present instant: no stage outside the cache waits
        if not now:
            now = x.arrived = self._now()
        item = self._memory.get(key, now)
        if item is None and fields is None and is_get and self._store.shared is None and self._fetches.claim(key, x):
            return key
        if isinstance(item, Entry) and now < item.fresh_until and not item.no_cache and fields is None and is_get:
            return self._hit(x, item, now)
        return Wait(self._respond(x, key, fields, item, now))

    def answer(self, x: Exchange, ticket: Ticket, outcome: Outcome) -> Outcome:
        if ticket is None:
            return outcome
        if isinstance(ticket, bytes):
            return self._end_claimed(x, ticket, outcome, x.arrived)
        return self._end_write(x, *ticket, outcome)

    def settle(self, x: Exchange, ticket: Ticket, outcome: Outcome) -> None:
        if outcome is ABANDONED and isinstance(ticket, bytes):
            self._fetches.fail(ticket, x)

    def _hit(self, x: Exchange, entry: Entry, now: float) -> Outcome:
        """Return a fresh entry as the response to a request without special fields."""
        x.cache = "hit"
        self._hits.value += 1
        entry.hits += 1
        lines = b"%bage: %d\r\ncache-status: sidecar; hit; ttl=%d\r\n" % (
            entry.lines,
            int(now - entry.born),  # mypyc formats an int faster
            int(entry.fresh_until - now),
        )
        return Outcome(entry.status, None, entry.body, lines)

    def _end_claimed(self, x: Exchange, key: bytes, outcome: Outcome, sent: float) -> Outcome:
        """End a claimed fetch: store its response and return it, in fewer steps if no other request has joined."""
        fetches = self._fetches
        try:
            if fetches.shared.get(key) is x:
                now = self._now()
                entry = self._fetcher.store(x, key, outcome, sent, now)
                if entry is not None:
                    del fetches.shared[key]
                    x.cache = "miss"
                    self._misses.value += 1
                    outcome.add_lines(self._stored.line("uri-miss", int(entry.fresh_until - now)))
                    return outcome
            fetch = fetches.claimed(key, x)
            self._fetcher.accept(fetch, outcome)
        except BaseException:
            fetches.fail(key, x)
            raise
        fetch.finish()
        return self._conclude(fetch, None, NO_DIRECTIVES, "uri-miss")

    async def _respond(
        self, x: Exchange, key: bytes, fields: Fields | None, item: Item | None, now: float, joins: int = MAX_JOINS
    ) -> Outcome:
        """Respond to a request by the first of the ways in the module's docstring that applies.

        `item` is the item under its key at `now`, None if there is none.  `joins` is the number of other requests'
        fetches that it may still wait for.
        """
        asked = NO_DIRECTIVES
        if fields is not None:
            if self._honours:
                asked = request_directives(fields)
            if asked.no_store or is_for_origin(fields):
                return await self._bypass(x, "request", b"no-store" if asked.no_store else b"precondition")
        store = self._store
        entry_key, entry, has_variants = store.select(item, key, x, now)
        why: status.Forward = "vary-miss" if has_variants else "uri-miss"
        if entry is not None:
            verdict = judge(entry, asked, now)
            if verdict != VALIDATE:
                if verdict == REFRESH:
                    self._refresher.refresh(x, key, entry_key, entry)
                return self._serve(x, entry, fields, "hit" if verdict == FRESH else "stale")
            why = "stale" if entry.no_cache or entry.fresh_until <= now else "request"
            if is_last_resort(entry, asked):
                x.stale = partial(self._serve, x, entry, fields, "stale", b"fallback")
        if asked.only_if_cached:  # RFC 9111 5.2.1.7
            return self._add_status(x, "miss", Outcome(504), why, b"only-if-cached")
        if x.method == b"HEAD":
            return self._add_status(x, "miss", await self._fetcher.head(x, key, entry), why)
        if entry is None and fields is not None and b"range" in fields:
            return await self._bypass(x, why, b"range")
        is_uncacheable = entry is None and self._fetches.is_uncacheable(entry_key, now)
        fetch = None if is_uncacheable else self._fetches.get(entry_key)
        if fetch is not None and joins and accepts_shared(asked) and fetch.waiting < self._coalesce.max_waiters:
            finished = await fetch.join(self._env, min(self._coalesce.timeout, x.deadline - now))
            shared = None if finished is None else self._share(x, finished, entry, fields, asked, why)
            if shared is not None:
                return shared
            may_join = finished is not None and (
                finished.is_outdated or (finished.entry is not None and bool(finished.entry.vary))
            )
            now = self._now()
            item = self._memory.get(key, now)
            return await self._respond(x, key, fields, item, now, joins - 1 if may_join else 0)
        is_conditional = fields is not None and not CONDITIONS.isdisjoint(fields)
        is_shared = fetch is None and not is_uncacheable
        fetch = self._fetches.start(x, key, entry_key, entry, now, is_conditional, is_shared)
        fetch.asked = asked
        await self._fetcher.run(fetch, as_it_is=is_uncacheable)
        return self._conclude(fetch, fields, asked, why)

    # ----- responses

    def _serve(self, x: Exchange, entry: Entry, fields: Fields | None, result: str, detail: bytes = b"") -> Outcome:
        """Return the response of a stored entry, and count the result."""
        now = self._now()
        x.cache = result
        self._results[result].value += 1
        entry.hits += 1
        return make_response(entry, x, fields, now, self._env.wall(), status.hit(entry.fresh_until - now, detail))

    def _share(
        self, x: Exchange, fetch: Fetch, own: Entry | None, fields: Fields | None, asked: Directives,
        why: status.Forward,
    ) -> Outcome | None:  # fmt: skip
        """Return the response that another request has fetched, or the stale entry `own` if that fetch has failed.

        Returns None if neither may be used: the request then makes a fetch of its own.
        """
        entry, tee = fetch.entry, fetch.tee
        now = self._now()
        if entry is None:
            outcome = fetch.outcome
            if own is None or outcome is None or not has_failed(outcome) or not can_replace_error(own, asked, now):
                return None
            return self._serve(x, own, fields, "stale", _stale_reason(outcome))
        if (
            judge(entry, asked, now) != FRESH
            or fetch.refusal
            or fetch.is_outdated
            or (tee is not None and tee.state == UNSTORED)
        ):
            return None
        if entry.vary and selecting(x, entry.vary) != selecting(fetch.x, entry.vary):
            return None
        x.cache = "coalesced"
        if x.trace is not None and fetch.x.trace is not None:
            x.trace.link(fetch.x.trace)
        self._results["coalesced"].value += 1
        value = status.forwarded(why, 304 if fetch.is_validated else 0, collapsed=True, ttl=entry.fresh_until - now)
        if tee is None or tee.state == STORED:
            return make_response(entry, x, fields, now, self._env.wall(), value)
        if is_held_by_client(entry, fields, self._env.wall()):
            return not_modified(entry, now, value)
        return Outcome(entry.status, stream=tee.reader(), lines=with_age(entry.lines, entry, now, value))

    def _conclude(self, fetch: Fetch, fields: Fields | None, asked: Directives, why: status.Forward) -> Outcome:
        """Return the response to the request that started a fetch, which has finished."""
        if not fetch.has_client:
            raise asyncio.CancelledError
        x, outcome, entry, stale = fetch.x, fetch.outcome, fetch.entry, fetch.stale
        now = fetch.received or self._now()
        if outcome is None:
            assert entry is not None
            return self._serve(x, entry, fields, "hit", b"redis")
        if stale is not None and has_failed(outcome) and can_replace_error(stale, asked, now):
            if outcome.stream is not None:
                outcome.stream.cancel()
            return self._serve(x, stale, fields, "stale", _stale_reason(outcome))
        if entry is None:
            return self._add_status(x, "miss", outcome, why, fetch.refusal)
        ttl = entry.fresh_until - now
        if fetch.is_validated:
            value = status.forwarded(why, 304, stored=not fetch.refusal, ttl=ttl, detail=fetch.refusal)
            validated = make_response(entry, x, fields, now, self._env.wall(), value)
            for cookie in own_cookies(outcome.headers, entry.headers):
                validated.add(b"set-cookie", cookie)
            x.cache = "revalidated"
            self._results["revalidated"].value += 1
            return validated
        x.cache = "miss"
        self._misses.value += 1
        if fetch.is_conditional and (fetch.tee is None or is_held_by_client(entry, fields, self._env.wall())):
            if outcome.stream is not None:
                outcome.stream.cancel()
            return make_response(entry, x, fields, now, self._env.wall(), status.forwarded(why, stored=True, ttl=ttl))
        outcome.add_lines(self._stored.line(why, int(ttl)))
        return outcome

    def _add_status(
        self, x: Exchange, result: str, outcome: Outcome, why: status.Forward, detail: bytes = b""
    ) -> Outcome:
        """Add Cache-Status to a response that is passed on, and count its result."""
        x.cache = result
        self._results[result].value += 1
        outcome.add(status.FIELD, status.forwarded(why, detail=detail))
        return outcome

    # ----- past the store

    async def _bypass(self, x: Exchange, why: status.Forward, detail: bytes) -> Outcome:
        """Forward a request that the store cannot be used for."""
        return self._add_status(x, "bypass", await self._fetcher.inner(x), why, detail)

    def _end_write(self, x: Exchange, sent: float, changes: int, outcome: Outcome) -> Outcome:
        """Invalidate the responses that a write-through request has changed (RFC 9111 4.4).

        `sent` is its instant, `changes` the number of changes to the store before it.
        """
        is_latest = self._store.changes == changes
        has_changed = self._store.invalidate(x, outcome)
        if has_changed and is_latest and x.method == b"POST" and is_about_target(x, outcome.headers):
            self._fetcher.store_post(x, self._rule.key(x), outcome, sent)
        return self._add_status(x, "bypass", outcome, "bypass" if x.method in SAFE_METHODS else "method")


class Invalidator:
    """Stage that invalidates in stores which the route does not use."""

    __slots__ = ("_stores",)

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = tuple(stores)

    def admit(self, x: Exchange) -> None:
        return None

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        if x.is_grpc and not x.rest_method:
            return outcome  # nothing is stored under the URI of a method of gRPC
        if x.method != b"GET" and x.method not in SAFE_METHODS:  # the first comparison avoids most hashes
            for store in self._stores:
                store.invalidate(x, outcome)
        return outcome


def _stale_reason(outcome: Outcome) -> bytes:
    """Return the reason for which a stale entry replaces a failed response, as a token of Cache-Status."""
    return (outcome.reason or f"status-{outcome.status}").replace("_", "-").encode()
