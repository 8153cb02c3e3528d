"""Fetches: calls to the upstream that fill a cache, at most one at a time for each key.

Rules:

1. A fetch runs in the call of the request that started it.  A lone request, the usual case, has no `Fetch`: its
   exchange stands in `Fetches.shared` until a second request asks for the same key.
2. If the client of that request leaves while others wait, the call goes on without it (`Exchange.shared_fetch`).
   It is cancelled once nobody waits and no response has come.
3. Waiters get the finished fetch, or None if they must go on alone.
4. A fetch can be joined until its body has arrived whole (`sidecar.cache.tee`).

Number and time of the waiters are bounded by the callers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.directives import NOTHING
from sidecar.cache.rfc.key import uri_of
from sidecar.cache.tee import Tee
from sidecar.core.env import Env, TimerHandle
from sidecar.core.exchange import Cancellable, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise

MAX_UNCACHEABLE: Final = 10_000
"""Keys remembered as uncacheable, at most."""
UNCACHEABLE_FOR: Final = 60.0
"""Seconds for which a key stays marked as uncacheable."""


class Fetch:
    """Call to the upstream that fills the cache, from its start to the end of the response's body."""

    generation: bytes | None = None
    """Generation with which the response is written to Redis (`sidecar.cache.redis_tier`); None not to write it."""
    asked = NOTHING
    """Cache directives of the request that the policy honours."""
    is_outdated = False
    """True if the resource was changed or purged since the start: the response is not stored."""
    is_finished = False
    """True once the response's head or a failure has come."""

    outcome: Outcome | None = None
    """Response of the upstream, for the request that started the fetch; None if there was no call."""
    entry: Entry | None = None
    """Entry that every waiter can use; None if there is none.  Its body may still be arriving in `tee`."""
    tee: Tee | None = None
    """Body that is still arriving; None if the response came whole."""
    is_validated = False
    """True if the upstream confirmed the stale entry with a 304."""
    refusal = b""
    """Reason why the response is not stored, as a token for Cache-Status; empty if it is stored."""
    received = 0.0
    """Instant at which the response came; 0 if its fields were not read."""
    has_failed = False
    """True if the fetch ended with an exception or was cancelled."""
    has_client = True
    """True while the client of the request that started the fetch is connected."""

    _call: Cancellable | None = None
    _waiters: dict[Promise[Fetch | None], TimerHandle] | None = None

    def __init__(
        self, fetches: Fetches, x: Exchange, key: bytes, entry_key: bytes, stale: Entry | None, now: float,
        is_conditional: bool = False, is_shared: bool = True,
    ) -> None:  # fmt: skip
        """Register the fetch; others may join it if `is_shared`."""
        self._fetches = fetches
        self.x = x
        """Request that started the fetch."""
        self.key = key
        """Key of that request before `Vary` is applied."""
        self.entry_key = entry_key
        """Key after `Vary` is applied: that of the entry which the request selects."""
        self.stale = stale
        """Stored entry that must be validated or replaced; None if there is none."""
        self.sent = now
        """Instant at which the upstream was asked, or slightly earlier."""
        self.is_conditional = is_conditional
        """True if the request has conditions or a range of its own."""
        self._is_shared = is_shared
        if is_shared:
            fetches.shared[entry_key] = self
            x.shared_fetch = self
        else:
            fetches.unshared.add(self)

    @property
    def uri(self) -> bytes:
        """URI of the resource."""
        return uri_of(self.key)

    # ----- waiters

    def detach_client(self, call: Cancellable) -> bool:
        """Note that the client of `x` has left.  Returns True if others wait, so that the call must go on."""
        self.has_client = False
        self.x.interim = None  # interim responses have no receiver any more
        self._call = call
        return bool(self._waiters)

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return 0 if self._waiters is None else len(self._waiters)

    async def join(self, env: Env, seconds: float) -> Fetch | None:
        """Wait until the fetch is finished, for `seconds` at most.  Returns None if the caller must go on alone."""
        if self.is_finished:
            return self
        promise: Promise[Fetch | None] = Promise()
        promise.on_cancel = lambda: self._remove_waiter(promise)
        if self._waiters is None:
            self._waiters = {}
        self._waiters[promise] = env.call_later(seconds, self._time_out, promise)
        return await promise

    def _time_out(self, promise: Promise[Fetch | None]) -> None:
        self._remove_waiter(promise)
        promise.resolve(None)

    def _remove_waiter(self, promise: Promise[Fetch | None]) -> None:
        if self._waiters is not None and (timer := self._waiters.pop(promise, None)) is not None:
            timer.cancel()
        self._cancel_if_unwanted()

    def _cancel_if_unwanted(self) -> None:
        if not (self.is_finished or self.has_client or self._waiters) and self._call is not None:
            self._call.cancel()

    # ----- the call

    def finish(self) -> None:
        """Mark the fetch as finished and release its waiters."""
        self.is_finished = True
        self.x.shared_fetch = self._call = None  # a reference cycle would wait for the garbage collector
        if self.tee is None or not self.tee.is_open:
            self.close()
        outcome = self.outcome
        if not self.has_client and outcome is not None and outcome.stream is not None:
            outcome.stream.cancel()
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for promise, timer in waiters.items():
                timer.cancel()
                promise.resolve(None if self.has_failed else self)

    def fail(self) -> None:
        """Mark the fetch as failed and release its waiters."""
        self.has_failed = True
        self.finish()

    def outdate(self) -> None:
        """Note that the resource was changed or purged: later requests start a fetch of their own."""
        self.is_outdated = True
        if self._is_shared:
            self.close()
            self._fetches.unshared.add(self)

    def close(self) -> None:
        """Let no further request join."""
        if self._is_shared:
            self._is_shared = False
            del self._fetches.shared[self.entry_key]
        else:
            self._fetches.unshared.discard(self)


