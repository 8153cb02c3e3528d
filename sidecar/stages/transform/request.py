"""Request rewriter: the rules for requests, compiled.

Every condition and template sees the request as it came.  The order of rules matters only if two write the same thing:
the later one wins.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import HOST
from sidecar.core.outcome import BAD_REQUEST, Outcome, Refusal, failed
from sidecar.core.template import Template
from sidecar.expression.condition import Condition
from sidecar.expression.facts import NO_BODIES, WHOLE_REQUEST, Bodies
from sidecar.stages.transform.bodies import STATUS, BodyEdit, BodyLoader, rewrite_body
from sidecar.stages.transform.fields import HeadersSpec
from sidecar.stages.transform.spec import RequestRule, RequestSpec
from sidecar.transform.buffering import NO_BODY, BodyProblem, BufferedBody
from sidecar.transform.headers import HeaderEdit, put
from sidecar.transform.jsonbody import InvalidBody, encode
from sidecar.transform.path_rewrite import PathEdit, PathPattern, PathTemplate, PrefixMap, literal
from sidecar.transform.query import QueryEdit
from sidecar.transform.validators import after_request, ask_for_whole, is_json
from sidecar.transform.values import RewriteError

FORWARDED: Final = re.compile(rb"^(forwarded: [^\r]*)", re.MULTILINE)
"""Matches the line `forwarded` in `Exchange.forwarding`."""
Constants = dict[str, str]
"""Values of `service`, `route` and `upstream` in templates."""


def templates(texts: dict[str, str], constants: Constants) -> dict[str, Template]:
    """Compile texts by name."""
    return {name: Template(text, constants) for name, text in texts.items()}


def header_edit(spec: HeadersSpec, constants: Constants) -> HeaderEdit | None:
    """Compile the edits of header fields; None if there are none."""
    if not (spec.set or spec.add or spec.remove or spec.rename):
        return None
    return HeaderEdit(templates(spec.set, constants), templates(spec.add, constants), spec.remove, spec.rename)


class RequestEdit:
    """Compiled rule for requests.  Parts that the rule does not have are None."""

    __slots__ = ("body", "headers", "host", "method", "path", "query", "when")

    def __init__(self, spec: RequestRule, constants: Constants) -> None:
        self.when = None if spec.when is None else Condition(spec.when, WHOLE_REQUEST)
        self.method = None if spec.method is None else spec.method.encode()
        self.host = None if spec.host is None else Template(spec.host, constants)
        self.path = _path(spec, constants)
        query = spec.query
        self.query = None
        if query.set or query.add or query.remove or query.rename:
            set_, add = templates(query.set, constants), templates(query.add, constants)
            self.query = QueryEdit(set_, add, query.remove, query.rename)
        self.headers = header_edit(spec.headers, constants)
        self.body = None if spec.body is None else BodyEdit(spec.body, constants)

    @property
    def is_empty(self) -> bool:
        """True if the rule changes nothing."""
        return all(getattr(self, name) is None for name in self.__slots__ if name != "when")

    def apply(self, x: Exchange, source: Exchange) -> None:
        """Rewrite all but the body.  `source` is the request as it came.  Raises `RewriteError` for an unsafe value."""
        path = x.path if self.path is None else self.path.apply(x.path, source)
        query = x.query if self.query is None else self.query.apply(x.query, source)
        host = x.authority if self.host is None else _host(self.host, source)
        if self.headers is not None:
            self.headers.apply(x, source)
        if self.host is not None and host != source.authority:
            _add_host(x, source)
        x.path, x.query, x.authority = path, query, host
        if self.method is not None:
            x.method = self.method


def _path(spec: RequestRule, constants: Constants) -> PathEdit | None:
    if spec.path is not None:
        return PathTemplate(Template(literal(spec.path).decode(), constants))
    if spec.path_prefix is not None:
        return PrefixMap(spec.path_prefix)
    return None if spec.path_regex is None else PathPattern(spec.path_regex.pattern, spec.path_regex.to)


def _add_host(x: Exchange, source: Exchange) -> None:
    """Add the host that the client asked for to the forwarding fields, since Host is rewritten (RFC 7239 5.3)."""
    if source.host and b"x-forwarded-host:" not in x.forwarding:
        x.forwarding += b"x-forwarded-host: %b\r\n" % source.host
        if source.authority:  # the element of this hop is the last one of its line
            x.forwarding = FORWARDED.sub(rb'\1;host="%b"' % source.authority, x.forwarding, 1)


def _host(template: Template, source: Exchange) -> bytes:
    """Return the host that a template gives.  Raises `Refused` for an invalid one."""
    host = template.render(source).encode()
    if HOST.fullmatch(host) is None:
        raise RewriteError("has no valid value for the host that the policy builds")
    return host


class RequestRewriter:
    """Rules for requests of one route."""

    def __init__(self, spec: RequestSpec, ctx: BuildContext, constants: Constants, *, reads_responses: bool) -> None:
        """Compile the rules.  With `reads_responses` the upstream is asked for whole bodies in known codings."""
        rules = [RequestEdit(rule, constants) for rule in (spec, *spec.cases)]
        self.rules = [rule for rule in rules if not rule.is_empty]
        self.loader = BodyLoader(spec, ctx, "request")
        self.where = ctx.where
        self.reads_responses = reads_responses
        self.is_certain = all(rule.when is None for rule in self.rules)
        """True if all rules hold for all requests."""
        self.asks_body = any(rule.when is not None and "request.body" in rule.when.needs for rule in self.rules)
        """True if a condition reads the body."""
        self.edits_body = any(rule.body is not None for rule in self.rules)
        """True if a rule rewrites the body."""

    @property
    def headers_only(self) -> HeaderEdit | None:
        """Edit of header fields, if the rules are nothing else and hold for all requests; otherwise None."""
        rule = self.rules[0] if len(self.rules) == 1 and self.is_certain and not self.reads_responses else None
        others = ("body", "host", "method", "path", "query")
        return None if rule is None or any(getattr(rule, name) is not None for name in others) else rule.headers

    def select_rules(self, x: Exchange, bodies: Bodies = NO_BODIES) -> list[RequestEdit]:
        """Return the rules that hold for a request."""
        if self.is_certain:
            return self.rules
        return [rule for rule in self.rules if rule.when is None or rule.when.holds(x, None, bodies)]

    def refuse(self, detail: str, status: int = 400) -> Outcome:
        """Return a refusal with its reason."""
        outcome = failed(BAD_REQUEST, Refusal("transform", self.where, detail))
        outcome.status = outcome.verdict = status
        return outcome

    def rewrite_head(self, x: Exchange) -> Outcome | None:
        """Rewrite all but the body.  Return the refusal of a request that cannot be rewritten; None if it was."""
        return self._rewrite_head(x, self.rules if self.is_certain else self.select_rules(x))

    def _rewrite_head(self, x: Exchange, rules: list[RequestEdit]) -> Outcome | None:
        source = x if len(rules) < 2 else x.fork(x.attempt, x.why)
        try:
            for rule in rules:
                rule.apply(x, source)
        except RewriteError as refused:
            return self.refuse(f"The request {refused}.")
        if self.reads_responses:
            ask_for_whole(x)
        return None

    async def rewrite_whole(self, x: Exchange) -> Outcome | None:
        """Rewrite head and body.  Return the refusal of a request that cannot be rewritten; None if it was."""
        kind = x.header(b"content-type")
        taken = NO_BODY
        if self.asks_body and is_json(kind):
            taken = await self._load(x, form=False)
        rules = self.select_rules(x, Bodies(taken.document))
        edits = [rule.body for rule in rules if rule.body is not None]
        source = x.fork(x.attempt, x.why)
        if (
            edits
            and taken is NO_BODY
            and (form := next((e.from_form for e in edits if e.suits(kind)), None)) is not None
        ):
            taken = await self._load(x, form=form)
        if taken.failure is not None:
            return failed(taken.failure)
        if (refused := self._rewrite_head(x, rules)) is not None:
            return refused
        return self._rewrite_body(x, source, edits, taken, kind)

    def _rewrite_body(
        self, x: Exchange, source: Exchange, edits: list[BodyEdit], taken: BufferedBody, kind: bytes | None
    ) -> Outcome | None:
        """Rewrite the loaded body `taken`, or make one; `source` is the request as it came, `kind` its Content-Type.

        Returns the refusal of a body that cannot be rewritten, else None.
        """
        if not x.body and x.stream is None:
            for edit in edits:
                if edit.make is not None:
                    x.body = encode(edit.make(source, None))
                    put(x, b"content-type", b"application/json")
            return None
        problem, data = taken.problem, taken.data
        suited = [edit for edit in edits if edit.suits(kind)]
        if suited and problem is None and taken.document is not None:
            try:
                data = rewrite_body(taken, suited, source)
            except InvalidBody as error:
                problem = BodyProblem("invalid", str(error))
        if problem is not None:
            if not suited or self.loader.may_pass(problem):
                return None
            return self.refuse(f"The body {problem.detail}.", STATUS[problem.kind])
        if data != taken.data:
            x.body = data
            after_request(x)
            if any(edit.to_form for edit in suited):
                put(x, b"content-type", b"application/x-www-form-urlencoded")
            elif any(edit.from_form for edit in suited):
                put(x, b"content-type", b"application/json")
        return None

    async def _load(self, x: Exchange, *, form: bool) -> BufferedBody:
        """Load the body of a request, after a `100 Continue` if its client waits for one."""
        if x.expects_continue and x.stream is not None:
            x.expects_continue = False
            if x.interim is not None:
                x.interim(100, b"")  # the sidecar needs the body before the upstream does
        return await self.loader.load(x, form=form)
