"""Response rewriter: the rules for responses, compiled.

Every condition and template sees the response, and its request, as they came.
"""

from __future__ import annotations

from sidecar.core import metrics
from sidecar.core.conditions import STATUS_CLASSES
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.message import without
from sidecar.core.metrics import Counter
from sidecar.core.outcome import TRANSFORM, Outcome, Refusal, copy_streamed, failed
from sidecar.expression.condition import Condition
from sidecar.expression.facts import NO_BODIES, RESPONSE, Bodies
from sidecar.stages.transform.bodies import BodyEdit, BodyLoader, rewrite_body
from sidecar.stages.transform.request import Constants, header_edit
from sidecar.stages.transform.spec import CookieSpec, ResponseRule, ResponseSpec
from sidecar.transform.buffering import NO_BODY, BodyProblem, BufferedBody
from sidecar.transform.cookies import CookieEdit
from sidecar.transform.headers import HeaderEdit
from sidecar.transform.jsonbody import InvalidBody
from sidecar.transform.reverse_rewrite import FIELDS, ReverseRewrite
from sidecar.transform.validators import after_answer, forbids_transform, is_json

BODILESS = frozenset((204, 205, 304))
"""Statuses of responses without a body."""
Address = tuple[bytes, bytes]
"""Authority and path."""


class ResponseEdit:
    """Compiled rule for responses."""

    __slots__ = ("body", "cookies", "headers", "status", "when")

    def __init__(self, spec: ResponseRule, constants: Constants) -> None:
        self.when = None if spec.when is None else Condition(spec.when, RESPONSE)
        self.status = _statuses(spec.status)
        self.headers = header_edit(spec.headers, constants)
        cookies = {name: _attributes(cookie) for name, cookie in spec.cookies.items()}
        self.cookies = CookieEdit(cookies) if cookies else None
        self.body = None if spec.body is None else BodyEdit(spec.body, constants)

    @property
    def is_empty(self) -> bool:
        """True if the rule changes nothing."""
        return not self.status and self.headers is None and self.cookies is None and self.body is None


def _statuses(spec: int | dict[str, int] | None) -> dict[int, int]:
    """Return the new status by the old one, for those that change."""
    if spec is None:
        return {}
    if isinstance(spec, int):
        return dict.fromkeys(range(200, 600), spec)
    found: dict[int, int] = {}
    for name, status in sorted(spec.items(), key=lambda item: item[0].isdigit()):  # a class first, then the exact ones
        found |= dict.fromkeys(STATUS_CLASSES[name] if name in STATUS_CLASSES else (int(name),), status)
    return found


def _attributes(spec: CookieSpec) -> dict[str, str | bool | None]:
    """Return the values of the attributes to set by name; None to remove one."""
    given: dict[str, str | bool | None] = {
        "Max-Age": None if spec.max_age is None else str(int(spec.max_age)),
        "Domain": spec.domain,
        "Path": spec.path,
        "SameSite": spec.same_site,
        "Secure": spec.secure,
        "HttpOnly": spec.http_only,
        "Partitioned": spec.partitioned,
    }
    return {name: None if value == "off" else value for name, value in given.items() if value is not None}


