"""What becomes of the upstream's answer: stored, merged into what is stored, or neither (RFC 9111 3, 3.2 and 4.3).

An `Intake` makes the calls that fill a store.  It asks for whole answers: conditions and ranges of the client's own are
taken off, ours are put on where there is something to validate.
"""

from __future__ import annotations

import re
from functools import partial
from math import inf
from typing import Final, NamedTuple

from sidecar.cache.entry import Entry
from sidecar.cache.fill import Flight
from sidecar.cache.rfc.dates import format_date
from sidecar.cache.rfc.directives import NOTHING, parse
from sidecar.cache.rfc.facts import UNSTORABLE, Facts, reader
from sidecar.cache.rfc.freshness import Asked, Plan, Rules, assess, is_explicit
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.lines import join, lowered, values, without
from sidecar.cache.rfc.reuse import ERRORS, FRESH, judge, may_stand_in
from sidecar.cache.rfc.validation import conditional, freshened, is_same, is_same_by_head, unconditional
from sidecar.cache.store import Store
from sidecar.cache.tee import Tee
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.headers import get_all
from sidecar.core.message import Headers
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service

CLOCK_HOLDS: Final = 1.0
"""Seconds for which the wall clock is taken not to jump."""
SET_COOKIE: Final = frozenset((b"set-cookie",))
DATE: Final = frozenset((b"date",))
OF_THE_REQUEST: Final = frozenset((b"authorization", b"request-no-store"))
"""Reasons not to store that do not hold for the next request."""


class Limits(NamedTuple):
    """What the policy says about storing."""

    rules: Rules
    max_body: int
    keep: float
    """Seconds for which an answer is kept beyond its freshness, for validation and as a last resort."""


