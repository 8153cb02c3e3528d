"""Fetching responses for one route's cache: the calls to the upstream, and the storing of each response.

A response is stored, merged into the stored one, or passed on unstored (RFC 9111 3, 3.2 and 4.3).  A fetch asks for a
whole representation: the client's conditions and ranges are taken off, and the validators of a stale entry are put on.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final, NamedTuple

from sidecar.cache.entry import Entry
from sidecar.cache.fetch import Fetch
from sidecar.cache.refreshes import Refreshes
from sidecar.cache.rfc.directives import NOTHING
from sidecar.cache.rfc.facts import Facts, reader
from sidecar.cache.rfc.freshness import FreshnessRules, Plan, assess, is_explicit, states_lifetime
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.lines import join
from sidecar.cache.rfc.reuse import FRESH, can_replace_error, judge
from sidecar.cache.rfc.storing import dated, has_credential, is_about_resource, request_facts, storable
from sidecar.cache.rfc.validation import (
    conditional,
    freshened,
    is_replaced_by_head,
    is_same,
    is_same_by_head,
    unconditional,
)
from sidecar.cache.store import Store
from sidecar.cache.tee import BROKEN_OFF, NO_ROOM, Tee
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers, get_all
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.stage import Service, unbound

CLOCK_HOLDS: Final = 1.0
"""Seconds for which the difference between wall clock and monotonic clock is reused."""
SET_COOKIE: Final = frozenset((b"set-cookie",))
NEVER_INDEXED: Final = b"never-indexed"
"""Refusal of a response with fields that came as never indexed (RFC 7541 7.1.3): a stored copy would lose the mark."""
PASSING_REFUSALS: Final = frozenset((b"authorization", b"request-no-store", b"outdated", NO_ROOM, BROKEN_OFF))
"""Refusals that concern one request: neither the stored response nor the next fetch of its key is affected."""
PERSONAL_REFUSALS: Final = frozenset((b"credentials", b"set-cookie"))
"""Refusals that concern one client: the stored response for the others is not affected."""


class Limits(NamedTuple):
    """Settings of a policy for storing."""

    rules: FreshnessRules
    max_body: int
    """Bytes of the longest body that is stored."""
    keep: float
    """Seconds for which a response is kept beyond its freshness, for validation and as a last resort."""


class Fetcher:
    """Fetches through one inner service and stores the cacheable responses."""

    __slots__ = (
        "_is_keyed_by_fields", "_keep", "_max_body", "_memory", "_now", "_offset_expires", "_reader", "_refreshes",
        "_rules", "_store", "_wall", "_wall_offset", "inner",
    )  # fmt: skip

    def __init__(self, store: Store, rule: KeyRule, limits: Limits, env: Env, route: str) -> None:
        self.inner: Service = unbound
        """Service that answers the fetches: the stages further in."""
        self._store = store
        self._memory = store.memory
        self._is_keyed_by_fields = not rule.is_plain
        self._rules, self._max_body, self._keep = limits
        self._reader = reader(self._rules.targets)
        self._refreshes = Refreshes(env.meter, route)
        self._now = env.now
        self._wall = env.wall
        self._wall_offset = 0.0
        """Seconds by which the wall clock is ahead of `now`, as last read."""
        self._offset_expires = -inf
        """Instant until which `_wall_offset` is reused."""

    async def run(self, fetch: Fetch, as_it_is: bool = False) -> None:
        """Run a fetch to its end: sets `outcome`, `entry` and `refusal`, and releases the waiters.

        With `as_it_is` the request is sent unchanged; otherwise as a request for a storable response.
        """
        try:
            outcome = await (self.inner(fetch.x) if as_it_is else self._retrieve(fetch))
            if outcome is not None:
                self.accept(fetch, outcome)
        except BaseException:
            fetch.fail()
            raise
        fetch.finish()

    async def _retrieve(self, fetch: Fetch) -> Outcome | None:
        """Return a response that is still to be stored, or None if `fetch.entry` was found in Redis or validated."""
        x = fetch.x
        if self._store.shared is not None:
            found = await self._store.load(fetch)
            if found is not None:
                if judge(found, fetch.asked, self._now()) == FRESH and found is not fetch.stale:
                    fetch.entry = found
                    return None
                fetch.stale = found
        fetch.sent = self._now()
        entry = fetch.stale
        if entry is not None and entry.has_validator:
            outcome = await self._send(x, conditional(x.headers, entry))
            if outcome.status == 304 and outcome.failure is None:
                if is_same(entry, outcome.headers, self._wall()):
                    self._validated(fetch, entry, outcome)
                    return None
                # the 304 is about another representation: ask again, without conditions
                outcome = await self._send(x, unconditional(x.headers))
        elif fetch.is_conditional:
            outcome = await self._send(x, unconditional(x.headers))
        else:
            outcome = await self.inner(x)
        return outcome

    async def head(self, x: Exchange, key: bytes, entry: Entry | None) -> Outcome:
        """Forward a HEAD; its response updates the stored entry, makes it stale or removes it (RFC 9111 4.3.5)."""
        sent = self._now()
        outcome = await self.inner(x)
        if entry is None or outcome.status != 200 or outcome.failure is not None:
            return outcome
        if self._memory.peek(entry.key) is not entry:
            return outcome  # purged or replaced in the meantime
        if is_same_by_head(entry, outcome.headers, self._wall()):
            new, _, why = self._updated(x, entry, outcome.headers, sent)
            if not why:
                self._store.put(key, new, x)
            elif not self._keeps_stored(x, why):
                self._store.drop(entry)
        elif has_credential(x, self._rules):
            return outcome  # a response to one user says nothing about those to others
        elif is_replaced_by_head(entry, outcome.headers, self._wall()):
            self._store.drop(entry)
        else:  # only the length differs: many services send none, or 0, in response to a HEAD
            entry.expire(self._now())
        return outcome

    def store_post(self, x: Exchange, key: bytes, outcome: Outcome, sent: float) -> None:
        """Store the response to a POST for later GETs, if it states its own freshness (RFC 9110 9.3.3).

        The caller has checked that Content-Location names the target.  Only a 200 has the content that a GET would
        get.
        """
        wall, now, rules = self._wall(), self._now(), self._rules
        facts = self._reader.read(outcome.lines, wall)
        asked = request_facts(x, facts, rules)
        plan, age, refusal = assess(outcome.status, facts, asked, rules, now - sent, wall)
        stream = outcome.stream
        size = len(outcome.body) if stream is None else stream.length or 0
        if refusal or outcome.status != 200 or not is_explicit(facts) or size > self._max_body or outcome.sensitive:
            return
        entry = self._entry(key, outcome, facts, plan, age, now, wall)
        if stream is None:
            self._store.put(key, entry, x)
            return
        done = partial(self._post_ended, x, key, entry, self._store.changes)
        tee = Tee(stream, self._max_body, self._store.budget, done)
        outcome.stream = tee.reader()
        tee.start()

    def _post_ended(self, x: Exchange, key: bytes, entry: Entry, changes: int, body: bytes | None) -> None:
        """Store the response to a POST now that its body is whole, unless something was changed or purged since."""
        if body is not None and changes == self._store.changes:
            entry.complete(body)
            self._store.put(key, entry, x)

    async def _send(self, x: Exchange, headers: Headers) -> Outcome:
        """Send the request with other header fields."""
        twin = x.fork(x.attempt, x.why)
        twin.headers = headers
        outcome = await self.inner(twin)
        x.refused_by, x.retry_stopped, x.parts = twin.refused_by, twin.retry_stopped, twin.parts
        return outcome

    # ----- responses

    def _entry(
        self, key: bytes, outcome: Outcome, facts: Facts, plan: Plan, age: float, now: float, wall: float
    ) -> Entry:
        """Return an entry for a response."""
        return Entry(
            key, outcome.status, storable(outcome.lines, plan, facts, wall), outcome.body, facts, plan, age, now, wall,
            self._keep, self._is_keyed_by_fields, outcome.stream is None,
        )  # fmt: skip

    def store(self, x: Exchange, key: bytes, outcome: Outcome, sent: float, now: float) -> Entry | None:
        """Store the response to a claimed fetch (`Fetches.claim`).

        Returns None if the response is not storable, or has to be stored by `accept`.
        """
        if outcome.failure is not None or outcome.stream is not None or len(outcome.body) > self._max_body:
            return None
        if outcome.sensitive:
            return None
        if now >= self._offset_expires:
            self._offset_expires, self._wall_offset = now + CLOCK_HOLDS, self._wall() - now
        wall, rules = now + self._wall_offset, self._rules
        facts = self._reader.read(outcome.lines, wall)
        asked = request_facts(x, facts, rules)
        plan, age, refusal = assess(outcome.status, facts, asked, rules, now - sent, wall)
        if refusal:
            return None
        entry = self._entry(key, outcome, facts, plan, age, now, wall)
        memory, uncacheable = self._memory, self._store.fetches.uncacheable
        if len(entry.vary) == 0 and not uncacheable and memory.fits(entry) and memory.add(entry) is None:
            return entry
        return entry if self._store.put(key, entry, x) else None

    def accept(self, fetch: Fetch, outcome: Outcome) -> None:
        """Store the upstream's response to a fetch, or note why it is not stored."""
        fetch.outcome = outcome
        if outcome.failure is not None:
            fetch.refusal = outcome.failure.code.replace("_", "-").encode()
            return
        wall, now = self._wall(), self._now()
        fetch.received = now
        rules = self._rules
        facts = self._reader.read(outcome.lines, wall)
        asked = request_facts(fetch.x, facts, rules)
        plan, age, refusal = assess(outcome.status, facts, asked, rules, now - fetch.sent, wall)
        stale, stream = fetch.stale, outcome.stream
        if (
            stale is not None
            and outcome.status >= 400
            and can_replace_error(stale, NOTHING, now)
            and not is_about_resource(outcome.status, fetch.x, rules)
        ):
            fetch.refusal = b"error"  # the stale entry is more useful
            return
        size = len(outcome.body) if stream is None else stream.length
        if outcome.sensitive:
            refusal = refusal or NEVER_INDEXED
        if refusal or fetch.is_outdated or (size is not None and size > self._max_body):
            why = refusal or (b"outdated" if fetch.is_outdated else b"too-large")
            self._refuse(fetch, outcome.status, why, now)
            return
        entry = self._entry(fetch.key, outcome, facts, plan, age, now, wall)
        if stream is not None:
            fetch.entry = entry
            done = partial(self._body_ended, fetch, entry, facts)
            fetch.tee = tee = Tee(stream, self._max_body, self._store.budget, done)
            outcome.stream = tee.reader()
            tee.start()
        elif self._put(fetch, entry, facts):
            fetch.entry = entry
        else:
            self._refuse(fetch, outcome.status, b"too-large", now)

    def _put(self, fetch: Fetch, entry: Entry, facts: Facts) -> bool:
        """Store the entry of a fetch, and count it if it replaces a stored one.  Returns False if it is too large."""
        stale = fetch.stale
        # Of several fetches at once the first counts alone: the others tell nothing new about changes.
        is_refresh = stale is not None and self._memory.peek(stale.key) is stale
        if not self._store.put(fetch.key, entry, fetch.x, fetch.generation):
            return False
        if is_refresh and stale is not None:
            is_changed = entry.status != stale.status or entry.body != stale.body
            self._refreshes.count(entry.born - stale.born, is_changed, states_lifetime(facts))
        return True

    def _body_ended(self, fetch: Fetch, entry: Entry, facts: Facts, body: bytes | None) -> None:
        """Store the entry now that its body has ended; `body` is None if the response is not to be stored."""
        if body is None:
            assert fetch.tee is not None
            self._refuse(fetch, entry.status, fetch.tee.refusal, self._now())
        else:
            entry.complete(body)
            if not fetch.is_outdated:
                self._put(fetch, entry, facts)
        fetch.close()

    def _refuse(self, fetch: Fetch, status: int, why: bytes, now: float) -> None:
        """Note why the response is not stored.

        A response about the resource removes the stored one, and marks its key as uncacheable.  Any other leaves the
        stored one for the next failure.
        """
        fetch.refusal = why
        is_about = is_about_resource(status, fetch.x, self._rules)
        if why in PASSING_REFUSALS or (status >= 400 and not is_about):
            return
        if fetch.stale is not None:
            if not is_about or self._keeps_stored(fetch.x, why):
                return
            stream = None if fetch.outcome is None else fetch.outcome.stream
            if stream is None:
                self._store.drop(fetch.stale)  # the upstream has replaced it
            else:
                stream.on_close(partial(self._replaced, fetch.stale))
        self._store.fetches.mark_uncacheable(fetch.entry_key, now)

    def _replaced(self, stale: Entry, failure: Failure | None) -> None:
        """Remove a stored entry after the end of the response that replaces it; keep it if that response broke off."""
        if failure is None:
            self._store.drop(stale)

    def _validated(self, fetch: Fetch, entry: Entry, outcome: Outcome) -> None:
        """Renew the stale entry after a 304; remove it if the updated response may not be stored.

        Fields that came as never indexed are left out, because a stored copy would lose the mark.
        """
        fetch.outcome, fetch.is_validated = outcome, True
        update = [field for field in outcome.headers if field[0] not in outcome.sensitive]
        fetch.entry, facts, fetch.refusal = self._updated(fetch.x, entry, update, fetch.sent)
        if not fetch.refusal and not fetch.is_outdated:
            self._put(fetch, fetch.entry, facts)
        elif not self._keeps_stored(fetch.x, fetch.refusal):
            self._store.drop(entry)

    def _updated(self, x: Exchange, entry: Entry, update: Headers, sent: float) -> tuple[Entry, Facts, bytes]:
        """Return the entry with updated fields, their facts, and the reason not to store it, empty to store it."""
        wall, now = self._wall(), self._now()
        rules = self._rules
        merged = freshened(entry.headers, dated(update, wall), frozenset() if rules.set_cookie else SET_COOKIE)
        aged = join([*merged, *((b"age", value) for value in get_all(update, b"age"))])
        facts = self._reader.read(aged, wall)
        plan, age, refusal = assess(entry.status, facts, request_facts(x, facts, rules), rules, now - sent, wall)
        lines = storable(aged, plan, facts, wall)
        new = Entry(
            entry.key, entry.status, lines, entry.body, facts, plan, age, now, wall, self._keep,
            self._is_keyed_by_fields, entry.is_whole,
        )  # fmt: skip
        new.hits = entry.hits
        return new, facts, refusal

    def _keeps_stored(self, x: Exchange, refusal: bytes) -> bool:
        """True if a response with this refusal leaves the stored response in place.

        A response to a client with a credential (`private`, `no-store`) says nothing about responses to others.
        """
        return refusal in PASSING_REFUSALS or refusal in PERSONAL_REFUSALS or has_credential(x, self._rules)
