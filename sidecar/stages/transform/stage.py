"""Stage `transform`: rewrites requests on their way in and responses on their way out.

Rules (`docs/design/transform.md` has the reasons):

1. The stages further out see the request as it came: all changes are undone before the response passes to them.
2. Every condition and template sees the message as it came, so rules do not depend on each other's order.
3. Bodies stay streamed unless an operation or a condition reads them.  Fields are edited as raw lines.
4. A path that cannot be built safely is refused (400).  A body that cannot be rewritten passes unchanged or is refused,
   as `on_error` says; it is never rewritten in part.
5. Failures and upgraded connections pass unchanged.  A response that cannot be rewritten is `transform_failed` (502).
6. Vary names the request fields that a rewritten response depends on (RFC 9110 12.5.5).
7. `mode: observe` counts messages that would have been rewritten, as far as the head of a request shows.
"""

from __future__ import annotations

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange, RequestCopy
from sidecar.core.message import Headers
from sidecar.core.metrics import Counter
from sidecar.core.outcome import ABANDONED, Outcome, copy_streamed
from sidecar.core.stage import Stage, Wait
from sidecar.stages.transform.request import RequestRewriter
from sidecar.stages.transform.response import Address, ResponseRewriter
from sidecar.stages.transform.spec import Spec
from sidecar.stages.transform.vary import Dependence
from sidecar.transform.headers import HeaderEdit


class TransformStage:
    """Compiled rules of one route.  A ticket has the original request and the address that was sent upstream."""

    __slots__ = (
        "_dependence", "_edits_request", "_edits_response", "_moves", "_reads_request", "_request", "_response",
    )  # fmt: skip

    def __init__(self, request: RequestRewriter, response: ResponseRewriter, dependence: Dependence | None) -> None:
        self._request, self._response = request, response
        self._dependence = dependence
        self._moves = response.rewrites_endpoints or (
            response.rewrites_addresses and any(rule.path or rule.host for rule in request.rules)
        )
        self._reads_request = request.asks_body or request.edits_body
        self._edits_request = bool(request.rules) or request.reads_responses
        self._edits_response = bool(response.rules) or self._moves

    def admit(self, x: Exchange) -> Rewritten | Outcome | Wait | None:
        if not self._edits_request:
            return Rewritten(None, (x.authority, x.path)) if self._moves else None
        facts = RequestCopy(x)
        if self._reads_request:
            return Wait(self._read(x, facts))
        try:
            refused = self._request.rewrite_head(x)
        except BaseException:
            facts.restore(x)
            raise
        return self._ticket(x, facts, refused)

    async def _read(self, x: Exchange, facts: RequestCopy) -> Rewritten | Outcome:
        """Rewrite head and body of a request; return its ticket, or the refusal."""
        try:
            refused = await self._request.rewrite_whole(x)
        except BaseException:
            facts.restore(x)
            raise
        return self._ticket(x, facts, refused)

    def _ticket(self, x: Exchange, facts: RequestCopy, refused: Outcome | None) -> Rewritten | Outcome:
        """Return the ticket of a rewritten request; undo the changes of a refused one, and return its refusal."""
        if refused is None:
            return Rewritten(facts, (x.authority, x.path) if self._moves else None)
        facts.restore(x)
        return refused

    def answer(self, x: Exchange, ticket: Rewritten | None, outcome: Outcome) -> Outcome | Wait:
        own: Address | None = None
        if ticket is not None:
            own = ticket.own
            ticket.restore(x)
        if outcome.failure is not None or outcome.tunnel is not None:
            return outcome
        if self._response.reads_body:
            return Wait(self._rewrite_body(x, outcome, own))
        if self._edits_response:
            outcome = self._response.rewrite_head(x, outcome, own)
        return self._with_vary(outcome)

    async def _rewrite_body(self, x: Exchange, outcome: Outcome, own: Address | None) -> Outcome:
        """Rewrite head and body of a response; `own` is the address that was sent upstream."""
        return self._with_vary(await self._response.rewrite_whole(x, outcome, own))

    def _with_vary(self, outcome: Outcome) -> Outcome:
        """Add the fields that the response depends on to its Vary."""
        if self._dependence is not None and outcome.failure is None:
            outcome = copy_streamed(outcome)
            self._dependence.add_vary(outcome)
        return outcome

    def settle(self, x: Exchange, ticket: Rewritten | None, outcome: Outcome) -> None:
        if ticket is not None:
            ticket.restore(x)


class Rewritten:
    """Ticket of a rewritten request."""

    __slots__ = ("_facts", "own")

    def __init__(self, facts: RequestCopy | None, own: Address | None) -> None:
        self._facts = facts
        """Request as it came, until it is restored; None if the request was not changed."""
        self.own = own
        """Authority and path sent upstream; None if no address is to be rewritten."""

    def restore(self, x: Exchange) -> None:
        """Undo all changes."""
        facts, self._facts = self._facts, None
        if facts is not None:
            facts.restore(x)


class HeaderStage:
    """Stage that edits header fields alone, for all messages: the most frequent kind.

    A ticket has the original fields.
    """

    __slots__ = ("_after", "_before", "_dependence", "_edits_response")

    def __init__(self, before: HeaderEdit | None, after: HeaderEdit | None, dependence: Dependence | None) -> None:
        self._before, self._after = before, after
        self._dependence = dependence
        self._edits_response = after is not None or dependence is not None

    def admit(self, x: Exchange) -> tuple[Headers | None, bytes] | None:
        if self._before is None:
            return None
        came = (x.parsed, x.raw)
        self._before.apply(x, x)
        return came

    def answer(self, x: Exchange, ticket: tuple[Headers | None, bytes] | None, outcome: Outcome) -> Outcome:
        if ticket is not None:
            x.parsed, x.raw = ticket
        if self._edits_response and outcome.failure is None and outcome.tunnel is None:
            if outcome.stream is not None:
                outcome = copy_streamed(outcome)
            if self._after is not None:
                self._after.apply(outcome, x, outcome)
            if self._dependence is not None:
                self._dependence.add_vary(outcome)
        return outcome

    def settle(self, x: Exchange, ticket: tuple[Headers | None, bytes] | None, outcome: Outcome) -> None:
        if outcome is ABANDONED and ticket is not None:
            x.parsed, x.raw = ticket


class ObserveStage:
    """Stage in `mode: observe`: counts messages that would have been rewritten, and changes none."""

    __slots__ = ("_observed", "_request", "_response")

    def __init__(self, request: RequestRewriter, response: ResponseRewriter, observed: Counter) -> None:
        self._request, self._response = request, response
        self._observed = observed

    def admit(self, x: Exchange) -> None:
        if self._response.rules or self._request.select_rules(x):
            self._observed.value += 1


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
    dependence = Dependence(spec) or None
    response = ResponseRewriter(spec.response, ctx, constants)
    request = RequestRewriter(spec.request, ctx, constants, reads_responses=response.reads_body)
    if not spec.is_enforced:
        counter = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="transform", route=ctx.route)
        return ObserveStage(request, response, counter)
    before, after = request.headers_only, response.headers_only
    is_plain = not request.reads_responses and not response.rewrites_endpoints
    if is_plain and (before or not request.rules) and (after or not response.rules):
        return HeaderStage(before, after, dependence)
    return TransformStage(request, response, dependence)
