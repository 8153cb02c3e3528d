"""Retry: the same request again where that may help, can do no harm, and is affordable.

tenacity's strategies (when to stop, how long to wait) are what a policy compiles to; its own loop is not used: entering
it costs 15 to 25 us a call, and some of its predicates retry a cancellation.  Who succeeds touches none of it.

What is retried is an outcome that `on` names, by failure, status or a condition on what the answer says.  Then, in this
order, each question can end it, and the answer becomes `x.retry_stopped`, a counter's label, and a field of the access
log:

1. `marked` - the request came as somebody's retry already.  Three layers that try thrice make 27 (SRE book ch. 22).
2. `method` - the upstream may have seen the request, and doing it twice may do it twice (RFC 9110 9.2.2).  POST and
   PATCH pass with an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header) or by being named.  What was never
   sent is safe for every method: refused connects, and a pooled connection that had been closed.
3. `attempts` - all of them are used up.
4. `body` - it was longer than `max_body`, so it was streamed and is gone.
5. `retry_after` - the upstream says when to come back, and that is later than `retry_after.max`: its answer is passed
   on.  A shorter one is waited for, plus the backoff, so that callers do not come back in step.
6. `deadline` - the wait and the quickest answer that this request has had would end too late.
7. `budget` - the upstream's retry budget is spent.  Asked last, as asking pays.

Then the answer in hand is what the client gets.  Refusals of our own are never retried: an open breaker is terminal
(the upstream client has already looked for an endpoint whose breaker lets it through), and asking again only hammers
at it.  A hedge is an extra try itself and is not retried.
"""

from __future__ import annotations

from typing import Final

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.headers import retry_after
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Layer, Service
from sidecar.expression import NO_BODIES, RESPONSE, Bodies
from sidecar.expression import Condition as Expression
from sidecar.stages.retry.spec import Spec, WhenSpec
from sidecar.stages.retry.strategies import (
    StopBeforeDeadline,
    StopWhenAskedToStayAway,
    Try,
    WaitJittered,
    WaitRetryAfter,
    stop_after_attempt,
    wait_exponential,
)
from sidecar.transform.intake import take
from sidecar.transform.validators import is_json

__all__ = ["Spec", "build"]

MAX_READ: Final = 64 * 1024
"""Bytes of an answer that a condition reads; of a longer one it knows the head alone."""
QUICKEST: Final = 0.001
"""Seconds: less than any answer takes."""


