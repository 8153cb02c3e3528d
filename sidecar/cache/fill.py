"""One call to the upstream that many requests wait for.

A `Flight` is that call: what it is for, and what it brought.  It runs apart from the request that started it
(`core.promise.Run`, not a task), so that this request can leave without ending it; it ends early only when nobody waits
any more and nothing has come yet.  Those who wait get the flight once it has landed, or None to go on alone.  It can be
joined until its body has arrived whole (see `tee`).  Number and time of the waiters are for the callers to bound.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sidecar.cache.entry import Entry
from sidecar.cache.key import uri_of
from sidecar.cache.tee import Tee
from sidecar.core.env import Env, Handle
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise, Run

if TYPE_CHECKING:
    from sidecar.cache.store import Store

Call = Coroutine[Any, Any, Outcome | None]
"""Brings the upstream's answer; None where what it brought stands on the flight already."""
Received = Callable[["Flight", Outcome], None]
"""Writes on the flight what the answer is worth."""


class Flight:
    """One call, from its start to the end of the answer."""

    generation: bytes | None = None
    """Under which it may be written to the shared tier (`sidecar.cache.redis`)."""
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
    error: BaseException | None = None
    """A bug, for the request that started it."""

    _run: Run[Outcome | None] | None = None
    _received: Received | None = None
    _is_led = True
    _leader: Promise[Flight | None] | None = None
    _waiters: dict[Promise[Flight | None], Handle] | None = None

    def __init__(
        self, store: Store, x: Exchange, key: bytes, slot: bytes, stale: Entry | None, now: float,
        is_conditional: bool = False, is_open: bool = True,
    ) -> None:  # fmt: skip
        """`is_open`: may others join?"""
        self._store = store
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
        store.fills.value += 1
        self._is_open = is_open
        if is_open:
            store.flights[slot] = self
        else:
            store.alone.add(self)

    @property
    def uri(self) -> bytes:
        """What it asks for."""
        return uri_of(self.key)

    # ----- who waits

    def start(self, call: Call, received: Received) -> None:
        """Make the call; it may be over before this returns (`has_landed`), else await `landing()`."""
        self._received = received
        run = Run(call, self._ended)
        if not self.has_landed:
            self._run = run

    def landing(self) -> Promise[Flight | None]:
        """What the one who started it waits for."""
        promise: Promise[Flight | None] = Promise(self._leader_left)
        self._leader = promise
        return promise

    async def go(self, call: Call, received: Received) -> None:
        """Make the call for nobody but the store."""
        self._is_led = False
        try:
            outcome = await call
            if outcome is not None:
                received(self, outcome)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._land()

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

    def _leader_left(self) -> None:
        self._is_led = False
        self.x.interim = None  # nobody is left to hear of one
        self._abandon()

    def _abandon(self) -> None:
        if not (self.has_landed or self._is_led or self._waiters) and self._run is not None:
            self._run.cancel()

    # ----- the call

    def _ended(self, run: Run[Outcome | None]) -> None:
        self.error = run.error
        if run.value is not None and self._received is not None:
            try:
                self._received(self, run.value)
            except Exception as error:
                self.error = error
        self._land()

    def _land(self) -> None:
        """Tell all who wait, the one who started it first."""
        self.has_landed = True
        self._run = None  # it holds on to us, and what holds on to each other waits for the garbage collector
        if self.tee is None or not self.tee.is_open:
            self.close()
        outcome = self.outcome
        waiters, self._waiters = self._waiters, None
        leader, self._leader = self._leader, None
        if self._is_led:
            if leader is not None:
                leader.resolve(self)
        elif outcome is not None and outcome.stream is not None:
            outcome.stream.cancel()
        if waiters:
            for promise, timer in waiters.items():
                timer.cancel()
                promise.resolve(None if self.error is not None else self)

    def close(self) -> None:
        """It is over: nobody can join any more."""
        if not self._is_open:
            self._store.alone.discard(self)
        elif self._store.flights.get(self.slot) is self:
            del self._store.flights[self.slot]
