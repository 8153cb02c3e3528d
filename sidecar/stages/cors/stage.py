"""Stage `cors`: answers preflights, and adds the CORS fields to responses (Fetch standard, "CORS protocol").

Rules:

1. A preflight is an OPTIONS with Origin and Access-Control-Request-Method.  It is answered here, so neither
   authentication nor any limit or breaker further in sees it.  The router gives it to the route of the method that it
   announces (`sidecar.routing.preflight`).
2. The answer to an allowed origin is 204 with all that the block allows.  The browser compares that with its request,
   as the standard has it, and tells the developer what is missing.  Another origin gets 403.
3. Any other request goes on, whatever its origin: CORS limits who may read a response, not who may send a request.
4. The CORS fields of the upstream are replaced, on every response of the route.
5. Vary names Origin wherever another origin could get another answer: on responses, refusals and failures, with and
   without an Origin.  Caches of the sidecar stand further in, and store none of this.
6. A call of gRPC-Web exposes the fields with its status (gRPC-Web protocol, "CORS support").
7. `mode: observe` changes nothing, and counts the preflights that a browser would have taken as refused.

Problem documents are made outside of all stages, some of them without a stage (a deadline, a bug).  They get their
fields from `problem_fields`.
"""

from __future__ import annotations

from typing import Final

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.metrics import Counter
from sidecar.core.outcome import ORIGIN_REFUSED, Outcome, Refusal, copy_streamed, failed
from sidecar.core.stage import Stage
from sidecar.stages.cors.origins import ANY, Origins
from sidecar.stages.cors.spec import Spec

SAFELISTED_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST"))
"""Methods that a browser does not look for in the answer to a preflight."""
NOT_COVERED: Final = b"authorization"
"""Field that a star does not allow."""
GRPC_FIELDS: Final = b"grpc-status, grpc-message, grpc-status-details-bin"
PREFIX: Final = b"access-control-"
LONGEST: Final = 100
"""Characters of an origin that a refusal quotes."""


class CorsStage:
    """CORS policy of one route."""

    __slots__ = ("_counters", "_fixed", "_headers", "_methods", "_observed", "_origins", "_preflight", "_where", "spec")

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.spec = spec
        self._origins = Origins(spec.origins)
        self._where = ctx.where
        self._methods = frozenset(name.encode() for name in spec.methods) | SAFELISTED_METHODS
        self._headers = frozenset(name.lower().encode() for name in spec.headers)
        allowed: Headers = [(b"access-control-allow-methods", ", ".join(spec.methods).encode())]
        if spec.headers:
            allowed.append((b"access-control-allow-headers", ", ".join(spec.headers).lower().encode()))
        if spec.max_age is not None:
            allowed.append((b"access-control-max-age", b"%d" % int(spec.max_age)))
        self._preflight = allowed
        """Fields of every answer to a preflight of an allowed origin."""
        self._fixed: Headers = [(b"access-control-allow-credentials", b"true")] if spec.credentials else []
        """Fields of every response to an allowed origin."""
        counter = ctx.env.meter.counter
        self._counters = {
            result: counter(metrics.PREFLIGHTS, route=ctx.route, result=result)
            for result in ("allowed", "origin", "method", "headers", "private_network")
        }
        self._observed: Counter | None = None
        """Counts preflights that would have been refused; None to answer them."""
        if not spec.is_enforced:
            self._observed = counter(metrics.WOULD_REFUSE, policy="cors", route=ctx.route)

    @property
    def answers_preflights(self) -> bool:
        """True unless the block only observes."""
        return self._observed is None

    # ----- the way in

    def admit(self, x: Exchange) -> Outcome | None:
        if x.method != b"OPTIONS" or not x.is_preflight:
            return None
        origin = x.joined(b"origin") or b""
        result = self.judge(x, origin)
        self._counters[result].value += 1
        if self._observed is not None:
            if result != "allowed":
                self._observed.value += 1
            return None
        if result == "origin":
            shown = origin[:LONGEST].decode("latin-1")
            detail = f"The origin {shown} is not one of those that may call this route."
            return failed(ORIGIN_REFUSED, Refusal("cors", self._where, detail))
        fields = self._fields(x, origin) + self._preflight
        if self.spec.private_network and x.header(b"access-control-request-private-network") == b"true":
            fields.append((b"access-control-allow-private-network", b"true"))
        return Outcome(204, fields)

    def judge(self, x: Exchange, origin: bytes) -> str:
        """Return `allowed`, or what a browser will miss in the answer to a preflight.

        Of another request only the origin is judged.
        """
        if not self._origins.allows(origin):
            return "origin"
        method = x.joined(b"access-control-request-method")
        if method is None:
            return "allowed"
        if method not in self._methods and b"*" not in self._methods:
            return "method"
        for part in (x.joined(b"access-control-request-headers") or b"").split(b","):
            name = part.strip(b" \t").lower()
            if name and name not in self._headers and (b"*" not in self._headers or name == NOT_COVERED):
                return "headers"
        if not self.spec.private_network and x.header(b"access-control-request-private-network") == b"true":
            return "private_network"
        return "allowed"

    # ----- the way out

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        if self._observed is not None or outcome.tunnel is not None:
            return outcome
        if outcome.failure is not None:
            return outcome  # becomes a problem document
        outcome = copy_streamed(outcome)
        lines, added = outcome.lines, self.problem_fields(x)
        lower = b"\n" + lines.lower()
        if lower.find(b"\n" + PREFIX) >= 0 or lower.find(b"\nvary:") >= 0:
            fields = [field for field in outcome.headers if not field[0].startswith(PREFIX)]
            outcome.headers = [field for field in fields if field[0] != b"vary"] + merge_vary(fields, added)
        else:
            outcome.lines = lines + b"".join([b"%b: %b\r\n" % field for field in added])
        return outcome

    def problem_fields(self, x: Exchange) -> Headers:
        """Return the CORS fields of a response, for problem documents too."""
        if self._observed is not None:
            return []
        fields = self._fields(x, x.joined(b"origin") or b"")
        exposed = [", ".join(self.spec.expose).lower().encode()] if self.spec.expose else []
        if x.web and ANY not in self.spec.expose:
            exposed.append(GRPC_FIELDS)
        if exposed and any(name == b"access-control-allow-origin" for name, _ in fields):
            fields.append((b"access-control-expose-headers", b", ".join(exposed)))
        return fields

    def _fields(self, x: Exchange, origin: bytes) -> Headers:
        """Return the fields that tell a browser whether pages of an origin may read a response."""
        if self._origins.are_all:
            fields: Headers = [(b"access-control-allow-origin", b"*")]
            vary = b""
        else:
            fields = []
            if origin and self._origins.allows(origin):
                fields = [(b"access-control-allow-origin", origin), *self._fixed]
            vary = b"Origin"
        if x.method == b"OPTIONS":
            asked = b"Access-Control-Request-Method, Access-Control-Request-Headers"
            if self.spec.private_network:
                asked += b", Access-Control-Request-Private-Network"
            vary = b"%b, %b" % (vary, asked) if vary else asked
        if vary:
            fields.append((b"vary", vary))
        return fields


def merge_vary(fields: Headers, added: Headers) -> Headers:
    """Return `added`, with the Vary of both lists in one field: some caches and tests read only the first line."""
    values = [value for name, value in (*fields, *added) if name == b"vary"]
    names = {part.strip().lower(): part.strip() for value in values for part in value.split(b",") if part.strip()}
    others = [field for field in added if field[0] != b"vary"]
    return [*others, (b"vary", b", ".join(names.values()))] if names else others


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return CorsStage(spec, ctx)
