"""Stage `concurrency`: a limit on requests in flight, with a queue.

A permit covers a request to the last byte of its response, and a WebSocket session to its end.

Rules (`docs/design/concurrency.md` has the reasons):

1. Criticality decides who is refused: sheddable first, critical last (SRE book, ch. 21; `permits.py`).
2. A request whose deadline leaves no time for the queue and a usual response is refused at once.
3. A refusal has a Retry-After of a second.
4. The adaptive limit learns from responses below 500 that needed one attempt.
5. The routes of an upstream share its permits, and a reload changes the limit but not the permits in use.
6. A request that finds no permit ends the request that has waited for its own client longest, and takes its permit
   (`docs/design/slow-clients.md`).  The more requests are in the queue, the sooner this happens.
7. Of several workers, each leases a part of a fixed limit, so that their sum holds.  An adaptive limit is per worker.
8. `mode: observe` lets everything pass, counts requests that found neither permit nor place, and keeps learning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env, PermitLease
from sidecar.core.exchange import Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import (
    DEADLINE_EXCEEDED_STATUS,
    OVERLOADED,
    RESOURCE_EXHAUSTED_STATUS,
    STATUS_TO_COME,
    UNAVAILABLE_STATUS,
    Failure,
    Outcome,
    Refusal,
    failed,
    grpc_verdict,
)
from sidecar.core.stage import Stage, Wait
from sidecar.stages.concurrency.limit import Gradient
from sidecar.stages.concurrency.permits import Permits, Place, Refuse
from sidecar.stages.concurrency.spec import Spec

RETRY_AFTER: Final = 1.0
"""Retry-After of a refusal, in seconds.  An overload passes sooner, but a spread of returns matters more."""
WEIGHT: Final = 0.1
"""Weight of the newest response in the usual response time."""
TOO_BUSY: Final = (
    429,
    503,
    grpc_verdict(DEADLINE_EXCEEDED_STATUS),
    grpc_verdict(RESOURCE_EXHAUSTED_STATUS),
    grpc_verdict(UNAVAILABLE_STATUS),
)
"""Verdicts on answers by which an upstream says that it is overloaded."""
TOO_SLOW: Final = ("timeout", "connect_timeout")
"""Failures that show an overload."""
LEAST_PAUSE: Final = 0.005
"""Least seconds between two searches for a request to end."""
LOOK_EVERY: Final = 0.05
"""Seconds between two searches for a request to end, after one without result; fewer if many requests wait."""
ASK_SECONDS: Final = 0.1
"""Longest wait for permits of the supervisor, in seconds, for a limit without a queue."""
ASK_AGAIN: Final = 0.01
"""Seconds in which requests are refused without asking, after the supervisor had no permit left."""
NO_PERMIT: Final = "there is no permit left for its criticality"


class Bulkhead:
    """State that survives a reload: permits, and learnt latencies of the upstream."""

    def __init__(self, spec: Spec, env: Env, labels: dict[str, str]) -> None:
        self.permits = permits = Permits(env)
        self._now = env.now
        self._workers = env.workers
        self._name = ":".join(["concurrency", *next(iter(labels.items()))])
        self.lease: PermitLease | None = None
        """Permits that this worker holds of those for all workers; None if the process decides alone."""
        self.ask_from = 0.0
        """Instant before which the supervisor is not asked for more."""
        self.refuse: Refuse | None = None
        """Refuses a request that waits for a permit of the lease."""
        self.gradient: Gradient | None = None
        """Adaptive limit; None for a plain one."""
        self.typical = 0.0
        """Usual seconds from the permit to the head of a response.  A plain limit does not learn them."""
        self.retune(spec)
        env.meter.gauge(metrics.CONCURRENCY_ACTIVE, lambda: permits.active, **labels)
        env.meter.gauge(metrics.CONCURRENCY_LIMIT, self._limit, **labels)
        env.meter.gauge(metrics.QUEUE_LENGTH, lambda: permits.queued, **labels)

    def retune(self, spec: Spec) -> None:
        """Apply new settings; permits in use and learnt latencies stay."""
        self.queue = self._whole_queue = spec.queue
        if self._workers is not None and spec.adaptive is None:
            self.queue = -(-spec.queue // self._workers.count)
        self.cap = spec.max or 0
        if spec.adaptive is None:
            self.gradient = None
        else:
            highest = min(spec.adaptive.max, spec.max or spec.adaptive.max)
            lowest = min(spec.adaptive.min, highest)
            self.gradient = self.gradient or Gradient(lowest, highest)
            self.gradient.retune(lowest, highest)
        self._share()
        self._apply()

    def _share(self) -> None:
        """Lease the permits of a fixed limit, if there are other workers.  An adaptive limit is each worker's own."""
        workers, lease = self._workers, self.lease
        if self.gradient is not None:
            self.retire()
        elif lease is not None:
            lease.resize(self.cap)
        elif workers is not None:
            permits = self.permits
            self.lease = workers.lease_permits(
                self._name, self.cap, lambda: permits.active, lambda: permits.queued, self._apply
            )

    def retire(self) -> None:
        """Give back the permits that the worker holds, because the limit is no longer shared."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.end()

    def _limit(self) -> float:
        """Return the permits of this process, or its even part of those for all workers."""
        workers = self._workers
        return self.permits.limit if self.lease is None or workers is None else self.cap / workers.count

    def _apply(self) -> None:
        """Set the number of permits to the present limit."""
        lease = self.lease
        if lease is None:
            self.permits.retune(int(self.gradient.limit) if self.gradient else self.cap, self.queue)
            return
        # Requests may wait for an answer of the supervisor, as many as there are permits, before they are refused.
        self.permits.retune(lease.held, self.queue + self.cap)
        if lease.is_exhausted and self.refuse is not None:
            self.ask_from = self._now() + ASK_AGAIN
            self.permits.shed(self.queue, self.refuse)
        elif waiting := self.permits.queued:
            lease.want(waiting)

    def learn(self, x: Exchange, outcome: Outcome, now: float, latency: float) -> None:
        """Learn from the head of a response or a failure, which came `latency` seconds after the permit."""
        failure = outcome.failure
        if failure is None and outcome.verdict < 500 and len(x.attempts) <= 1:
            self.typical += (latency - self.typical) * (WEIGHT if self.typical else 1.0)
        if (gradient := self.gradient) is None:
            return
        active = self.permits.active
        verdict = outcome.verdict
        if verdict in TOO_BUSY if failure is None else failure.origin == "upstream" and failure.code in TOO_SLOW:
            changed = gradient.drop(now, active)
        elif failure is None and verdict < 500 and len(x.attempts) <= 1:
            changed = gradient.sample(now, latency, active)
            if verdict == STATUS_TO_COME and outcome.stream is not None:
                outcome.stream.on_close(partial(self._learn_late, outcome))
        else:
            return
        if changed:
            self._apply()

    def _learn_late(self, outcome: Outcome, broken: Failure | None) -> None:
        """Learn from the gRPC status that the trailers of an answer have brought."""
        gradient, body = self.gradient, outcome.stream
        if gradient is None or body is None or broken is not None or body.verdict not in TOO_BUSY:
            return
        if gradient.drop(self._now(), self.permits.active):
            self._apply()

    def describe(self) -> dict[str, Any]:
        """Return permits, limit and queue, JSON-ready."""
        facts = self.permits.describe() | {"typical_latency": self.typical}
        if self.lease is not None:
            facts |= {"limit": self.cap, "queue": self._whole_queue, "leased": self.lease.held}
        return facts if self.gradient is None else facts | {"adaptive": self.gradient.describe()}


class Refuser:
    """Refusals of one route, and the search for requests that wait for their own clients and can be ended."""

    def __init__(self, spec: Spec, ctx: BuildContext, permits: Permits) -> None:
        self._permits = permits
        self._where = ctx.where
        self._now = ctx.env.now
        self._reclaim: Callable[[str, int, int], bool] = ctx.resources("reclaim", ctx.upstream)
        self._route = ctx.route if ctx.scope == "route" else ""
        """Route whose requests hold the permits; empty if those of all routes of the upstream do."""
        self._next_look = 0.0
        """Instant before which no request to end is searched for."""
        self.observed: Counter | None = None
        """Counts requests that would have been refused; None to refuse them."""
        if not spec.is_enforced:
            self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="concurrency", route=ctx.route)

    def refuse(self, why: str) -> Outcome:
        """Return a refusal with its reason."""
        limit, active = self._permits.limit, self._permits.active
        detail = f"{active} requests are in flight, {limit} may be: {why}"
        return failed(OVERLOADED, Refusal("concurrency", self._where, detail, limit, active, RETRY_AFTER))

    def reclaim(self) -> bool:
        """End the request that has waited for its own client longest.

        Returns False if none has waited too long, or if the last search was a moment ago.
        """
        now = self._now()
        if now < self._next_look:
            return False
        permits = self._permits
        if self._reclaim(self._route, permits.queued, permits.limit):
            return True
        self._next_look = now + self.pause
        return False

    @property
    def pause(self) -> float:
        """Seconds until the next search: the more requests wait for each permit, the fewer."""
        queued, limit = self._permits.queued, self._permits.limit
        return LOOK_EVERY if queued <= limit else max(LEAST_PAUSE, LOOK_EVERY * limit / queued)

    def admit_observed(self, observed: Counter) -> None:
        """Admit a request that would have been refused, and count it if the queue would have had no place either."""
        if self._permits.active >= self._permits.limit + self._permits.size:
            observed.value += 1
        self._permits.active += 1


class PlainLimit:
    """Fixed limit without a queue: a request gets a permit or a refusal."""

    __slots__ = ("_permits", "_refuser")

    def __init__(self, bulkhead: Bulkhead, refuser: Refuser) -> None:
        self._permits = bulkhead.permits
        self._refuser = refuser

    def admit(self, x: Exchange) -> Outcome | None:
        if not self._permits.take(x.criticality):
            observed = self._refuser.observed
            if observed is not None:
                self._refuser.admit_observed(observed)
            elif not (self._refuser.reclaim() and self._permits.take(x.criticality)):
                return self._refuser.refuse(NO_PERMIT)
        return None

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self._permits.release()


class QueuedLimit:
    """Limit with a queue, or adaptive limit.  A ticket is the instant of the permit."""

    __slots__ = ("_bulkhead", "_call_later", "_is_reclaiming", "_now", "_patience", "_permits", "_refuser")

    def __init__(self, bulkhead: Bulkhead, refuser: Refuser, patience: float, env: Env) -> None:
        """`patience` is the number of seconds for which a request may wait."""
        self._bulkhead = bulkhead
        self._permits = bulkhead.permits
        self._refuser = refuser
        self._patience = patience
        self._now = env.now
        self._call_later = env.call_later
        self._is_reclaiming = False
        """True while a search for a request to end is scheduled."""

    def admit(self, x: Exchange) -> float | Outcome | Wait:
        now = self._now()
        if self._permits.take_at(x.criticality, now):
            return now
        return self._queue(x)

    def answer(self, x: Exchange, ticket: float, outcome: Outcome) -> Outcome:
        ended = self._now()
        latency = ended - ticket
        if x.stream is not None:
            latency -= x.stream.blocked_for(ended)  # the client's delay says nothing about the upstream
        self._bulkhead.learn(x, outcome, ended, latency)
        return outcome

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self._permits.release()

    def _queue(self, x: Exchange) -> float | Outcome | Wait:
        """Wait in the queue for a permit, or refuse the request; with `mode: observe` admit it."""
        permits, refuser = self._permits, self._refuser
        now = self._now()
        if refuser.observed is not None:
            refuser.admit_observed(refuser.observed)
            return now
        rank = x.criticality
        if refuser.reclaim() and permits.take(rank):
            return now
        if permits.size == 0:
            return refuser.refuse(NO_PERMIT)
        return self._join(x, rank, now)

    def _join(self, x: Exchange, rank: int, now: float) -> float | Outcome | Wait:
        """Wait in the queue, or refuse a request that has no time or no place."""
        permits, typical, refuser = self._permits, self._bulkhead.typical, self._refuser
        left = x.deadline - now - typical
        if left <= typical * (permits.ahead(rank) + 1) / max(1, permits.limit):
            return refuser.refuse("the time that it has left is too short to wait for a permit and for an answer")
        place = permits.join(rank, min(self._patience, left), refuser.refuse)
        if place is None:
            return refuser.refuse(f"and all {permits.size} places in the queue are taken")
        if not self._is_reclaiming:
            self._is_reclaiming = True
            self._call_later(refuser.pause, self._reclaim_for_queue)
        return Wait(self._wait(x, rank, place, now))

    async def _wait(self, x: Exchange, rank: int, place: Place, began: float) -> float | Outcome:
        """Wait in the queue; return the instant of the permit, or the refusal."""
        try:
            refusal: Outcome | None = await place
            now = self._now()
            if x.trace is not None:
                x.trace.note(events.QUEUED, waited=round(now - began, 6), admitted=refusal is None)
            return now if refusal is None else refusal
        except BaseException:
            self._permits.leave(rank, place)
            raise

    def _reclaim_for_queue(self) -> None:
        """End requests that wait for their own clients, one for each queued request; repeat while requests wait."""
        permits = self._permits
        for _ in range(permits.queued):
            if not self._refuser.reclaim():
                break
        self._is_reclaiming = permits.queued > 0
        if self._is_reclaiming:
            self._call_later(self._refuser.pause, self._reclaim_for_queue)


class SharedLimit(QueuedLimit):
    """Fixed limit of all workers together, of which this worker has leased a part.

    A request that finds no permit asks the supervisor for more.  It is refused once nothing is left for any worker.
    """

    __slots__ = ()

    def _queue(self, x: Exchange) -> float | Outcome | Wait:
        bulkhead, permits, refuser = self._bulkhead, self._permits, self._refuser
        now, rank, lease = self._now(), x.criticality, bulkhead.lease
        if refuser.observed is not None:
            refuser.admit_observed(refuser.observed)
            return now
        if lease is not None:
            if lease.is_exhausted and now < bulkhead.ask_from and permits.queued >= bulkhead.queue:
                if refuser.reclaim() and permits.take(rank):
                    return now
                return refuser.refuse(NO_PERMIT)
            bulkhead.refuse = refuser.refuse
            lease.want(permits.queued + 1)
        return self._join(x, rank, now)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a block.  All blocks of one owner share its permits."""
    labels = {ctx.scope: ctx.owner[1]}
    bulkhead: Bulkhead = ctx.obtain(("concurrency", *ctx.owner), spec, lambda: Bulkhead(spec, ctx.env, labels))
    refuser = Refuser(spec, ctx, bulkhead.permits)
    if bulkhead.lease is not None and spec.adaptive is None:
        return SharedLimit(bulkhead, refuser, spec.queue_timeout if spec.queue else ASK_SECONDS, ctx.env)
    if spec.adaptive is not None or (spec.queue > 0 and spec.is_enforced):
        return QueuedLimit(bulkhead, refuser, spec.queue_timeout, ctx.env)
    return PlainLimit(bulkhead, refuser)