class Intake:
    """Calls one inner service and stores what it answers."""

    __slots__ = (
        "_ahead", "_inner", "_is_more_than_uri", "_keep", "_max_body", "_memory", "_now", "_reader", "_rules", "_store",
        "_until", "_wall",
    )  # fmt: skip

    def __init__(self, inner: Service, store: Store, rule: KeyRule, limits: Limits, env: Env) -> None:
        self._inner = inner
        self._store = store
        self._memory = store.memory
        self._is_more_than_uri = bool(rule.headers)
        self._rules, self._max_body, self._keep = limits
        self._reader = reader(self._rules.targets)
        self._now = env.now
        self._wall = env.wall
        self._ahead = 0.0
        """How far the wall clock is ahead of the other, as was seen not long ago."""
        self._until = -inf

    async def bring(self, flight: Flight, as_it_is: bool = False) -> None:
        """Make the call, for the request as it is or for an answer that can be stored, and note what came of it."""
        try:
            outcome = await (self._inner(flight.x) if as_it_is else self._fetch(flight))
            if outcome is not None:
                self.received(flight, outcome)
        except BaseException:
            flight.fail()
            raise
        flight.land()

    async def _fetch(self, flight: Flight) -> Outcome | None:
        """From the shared tier, by validation, or whole.  None where it stands on the flight already."""
        x = flight.x
        if self._store.shared is not None:
            found, flight.generation = await self._store.fetch(flight.key, flight.uri, x)
            if found is not None:
                if judge(found, NOTHING, self._now()) == FRESH and found is not flight.stale:
                    flight.entry = found
                    return None
                flight.stale = found
        flight.sent = self._now()
        entry = flight.stale
        if entry is not None and entry.has_validator:
            outcome = await self._ask(x, conditional(x.headers, entry))
            if outcome.status == 304 and outcome.failure is None:
                if is_same(entry, outcome.headers, self._wall()):
                    self._validated(flight, entry, outcome)
                    return None
                # of something that we do not have: ask again, for all of it
                outcome = await self._ask(x, unconditional(x.headers))
        elif flight.is_conditional:
            outcome = await self._ask(x, unconditional(x.headers))
        else:
            outcome = await self._inner(x)
        return outcome

    async def head(self, x: Exchange, key: bytes, entry: Entry | None) -> Outcome:
        """Forward a HEAD; its answer updates or removes what is stored (RFC 9111 4.3.5)."""
        sent = self._now()
        outcome = await self._inner(x)
        if entry is not None and outcome.status == 200 and outcome.failure is None:
            if is_same_by_head(entry, outcome.headers, self._wall()):
                new, why = self._updated(x, entry, outcome.headers, sent)
                if not why:
                    self._store.put(key, new, x)
                    return outcome
            self._store.drop(entry)
        return outcome

    def keep_post(self, x: Exchange, key: bytes, outcome: Outcome, sent: float) -> None:
        """Store the answer to a POST for later GETs: it says how long it is fresh and whose it is (RFC 9110 9.3.3)."""
        wall, now = self._wall(), self._now()
        facts = self._reader.read(outcome.lines, wall)
        plan, age, refusal = assess(outcome.status, facts, asked_by(x), self._rules, now - sent, wall)
        if not refusal and is_explicit(facts) and len(outcome.body) <= self._max_body:
            lines = storable(outcome.lines, plan, facts, wall)
            entry = self._entry(key, outcome.status, lines, outcome.body, facts, plan, age, now, wall)
            self._store.put(key, entry, x)

    async def _ask(self, x: Exchange, headers: Headers) -> Outcome:
        twin = x.fork(x.attempt, x.why)
        twin.headers = headers
        outcome = await self._inner(twin)
        x.refused_by, x.retry_stopped = twin.refused_by, twin.retry_stopped
        return outcome

    # ----- answers

    def _entry(
        self, key: bytes, status: int, lines: bytes, body: bytes, facts: Facts, plan: Plan, age: float,
        now: float, wall: float,
    ) -> Entry:  # fmt: skip
        return Entry(key, status, lines, body, facts, plan, age, now, wall, self._keep, self._is_more_than_uri)

    def keep(self, x: Exchange, key: bytes, outcome: Outcome, sent: float, now: float) -> Entry | None:
        """Store the answer to a call that was but noted; None if more has to be said of it than that it is stored."""
        if outcome.failure is not None or outcome.stream is not None or len(outcome.body) > self._max_body:
            return None
        if now >= self._until:
            self._until, self._ahead = now + CLOCK_HOLDS, self._wall() - now
        wall = now + self._ahead
        facts = self._reader.read(outcome.lines, wall)
        plan, age, refusal = assess(outcome.status, facts, asked_by(x), self._rules, now - sent, wall)
        if refusal:
            return None
        lines = storable(outcome.lines, plan, facts, wall)
        entry = self._entry(key, outcome.status, lines, outcome.body, facts, plan, age, now, wall)
        memory, uncacheable = self._memory, self._store.flights.uncacheable
        if len(entry.vary) == 0 and not uncacheable and memory.fits(entry) and memory.add(entry) is None:
            return entry
        return entry if self._store.put(key, entry, x) else None

    def received(self, flight: Flight, outcome: Outcome) -> None:
        """The upstream has answered a call."""
        flight.outcome = outcome
        if outcome.failure is not None:
            flight.why = outcome.failure.code.replace("_", "-").encode()
            return
        wall, now = self._wall(), self._now()
        flight.received = now
        rules = self._rules
        facts = self._reader.read(outcome.lines, wall)
        plan, age, refusal = assess(outcome.status, facts, asked_by(flight.x), rules, now - flight.sent, wall)
        stale, stream = flight.stale, outcome.stream
        if stale is not None and outcome.status in ERRORS and may_stand_in(stale, NOTHING, now):
            flight.why = b"error"  # what is stored is worth more
            return
        size = len(outcome.body) if stream is None else stream.length
        if refusal or flight.is_outdated or (size is not None and size > self._max_body):
            why = refusal or (b"outdated" if flight.is_outdated else b"too-large")
            self._refuse(flight, outcome.status, why, now)
            return
        lines = storable(outcome.lines, plan, facts, wall)
        entry = self._entry(flight.key, outcome.status, lines, outcome.body, facts, plan, age, now, wall)
        if stream is not None:
            flight.entry = entry
            flight.tee = tee = Tee(stream, self._max_body, self._store.budget, partial(self._arrived, flight, entry))
            outcome.stream = tee.reader()
            tee.start()
        elif self._store.put(flight.key, entry, flight.x, flight.generation):
            flight.entry = entry
        else:
            self._refuse(flight, outcome.status, b"too-large", now)

    def _arrived(self, flight: Flight, entry: Entry, body: bytes | None) -> None:
        """The body that was on its way into the store has ended; None if it is not to be stored."""
        if body is None:
            self._refuse(flight, entry.status, b"too-large", self._now())
        elif not flight.is_outdated:
            entry.body = body
            entry.ready()
            self._store.put(flight.key, entry, flight.x, flight.generation)
        flight.close()

    def _refuse(self, flight: Flight, status: int, why: bytes, now: float) -> None:
        """It is not stored."""
        flight.why = why
        if status >= 500 or why in OF_THE_REQUEST:
            return
        if flight.stale is not None:
            self._store.drop(flight.stale)  # it has been replaced by something that cannot be stored
        self._store.flights.mark_uncacheable(flight.slot, now)

    def _validated(self, flight: Flight, entry: Entry, outcome: Outcome) -> None:
        flight.outcome, flight.is_validated = outcome, True
        flight.entry, flight.why = self._updated(flight.x, entry, outcome.headers, flight.sent)
        if flight.why or flight.is_outdated:
            self._store.drop(entry)
        else:
            self._store.put(flight.key, flight.entry, flight.x, flight.generation)

    def _updated(self, x: Exchange, entry: Entry, update: Headers, sent: float) -> tuple[Entry, bytes]:
        """The entry with newer fields, and why it may not be stored any more."""
        wall, now = self._wall(), self._now()
        rules = self._rules
        merged = freshened(entry.headers, dated(update, wall), frozenset() if rules.set_cookie else SET_COOKIE)
        aged = join([*merged, *((b"age", value) for value in get_all(update, b"age"))])
        facts = self._reader.read(aged, wall)
        plan, age, refusal = assess(entry.status, facts, asked_by(x), rules, now - sent, wall)
        lines = storable(aged, plan, facts, wall)
        new = self._entry(entry.key, entry.status, lines, entry.body, facts, plan, age, now, wall)
        new.hits = entry.hits
        return new, refusal


