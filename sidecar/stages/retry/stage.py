"""Stage `retry`: sends a request again if that may help, can do no harm, and the budget allows it.

An outcome that `on` names is retried: a failure, a status, or a response that meets a condition.  For the status of a
gRPC answer the stage waits until the first message or the end has come (`peek`).  These checks, in this order, can end
retrying.  The first that does is `x.retry_stopped`, a counter's label and a field of the access log:

1. `marked`: the request is a caller's retry.  Three layers of three attempts make 27 (SRE book ch. 22).
2. `method`: the upstream may have seen the request, and the method may not be repeated (RFC 9110 9.2.2).
3. `attempts`: `max_attempts` are made.
4. `body`: the request's body was streamed and is gone.
5. `retry_after`: the upstream asks for a longer wait than `retry_after.max`, or a gRPC server for no retry.
6. `deadline`: the wait and the quickest response so far would exceed the deadline.
7. `useless`: of the route's retried requests hardly one was rescued, and the policy has `stop_when_useless`.
8. `budget`: the upstream's retry budget is spent.  This check is the last because it withdraws from the budget.

A refusal of the sidecar is never retried, nor is a hedge.  A request that succeeds uses no strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.core import events, metrics
from sidecar.core.body import COMPLETE, OPEN
from sidecar.core.conditions import Conditions
from sidecar.core.env import BuildContext
from sidecar.core.exchange import NEVER, SHORTEST_ANSWER, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import STATUS_TO_COME, Outcome
from sidecar.core.stage import Service, Stage, Wait, outcome_to_settle, unbound
from sidecar.stages.retry.spec import Spec, WhenSpec
from sidecar.upstream.budget import RetryWorth

if TYPE_CHECKING:
    from sidecar.expression.condition import Condition as Expression
    from sidecar.stages.retry.strategies import Schedule, State

LATER: Final = ("sidecar.stages.retry.strategies",)
"""Modules that are needed from the first retry on, imported once the process serves."""
MAX_READ: Final = 64 * 1024
"""Bytes of the longest response body that a condition reads; of a longer one it sees only the head."""


def _expressions(texts: list[str]) -> list[Expression]:
    """Compile conditions on responses.  Without any, `sidecar.expression` is not imported."""
    if not texts:
        return []
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import RESPONSE

    return [Condition(text, RESPONSE) for text in texts]


class RetryStage:
    """Retry policy of one route."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.inner: Service = unbound
        self.route = ctx.route
        self.conditions = Conditions(each for each in spec.on if not isinstance(each, WhenSpec))
        self._statuses = self.conditions.statuses
        """One byte for each verdict: 1 for those that need a closer look."""
        if self.conditions.grpc_codes:
            self._statuses = self._statuses[:STATUS_TO_COME] + b"\1" + self._statuses[STATUS_TO_COME + 1 :]
        self.expressions = _expressions([each.when for each in spec.on if isinstance(each, WhenSpec)])
        self.reads_body = any("response.body" in expression.needs for expression in self.expressions)
        self.methods = frozenset(method.encode() for method in spec.methods)
        self.max_body = spec.max_body
        self.budget = ctx.resources("retry_budget", ctx.upstream)
        self._deposit: Callable[[float], None] = self.budget.deposit
        self.spec = spec
        self._schedule: Schedule | None = None
        self.worth = ctx.obtain(
            ("retry_worth", ctx.route, "retry"), None, partial(RetryWorth, ctx.env, ctx.route, "retry")
        )
        self.observed: Counter | None = None
        """Counts requests that would have been retried; None to retry them."""
        if not spec.is_enforced:
            self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="retry", route=ctx.route)
        self._retries: dict[str, Counter] = {}
        """Counters by reason: a failure's code or a status."""
        self._denied: dict[str, Counter] = {}
        """Counters by the check that ended retrying."""

    @property
    def schedule(self) -> Schedule:
        """Strategies of the policy, made for the first retry: their library is not imported at the start."""
        if self._schedule is None:
            from sidecar.stages.retry.strategies import Schedule

            self._schedule = Schedule(self.spec, self.env)
        return self._schedule

    def admit(self, x: Exchange) -> int:
        if not x.is_counted and not x.marked_attempt:
            x.is_counted = True
            self._deposit(x.arrived)
        if x.stream is not None:
            x.stream.record(self.max_body)
        return len(x.attempts)

    def answer(self, x: Exchange, ticket: int, outcome: Outcome) -> Outcome | Wait:
        """Pass a good outcome on, or retry.  The ticket is the number of attempts made before."""
        if outcome.failure is None and not self._statuses[outcome.verdict] and not self.expressions:
            return outcome
        if x.is_hedge or not (self.expressions or self.conditions.match(outcome) or self._may_peek(x, outcome)):
            return outcome
        return Wait(self.retry(x, outcome, x.attempts[ticket].started if len(x.attempts) > ticket else self.env.now()))

    async def retry(self, x: Exchange, outcome: Outcome, began: float) -> Outcome:
        """Retry until an outcome is good or a check ends it.  `began` is the instant of the first attempt."""
        env = self.env
        state: State | None = None
        shortest = SHORTEST_ANSWER
        is_rescued = False
        started = began
        outcome = await self._seen(x, outcome)
        while self.conditions.match(outcome) or (self.expressions and await self._meets(x, outcome)):
            now = env.now()
            if outcome.failure is None:
                shortest = now - started if shortest == SHORTEST_ANSWER else min(shortest, now - started)
            schedule = self.schedule
            if state is None:
                state = schedule.begin(self.inner, x, began)
            schedule.record(state, outcome, now)
            stopped = self._stop(x, outcome, state, now, max(SHORTEST_ANSWER, shortest))
            if stopped:
                x.retry_stopped = stopped
                self._count_denied(stopped)
                break
            if self.observed is not None:
                self.observed.value += 1
                break
            reason = outcome.label
            self._count_retry(reason)
            outcome.discard()
            await env.sleep(state.upcoming_sleep)
            if x.stream is not None:
                x.stream.rewind()
            number = max(x.attempt + state.attempt_number, len(x.attempts) + 1)
            schedule.advance(state)
            twin = x.fork(number, f"retry:{reason}")
            twin.avoid = x.avoid.union([attempt.endpoint for attempt in x.attempts])
            if x.trace is not None:
                left, waited = self.budget.tokens, round(state.upcoming_sleep, 6)
                x.trace.note(events.RETRIED, attempt=number, reason=reason, waited=waited, tokens=left)
            started = env.now()
            outcome = await self._seen(twin, await self.inner(twin))
        else:
            is_rescued = True
        if state is not None and state.attempt_number > 1:
            self.worth.record(state.attempt_number - 1, is_rescued)
        return outcome

    def _may_peek(self, x: Exchange, outcome: Outcome) -> bool:
        """True if the status of a gRPC answer is still to come, and the call could be repeated if it is bad."""
        return (
            outcome.verdict == STATUS_TO_COME
            and self._statuses[STATUS_TO_COME] == 1
            and x.is_replayable
            and (x.stream is None or x.stream.state == COMPLETE)
        )

    async def _seen(self, x: Exchange, outcome: Outcome) -> Outcome:
        """Return an outcome once its gRPC status is known, or its first message has come."""
        body = outcome.stream
        if body is None or not self._may_peek(x, outcome):
            return outcome
        from sidecar.stages.retry.peek import LONGEST_PEEK, peek

        seconds = min(x.attempt_timeout, x.deadline - self.env.now())
        try:
            await peek(body, LONGEST_PEEK if seconds == NEVER else seconds, self.env)
        except BaseException:
            outcome.discard()
            raise
        if body.state == OPEN or body.received:
            return outcome
        return outcome_to_settle(outcome, body.failure)

    async def _meets(self, x: Exchange, outcome: Outcome) -> bool:
        """True if a response meets one of the conditions of `on`."""
        if outcome.failure is not None or outcome.tunnel is not None:
            return False
        from sidecar.expression.facts import NO_BODIES, Bodies

        bodies = NO_BODIES
        if self.reads_body:
            from sidecar.transform.buffering import buffer_body
            from sidecar.transform.validators import is_json

            if is_json(outcome.header(b"content-type")):
                bodies = Bodies(response=(await buffer_body(outcome, MAX_READ)).document)
        return any(expression.holds(x, outcome, bodies) for expression in self.expressions)

    def _stop(self, x: Exchange, outcome: Outcome, state: State, now: float, shortest: float) -> str:
        """Return the check that ends retrying; if none does, plan the next attempt and return an empty string.

        `shortest` is the least number of seconds in which the upstream can answer.
        """
        schedule, failure = self.schedule, outcome.failure
        if x.is_retry:
            return "marked"
        if (failure is None or failure.sent) and not self._may_repeat(x, outcome):
            return "method"
        if schedule.is_exhausted(state):
            return "attempts"
        if not x.is_replayable:
            return "body"
        if not schedule.plan(state):
            return "retry_after"
        if now + state.upcoming_sleep + shortest >= x.deadline:
            return "deadline"
        if self.spec.stop_when_useless and self.worth.is_useless:
            return "useless"
        if self.observed is None and not self.budget.withdraw():
            return "budget"
        return ""

    def _may_repeat(self, x: Exchange, outcome: Outcome) -> bool:
        """True if the policy names the method, or for POST and PATCH with an Idempotency-Key
        (draft-ietf-httpapi-idempotency-key-header).  A call of gRPC may be repeated if the policy names its status."""
        if (x.rest_method or x.method) in self.methods or (x.is_grpc and self.conditions.names(outcome)):
            return True
        return x.method in (b"POST", b"PATCH") and bool(x.header(b"idempotency-key"))

    def _count_retry(self, reason: str) -> None:
        counter = self._retries.get(reason)
        if counter is None:
            counter = self.env.meter.counter(metrics.RETRIES, route=self.route, reason=reason)
            self._retries[reason] = counter
        counter.value += 1

    def _count_denied(self, reason: str) -> None:
        counter = self._denied.get(reason)
        if counter is None:
            counter = self.env.meter.counter(metrics.RETRIES_DENIED, route=self.route, reason=reason)
            self._denied[reason] = counter
        counter.value += 1

    def __repr__(self) -> str:
        return f"<RetryStage {self.route} on {self.conditions!r}>"


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return RetryStage(spec, ctx)
