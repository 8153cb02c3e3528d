"""Transform: requests and answers rewritten, compiled when policies are loaded.

It stands inside cache and concurrency and outside hedge and retry: what is stored is what clients see, so a hit costs
no rewrite; a request is rewritten once, whatever number of tries it takes; and what the upstream is asked is the same
each time.  The stages around it see the request as it came: it is made what it was before the answer leaves.

Decisions:

- *What no rule touches costs nothing*: bodies stay streamed unless an operation or a condition reads them and their
  Content-Type is one that it is for; header fields are edited as the lines that came.
- *Every condition and template sees the message as it came*, so rules do not depend on each other's order.
- *Nothing is guessed.*  A path that cannot be built safely is refused (400).  A body that is not one JSON text, that is
  too long, or in a coding that is not known passes as it was or is refused, as `on_error` says; it is never rewritten
  in part.
- *Failures pass*: what the sidecar answers itself is no answer of the service.
- *Retries and breakers judge what the service said*; another status is for the client.
- *Vary names what an answer depends on*, conditions and templates of ours included (`vary.py`).
- *An answer that cannot be rewritten* is `transform_failed` (502), for which a fallback can stand in.
- *Bodies are JSON or forms.*  Where an answer's body is read, the upstream is asked for all of it (no Range) and for
  codings that can be undone (Accept-Encoding).
- `mode: observe` rewrites nothing and counts what it would have rewritten, as far as the head of a request tells.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sidecar.core import events
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Layer, Service
from sidecar.stages.transform.request import RequestRewriter
from sidecar.stages.transform.response import Address, ResponseRewriter, own_outcome
from sidecar.stages.transform.spec import Spec
from sidecar.stages.transform.vary import Dependence
from sidecar.transform.headers import HeaderEdit

__all__ = ["Spec", "build"]


class Transform:
    """One `transform` block, compiled; it makes the layer."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
        self.dependence = Dependence(spec)
        self.response = ResponseRewriter(spec.response, ctx, constants)
        reads_answers = self.response.reads_body
        self.request = RequestRewriter(spec.request, ctx, constants, reads_answers=reads_answers)

    def layer(self, inner: Service) -> Service:
        request, response = self.request, self.response
        before, after = request.headers_only, response.headers_only
        dependence = self.dependence if self.dependence else None
        if (before or not request.rules) and (after or not response.rules) and not request.reads_answers:
            return headers_only(before, after, dependence, inner)
        moves = response.rewrites_addresses and any(rule.path or rule.host for rule in request.rules)
        reads_request = request.asks_body or request.edits_body
        reads_response = response.reads_body
        edits_request = bool(request.rules) or request.reads_answers
        edits_response = bool(response.rules) or moves

        async def call(x: Exchange) -> Outcome:
            own: Address | None = None
            if edits_request:
                facts = x.facts()
                try:
                    refused = await request.whole(x) if reads_request else request.head(x)
                    if refused is not None:
                        return refused
                    if moves:
                        own = (x.authority, x.path)
                    outcome = await inner(x)
                finally:
                    x.restore(facts)
            else:
                outcome = await inner(x)
            if outcome.failure is not None or outcome.tunnel is not None:
                return outcome
            if reads_response:
                outcome = await response.whole(x, outcome, own)
            elif edits_response:
                outcome = response.head(x, outcome, own)
            if dependence is not None and outcome.failure is None:
                outcome = own_outcome(outcome)
                dependence.tell(outcome)
            return outcome

        return call


def headers_only(
    before: HeaderEdit | None, after: HeaderEdit | None, dependence: Dependence | None, inner: Service
) -> Service:
    """The most frequent kind, without what it does not need."""
    edits_answer = after is not None or dependence is not None

    async def call(x: Exchange) -> Outcome:
        if before is None:
            outcome = await inner(x)
        else:
            headers, lines = x._headers, x._lines
            before.apply(x, x)
            try:
                outcome = await inner(x)
            finally:
                x._headers, x._lines = headers, lines
        if edits_answer and outcome.failure is None and outcome.tunnel is None:
            if outcome.stream is not None:
                outcome = own_outcome(outcome)
            if after is not None:
                after.apply(outcome, x, outcome)
            if dependence is not None:
                dependence.tell(outcome)
        return outcome

    return call


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The layer of a `transform` block."""
    transform = Transform(spec, ctx)
    return transform.layer if spec.is_enforced else observer(transform, ctx)


def observer(transform: Transform, ctx: BuildContext) -> Layer:
    """Rewrites nothing and counts."""
    would = ctx.env.meter.counter(events.WOULD_REFUSE, policy="transform", route=ctx.route)

    def layer(inner: Service) -> Service:
        def call(x: Exchange) -> Coroutine[Any, Any, Outcome]:
            if transform.response.rules or transform.request.active(x):
                would.value += 1
            return inner(x)

        return call

    return layer
