"""Comparison of the result of a step with its expectations; each difference has the line of the expectation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from sidecar.config.node import Mark, Node
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.policytest.messages import Messages
from sidecar.policytest.script import SeenRequest, value_of, values_of
from sidecar.policytest.spec import ContentSpec, ExpectSpec, MessageContentSpec, ReceivedSpec, SeenSpec, StepSpec
from sidecar.policytest.streams import grpc_status_of
from sidecar.policytest.world import Observed, World

MAX_SHOWN = 300
"""Most characters of a value in a message."""
EPSILON = 1e-6
"""Tolerance in seconds for sums of durations."""


class Difference(NamedTuple):
    """Expectation that is not met; as text `mark: what: expected ..., was ...`."""

    mark: Mark
    what: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.what}: expected {self.expected}, was {self.actual}"


Differences = Iterator[Difference]


def compare(step: StepSpec, node: Node, observed: Sequence[Observed], world: World) -> Differences:
    """Yield every difference in one step; `node` is the step in its file."""
    expect = step.expect
    at = node.nearest("expect")
    path = "" if step.request is None or step.request.grpc is None else step.request.grpc.path
    for one in observed:
        yield from _request(expect, at, one, world.messages, path)
    if expect.answers is not None:
        is_call = step.request is not None and step.request.grpc is not None
        counts = Counter(_status_name(one, is_call=is_call) for one in observed)
        if counts != Counter(expect.answers):
            yield _differs(at, ("answers",), expect.answers, dict(counts))
    yield from _script(step, node, world)
    if expect.upstream is not None:
        yield from _seen(expect.upstream, at.nearest("upstream"), world.script.seen, world.messages)
    known = world.breakers()
    for name, state in expect.breakers.items():
        if known.get(name) != state:
            others = f"; there are {', '.join(known)}" if name not in known and known else ""
            yield _differs(at, ("breakers", name), state, known.get(name, "no such breaker" + others))
    for bug in world.bugs:
        yield Difference(node.place, "the sidecar", "no bug", bug)


def _status_name(one: Observed, *, is_call: bool) -> str:
    """Return the status of a response, for a call the name of its gRPC status."""
    received = one.received
    if not is_call:
        return str(received.status)
    return grpc_status_of(received.status, received.headers, received.trailers)[0] or "0"


def _request(expect: ExpectSpec, at: Node, one: Observed, messages: Messages, path: str) -> Differences:
    """Yield the differences of one request: its response, route, attempts and duration."""
    if not one.received.is_whole:
        was = "cut off in its body" if one.received.status else "none"
        yield Difference(at.place, "answer", "a complete one", was)
        return
    if expect.answer is not None:
        yield from _answer(expect.answer, at.nearest("answer"), one, messages, path)
    facts: list[tuple[str, Any, Any]] = []
    x = one.x
    if expect.attempts is not None:
        facts.append(("attempts", expect.attempts, 0 if x is None else _attempts_of(x)))
    if expect.route is not None:
        facts.append(("route", expect.route, "no route" if x is None or x.route is None else x.route.name))
    if expect.cache is not None:
        facts.append(("cache", expect.cache, "" if x is None else x.cache))
    if expect.retry_stopped is not None:
        facts.append(("retry_stopped", expect.retry_stopped, "" if x is None else x.retry_stopped))
    for name, wanted, got in facts:
        if wanted != got:
            yield _differs(at, (name,), wanted, got)
    took = expect.took
    if took is not None and not took.min - EPSILON <= one.seconds <= took.max + EPSILON:
        yield _differs(at, ("took",), f"{took.min:g}s to {took.max:g}s", f"{one.seconds:.3f}s")


def _attempts_of(x: Exchange) -> int:
    """Return the number of attempts of a request, with those of its parts."""
    parts = [part.x for part in x.parts or () if part.x is not None]
    return len(x.attempts) + sum(map(_attempts_of, parts))


def _answer(spec: ReceivedSpec, at: Node, one: Observed, messages: Messages, path: str) -> Differences:
    """Yield the differences of the response that the client received."""
    received = one.received
    end = [*received.trailers, *received.headers]
    if spec.status is not None and spec.status != received.status:
        why = value_of(received.headers, "x-sidecar-reason")
        got = f"{received.status or 'no answer'}" + (f" ({why}: {_detail(received.body)})" if why else "")
        yield _differs(at, ("status",), spec.status, got)
    if spec.reason is not None:
        yield from _equal(at, ("reason",), spec.reason, value_of(end, "x-sidecar-reason") or "")
    if spec.grpc_status is not None or spec.grpc_message is not None:
        name, text = grpc_status_of(received.status, received.headers, received.trailers)
        if spec.grpc_status not in (None, name):
            why = ": ".join(each for each in (value_of(end, "x-sidecar-reason"), text) if each)
            yield _differs(at, ("grpc_status",), spec.grpc_status, f"{name or 'no answer'}{why and f' ({why})'}")
        elif spec.grpc_message is not None:
            yield from _equal(at, ("grpc_message",), spec.grpc_message, text)
    yield from _headers(spec.headers, at, received.headers)
    yield from _headers(spec.trailers, at, end, "trailers")
    yield from _content(spec, at, received.body)
    yield from _messages(spec, at, messages, path, received.body, of_request=False)
    if spec.websocket is not None:
        try:
            values = [json.loads(message, parse_float=Decimal) for message in received.messages]
        except ValueError:
            yield _differs(at, ("websocket",), "messages of JSON", repr(received.messages))
        else:
            yield from _json(at.nearest("websocket"), "", list(spec.websocket), values, "websocket")
    if spec.close is not None:
        yield from _equal(at, ("close",), spec.close, received.close)


def _seen(specs: Sequence[SeenSpec], at: Node, seen: Sequence[SeenRequest], messages: Messages) -> Differences:
    """Yield the differences of the requests that reached an upstream."""
    is_list = isinstance(at.value, list)
    if is_list and len(specs) != len(seen):
        got = ", ".join(f"{each.method} {each.target}" for each in seen) or "none"
        yield Difference(at.place, "requests upstream", str(len(specs)), f"{len(seen)}: {got}")
        return
    if not seen:
        yield Difference(at.place, "requests upstream", "at least one", "none")
    for index, one in enumerate(seen):
        spec, place = (specs[index], at.nearest(index)) if is_list else (specs[0], at)
        for name, wanted, got in (
            ("upstream", spec.upstream, one.upstream),
            ("method", spec.method, one.method),
            ("path", spec.path, one.target),
        ):
            if wanted is not None:
                yield from _equal(place, (name,), wanted, got)
        yield from _headers(spec.headers, place, one.headers)
        yield from _content(spec, place, one.body)
        yield from _messages(spec, place, messages, one.target, one.body, of_request=True)


def _script(step: StepSpec, node: Node, world: World) -> Differences:
    """Yield differences if the attempts did not use exactly the responses of the step, each at the right upstream."""
    script = world.script
    at = node.nearest("upstream")
    place = at.place if at is not node else node.place
    given = sum(answer.times for answer in step.upstream)
    if script.unanswered:
        names = ", ".join(dict.fromkeys(script.unanswered))
        total = given + len(script.unanswered)
        yield Difference(place, "upstream", _attempts(given), f"{total}; no answer was left for {names}")
    if script.remaining:
        taken = given - len(script.remaining)
        yield Difference(place, "upstream", _attempts(given), f"{taken}; the other answers were not used")
    for name, wanted in script.misdirected:
        yield Difference(place, "upstream", f"an attempt on {wanted}", f"one on {name}")
    for what in script.unusable:
        yield Difference(place, "upstream", "an answer that can be sent", what)


def _headers(wanted: dict[str, str | None], at: Node, headers: Headers, key: str = "headers") -> Differences:
    """Yield the differences of fields; `key` is that of the expectation.

    A field with several lines meets the value of each line, and that of all of them (RFC 9110 5.3).
    """
    for name, value in wanted.items():
        lines = values_of(headers, name)
        whole = ", ".join(lines) if lines else None
        if value != whole and value not in lines:
            yield _differs(at, (key, name), "no such field" if value is None else value, whole)


def _content(spec: ContentSpec, at: Node, body: bytes) -> Differences:
    """Yield the differences of a body."""
    if "json_" in spec.model_fields_set:
        try:
            got = json.loads(body, parse_float=Decimal)
        except ValueError:
            yield _differs(at, ("json",), "a JSON body", body.decode("utf-8", "replace"))
        else:
            yield from _json(at.nearest("json"), "", spec.json_, got)
    elif spec.form is not None:
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        yield from _equal(at, ("form",), spec.form, fields)
    elif spec.body is not None:
        yield from _equal(at, ("body",), spec.body, body.decode("utf-8", "replace"))


def _messages(
    spec: MessageContentSpec, at: Node, messages: Messages, path: str, body: bytes, *, of_request: bool
) -> Differences:
    """Yield the differences of the messages of a call; `path` names its method."""
    if not spec.has_messages:
        return
    key = "message" if spec.messages is None else "messages"
    wanted: Any = spec.message if spec.messages is None else list(spec.messages)
    try:
        got = messages.decode(path, body, of_request=of_request)
    except ValueError as error:
        yield _differs(at, (key,), "messages of gRPC", str(error))
        return
    if spec.messages is None and len(got) != 1:
        yield _differs(at, (key,), "one message", f"{len(got)}")
        return
    yield from _json(at.nearest(key), "", wanted, got if spec.messages is not None else got[0], key)


def _json(at: Node, pointer: str, wanted: Any, got: Any, key: str = "json") -> Differences:
    """Yield a difference for each member of a JSON value that is missing, unexpected or different.

    `key` is that of the expectation.
    """
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in {**wanted, **got}:
            inner = f"{pointer}/{name}"
            if name not in got:
                yield Difference(at.nearest(name).place, f"{key} {inner}", _shown(wanted[name]), "missing")
            elif name not in wanted:
                yield Difference(at.place, f"{key} {inner}", "no such member", _shown(got[name]))
            else:
                yield from _json(at.child(name) or at, inner, wanted[name], got[name], key)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from _json(at.child(index) or at, f"{pointer}/{index}", one, other, key)
    elif not _same(wanted, got):
        yield Difference(at.place, f"{key} {pointer or '/'}", _shown(wanted), _shown(got))


def _same(wanted: Any, got: Any) -> bool:
    """True if two JSON scalars are equal; True and 1 are not."""
    if isinstance(wanted, bool) or isinstance(got, bool):
        return wanted is got
    if isinstance(wanted, float) and isinstance(got, Decimal):
        return wanted == float(got)
    return bool(wanted == got)


def _equal(at: Node, path: tuple[str, ...], wanted: Any, got: Any) -> Differences:
    """Yield a difference if two values differ."""
    if wanted != got:
        yield _differs(at, path, wanted, got)


def _differs(at: Node, path: tuple[str, ...], wanted: Any, got: Any) -> Difference:
    """Return a difference at the place of an expectation."""
    return Difference(at.nearest(*path).place, " ".join(path), _shown(wanted), _shown(got))


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"


def _shown(value: Any) -> str:
    """Return a value as text, cut to `MAX_SHOWN` characters."""
    if value is None:
        return "nothing"
    text = value or "nothing" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _detail(body: bytes) -> str:
    """Return the `detail` of a problem document (RFC 9457); empty for any other body."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, LookupError, TypeError):
        return ""
