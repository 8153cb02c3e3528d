"""Tests of `translate`: REST requests as calls, and answers of gRPC as those of REST."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from pydantic import ValidationError

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import BREAKER_OPEN, RESET, TRANSFORM, Failure, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.grpc.framing import frame
from sidecar.grpc.wire import varint
from sidecar.stages.retry import stage as retry
from sidecar.stages.retry.spec import Spec as RetrySpec
from sidecar.stages.translate import source
from sidecar.stages.translate import stage as translate
from sidecar.stages.translate.spec import Spec
from sidecar.stages.translate.stage import LONGEST_PEEK
from tests.support.clock import make_env
from tests.support.protos import compile_proto
from tests.support.service import ScriptedService, context, exchange, response
from tests.unit.stages.translate.shop import DATA, HEAD, OK, PROTO, Paused, answered, build, streaming


def order(text: str, total: int = 0) -> bytes:
    data = b"\x0a" + varint(len(text)) + text.encode()
    return data + (b"\x10" + varint(total) if total else b"")


class Client:
    """Sink of an answer's body."""

    def __init__(self, outcome: Outcome) -> None:
        assert outcome.stream is not None
        self.data = b""
        self.end: Any = None
        outcome.stream.attach(self)

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.end = "whole"

    def fail(self, failure: Failure) -> None:
        self.end = failure


async def test_a_request_becomes_a_call_and_its_answer_json(tmp_path: Path) -> None:
    seen: list[Any] = []

    def upstream(x: Any) -> Outcome:
        seen.append((x.method, x.path, x.query, x.body, dict(x.headers), x.is_grpc, x.grpc_timeout, x.accepts_trailers))
        return answered([order("7", 5)])

    call = build(make_env(), ScriptedService(upstream), tmp_path)
    fields = {"Accept": "a/b", "Accept-Encoding": "gzip", "Authorization": "me", "X-Id": "1", "grpc-timeout": "1S",
              "If-None-Match": '"x"'}  # fmt: skip
    x = exchange("GET", "/v1/orders/7?", fields, query=b"full=true")
    x.path = b"/v1/orders/7"
    outcome = await call(x)
    assert seen == [
        (
            b"POST", b"/shop.Orders/Get", None, frame(b"\x10\x01\x0a\x017"),
            {b"content-type": b"application/grpc", b"authorization": b"me", b"x-id": b"1"}, True, True, True,
        )
    ]  # fmt: skip
    assert (outcome.status, outcome.body) == (200, b'{"id":"7","total":"5"}')
    assert outcome.headers == [(b"content-type", b"application/json"), (b"x-shop", b"1")]
    assert (x.method, x.path, x.query, x.body, x.is_grpc, x.grpc_timeout) == (
        b"GET", b"/v1/orders/7", b"full=true", b"", False, False,
    )  # fmt: skip
    assert (x.accepts_trailers, x.rest_method, x.header(b"accept")) == (False, b"", b"a/b")


@pytest.mark.parametrize(
    ("method", "path", "rest"),
    [
        ("GET", "/v1/orders/7", b"GET"),
        ("HEAD", "/v1/orders/7/tags", b"HEAD"),
        ("POST", "/v1/orders", b"POST"),
        ("POST", "/v1/orders/7:cancel", b"PUT"),
    ],
)
async def test_a_call_may_be_repeated_as_its_method_or_its_descriptor_says(
    method: str, path: str, rest: bytes, tmp_path: Path
) -> None:
    seen: list[bytes] = []

    def upstream(x: Any) -> Outcome:
        seen.append(x.rest_method)
        return answered([b""])

    await build(make_env(), ScriptedService(upstream), tmp_path)(exchange(method, path))
    assert seen == [rest]


async def test_a_body_that_streams_is_awaited(tmp_path: Path) -> None:
    inner = ScriptedService(lambda x: answered([x.body[5:]]))
    body = Body(length=10)
    interims: list[int] = []
    x = exchange(
        "POST", "/v1/orders", stream=body, expects_continue=True, interim=lambda status, _: interims.append(status)
    )
    call = asyncio.ensure_future(build(make_env(), inner, tmp_path)(x))
    await asyncio.sleep(0)
    assert (interims, inner.calls) == ([100], 0)
    body.feed(b'{"id":')
    body.feed(b'"9"}')
    body.finish()
    outcome = await call
    assert outcome.body == b'{"id":"9"}'