def asked_by(x: Exchange) -> Asked:
    """What of the request matters for storing its answer."""
    if not x.speaks_to_caches:
        return PLAINLY
    lines = x.lines
    if MATTERS.search(b"\n" + lines) is None:
        return PLAINLY
    lower = lowered(lines)
    no_store = b"no-store" in lower and parse(values(lines, lower, b"cache-control")).no_store
    return Asked(b"\nauthorization:" in lower, b"\ncookie:" in lower, no_store)


MATTERS: Final = re.compile(rb"\n(?:authorization|cookie|cache-control):", re.IGNORECASE)
PLAINLY: Final = Asked()


def storable(lines: bytes, plan: Plan, facts: Facts, wall: float) -> bytes:
    """The lines to store (RFC 9111 3.1) of those that the facts were read from; a missing Date is put in (RFC 9110
    6.6.1)."""
    if plan.dropped is not None:
        lines = without(lines, UNSTORABLE | plan.dropped)
    elif facts.storable is not None:
        lines = facts.storable
    else:
        lines = facts.storable = without(lines, UNSTORABLE) if facts.has_unstorable else lines
    if facts.date is None:
        lines = b"%bdate: %b\r\n" % (without(lines, DATE), format_date(wall))
    return lines


def dated(headers: Headers, wall: float) -> Headers:
    """The fields with a Date: an update without one was made when it came."""
    if any(name == b"date" for name, _ in headers):
        return headers
    return [*headers, (b"date", format_date(wall))]
