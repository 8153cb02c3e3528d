"""Requests of the parts of an answer: what is compiled at load, and the request that is made of it.

A part's request has the fields of the client's, without those that speak of the client's own body, of a stored copy of
the whole answer, or of the form of the whole answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sidecar.core.exchange import CapturingRule, Exchange, MatchedRoute
from sidecar.core.metrics import Counter, Meter
from sidecar.core.uri import canonical
from sidecar.engine.inner import NO_LIMIT
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.aggregate.heads import NO_ANSWER, Answered
from sidecar.stages.aggregate.spec import EachSpec, PartSpec
from sidecar.stages.aggregate.texts import (
    Fields,
    JsonTemplate,
    Reference,
    Scope,
    Target,
    Value,
    ValueMissing,
    references,
)
from sidecar.transform.headers import LineRemover

DROPPED: Final = (
    "accept", "accept-encoding", "content-*", "digest", "expect", "if-*", "range", "repr-digest", "want-*",
)  # fmt: skip
"""Fields of the client's request that its parts do not have."""
ACCEPT: Final = b"accept: application/json\r\n"
JSON: Final = b"content-type: application/json\r\n"
PERCENT: Final = 0x25
"""Octet of a percent sign; the search for an octet costs far less than that for bytes."""
SAFE: Final = frozenset((b"GET", b"OPTIONS"))
"""Methods of requests that are made once for several parts with the same request."""


class CoveringRule(CapturingRule, Protocol):
    """Rule of a route (`sidecar.routing.rule`)."""

    @property
    def pattern(self) -> Any:
        """Regular expression for the path; None without one."""

    def covers(self, path: bytes) -> bool:
        """True if a canonical path meets the condition of the rule."""


class InnerRoute(Protocol):
    """Route of a part (`sidecar.control.route`)."""

    @property
    def route(self) -> MatchedRoute: ...
    @property
    def rule(self) -> CoveringRule: ...
    @property
    def pipeline(self) -> Pipeline: ...
    @property
    def criticality(self) -> int: ...
    @property
    def pick(self) -> Any: ...