async def test_a_body_in_a_known_coding_is_decoded(tmp_path: Path) -> None:
    call = build(make_env(), ScriptedService(lambda x: answered([x.body[5:]])), tmp_path)
    data = gzip.compress(b'{"total": "5"}')
    outcome = await call(exchange("POST", "/v1/orders", {"Content-Encoding": "gzip"}, body=data))
    assert outcome.body == b'{"total":"5"}'


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    [
        (("GET", "/v1/nothing"), 404, "No method of the route's services is bound to the path."),
        (("GET", "/shop.Orders/Bare"), 404, "No method of the route's services is bound to the path."),
        (("DELETE", "/v1/orders/7"), 405, "The path is bound, but not with this method."),
        (("GET", "/v1/orders/7", {}, {"query": b"x=1"}), 400, "The query parameter x is not a field"),
        (("POST", "/v1/orders", {}, {"body": b'{"x": 1}'}), 400, "The body's x is not a field."),
        (("POST", "/v1/orders", {"Content-Type": "text/plain"}, {"body": b"{}"}), 415, "must be application/json"),
        (("POST", "/v1/orders", {"Content-Encoding": "zz"}, {"body": b"{}"}), 415, "not known"),
        (("POST", "/v1/orders", {"Content-Encoding": "gzip"}, {"body": b"{}"}), 400, "The body"),
        (("POST", "/v1/orders", {"Content-Encoding": "gzip"}, {"body": gzip.compress(bytes(200))}), 413, "larger"),
        (("POST", "/v1/orders", {}, {"body": b" " * 101}), 413, "The body is larger than 100 bytes."),
        (("POST", "/v1/orders", {}, {"stream": Body(length=101)}), 413, "The body is larger than 100 bytes."),
        (("GET", "/v1/orders/7", {}, {"upgrade": b"websocket"}), 400, "upgrade"),
    ],
)
async def test_what_is_refused_never_reaches_the_upstream(
    request_: Any, status: int, detail: str, tmp_path: Path
) -> None:
    inner = ScriptedService(200)
    method, path, headers, facts = (*request_, {}, {})[:4] if len(request_) == 2 else request_
    outcome = await build(make_env(), inner, tmp_path, max_body="100B")(exchange(method, path, headers, **facts))
    assert (outcome.status, inner.calls) == (status, 0)
    assert outcome.failure is not None
    assert outcome.failure.origin in ("client", "gateway")
    assert not outcome.failure.sent
    assert detail in outcome.refusal.detail
    assert (outcome.refusal.policy, outcome.refusal.where) == ("translate", f"{tmp_path}/policies.yaml:7")
    if status == 405:
        assert outcome.header(b"allow") == b"GET, HEAD"


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    source = Paused()
    body = Body(source)
    call = asyncio.ensure_future(
        build(make_env(), ScriptedService(200), tmp_path, max_body="100B")(exchange("POST", "/v1/orders", stream=body))
    )
    await asyncio.sleep(0)
    body.feed(b" " * 101)
    assert (await call).status == 413


CODES = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503,
    15: 500, 16: 401, 99: 500,
}  # fmt: skip


@pytest.mark.parametrize("place", ["trailers", "head", "after a message"])
async def test_an_error_has_the_http_status_of_its_code(place: str, tmp_path: Path) -> None:
    """envoy#5011, #6270, #9126."""
    for code, status in CODES.items():
        fields = [(b"grpc-status", b"%d" % code), (b"grpc-message", b"caf%C3%A9 %")]
        if place == "head":
            outcome = Outcome(200, [*HEAD, *fields])
        else:
            outcome = answered([order("7")] if place == "after a message" else [], fields)
        found = await build(make_env(), ScriptedService(outcome), tmp_path)(exchange("GET", "/v1/orders/7"))
        assert (found.status, found.verdict, found.failure) == (status, status, None)
        assert json.loads(found.body) == {"code": code if code < 17 else 2, "message": "café %", "details": []}
        assert found.header(b"content-type") == b"application/json"