class Fetches:
    """Fetches of one cache in flight, and the keys whose responses could not be stored."""

    __slots__ = ("shared", "started", "uncacheable", "unshared")

    def __init__(self, started: Counter) -> None:
        self.started = started
        """Counter of all fetches."""
        self.shared: dict[bytes, Fetch | Exchange] = {}
        """Fetches that others may join, by key.  A bare exchange is a fetch that no other request has joined yet."""
        self.unshared: set[Fetch] = set()
        """Fetches that no request may join; their responses may still be stored."""
        self.uncacheable: OrderedDict[bytes, float] = OrderedDict()
        """Keys whose last response could not be stored, with the instant until which the mark holds."""

    def claim(self, key: bytes, x: Exchange) -> bool:
        """Register `x` as the request that fetches `key`.  Returns False if another one does already.

        `x` must be without the request fields that concern caches (`reuse.READ`).
        """
        if self.shared.setdefault(key, x) is not x:
            return False
        self.started.value += 1
        return True

    def start(
        self, x: Exchange, key: bytes, entry_key: bytes, stale: Entry | None, now: float, is_conditional: bool = False,
        is_shared: bool = True,
    ) -> Fetch:  # fmt: skip
        """Register a fetch of any kind for `x`; the arguments are those of `Fetch`."""
        self.started.value += 1
        return Fetch(self, x, key, entry_key, stale, now, is_conditional, is_shared)

    def get(self, key: bytes) -> Fetch | None:
        """Return the fetch that others may join for `key`, made from its exchange where necessary; None if there is
        none."""
        found = self.shared.get(key)
        return Fetch(self, found, key, key, None, found.arrived) if isinstance(found, Exchange) else found

    def claimed(self, key: bytes, x: Exchange) -> Fetch:
        """Return the fetch that `x` has claimed, made from it where necessary."""
        found = x.shared_fetch
        return found if isinstance(found, Fetch) else Fetch(self, x, key, key, None, x.arrived)

    def fail(self, key: bytes, x: Exchange) -> None:
        """End the fetch that `x` has claimed with a failure."""
        found = x.shared_fetch
        if isinstance(found, Fetch):
            found.fail()
        elif self.shared.get(key) is x:
            del self.shared[key]

    def outdate(self, uri: bytes | None) -> None:
        """Mark the fetches of `uri`, all if it is None: their responses are not stored, and no request joins them."""
        for key in list(self.shared):
            if (uri is None or uri_of(key) == uri) and (fetch := self.get(key)) is not None:
                fetch.outdate()
        for fetch in self.unshared:
            if uri is None or fetch.uri == uri:
                fetch.outdate()

    def mark_uncacheable(self, key: bytes, now: float) -> None:
        """Mark `key` as one whose response could not be stored (Varnish: hit-for-miss)."""
        self.uncacheable[key] = now + UNCACHEABLE_FOR
        self.uncacheable.move_to_end(key)
        if len(self.uncacheable) > MAX_UNCACHEABLE:
            self.uncacheable.popitem(last=False)

    def is_uncacheable(self, key: bytes, now: float) -> bool:
        """True if the response to `key` could not be stored within the last minute."""
        until = self.uncacheable.get(key)
        return until is not None and now < until

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a fetch."""
        return sum(fetch.waiting for fetch in self.shared.values() if isinstance(fetch, Fetch))

    def __len__(self) -> int:
        return len(self.shared) + len(self.unshared)
