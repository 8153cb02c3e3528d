"""Fallback: what to answer when the answer would be a failure.  The steps are tried in order until one has something.

    fallback:
      - stale                                    # what the cache still has
      - upstream: app-readonly                   # another upstream
      - response: {status: 503, headers: {retry-after: "{breaker.retry_after}"}, json: {error: unavailable}}

A list is short for `{steps: [...]}`; the long form takes `on` (which failures), `max_body` and `mode` as well.

Decisions:

- It stands outside of retry, breaker and concurrency, so that it can stand in for their refusals too, at once: nothing
  waits for the deadline first.  The deadline itself is further out: when it is over there is no time to stand in.
- *Another upstream* gets only what a retry would be allowed to send again: anything if the first upstream cannot have
  seen it, else idempotent methods or a request with an Idempotency-Key.  A payment that timed out is not made a second
  time somewhere else.  Its body must still be whole (up to `max_body` it is kept).  What stands under that upstream
  holds for it, this route's breaker and retry do not.
- If its answer is a failure too, the next step is tried; if no step has anything, the first answer stands as it is.
- An answer that stands in says so: `x-sidecar-fallback: stale | upstream | response`, and `x-sidecar-reason` says why.
- A header of a `response` whose template comes out empty is left out: no `retry-after` where no time is known.
- The cache leaves `x.stale` on the exchange where it has something: a function that gives the outcome, or None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from sidecar.core import events, metrics, template
from sidecar.core.conditions import CONDITION_WORDS, Conditions
from sidecar.core.env import BuildContext
from sidecar.core.exchange import IDEMPOTENT_METHODS, Exchange
from sidecar.core.headers import HOP_BY_HOP
from sidecar.core.message import Headers
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.spec import Block, Model
from sidecar.core.stage import Layer, Service
from sidecar.core.template import Template, compile_tree, header_safe, render_tree
from sidecar.core.units import Size

REFUSALS: Final = ("breaker_open", "overloaded", "rate_limited", "no_endpoint", "retry_budget", "transform_failed")
"""Failures of our own that can be named beside the conditions of retry and breaker."""
_OURS: Final = HOP_BY_HOP | {b"content-length", b"x-sidecar-fallback", b"x-sidecar-reason"}
DEFAULT_ON: Final = ("connect_failure", "reset", "timeout", "protocol_error", "5xx", *REFUSALS)


def _trigger(value: Any) -> Any:
    if value in CONDITION_WORDS or value in REFUSALS or (value.__class__ is int and 100 <= value <= 599):
        return value
    known = ", ".join((*CONDITION_WORDS, *REFUSALS))
    raise ValueError(f"is not a condition; write a status such as 503 or one of {known}")


def _fields(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"has `{name}`, which is not the name of a header field; take out what is not a token")
        if name.lower().encode() in _OURS:
            raise ValueError(f"has `{name}`, which the sidecar sets itself; leave it out")
        if header_safe(value) != value:
            raise ValueError(f"has a control character in `{name}`; take it out")
    return headers


def _template(value: Any) -> Any:
    for text in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _template(text)
    if isinstance(value, str):
        template.names(value)
    return value


_STATUS: Final = {"type": "integer", "minimum": 100, "maximum": 599}
Trigger = Annotated[
    str | int,
    BeforeValidator(_trigger),
    WithJsonSchema({"anyOf": [{"enum": [*CONDITION_WORDS, *REFUSALS]}, _STATUS]}),
]
Text = Annotated[str, BeforeValidator(_template)]


class ResponseSpec(Model):
    """An answer of our own."""

    status: Annotated[int, Field(ge=200, le=599)]
    headers: Annotated[dict[str, Text], AfterValidator(_fields)] = Field({})
    """Fields and their values, which may be templates; one that comes out empty is left out."""
    json_: Annotated[Any, BeforeValidator(_template), Field(alias="json")] = None
    """The body as a JSON value; texts in it may be templates."""
    body: Text | None = None
    """The body as a text, which may be a template."""

    @model_validator(mode="after")
    def _has_one_body(self) -> ResponseSpec:
        if self.json_ is not None and self.body is not None:
            raise ValueError("has both json and body; keep one of them")
        if self.status in (204, 205, 304) and (self.json_ is not None or self.body is not None):
            raise ValueError(f"has a body, which an answer of status {self.status} cannot have; leave it out")
        return self


class StepSpec(Model):
    """One thing to try; written `stale`, `{upstream: NAME}` or `{response: {...}}`."""

    stale: Literal[True] | None = None
    upstream: str | None = None
    response: ResponseSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "stale":
                raise ValueError("is not a step; write stale, {upstream: NAME} or {response: {status: 503}}")
            return {"stale": True}
        return value

    @model_validator(mode="after")
    def _is_one(self) -> StepSpec:
        if sum(each is not None for each in (self.stale, self.upstream, self.response)) != 1:
            raise ValueError("must be one step: stale, {upstream: NAME} or {response: {status: 503}}")
        return self


class Spec(Block):
    """What to answer when the answer would be a failure: the steps in order, until one has something."""

    steps: Annotated[list[StepSpec], Field(min_length=1, max_length=10)]
    """What to try."""
    on: Annotated[tuple[Trigger, ...], Field(strict=False, min_length=1)] = DEFAULT_ON
    """The failures and statuses that are replaced."""
    max_body: Size = 64 * 1024
    """A longer request body is not kept, and no other upstream can then stand in."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and (step := next(filter(value.__contains__, StepSpec.model_fields), "")):
            raise ValueError(f"is a list of steps; begin this one with a dash: `- {step}: ...`")
        return {"steps": value} if isinstance(value, list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [block["properties"]["steps"], block]}