async def test_details_of_an_error_are_json(tmp_path: Path) -> None:
    details = [
        error_details_pb2.ErrorInfo(reason="NO_STOCK", domain="shop", metadata={"item": "7"}),
        error_details_pb2.BadRequest(field_violations=[{"field": "total", "description": "too small"}]),
        error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000}),
    ]
    status = status_pb2.Status(code=9, message="from the details")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    status.details.append(any_pb2.Any(type_url="x/unknown.Type", value=b"\x01"))
    packed_status = base64.b64encode(status.SerializeToString()).rstrip(b"=")
    trailers = [(b"grpc-status", b"9"), (b"grpc-status-details-bin", packed_status)]
    outcome = await build(make_env(), ScriptedService(answered([], trailers)), tmp_path)(
        exchange("GET", "/v1/orders/7")
    )
    prefix = "type.googleapis.com/google.rpc"
    assert json.loads(outcome.body) == {
        "code": 9,
        "message": "from the details",
        "details": [
            {"@type": f"{prefix}.ErrorInfo", "reason": "NO_STOCK", "domain": "shop", "metadata": {"item": "7"}},
            {"@type": f"{prefix}.BadRequest", "fieldViolations": [{"field": "total", "description": "too small"}]},
            {"@type": f"{prefix}.RetryInfo", "retryDelay": "1.500s"},
            {"@type": "x/unknown.Type", "value": "AQ=="},
        ],
    }


@pytest.mark.parametrize("packed", [b"!", b"A", b"CgM"])
async def test_damaged_details_leave_the_code_and_the_text(packed: bytes, tmp_path: Path) -> None:
    trailers = [(b"grpc-status", b"5"), (b"grpc-message", b"gone"), (b"grpc-status-details-bin", packed)]
    outcome = await build(make_env(), ScriptedService(answered([], trailers)), tmp_path)(
        exchange("GET", "/v1/orders/7")
    )
    assert json.loads(outcome.body) == {"code": 5, "message": "gone", "details": []}


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (response(200, b"<html>", {"content-type": "text/html"}), "The answer is not gRPC."),
        (response(200, b"x", {"content-type": "application/grpc-web"}), "The answer is not gRPC."),
        (answered([order("7")], []), "The answer has no grpc-status."),
        (answered([]), "The answer has 0 messages instead of one."),
        (answered([b"", b""]), "The answer has 2 messages instead of one."),
        (answered([b"\x0a\x05x"]), "The answer's message is cut off."),
        (answered([bytes(200)]), "The answer's message is larger than 100 bytes."),
    ],
)
async def test_an_answer_that_is_broken_is_a_failure(answer: Outcome, detail: str, tmp_path: Path) -> None:
    call = build(make_env(), ScriptedService(answer), tmp_path, max_body="100B")
    outcome = await call(exchange("GET", "/v1/orders/7"))
    assert (outcome.status, outcome.failure, outcome.refusal.detail) == (502, TRANSFORM, detail)


async def test_compressed_and_incomplete_messages_are_failures(tmp_path: Path) -> None:
    for data, detail in ((frame(order("7"), 1), "compressed"), (frame(order("7"))[:-1], "cut off")):
        body = Body()
        body.feed(data)
        body.finish(list(OK))
        call = build(make_env(), ScriptedService(Outcome(200, list(HEAD), stream=body)), tmp_path)
        outcome = await call(exchange("GET", "/v1/orders/7"))
        assert outcome.failure is TRANSFORM
        assert detail in outcome.refusal.detail


async def test_failures_and_answers_of_others_pass(tmp_path: Path) -> None:
    call = build(make_env(), ScriptedService(BREAKER_OPEN, response(503, b"busy", {"retry-after": "5"})), tmp_path)
    assert (await call(exchange("GET", "/v1/orders/7"))).failure is BREAKER_OPEN
    outcome = await call(exchange("GET", "/v1/orders/7"))
    assert (outcome.status, outcome.body, outcome.header(b"retry-after")) == (503, b"busy", b"5")


