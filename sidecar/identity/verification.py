"""Bounds for the CPU that verifying signatures takes, for the process and for each client.

Rules:

1. All verifications together take a share of one CPU: a bucket of CPU seconds that fills at that share.  Each costs its
   measured time, and no less than `LEAST`, so that the bound holds on a clock that stands still too.
2. A client whose tokens have wrong signatures too often gets none verified for a while.  Right signatures cost a client
   nothing, because many callers may share an address.
3. Clients are addresses, or IPv6 networks of 64 bits, which is the least that a network gives a subscriber.
4. `AT_ONCE` run in one turn of the event loop; the other tokens wait for theirs, `MOST_WAITING` at most, and requests
   without a new token come between them.  While signatures are wrong (`WARY_FOR`), all wait for a turn, and what a
   forged token costs is spread over three: its head, its signature, and its answer.
5. Keys that take long verify in one worker thread, because cryptography releases the interpreter's lock meanwhile.
   It has `IN_THREAD` at most, so that few are verified for a client whose tokens have failed by then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.spec import Model
from sidecar.core.units import Rate, Share
from sidecar.identity.verdict import Unavailable

T = TypeVar("T")
LEAST: Final = 50e-6
"""CPU seconds that a verification costs at least."""
BURST: Final = 1.0
"""Seconds for which an idle bucket has filled up."""
MOST_CLIENTS: Final = 4096
"""Most clients that are tracked; the one that failed longest ago is forgotten first."""
AT_ONCE: Final = 1
"""Most verifications in one turn of the event loop."""
IN_THREAD: Final = 4
"""Most verifications that are given to the worker thread: one that it runs, and some for a turn that takes long."""
WARY_FOR: Final = 1.0
"""Seconds after a wrong signature in which each verification has a turn of its own."""
MOST_WAITING: Final = 1024
"""Most tokens that wait for their turn, or for the worker thread."""


class VerificationSpec(Model):
    """Bounds for the CPU that the verification of new credentials may take.  Callers with tokens that were verified
    within the last minute are not affected."""

    share: Annotated[Share, Field(gt=0)] = 0.25
    """Share of one CPU for signatures.  Beyond it, requests with new tokens get a 503."""
    failures: Rate = 20.0
    """Rate of tokens with a wrong signature at which the tokens of a client address, or of an IPv6 network of 64 bits,
    are no longer verified for a while."""


class VerificationBudget:
    """Budget of verifications; one for the process."""

    def __init__(self, spec: VerificationSpec, env: Env, *, at_once: int = AT_ONCE, wary_for: float = WARY_FOR) -> None:
        """`at_once` bounds the verifications in one turn of the loop; `wary_for` is in seconds."""
        self._now: Callable[[], float] = env.now
        self._limited = env.meter.counter(metrics.VERIFICATIONS_DENIED)
        self._clients: dict[str, tuple[float, float]] = {}
        """Failures in the bucket of each client, and the instant of the last one."""
        self._filled_at = env.now()
        self._wary_for = wary_for
        self._wary_until = -inf
        """Instant until which each verification has a turn of its own."""
        self._env = env
        self._waiting: deque[Any] = deque()
        """Futures of the tokens that wait for their turn."""
        self._at_once = at_once
        self._begun = 0
        """Verifications in this turn of the loop."""
        self._has_timer = False
        self._thread = ThreadPoolExecutor(1, "verification")  # starts its thread when it is needed
        self._places = asyncio.Semaphore(IN_THREAD)
        """Places for verifications that are given to the thread."""
        self._outside = 0
        """Tokens that wait for such a place."""
        self.retune(spec)
        self._left = self._share * BURST

    def retune(self, spec: VerificationSpec) -> None:
        """Take new settings."""
        self._share = spec.share
        self._failures = spec.failures

    def deny(self, client: str, now: float) -> Unavailable | None:
        """Return the refusal to verify a token of a client; None if it may be verified."""
        share, passed = self._share, now - self._filled_at
        left = self._left
        if passed > 0:
            left += passed * share
        if left > share * BURST:
            left = share * BURST
        self._left, self._filled_at = left, now
        if left <= 0:
            self._limited.value += 1
            return Unavailable("verifying signatures takes more CPU than `limits.verification` allows", -left + 1.0)
        known = self._clients.get(network(client)) if self._clients else None
        if known is None:
            return None
        failures = known[0] - (now - known[1]) * self._failures
        most = max(1.0, self._failures)
        if failures < most:
            return None
        self._limited.value += 1
        return Unavailable("the client has sent too many wrong signatures", (failures - most) / self._failures + 1.0)

    def crowd(self) -> Unavailable | None:
        """Return the refusal to let one more token wait; None if there is room."""
        if len(self._waiting) + self._outside < MOST_WAITING:
            return None
        self._limited.value += 1
        return Unavailable("too many tokens wait for their verification", 1.0)

    def turn(self, now: float) -> Any | None:
        """Return a future for the turn of a verification, or the refusal to let it wait; None if it may begin now."""
        if not self._has_timer:
            self._has_timer = True
            self._env.call_later(0.0, self._next_turn)
        if self._begun < self._at_once and not self._waiting and now >= self._wary_until:
            self._begun += 1
            return None
        if (refused := self.crowd()) is not None:
            return refused
        future = self._env.future()
        self._waiting.append(future)
        return future

    def _next_turn(self) -> None:
        """Let the next tokens have their turn, after the events that have arrived meanwhile."""
        waiting = self._waiting
        self._begun = 0
        while waiting and self._begun < self._at_once:
            future = waiting.popleft()
            if not future.done():  # its client is still there
                future.set_result(None)
                self._begun += 1
        self._has_timer = self._begun > 0
        if self._has_timer:
            self._env.call_later(0.0, self._next_turn)

    def pause(self) -> Any:
        """Return a future for the next turn of the event loop."""
        future = self._env.future()
        self._env.call_later(0.0, partial(_wake, future))
        return future

    async def in_thread(self, client: str, verify: Callable[[], T]) -> T | Unavailable:
        """Return the result of a verification in the worker thread, and charge it, also if nobody waits any more.

        The client's tokens may have failed while this one waited, so that it is refused.
        """
        self._outside += 1
        try:
            await self._places.acquire()
        finally:
            self._outside -= 1
        if (denied := self.deny(client, self._now())) is not None:
            self._places.release()
            return denied
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._timed, verify)
        future.add_done_callback(self._leave_thread)
        return (await asyncio.shield(future))[0]

    def _timed(self, verify: Callable[[], T]) -> tuple[T, float]:
        """Return the result of a verification, and the seconds that it has taken."""
        began = self._now()
        return verify(), self._now() - began

    def _leave_thread(self, future: asyncio.Future[tuple[Any, float]]) -> None:
        self._places.release()
        if not future.cancelled() and future.exception() is None:
            self.pay(future.result()[1])

    def pay(self, seconds: float) -> None:
        """Charge a verification that has taken so many seconds."""
        self._left -= max(seconds, LEAST)

    def fail(self, client: str, now: float) -> None:
        """Charge a client for a wrong signature."""
        self._wary_until = now + self._wary_for
        clients, key = self._clients, network(client)
        failures, at = clients.pop(key, (0.0, now))
        if len(clients) >= MOST_CLIENTS:
            del clients[next(iter(clients))]
        clients[key] = (max(0.0, failures - (now - at) * self._failures) + 1.0, now)

    def describe(self) -> dict[str, Any]:
        """Return the bounds and the tracked clients as JSON-ready values."""
        return {"share": self._share, "left": round(self._left, 6), "clients": len(self._clients)}


def _wake(future: Any) -> None:
    """Resolve a future that may be done already."""
    if not future.done():
        future.set_result(None)


def network(client: str) -> str:
    """Return the address of a client, or its network of 64 bits if it is an IPv6 address."""
    if ":" not in client:
        return client
    head, gap, tail = client.partition("::")
    parts = head.split(":") if head else []
    if gap:
        parts += ["0"] * (8 - len(parts) - (len(tail.split(":")) if tail else 0))
        parts += tail.split(":") if tail else []
    return ":".join(parts[:4])
