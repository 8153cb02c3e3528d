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

from sidecar.core import metrics
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
        if (before or not request.rules) and (after or not response.rules) and not request.reads_answers:
            return HeadersRewritten(before, after, self.dependence, inner).call
        return Rewritten(self, inner).call


class Rewritten:
    """An inner service between the rewriting of its requests and that of its answers."""

    __slots__ = (
        "_dependence", "_edits_request", "_edits_response", "_inner", "_moves", "_reads_request", "_request",
        "_response",
    )  # fmt: skip

    def __init__(self, transform: Transform, inner: Service) -> None:
        request, response = self._request, self._response = transform.request, transform.response
        self._inner = inner
        self._dependence = transform.dependence if transform.dependence else None
        self._moves = response.rewrites_addresses and any(rule.path or rule.host for rule in request.rules)
        self._reads_request = request.asks_body or request.edits_body
        self._edits_request = bool(request.rules) or request.reads_answers
        self._edits_response = bool(response.rules) or self._moves

    async def call(self, x: Exchange) -> Outcome:
        own: Address | None = None
        request, response = self._request, self._response
        if self._edits_request:
            facts = x.facts()
            try:
                refused = await request.whole(x) if self._reads_request else request.head(x)
                if refused is not None:
                    return refused
                if self._moves:
                    own = (x.authority, x.path)
                outcome = await self._inner(x)
            finally:
                x.restore(facts)
        else:
            outcome = await self._inner(x)
        if outcome.failure is not None or outcome.tunnel is not None:
            return outcome
        if response.reads_body:
            outcome = await response.whole(x, outcome, own)
        elif self._edits_response:
            outcome = response.head(x, outcome, own)
        if self._dependence is not None and outcome.failure is None:
            outcome = own_outcome(outcome)
            self._dependence.tell(outcome)
        return outcome


class HeadersRewritten:
    """The most frequent kind, without what it does not need."""

    __slots__ = ("_after", "_before", "_dependence", "_edits_answer", "_inner")

    def __init__(
        self, before: HeaderEdit | None, after: HeaderEdit | None, dependence: Dependence, inner: Service
    ) -> None:
        self._before, self._after = before, after
        self._dependence = dependence if dependence else None
        self._edits_answer = after is not None or self._dependence is not None
        self._inner = inner

    async def call(self, x: Exchange) -> Outcome:
        if self._before is None:
            outcome = await self._inner(x)
        else:
            headers, lines = x._headers, x._lines
            self._before.apply(x, x)
            try:
                outcome = await self._inner(x)
            finally:
                x._headers, x._lines = headers, lines
        if self._edits_answer and outcome.failure is None and outcome.tunnel is None:
            if outcome.stream is not None:
                outcome = own_outcome(outcome)
            if self._after is not None:
                self._after.apply(outcome, x, outcome)
            if self._dependence is not None:
                self._dependence.tell(outcome)
        return outcome


class Observer:
    """A block on trial: nothing is rewritten, but what would have been is counted."""

    def __init__(self, transform: Transform, ctx: BuildContext) -> None:
        self.transform = transform
        self.would = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="transform", route=ctx.route)

    def layer(self, inner: Service) -> Service:
        return Observed(self, inner).call


class Observed:
    """An inner service whose traffic is looked at."""

    __slots__ = ("_inner", "_observer")

    def __init__(self, observer: Observer, inner: Service) -> None:
        self._observer, self._inner = observer, inner

    def call(self, x: Exchange) -> Coroutine[Any, Any, Outcome]:
        transform = self._observer.transform
        if transform.response.rules or transform.request.active(x):
            self._observer.would.value += 1
        return self._inner(x)


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The layer of a `transform` block."""
    transform = Transform(spec, ctx)
    return transform.layer if spec.is_enforced else Observer(transform, ctx).layer