class PartPlan:
    """Compiled part."""

    __slots__ = (
        "_body",
        "_counters",
        "_criticality",
        "_fields",
        "_is_matched",
        "_meter",
        "_remove",
        "_route",
        "_route_name",
        "_rule",
        "_target",
        "_upstream",
        "dependents",
        "each",
        "is_merged",
        "is_required",
        "latest",
        "list_of",
        "max_body",
        "max_streamed",
        "may_repeat",
        "method",
        "name",
        "needs",
        "number",
        "pick",
        "pipeline",
        "route",
        "streams",
        "substitutes",
        "succeeded",
        "timeout",
        "usual",
    )  # fmt: skip

    def __init__(
        self, number: int, name: str, spec: PartSpec, route: InnerRoute, constants: Mapping[str, str], meter: Meter
    ) -> None:
        self.number = number
        """Index of the part in its block."""
        self.name = name
        self.route = route
        self._route = route.route
        self._rule = route.rule
        self._criticality = route.criticality
        self.pick: Any = route.pick
        """Function that returns the arm for a request; None for a route without candidates."""
        self._upstream = spec.upstream if route.pick is None else None
        """Upstream that the part names; None if it names a route, or if its route has candidates."""
        self.pipeline = route.pipeline
        self.method = spec.method.encode()
        self.may_repeat = spec.each is not None and self.method in SAFE
        """True if its request may be the same as another one, with which it then shares the answer."""
        self.timeout = spec.timeout
        """Seconds for the part; None for all that is left."""
        self.is_merged = False
        """True if its answer must be an object."""
        self.is_required = spec.required
        """True if the whole answer fails without the part."""
        self.max_body = spec.max_body
        self.streams = spec.stream
        """True if its body passes as it arrives."""
        self.max_streamed = spec.max_body if "max_body" in spec.model_fields_set else NO_LIMIT
        """Most bytes of a body that passes."""
        self.substitutes = [_substitute(each.json_) if each.stale is None else None for each in spec.otherwise]
        """Substitutes in order; None stands for the stale response of a cache."""
        self.each: EachSpec | None = spec.each
        self.list_of: Reference | None = None if spec.each is None else references(spec.each.of)[0]
        """List for whose items the part is asked; None without a list."""
        self.needs: tuple[str, ...] = ()
        """Names of the parts whose answers it needs."""
        self.dependents: list[PartPlan] = []
        """Parts that need its answer."""
        self.usual = 0.0
        """Average of its latest durations in seconds; 0.0 before the first."""
        self.latest: Answered = NO_ANSWER
        """Latest answer that is remembered."""
        self._target = Target(spec.path, constants)
        self._is_matched = spec.route is not None and route.rule.pattern is not None
        """True if the match of the route depends on the values in the path, because it is a regular expression."""
        self._fields = Fields(spec.headers, constants) if spec.headers else None
        self._body = None if spec.json_ is None else JsonTemplate(spec.json_, constants)
        self._remove = LineRemover(self._fields.names) if self._fields is not None else None
        self._meter = meter
        self._route_name = constants["route"]
        self._counters: dict[str, Counter] = {}
        self.succeeded: Counter | None = None
        """Counter of the result `ok`; None before the first."""

    @property
    def tail(self) -> float:
        """Usual seconds of the parts that follow one after another."""
        return max((each.usual + each.tail for each in self.dependents), default=0.0)

    def note_repeats(self, other: PartPlan) -> None:
        """Note that requests of this part and of another may be the same, if they may."""
        is_alike = (
            not (self.streams or other.streams)
            and (self._route is other._route or (self._upstream is not None and self._upstream == other._upstream))
            and (self.timeout, self.max_body) == (other.timeout, other.max_body)
            and self.method == other.method
            and self.method in SAFE
        )
        if is_alike and self._target.may_equal(other._target):
            self.may_repeat = other.may_repeat = True

    def key_of(self, x: Exchange) -> tuple[object, ...]:
        """Return the identity of a request of this part, which is equal for requests with the same answer.

        Parts that name an upstream have routes of their own, all with the policies that this upstream's routes inherit.
        """
        return (self._upstream or x.route, self.timeout, self.max_body, x.method, x.path, x.query, x.lines, x.body)

    def counter(self, name: str, result: str) -> Counter:
        """Return the counter of a result."""
        found = self._counters.get(result)
        if found is None:
            found = self._meter.counter(name, route=self._route_name, part=self.name, result=result)
            self._counters[result] = found
        return found

    def pipeline_of(self, x: Exchange) -> Pipeline:
        """Return the pipeline of a request of a part with arms: that of the arm which was chosen for it."""
        chosen: Any = x.route
        found: Pipeline = chosen.pipeline
        return found

    def make(self, x: Exchange, scope: Scope, lines: bytes, now: float, deadline: float) -> Exchange:
        """Return the request of the part for the client's request `x`.  Raises `ValueMissing`.

        `lines` are the fields of all parts, which those of this part replace.  `deadline` is the instant by which the
        part must end.
        """
        path, query = self._target.render(scope)
        fields = self._fields
        if fields is not None and self._remove is not None:
            lines = self._remove.cut(lines) + fields.render(scope)
        body = b""
        if self._body is not None:
            body = self._body.render(scope)
            if len(body) > self.max_body:
                raise ValueMissing(f"the body of the request is longer than max_body, {self.max_body} bytes")
            lines += JSON
        own_path = canonical(path) if PERCENT in path else path
        if self._is_matched and not self._rule.covers(own_path):
            raise ValueMissing(f"the path is none of the route {self._route.name}")
        made = x.make_inner(self.method, path, query, lines, now, deadline)
        if body:
            made.body = body
        made.route = self._route if self.pick is None else self.pick(made)
        made.captured_by = self._rule
        made.captured_path = own_path
        if self._criticality > made.criticality:  # the highest number is refused first
            made.criticality = self._criticality
        return made

    def __repr__(self) -> str:
        return f"<PartPlan {self.name}>"


def _substitute(value: Any) -> Value:
    return Value(json.dumps(value, ensure_ascii=False).encode(), True)