class Retry:
    """The policy, compiled; one for each route."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        env = self.env = ctx.env
        self.route = ctx.route
        self.is_enforced = spec.is_enforced
        self.conditions = Conditions(each for each in spec.on if not isinstance(each, WhenSpec))
        self.whens = [Expression(each.when, RESPONSE) for each in spec.on if isinstance(each, WhenSpec)]
        self.reads_body = any("response.body" in when.needs for when in self.whens)
        self.statuses = self.conditions.statuses
        self.methods = frozenset(method.encode() for method in spec.methods)
        self.max_body = spec.max_body
        self.budget = ctx.resources("retry_budget", ctx.upstream)
        backoff = spec.backoff
        self.wait = WaitRetryAfter() + WaitJittered(
            wait_exponential(multiplier=backoff.base, max=backoff.max), backoff.jitter, env.rng
        )
        self.stop_attempts = stop_after_attempt(spec.max_attempts)
        self.stop_retry_after = StopWhenAskedToStayAway(spec.retry_after.max)
        self.stop_deadline = StopBeforeDeadline()

    def layer(self, inner: Service) -> Service:
        return Retried(self, inner).call

    async def again(self, x: Exchange, outcome: Outcome, inner: Service, began: float) -> Outcome:
        """The slow path: decide, wait, try again, until there is nothing more to gain."""
        env = self.env
        state = Try()
        least = QUICKEST
        tried = began
        while not x.is_hedge and (self.conditions.match(outcome) or await self._meets(x, outcome)):
            now = env.now()
            if outcome.failure is None:
                least = now - tried if least == QUICKEST else min(least, now - tried)
            state.outcome = outcome
            state.seconds_since_start = now - began
            state.asked = retry_after(outcome.headers, env.wall()) or 0.0
            state.deadline = x.deadline - began - max(QUICKEST, least)
            stopped = self._stop(x, outcome, state)
            if stopped:
                x.retry_stopped = stopped
                self._count(metrics.RETRIES_DENIED, stopped)
                break
            if not self.is_enforced:
                env.meter.counter(metrics.WOULD_REFUSE, policy="retry", route=self.route).add()
                break
            reason = outcome.reason or str(outcome.status)
            self._count(metrics.RETRIES, reason)
            if outcome.stream is not None:
                outcome.stream.cancel()
            await env.sleep(state.upcoming_sleep)
            state.idle_for += state.upcoming_sleep
            if x.stream is not None:
                x.stream.rewind()
            number = max(x.attempt + state.attempt_number, len(x.attempts) + 1)
            state.attempt_number += 1
            twin = x.fork(number, f"retry:{reason}")
            twin.avoid = x.avoid.union(attempt.endpoint for attempt in x.attempts)
            if x.trace is not None:
                left, waited = self.budget.tokens, round(state.upcoming_sleep, 6)
                x.trace.note(events.RETRIED, attempt=number, reason=reason, waited=waited, tokens=left)
            tried = env.now()
            outcome = await inner(twin)
        return outcome

    async def _meets(self, x: Exchange, outcome: Outcome) -> bool:
        """Does an answer meet one of the conditions on what it says?"""
        if outcome.failure is not None or outcome.tunnel is not None or not self.whens:
            return False
        bodies = NO_BODIES
        if self.reads_body and is_json(outcome.header(b"content-type")):
            bodies = Bodies(response=(await take(outcome, MAX_READ)).document)
        return any(when.holds(x, outcome, bodies) for when in self.whens)

    def _stop(self, x: Exchange, outcome: Outcome, state: Try) -> str:
        """Why there is no further try, or nothing; sets the wait before it."""
        failure = outcome.failure
        if x.is_retry:
            return "marked"
        if (failure is None or failure.sent) and not self._may_repeat(x):
            return "method"
        if self.stop_attempts(state):  # type: ignore[arg-type]
            return "attempts"
        if not x.is_replayable:
            return "body"
        if self.stop_retry_after(state):
            return "retry_after"
        state.upcoming_sleep = self.wait(state)  # type: ignore[arg-type]
        if self.stop_deadline(state):
            return "deadline"
        if self.is_enforced and not self.budget.withdraw():
            return "budget"
        return ""

    def _may_repeat(self, x: Exchange) -> bool:
        if x.method in self.methods:
            return True
        return x.method in (b"POST", b"PATCH") and bool(x.header(b"idempotency-key"))

    def _count(self, name: str, reason: str) -> None:
        self.env.meter.counter(name, route=self.route, reason=reason).add()

    def __repr__(self) -> str:
        return f"<Retry {self.route} on {self.conditions!r}>"


class Retried:
    """An inner service under a policy of retries."""

    __slots__ = ("_deposit", "_inner", "_now", "_policy", "_statuses", "_whens")

    def __init__(self, policy: Retry, inner: Service) -> None:
        self._policy, self._inner = policy, inner
        self._now, self._deposit = policy.env.now, policy.budget.deposit
        self._statuses, self._whens = policy.statuses, policy.whens

    async def call(self, x: Exchange) -> Outcome:
        if not x.is_counted and not x.is_retry:
            x.is_counted = True
            self._deposit()
        if x.stream is not None:
            x.stream.record(self._policy.max_body)
        began = self._now()
        outcome = await self._inner(x)
        if outcome.failure is None and not self._statuses[outcome.status] and not self._whens:
            return outcome
        return await self._policy.again(x, outcome, self._inner, began)


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The retry layer of a route."""
    return Retry(spec, ctx).layer