async def test_a_late_answer_is_awaited_within_its_bound(tmp_path: Path) -> None:
    answer = streaming()
    assert answer.stream is not None
    call = asyncio.ensure_future(build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7")))
    await asyncio.sleep(0)
    answer.stream.feed(frame(order("7"))[:3])
    answer.stream.feed(frame(order("7"))[3:])
    answer.stream.finish([(b"grpc-status", b"13")])
    assert (await call).status == 500, "the status counts, although a message has come"
    answer = streaming()
    assert answer.stream is not None
    call = asyncio.ensure_future(
        build(make_env(), ScriptedService(answer), tmp_path, max_body="100B")(exchange("GET", "/v1/orders/7"))
    )
    await asyncio.sleep(0)
    source = answer.stream.source
    answer.stream.feed(bytes(106))
    assert (await call).failure is TRANSFORM
    assert source is not None
    assert source.is_cancelled  # type: ignore[attr-defined]


async def test_an_answer_that_breaks_off_is_that_failure(tmp_path: Path) -> None:
    for path in ("/v1/orders/7", "/v1/orders/7/events"):
        answer = streaming()
        assert answer.stream is not None
        call = asyncio.ensure_future(build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", path)))
        await asyncio.sleep(0)
        answer.stream.fail(RESET, "cut")
        outcome = await call
        assert (outcome.failure, outcome.cause) == (RESET, "cut")


async def test_a_part_of_the_answer_may_be_the_body(tmp_path: Path) -> None:
    call = build(make_env(), ScriptedService(answered([b"\x1a\x01a\x1a\x01b"]), answered([b""])), tmp_path)
    assert (await call(exchange("GET", "/v1/orders/7/tags"))).body == b'["a","b"]'
    assert (await call(exchange("GET", "/v1/orders/7/tags"))).body == b"[]"


async def test_raw_bodies_pass_both_ways(tmp_path: Path) -> None:
    picture = b"\x0a\x09image/png\x12\x02\xff\x00"
    inner = ScriptedService(answered([picture]), lambda x: answered([order("1")]))
    call = build(make_env(), inner, tmp_path)
    outcome = await call(exchange("GET", "/v1/pictures/7"))
    assert (outcome.body, outcome.header(b"content-type")) == (b"\xff\x00", b"image/png")
    bodies: list[bytes] = []
    call = build(make_env(), ScriptedService(lambda x: bodies.append(x.body) or answered([order("1")])), tmp_path)
    assert (await call(exchange("PUT", "/v1/pictures", {"content-type": "image/png"}, body=b"\xff\x00"))).status == 200
    assert bodies == [frame(picture)]
    evil = b"\x0a\x0ca/b\r\nx-a: b\n\x12\x01x"
    outcome = await build(make_env(), ScriptedService(answered([evil])), tmp_path)(exchange("GET", "/v1/pictures/7"))
    assert outcome.header(b"content-type") == b"application/octet-stream"


FORMS = {
    "ndjson": (b"application/x-ndjson", b'{"id":"1"}\n', b'{"id":"2"}\n', b"", b"", b'{"error":%b}\n'),
    "array": (b"application/json", b'[{"id":"1"}', b',{"id":"2"}', b"]", b"[]", b',{"error":%b}]'),
    "events": (
        b"text/event-stream", b'data: {"id":"1"}\n\n', b'data: {"id":"2"}\n\n', b"", b"", b"event: error\ndata: %b\n\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_is_passed_on_message_by_message(form: str, tmp_path: Path) -> None:
    kind, first, second, end, empty, error = FORMS[form]
    answer = streaming()
    assert answer.stream is not None
    call = asyncio.ensure_future(
        build(make_env(), ScriptedService(answer), tmp_path, streams=form)(exchange("GET", "/v1/orders/7/events"))
    )
    await asyncio.sleep(0)
    assert not call.done()
    answer.stream.feed(frame(order("1")) + frame(order("2"))[:4])
    outcome = await call
    assert (outcome.status, outcome.header(b"content-type")) == (200, kind)
    client = Client(outcome)
    assert (client.data, client.end) == (first, None)
    answer.stream.feed(frame(order("2"))[4:])
    assert client.data == first + second
    answer.stream.finish(list(OK))
    assert (client.data, client.end) == (first + second + end, "whole")
    whole = await build(make_env(), ScriptedService(answered([order("1"), order("2")])), tmp_path, streams=form)(
        exchange("GET", "/v1/orders/7/events")
    )
    assert Client(whole).data == first + second + end
    whole = await build(make_env(), ScriptedService(answered([])), tmp_path, streams=form)(
        exchange("GET", "/v1/orders/7/events")
    )
    assert (whole.status, Client(whole).data) == (200, empty)
    late = [(b"grpc-status", b"8"), (b"grpc-message", b"full")]
    whole = await build(make_env(), ScriptedService(answered([order("1")], late)), tmp_path, streams=form)(
        exchange("GET", "/v1/orders/7/events")
    )
    assert Client(whole).data == first + error % b'{"code":8,"message":"full","details":[]}'


@pytest.mark.parametrize("place", ["head", "trailers"])
async def test_an_early_error_of_a_stream_keeps_its_status(place: str, tmp_path: Path) -> None:
    """envoy#9126."""
    error = [(b"grpc-status", b"7"), (b"grpc-message", b"no")]
    answer = Outcome(200, [*HEAD, *error]) if place == "head" else answered([], error)
    outcome = await build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7/events"))
    assert (outcome.status, json.loads(outcome.body)["message"]) == (403, "no")


async def test_a_silent_stream_begins_after_a_while(tmp_path: Path) -> None:
    env = make_env()
    answer = streaming()
    assert answer.stream is not None
    call = asyncio.ensure_future(build(env, ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7/events")))
    await asyncio.sleep(0)
    env.advance(LONGEST_PEEK)
    outcome = await call
    client = Client(outcome)
    answer.stream.finish([(b"grpc-status", b"7"), (b"grpc-message", b"no")])
    assert client.data == b'{"error":{"code":7,"message":"no","details":[]}}\n'


async def test_a_slow_client_pauses_the_stream_and_a_lost_one_cancels_it(tmp_path: Path) -> None:
    answer = streaming()
    stream = answer.stream
    assert stream is not None
    source = stream.source
    assert isinstance(source, Paused)
    call = asyncio.ensure_future(
        build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7/events"))
    )
    await asyncio.sleep(0)
    stream.feed(frame(order("1")))
    outcome = await call
    for _ in range(70):
        stream.feed(frame(order("x" * 1000)))
    assert source.is_paused
    Client(outcome)
    assert not source.is_paused
    assert outcome.stream is not None
    outcome.stream.cancel()
    assert source.is_cancelled


async def test_a_cancelled_request_cancels_its_stream(tmp_path: Path) -> None:
    answer = streaming()
    assert answer.stream is not None
    source = answer.stream.source
    x = exchange("GET", "/v1/orders/7/events")
    call = asyncio.ensure_future(build(make_env(), ScriptedService(answer), tmp_path)(x))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert isinstance(source, Paused)
    assert source.is_cancelled
    assert x.path == b"/v1/orders/7/events"


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_stream_with_a_broken_message_is_broken_off(is_late: bool, tmp_path: Path) -> None:
    answer = streaming()
    stream = answer.stream
    assert stream is not None
    source = stream.source
    call = asyncio.ensure_future(
        build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7/events"))
    )
    await asyncio.sleep(0)
    if is_late:
        stream.feed(frame(order("1")))
        client = Client(await call)
    stream.feed(frame(b"\x0a\x05x") + frame(order("2")))
    if is_late:
        assert (client.data, client.end) == (b'{"id":"1"}\n', TRANSFORM)
    else:
        outcome = await call
        assert (outcome.failure, outcome.refusal.detail) == (TRANSFORM, "The answer's message is cut off.")
    assert isinstance(source, Paused)
    assert source.is_cancelled


async def test_a_stream_that_breaks_off_is_broken_off_for_the_client(tmp_path: Path) -> None:
    for ending in ("reset", "no status", "half a message"):
        answer = streaming()
        stream = answer.stream
        assert stream is not None
        call = asyncio.ensure_future(
            build(make_env(), ScriptedService(answer), tmp_path)(exchange("GET", "/v1/orders/7/events"))
        )
        await asyncio.sleep(0)
        stream.feed(frame(order("1")) + (b"\0\0" if ending == "half a message" else b""))
        client = Client(await call)
        if ending == "reset":
            stream.fail(RESET, "cut")
        else:
            stream.finish([] if ending == "no status" else list(OK))
        assert (client.data, client.end) == (b'{"id":"1"}\n', RESET)


async def test_a_raw_stream_is_one_body(tmp_path: Path) -> None:
    parts = [b"\x0a\x09video/mp4\x12\x02ab", b"\x12\x02cd"]
    outcome = await build(make_env(), ScriptedService(answered(parts)), tmp_path)(exchange("GET", "/v1/films/7"))
    client = Client(outcome)
    assert (outcome.header(b"content-type"), client.data, client.end) == (b"video/mp4", b"abcd", "whole")
    late = answered(parts, [(b"grpc-status", b"13")])
    client = Client(await build(make_env(), ScriptedService(late), tmp_path)(exchange("GET", "/v1/films/7")))
    assert client.end is RESET


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"grpc": {"descriptors": "a"}},
        {"grpc": {"descriptors": "", "services": ["a.B"]}},
        {"grpc": {"descriptors": "a", "services": []}},
        {"grpc": {"descriptors": "a", "services": ["a/B"]}},
        {"grpc": {"descriptors": "a", "services": ["a.B"], "streams": "socket"}},
        {"grpc": {"descriptors": "a", "services": ["a.B"]}, "mode": "observe"},
    ],
)
def test_what_is_no_translation(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(block)


def test_a_descriptor_set_that_cannot_be_used_is_an_error_of_the_block(tmp_path: Path) -> None:
    for name, content, error in (
        ("gone", None, "cannot be read (No such file or directory); write the path of a file"),
        ("text", b"syntax", "is no descriptor set"),
        ("shop", DATA, "has no service shop.Nope; its services are shop.Orders"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match="names the descriptor set") as caught:
            build(make_env(), ScriptedService(200), tmp_path, descriptors=str(path), services=["shop.Nope"])
        assert error in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_descriptor_set_that_is_written_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half of one can be valid, with the first of its services."""
    stamps = iter([(1, 0, 9), (1, 0, 99)])
    monkeypatch.setattr(source, "_stamp", lambda _: next(stamps))
    with pytest.raises(ValueError, match="was written while it was read; load the policies again"):
        build(make_env(), ScriptedService(200), tmp_path)


def build_with_retry(env: Any, inner: Any, folder: Path) -> Any:
    """Return the stage in front of `retry`, as in a route."""
    (folder / "shop.binpb").write_bytes(DATA)
    block = {"grpc": {"descriptors": "shop.binpb", "services": ["shop.Orders"]}}
    ctx = context(env, where=f"{folder}/policies.yaml:7")
    repeat = retry.build(RetrySpec.model_validate({"max_attempts": 2}), ctx)
    return Pipeline([translate.build(Spec.model_validate(block), ctx), repeat], inner)


@pytest.mark.parametrize(
    ("method", "path", "calls"),
    [
        ("GET", "/v1/orders/7", 2),
        ("POST", "/v1/orders", 1),
        ("POST", "/v1/orders/7:cancel", 2),
    ],
)
async def test_retry_asks_for_the_rest_method(method: str, path: str, calls: int, tmp_path: Path) -> None:
    """A call is always a POST, which is not repeated once it may have been seen."""
    seen: list[bytes] = []

    def upstream(x: Any) -> Any:
        seen.append(x.method)
        return RESET if len(seen) == 1 else answered([b""])

    outcome = await build_with_retry(make_env(), ScriptedService(upstream), tmp_path)(exchange(method, path))
    assert (seen, outcome.status) == ([b"POST"] * calls, 200 if calls == 2 else 502)


async def test_a_changed_descriptor_set_counts_from_the_next_build(tmp_path: Path) -> None:
    inner = ScriptedService(lambda x: answered([b""]))
    assert (await build(make_env(), inner, tmp_path)(exchange("GET", "/v1/orders/7"))).status == 200
    old = build(make_env(), inner, tmp_path)
    changed = compile_proto(PROTO.replace("/v1/orders/{id}", "/v2/orders/{id}"))
    (tmp_path / "shop.binpb").write_bytes(changed)
    block = {"grpc": {"descriptors": "shop.binpb", "services": ["shop.Orders"]}}
    new = Pipeline(
        [translate.build(Spec.model_validate(block), context(make_env(), where=f"{tmp_path}/policies.yaml:7"))], inner
    )
    assert (await old(exchange("GET", "/v2/orders/7"))).status == 404
    assert (await new(exchange("GET", "/v2/orders/7"))).status == 200
    assert (await new(exchange("GET", "/v1/orders/7"))).status == 404
