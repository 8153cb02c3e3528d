"""Stage `authorize`: refuses requests that no rule allows.

Rules:

1. Networks that are denied count first, then the first rule that allows decides.  Without one the request is refused.
2. A refusal is 403, for gRPC PERMISSION_DENIED.  It names the block's place in its file, and not what a rule asks for.
   A caller with a bearer token that lacks scopes alone gets `insufficient_scope` (RFC 6750 3.1), without their names.
3. An anonymous request that a rule might allow if it had a caller gets 401 with the challenges of the route's
   identities (RFC 9110 15.5.2): the client may send credentials and try again.
4. The access log has the caller and the address that were refused.
5. `mode: observe` lets all requests pass, and counts those that would have been refused.
"""

from __future__ import annotations

from typing import Final

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import FORBIDDEN, UNAUTHENTICATED, Outcome, Refusal, failed
from sidecar.core.stage import Stage
from sidecar.stages.authorize.rules import Decision, Rules
from sidecar.stages.authorize.spec import Spec

DENIED: Final = "Requests of this client are denied."
NOT_ALLOWED: Final = "No rule of the route allows the request."
ABSENT: Final = "The request has no credentials, and no rule of the route allows it without."
CHALLENGE: Final = b'Bearer error="insufficient_scope"'
LONGEST: Final = 100
"""Characters of a caller's name that the log has."""


class Authorizer:
    """Rules of one route."""

    __slots__ = ("_challenges", "_observed", "_where", "rules")

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.rules = Rules(spec)
        self._where = ctx.where
        self._challenges: list[bytes] = ctx.resources("challenges", ctx.route) if ctx.has_callers else []
        """Values of WWW-Authenticate, one for each scheme."""
        self._observed: Counter | None = None
        """Counts requests that would have been refused; None to refuse them."""
        if not spec.is_enforced:
            self._observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="authorize", route=ctx.route)

    def admit(self, x: Exchange) -> Outcome | None:
        decision = self.rules.decide(x)
        if decision.is_allowed:
            return None
        if self._observed is not None:
            self._observed.value += 1
            return None
        return self._refuse(x, decision)

    def _refuse(self, x: Exchange, decision: Decision) -> Outcome:
        caller = "an anonymous caller" if x.caller is None else f"the caller {x.caller.id[:LONGEST]}"
        is_denied = decision.rule >= 0
        if x.caller is None and not is_denied and self._challenges and self.rules.wait_for_caller(x):
            cause = f"{caller} at {x.client_address or 'an unknown address'} meets no rule"
            outcome = failed(UNAUTHENTICATED, Refusal("authorize", self._where, ABSENT), cause)
            for challenge in self._challenges:
                outcome.add(b"www-authenticate", challenge)
            return outcome
        why = f"is denied by rule {decision.rule + 1}" if is_denied else "meets no rule"
        refusal = Refusal("authorize", self._where, DENIED if is_denied else NOT_ALLOWED)
        outcome = failed(FORBIDDEN, refusal, f"{caller} at {x.client_address or 'an unknown address'} {why}")
        has_token = x.caller is not None and x.caller.credential == b"authorization"
        if has_token and not is_denied and self.rules.wait_for_scopes(x):
            outcome.add(b"www-authenticate", CHALLENGE)
        return outcome


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return Authorizer(spec, ctx)
