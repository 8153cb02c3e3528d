"""Stage `transform`: a layer that rewrites requests on their way in and responses on their way out.

Rules (`docs/design/transform.md` has the reasons):

1. The stages around it see the request as it came: all changes are undone before the response leaves.
2. Every condition and template sees the message as it came, so rules do not depend on each other's order.
3. Bodies stay streamed unless an operation or a condition reads them.  Fields are edited as the lines that came.
4. A path that cannot be built safely is refused (400).  A body that cannot be rewritten passes as it was or is refused,
   as `on_error` says; it is never rewritten in part.
5. Failures and upgraded connections pass.  A response that cannot be rewritten is `transform_failed` (502).
6. Vary names the request fields that a rewritten response depends on (RFC 9110 12.5.5).
7. `mode: observe` counts what it would have rewritten, as far as the head of a request tells.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange, RequestFacts
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Layer, Service
from sidecar.stages.transform.request import RequestRewriter
from sidecar.stages.transform.response import Address, ResponseRewriter, own_outcome
from sidecar.stages.transform.spec import Spec
from sidecar.stages.transform.vary import Dependence
from sidecar.transform.headers import HeaderEdit


class TransformLayer:
    """Rules of one route, compiled."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
        self.dependence = Dependence(spec)
        self.response = ResponseRewriter(spec.response, ctx, constants)
        self.request = RequestRewriter(spec.request, ctx, constants, reads_responses=self.response.reads_body)
        self.observed: Counter | None = None
        """Counts what would have been rewritten; None rewrites."""
        if not spec.is_enforced:
            self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="transform", route=ctx.route)

    def __call__(self, inner: Service) -> Service:
        request, response = self.request, self.response
        if self.observed is not None:
            return ObserveService(self, self.observed, inner).call
        before, after = request.headers_only, response.headers_only
        is_plain = not request.reads_responses and not response.rewrites_endpoints
        if is_plain and (before or not request.rules) and (after or not response.rules):
            return HeaderService(before, after, self.dependence, inner).call
        return TransformService(self, inner).call


class TransformService:
    """Inner service between the rewriting of its requests and that of its responses."""

    __slots__ = (
        "_dependence", "_edits_request", "_edits_response", "_inner", "_moves", "_reads_request", "_request",
        "_response",
    )  # fmt: skip

    def __init__(self, layer: TransformLayer, inner: Service) -> None:
        request, response = self._request, self._response = layer.request, layer.response
        self._inner = inner
        self._dependence = layer.dependence if layer.dependence else None
        self._moves = response.rewrites_endpoints or (
            response.rewrites_addresses and any(rule.path or rule.host for rule in request.rules)
        )
        self._reads_request = request.asks_body or request.edits_body
        self._edits_request = bool(request.rules) or request.reads_responses
        self._edits_response = bool(response.rules) or self._moves

    async def call(self, x: Exchange) -> Outcome:
        """Rewrite the request, run the inner service, and rewrite the response."""
        own: Address | None = None
        request, response = self._request, self._response
        if self._edits_request:
            facts = RequestFacts(x)
            try:
                refused = await request.whole(x) if self._reads_request else request.head(x)
                if refused is not None:
                    return refused
                if self._moves:
                    own = (x.authority, x.path)
                outcome = await self._inner(x)
            finally:
                facts.restore(x)
        else:
            if self._moves:
                own = (x.authority, x.path)
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


class HeaderService:
    """Inner service whose messages get their fields edited and nothing else: the most frequent kind."""

    __slots__ = ("_after", "_before", "_dependence", "_edits_response", "_inner")

    def __init__(
        self, before: HeaderEdit | None, after: HeaderEdit | None, dependence: Dependence, inner: Service
    ) -> None:
        self._before, self._after = before, after
        self._dependence = dependence if dependence else None
        self._edits_response = after is not None or self._dependence is not None
        self._inner = inner

    async def call(self, x: Exchange) -> Outcome:
        """Edit the request's fields, run the inner service, and edit the response's fields."""
        if self._before is None:
            outcome = await self._inner(x)
        else:
            parsed, raw = x.parsed, x.raw
            self._before.apply(x, x)
            try:
                outcome = await self._inner(x)
            finally:
                x.parsed, x.raw = parsed, raw
        if self._edits_response and outcome.failure is None and outcome.tunnel is None:
            if outcome.stream is not None:
                outcome = own_outcome(outcome)
            if self._after is not None:
                self._after.apply(outcome, x, outcome)
            if self._dependence is not None:
                self._dependence.tell(outcome)
        return outcome


class ObserveService:
    """Inner service whose messages stay as they are; what would have been rewritten is counted."""

    __slots__ = ("_inner", "_layer", "_observed")

    def __init__(self, layer: TransformLayer, observed: Counter, inner: Service) -> None:
        self._layer = layer
        self._observed = observed
        self._inner = inner

    def call(self, x: Exchange) -> Coroutine[Any, Any, Outcome]:
        """Count, and run the inner service."""
        if self._layer.response.rules or self._layer.request.active(x):
            self._observed.value += 1
        return self._inner(x)


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """Return the layer of a route."""
    return TransformLayer(spec, ctx)