Step = Callable[[Exchange, Outcome], Awaitable[Outcome | None]]
"""Something in place of an outcome, None where it has nothing."""


async def _stale(x: Exchange, _: Outcome) -> Outcome | None:
    found: Outcome | None = None if x.stale is None else x.stale()
    return found


def _upstream(service: Service, now: Callable[[], float]) -> Step:
    async def step(x: Exchange, outcome: Outcome) -> Outcome | None:
        may_have_been_seen = outcome.failure is None or outcome.failure.sent
        if may_have_been_seen and x.method not in IDEMPOTENT_METHODS and x.header(b"idempotency-key") is None:
            return None
        if now() >= x.deadline or not x.is_replayable:
            return None
        if x.stream is not None:
            x.stream.rewind()
        twin = x.fork(1, "fallback")
        twin.avoid = frozenset()
        return await service(twin)

    return step


def _response(spec: ResponseSpec, ctx: BuildContext) -> Step:
    constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
    headers = [(name.lower().encode(), Template(text, constants)) for name, text in spec.headers.items()]
    text = None if spec.body is None else Template(spec.body, constants)
    tree = compile_tree(spec.json_, constants)
    kind = b"application/json" if text is None else b"text/plain; charset=utf-8"

    async def step(x: Exchange, outcome: Outcome) -> Outcome | None:
        fields: Headers = []
        for name, value in headers:
            if rendered := value.render(x, outcome, header_safe):
                fields.append((name, rendered.encode()))
        body = b""
        if text is not None:
            body = text.render(x, outcome).encode()
        elif tree is not None:
            body = json.dumps(render_tree(tree, x, outcome), ensure_ascii=False).encode()
        if body and not any(name == b"content-type" for name, _ in fields):
            fields.append((b"content-type", kind))
        return Outcome(spec.status, fields, body)

    return step


class Fallback:
    """The layer: the steps of a route, and when to take them."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.conditions = Conditions(spec.on)
        self.is_enforced = spec.is_enforced
        self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="fallback", route=ctx.route)
        self.steps = [self._compile(step, ctx) for step in spec.steps]
        needs_body = spec.is_enforced and any(step.upstream for step in spec.steps)
        self.max_body = spec.max_body if needs_body else -1

    @staticmethod
    def _compile(spec: StepSpec, ctx: BuildContext) -> tuple[str, Step, Counter]:
        if spec.upstream is not None:
            kind, step = "upstream", _upstream(ctx.resources("upstream", spec.upstream), ctx.env.now)
        elif spec.response is not None:
            kind, step = "response", _response(spec.response, ctx)
        else:
            kind, step = "stale", _stale
        name = kind if spec.upstream is None else f"upstream:{spec.upstream}"
        return kind, step, ctx.env.meter.counter(metrics.FALLBACKS, route=ctx.route, step=name)

    def is_due(self, outcome: Outcome) -> bool:
        """Is this an outcome that is to be replaced?"""
        if outcome.failure is None:
            return self.conditions.match(outcome)
        return outcome.failure.code in self.conditions.codes

    def __call__(self, inner: Service) -> Service:
        max_body, is_due = self.max_body, self.is_due

        async def call(x: Exchange) -> Outcome:
            if x.stream is not None and max_body >= 0:
                x.stream.record(max_body)
            outcome = await inner(x)
            if not is_due(outcome):
                return outcome
            if not self.is_enforced:
                self.observed.value += 1
                return outcome
            return await self.replace(x, outcome)

        return call

    async def replace(self, x: Exchange, outcome: Outcome) -> Outcome:
        """The first stand-in there is, else the outcome as it was."""
        for kind, step, counter in self.steps:
            try:
                found = await step(x, outcome)
            except BaseException:  # cancelled, or a bug: nobody will read either of them
                _discard(outcome)
                raise
            if found is None:
                continue
            if kind == "upstream" and self.is_due(found):
                _discard(found)
                continue
            _discard(outcome)
            counter.value += 1
            if x.trace is not None:
                x.trace.note(events.FALLEN_BACK, step=kind, instead_of=outcome.reason or outcome.status)
            x.refused_by = x.refused_by or outcome.refusal.policy
            found.headers = [*found.headers, (b"x-sidecar-fallback", kind.encode())]
            if outcome.failure is not None:
                found.headers.append((b"x-sidecar-reason", outcome.reason.encode()))
            return found
        return outcome


def _discard(outcome: Outcome) -> None:
    """Nobody will read the rest of this one."""
    if outcome.stream is not None:
        outcome.stream.cancel()


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The layer of a `fallback` block."""
    return Fallback(spec, ctx)
