"""One call to the upstream that many requests wait for.

A `Flight` is that call: what it is for, and what it brought.  It runs in the run of the request that started it, and is
made when somebody asks for it (`Flights`), so it costs those nothing that are alone, which is nearly all.  When the
client of that request goes away while others wait, the run goes on without it (`Exchange.errand`); it ends early only
when nobody waits any more and nothing has come yet.  Those who wait get the flight once it has landed, or None to go on
alone.  It can be joined until its body has arrived whole (see `tee`).  Number and time of the waiters are for the
callers to bound.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.key import uri_of
from sidecar.cache.tee import Tee
from sidecar.core.env import Env, Handle
from sidecar.core.exchange import Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise, Run

MAX_UNCACHEABLE: Final = 10_000
"""Keys remembered as not cacheable."""
UNCACHEABLE_FOR: Final = 60.0
"""Seconds for which nobody waits for another's answer to such a key."""


class Flight:
    """One call, from its start to the end of the answer."""

    generation: bytes | None = None
    """Under which it may be written to the shared tier (`sidecar.cache.redis_tier`)."""
    is_outdated = False
    """Was the resource changed or purged since the start?  Then what it brings is not stored."""
    has_landed = False

    outcome: Outcome | None = None
    """The upstream's answer, for the request that it answers; None if there was no call."""
    entry: Entry | None = None
    """The answer as it can be given to all; its body may still be on the way, in `tee`."""
    tee: Tee | None = None
    is_validated = False
    """Did the upstream say that what was stored still holds?"""
    why = b""
    """Why it was not stored."""
    received = 0.0
    """The instant at which the answer had come, 0 if there is none that could be stored."""
    has_failed = False
    """Did it end in a bug, or with the last who waited?"""
    is_led = True
    """Is the client still there for whom it was started?"""

    _run: Run[Any] | None = None
    _waiters: dict[Promise[Flight | None], Handle] | None = None

    def __init__(
        self, flights: Flights, x: Exchange, key: bytes, slot: bytes, stale: Entry | None, now: float,
        is_conditional: bool = False, is_open: bool = True,
    ) -> None:  # fmt: skip
        """`is_open`: may others join?"""
        self._flights = flights
        self.x = x
        """The request that it answers."""
        self.key = key
        """Its key before `Vary` has its say."""
        self.slot = slot
        """And after."""
        self.stale = stale
        """What is stored for it, and cannot be used as it is."""
        self.sent = now
        """The instant at which the upstream was asked, or a little earlier."""
        self.is_conditional = is_conditional
        """Does the request bear conditions or a range of its own?"""
        self._is_open = is_open
        if is_open:
            flights.open[slot] = self
            x.errand = self
        else:
            flights.alone.add(self)

    @property
    def uri(self) -> bytes:
        """What it asks for."""
        return uri_of(self.key)

    # ----- who waits

    def go_on(self, run: Run[Any]) -> bool:
        """The client of the request that started it has left: is its run to go on for those who wait?"""
        self.is_led = False
        self.x.interim = None  # nobody is left to hear of one
        self._run = run
        return bool(self._waiters)

    @property
    def waiting(self) -> int:
        return 0 if self._waiters is None else len(self._waiters)

    async def join(self, env: Env, seconds: float) -> Flight | None:
        """Wait for the call that another started, at most so long."""
        if self.has_landed:
            return self
        promise: Promise[Flight | None] = Promise()
        promise.on_cancel = lambda: self._left(promise)
        if self._waiters is None:
            self._waiters = {}
        self._waiters[promise] = env.call_later(seconds, self._release, promise)
        return await promise

    def _release(self, promise: Promise[Flight | None]) -> None:
        self._left(promise)
        promise.resolve(None)

    def _left(self, promise: Promise[Flight | None]) -> None:
        if self._waiters is not None and (timer := self._waiters.pop(promise, None)) is not None:
            timer.cancel()
        self._abandon()

    def _abandon(self) -> None:
        if not (self.has_landed or self.is_led or self._waiters) and self._run is not None:
            self._run.cancel()

    # ----- the call

    def land(self) -> None:
        """The call is over: tell all who wait."""
        self.has_landed = True
        self.x.errand = self._run = None  # what holds on to each other waits for the garbage collector
        if self.tee is None or not self.tee.is_open:
            self.close()
        outcome = self.outcome
        if not self.is_led and outcome is not None and outcome.stream is not None:
            outcome.stream.cancel()
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for promise, timer in waiters.items():
                timer.cancel()
                promise.resolve(None if self.has_failed else self)

    def fail(self) -> None:
        """It has come to nothing: a bug, or nobody waits any more."""
        self.has_failed = True
        self.land()

    def close(self) -> None:
        """It is over: nobody can join any more."""
        if self._is_open:
            self._is_open = False
            del self._flights.open[self.slot]
        else:
            self._flights.alone.discard(self)


class Flights:
    """The calls of one store that are on their way."""

    __slots__ = ("alone", "begun", "open", "uncacheable")

    def __init__(self, begun: Counter) -> None:
        self.begun = begun
        self.open: dict[bytes, Flight | Exchange] = {}
        """Those that others may wait for, by key.  One that nobody has asked for is no more than its request."""
        self.alone: set[Flight] = set()
        """Those that nobody else can wait for, and whose answers may be stored as well."""
        self.uncacheable: OrderedDict[bytes, float] = OrderedDict()
        """Keys for which nobody waits, until when."""

    def note(self, key: bytes, x: Exchange) -> bool:
        """A request that says nothing to caches is to fetch the answer to this key; False if another does already."""
        if self.open.setdefault(key, x) is not x:
            return False
        self.begun.value += 1
        return True

    def start(
        self, x: Exchange, key: bytes, slot: bytes, stale: Entry | None, now: float, is_conditional: bool = False,
        is_open: bool = True,
    ) -> Flight:  # fmt: skip
        """A request is to fetch an answer, in whatever way."""
        self.begun.value += 1
        return Flight(self, x, key, slot, stale, now, is_conditional, is_open)

    def get(self, slot: bytes) -> Flight | None:
        """The call that fetches the answer to this key, if there is one."""
        call = self.open.get(slot)
        return Flight(self, call, slot, slot, None, call.arrived) if isinstance(call, Exchange) else call

    def fail(self, key: bytes) -> None:
        """A call that was noted has come to nothing."""
        call = self.open.get(key)
        if isinstance(call, Flight):
            call.fail()
        elif call is not None:
            del self.open[key]

    def outdate(self, uri: bytes | None) -> None:
        """What such calls bring, by default all, is not to be stored."""
        for slot in list(self.open):
            if (uri is None or uri_of(slot) == uri) and (flight := self.get(slot)) is not None:
                flight.is_outdated = True
        for flight in self.alone:
            if uri is None or flight.uri == uri:
                flight.is_outdated = True

    def mark_uncacheable(self, key: bytes, now: float) -> None:
        """Remember that the answer to this key could not be stored."""
        self.uncacheable[key] = now + UNCACHEABLE_FOR
        self.uncacheable.move_to_end(key)
        if len(self.uncacheable) > MAX_UNCACHEABLE:
            self.uncacheable.popitem(last=False)

    def is_uncacheable(self, key: bytes, now: float) -> bool:
        """Was the last answer to this key, not long ago, one that could not be stored?"""
        until = self.uncacheable.get(key)
        return until is not None and now < until

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return sum(call.waiting for call in self.open.values() if isinstance(call, Flight))

    def __len__(self) -> int:
        return len(self.open) + len(self.alone)