class ResponseRewriter:
    """Rules for responses of one route."""

    def __init__(self, spec: ResponseSpec, ctx: BuildContext, constants: Constants) -> None:
        rules = [ResponseEdit(rule, constants) for rule in (spec, *spec.cases)]
        self.rules = [rule for rule in rules if not rule.is_empty]
        self.loader = BodyLoader(spec, ctx, "response")
        self.where = ctx.where
        self.etag = spec.etag
        self.rewrites_addresses = spec.addresses != "keep"
        self.rewrites_endpoints = spec.addresses == "always"
        self.is_certain = all(rule.when is None for rule in self.rules)
        """True if all rules hold for all responses."""
        self._asks_body = any(rule.when is not None and "response.body" in rule.when.needs for rule in self.rules)
        """True if a condition reads the body."""
        self.reads_body = self._asks_body or any(rule.body is not None for rule in self.rules)
        """True if a rule or a condition reads the body."""
        self._untouched: Counter | None = None
        """Counts bodies kept because of `no-transform`; None if the policy ignores that."""
        if spec.no_transform == "honor" and self.reads_body:
            self._untouched = ctx.env.meter.counter(
                metrics.TRANSFORM_SKIPPED, route=ctx.route, direction="response", reason="no_transform"
            )

    def select_rules(self, x: Exchange, outcome: Outcome, bodies: Bodies = NO_BODIES) -> list[ResponseEdit]:
        """Return the rules that hold for a response."""
        if self.is_certain:
            return self.rules
        return [rule for rule in self.rules if rule.when is None or rule.when.holds(x, outcome, bodies)]

    @property
    def headers_only(self) -> HeaderEdit | None:
        """Edit of header fields, if the rules are nothing else and hold for all responses; otherwise None."""
        rule = self.rules[0] if len(self.rules) == 1 and self.is_certain else None
        return None if rule is None or rule.status or rule.cookies or rule.body else rule.headers

    def rewrite_head(self, x: Exchange, outcome: Outcome, own: Address | None) -> Outcome:
        """Rewrite all but the body.  `own` is the address sent upstream; None leaves addresses in the response."""
        return self._rewrite_head(x, outcome, self.rules if self.is_certain else self.select_rules(x, outcome), own)

    def _rewrite_head(self, x: Exchange, outcome: Outcome, rules: list[ResponseEdit], own: Address | None) -> Outcome:
        if own is not None and (self.rewrites_endpoints or own != (x.authority, x.path)) and _has_addresses(outcome):
            outcome = copy_streamed(outcome)
            endpoints = [attempt.endpoint for attempt in x.attempts] if self.rewrites_endpoints else []
            ReverseRewrite(x.scheme, x.host, x.path, *own, endpoints).apply(outcome)
        if not rules:
            return outcome
        outcome = copy_streamed(outcome)
        came = outcome.status
        for rule in rules:
            if came in rule.status:
                _set_status(outcome, rule.status[came])
            if rule.cookies is not None:
                rule.cookies.apply(outcome)
            if rule.headers is not None:
                rule.headers.apply(outcome, x, outcome)
        return outcome

    async def rewrite_whole(self, x: Exchange, outcome: Outcome, own: Address | None) -> Outcome:
        """Rewrite head and body; `own` is that of `rewrite_head`."""
        taken = NO_BODY
        status = outcome.status
        is_bodiless = status in BODILESS or x.method == b"HEAD"
        suits = is_json(outcome.header(b"content-type"))
        is_left = self._untouched is not None and (suits or status == 304) and forbids_transform(outcome)
        if suits and not is_bodiless and (self._asks_body or not is_left):
            outcome = copy_streamed(outcome)
            taken = self.loader.read(outcome) if outcome.stream is None else await self.loader.load(outcome)
            if taken.failure is not None:
                return failed(taken.failure, cause="the response's body broke off")
        rules = self.select_rules(x, outcome, Bodies(response=taken.document))
        edits = [rule.body for rule in rules if rule.body is not None]
        if edits and is_left and self._untouched is not None:
            self._untouched.value += 1
        elif edits and (suits or status == 304):
            if is_bodiless:  # the fields are those that the rewritten body would have
                outcome = copy_streamed(outcome)
                after_answer(outcome, self.etag)
            elif (refused := self._rewrite_body(x, outcome, edits, taken)) is not None:
                return refused
        return self._rewrite_head(x, outcome, rules, own)

    def _rewrite_body(
        self, x: Exchange, outcome: Outcome, edits: list[BodyEdit], taken: BufferedBody
    ) -> Outcome | None:
        """Rewrite the body.  Return the failure of a response that cannot be rewritten; None if it was."""
        problem, data = taken.problem, taken.data
        if problem is None and taken.document is not None:
            try:
                data = rewrite_body(taken, edits, x, outcome)
            except InvalidBody as error:
                problem = BodyProblem("invalid", str(error))
        if problem is not None:
            if self.loader.may_pass(problem):
                return None
            outcome.discard()
            detail = f"The response's body {problem.detail}."
            return failed(TRANSFORM, Refusal("transform", self.where, detail), cause=detail)
        # Without a body (HEAD, 304) the fields are those of the rewritten one.
        if taken is NO_BODY or data != taken.data:
            after_answer(outcome, self.etag)
            outcome.body = data
        return None


def _has_addresses(outcome: Outcome) -> bool:
    """True if a response may have a field with an address."""
    return not outcome.is_raw or FIELDS.search(b"\n" + outcome.lines.lower()) is not None


def _set_status(outcome: Outcome, status: int) -> None:
    """Change the status, and drop a body that the new status forbids."""
    if status == outcome.status:
        return
    outcome.status = outcome.verdict = status
    outcome.headers = without(outcome.headers, b"content-length")  # the length of the former body
    if status in BODILESS:
        outcome.body = b""
        if outcome.stream is not None:
            outcome.stream.cancel()
            outcome.stream = None
