"""Stage `fallback`: replaces a failure by the response of the first step that has one.

Rules:

1. If a step's response is a failure too, whether `on` names it or not, the next step is tried.  If no step has a
   response, the first failure is the outcome.
2. Another upstream gets only requests that a retry may send again: those that the first one cannot have seen, those
   with an idempotent method or an Idempotency-Key.  The body must be whole; up to `max_body` of it is kept.
3. The policies under that upstream apply to it.  The breaker and the retries of this route do not.
4. The response names its kind (`x-sidecar-fallback: stale | upstream | response`) and the reason (`x-sidecar-reason`).
5. A field of a `response` whose template is empty is left out.

The cache sets `x.stale` if it has a stale response.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import BuildContext
from sidecar.core.exchange import IDEMPOTENT_METHODS, Exchange
from sidecar.core.message import Headers
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service, Stage, Wait
from sidecar.core.template import Template, compile_tree, header_safe, render_tree
from sidecar.stages.fallback.spec import FixedResponseSpec, Spec, StepSpec


class Step(Protocol):
    """Step that may have a response in place of a failure."""

    kind: str
    """`stale`, `upstream` or `response`."""

    async def take(self, x: Exchange, outcome: Outcome) -> Outcome | None:
        """Return an outcome in place of the failed one; None if the step has none."""


class StaleStep:
    """Step that takes the stale response of the cache."""

    kind = "stale"

    async def take(self, x: Exchange, outcome: Outcome) -> Outcome | None:
        return None if x.stale is None else x.stale()


class UpstreamStep:
    """Step that asks another upstream."""

    kind = "upstream"

    def __init__(self, service: Service, now: Callable[[], float]) -> None:
        self._service = service
        self._now = now

    async def take(self, x: Exchange, outcome: Outcome) -> Outcome | None:
        may_have_been_seen = outcome.failure is None or outcome.failure.sent
        if may_have_been_seen and x.method not in IDEMPOTENT_METHODS and x.header(b"idempotency-key") is None:
            return None
        if self._now() >= x.deadline or not x.is_replayable:
            return None
        if x.stream is not None:
            x.stream.rewind()
        twin = x.fork(1, "fallback")
        twin.avoid = frozenset()
        return await self._service(twin)


class ResponseStep:
    """Step with a fixed response from the policy file."""

    kind = "response"

    def __init__(self, spec: FixedResponseSpec, ctx: BuildContext) -> None:
        constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
        self._status = spec.status
        self._headers = [(name.lower().encode(), Template(text, constants)) for name, text in spec.headers.items()]
        self._text = None if spec.body is None else Template(spec.body, constants)
        self._json = compile_tree(spec.json_, constants)

    async def take(self, x: Exchange, outcome: Outcome) -> Outcome | None:
        fields: Headers = []
        for name, value in self._headers:
            if rendered := value.render(x, outcome, header_safe):
                fields.append((name, rendered.encode()))
        body, kind = b"", b"application/json"
        if self._text is not None:
            body, kind = self._text.render(x, outcome).encode(), b"text/plain; charset=utf-8"
        elif self._json is not None:
            body = json.dumps(render_tree(self._json, x, outcome), ensure_ascii=False).encode()
        if body and not any(name == b"content-type" for name, _ in fields):
            fields.append((b"content-type", kind))
        return Outcome(self._status, fields, body)


class FallbackStage:
    """Fallback policy of one route: its steps, and the failures that they replace."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.conditions = Conditions(spec.on)
        self.observed: Counter | None = None
        """Counts outcomes that would have been replaced; None to replace them."""
        if not spec.is_enforced:
            self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="fallback", route=ctx.route)
        self.steps = [self._compile(step, ctx) for step in spec.steps]
        needs_body = spec.is_enforced and any(step.upstream for step in spec.steps)
        self.max_body = spec.max_body if needs_body else -1
        """Bytes of the longest request body that is kept for another upstream; negative to keep none."""

    @staticmethod
    def _compile(spec: StepSpec, ctx: BuildContext) -> tuple[Step, Counter]:
        step: Step
        if spec.upstream is not None:
            step = UpstreamStep(ctx.resources("upstream", spec.upstream), ctx.env.now)
        elif spec.response is not None:
            step = ResponseStep(spec.response, ctx)
        else:
            step = StaleStep()
        name = step.kind if spec.upstream is None else f"upstream:{spec.upstream}"
        return step, ctx.env.meter.counter(metrics.FALLBACKS, route=ctx.route, step=name)

    def admit(self, x: Exchange) -> None:
        if x.stream is not None and self.max_body >= 0:
            x.stream.record(self.max_body)

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome | Wait:
        if outcome.failure is None and not self.conditions.statuses[outcome.verdict]:
            return outcome
        if not self.is_due(outcome):
            return outcome
        if self.observed is not None:
            self.observed.value += 1
            return outcome
        return Wait(self.replace(x, outcome))

    def is_due(self, outcome: Outcome) -> bool:
        """True if the outcome is a failure or a status that `on` names."""
        if outcome.failure is None:
            return self.conditions.match(outcome)
        return outcome.failure.code in self.conditions.codes

    async def replace(self, x: Exchange, outcome: Outcome) -> Outcome:
        """Return the outcome of the first step that has one, else the failed outcome itself."""
        for step, counter in self.steps:
            found = await step.take(x, outcome)
            if found is None:
                continue
            if step.kind == "upstream" and (found.failure is not None or self.is_due(found)):
                found.discard()
                continue
            outcome.discard()
            counter.value += 1
            if x.trace is not None:
                x.trace.note(events.FALLEN_BACK, step=step.kind, instead_of=outcome.label)
            x.refused_by = x.refused_by or outcome.refusal.policy
            x.replaced = x.replaced or outcome
            found.headers = [*found.headers, (b"x-sidecar-fallback", step.kind.encode())]
            if outcome.failure is not None:
                found.headers.append((b"x-sidecar-reason", outcome.reason.encode()))
            return found
        return outcome


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return FallbackStage(spec, ctx)
