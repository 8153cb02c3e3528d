from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import BREAKER_OPEN, RESET, Failure, Outcome, failed
from sidecar.core.promise import Run
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.transform.spec import Spec
from sidecar.stages.transform.stage import build
from tests.support.clock import FakeEnv, make_env
from tests.support.service import context, exchange, response

JSON = {"content-type": "application/json"}


class Upstream:
    """Upstream that answers, and records its requests."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer if answer is not None else (lambda: response(200))
        self.seen: list[Exchange] = []

    async def __call__(self, x: Exchange) -> Outcome:
        self.seen.append(x.fork(x.attempt, x.why))
        self.seen[-1].lines = x.lines
        found: Outcome = self.answer() if callable(self.answer) else self.answer
        return found

    @property
    def last(self) -> Exchange:
        return self.seen[-1]


def transform(block: Any, inner: Service, env: FakeEnv | None = None) -> Service:
    return Pipeline([build(Spec.model_validate(block), context(env))], inner)


def run(service: Service, x: Exchange) -> Outcome:
    outcome = Run(service(x), lambda _: None)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.value is not None, "it waits for something"
    return outcome.value


def rewritten(request: Any, x: Exchange) -> Exchange:
    """Return the request that the upstream gets."""
    upstream = Upstream()
    outcome = run(transform({"request": request}, upstream), x)
    assert outcome.status == 200, outcome.refusal.detail
    return upstream.last


def answered(rules: Any, answer: Outcome, x: Exchange | None = None, **block: Any) -> Outcome:
    """Return the answer that the client gets."""
    return run(transform({"response": rules, **block}, Upstream(answer)), x or exchange("GET", "/orders/7"))


def post(body: bytes, kind: str = "application/json", **facts: Any) -> Exchange:
    return exchange("POST", "/orders", {"content-type": kind}, body=body, **facts)


# ----- requests


def test_path_query_host_method_and_headers() -> None:
    x = exchange("GET", "/orders/7", {"x-user": "ada", "cookie": "a=b"}, query=b"debug=1&page=2", authority=b"shop")
    x.captures = {"id": "7"}
    block = {
        "method": "POST",
        "host": "{service}orders.internal:8080",
        "path": "/internal/v2/orders/{path.id}",
        "query": {"set": {"expand": "items"}, "remove": ["debug"]},
        "headers": {"set": {"x-request-source": "sidecar"}, "remove": ["cookie"], "rename": {"x-user": "x-user-id"}},
    }
    seen = rewritten(block, x)
    assert (seen.method, seen.authority, seen.target) == (
        b"POST",
        b"orders.internal:8080",
        b"/internal/v2/orders/7?page=2&expand=items",
    )
    assert seen.lines == b"x-user-id: ada\r\nx-request-source: sidecar\r\n"


@pytest.mark.parametrize("block", [{"path": "/x"}, {"headers": {"set": {"a": "b"}}}, {"body": {"set": {"/a": 1}}}])
def test_the_stages_around_it_see_the_request_as_it_came(block: Any) -> None:
    x = post(b"{}", query=b"q", authority=b"h")
    before = (x.method, x.target, x.authority, x.headers, x.body)
    run(transform({"request": block}, Upstream()), x)
    assert (x.method, x.target, x.authority, x.headers, x.body) == before

    async def bug(_: Exchange) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(transform({"request": block}, bug), x)
    assert (x.method, x.target, x.authority, x.headers, x.body) == before


@pytest.mark.parametrize(
    ("block", "came", "became"),
    [
        ({"path_prefix": {"/v1": "/v2"}}, "/v1/orders", b"/v2/orders"),
        ({"path_regex": {"pattern": r"/v1/(.*)", "to": r"/v2/\1"}}, "/v1/a/b", b"/v2/a/b"),
    ],
)
def test_paths_by_prefix_and_pattern(block: Any, came: str, became: bytes) -> None:
    assert rewritten(block, exchange("GET", came)).path == became


@pytest.mark.parametrize(
    ("block", "query", "detail"),
    [
        ({"path": "/o/{query.id}"}, b"id=..%2Fadmin", "dot segment"),
        ({"path": "/o/{query.id}"}, b"", "no value"),
        ({"host": "{query.h}.internal"}, b"h=a%2F", "no valid value for the host"),
        ({"host": "{query.h}.internal"}, b"h=a%0d%0ab", "no valid value for the host"),
    ],
)
def test_what_cannot_be_built_safely_is_refused(block: Any, query: bytes, detail: str) -> None:
    upstream = Upstream()
    outcome = run(transform({"request": block}, upstream), exchange("GET", "/", query=query))
    assert (outcome.status, outcome.reason, upstream.seen) == (400, "bad_request", [])
    assert detail in outcome.refusal.detail
    assert (outcome.refusal.policy, outcome.refusal.where) == ("transform", "policies.yaml:7")
    assert outcome.failure.origin != "upstream"


def test_conditions_and_templates_see_the_request_as_it_came() -> None:
    block = {
        "query": {"remove": ["q"]},
        "headers": {"set": {"x-q": "{query.q}", "x-tier": "none"}},
        "cases": [
            {"when": "request.query['q'] == '1'", "headers": {"set": {"x-again": "{query.q}/{header.x-tier}"}}},
            {"when": "request.headers['x-tier'] == 'none'", "path": "/never"},
        ],
    }
    seen = rewritten(block, exchange("GET", "/", {"x-tier": "gold"}, query=b"q=1"))
    assert seen.target == b"/"
    assert seen.lines == b"x-q: 1\r\nx-tier: none\r\nx-again: 1/gold\r\n"


BODY = (
    b'{"id": 12345678901234567890123, "qty": 3, "price": 1.10, "password": "x", "items": [{"sku": "a"}, {"sku": "b"}]}'
)


def test_a_json_body() -> None:
    block = {"body": {"set": {"/meta/source": "{route}"}, "rename": {"/qty": "quantity"}, "remove": ["/password"]}}
    x = post(BODY)
    x.add(b"content-md5", b"x")
    x.add(b"Digest", b"y")
    seen = rewritten(block, x)
    assert seen.body == (
        b'{"id":12345678901234567890123,"quantity":3,"price":1.10,"items":[{"sku": "a"}, {"sku": "b"}],'
        b'"meta":{"source":"order"}}'
    )
    assert seen.headers == [(b"content-type", b"application/json")]


def test_the_operations_come_in_their_own_order() -> None:
    body = {
        "wrap": "/order",
        "set": {"/b": 1},
        "default": {"/b": 2, "/c": 3},
        "copy": {"/b2": "/b3"},
        "move": {"/b1": "/b2"},
        "rename": {"/b": "b1"},
        "remove": ["/a"],
        "select": ["/a", "/b"],
        "unwrap": "/data",
    }
    seen = rewritten({"body": body}, post(b'{"data":{"a":1,"b":0,"x":9}}'))
    assert seen.body == b'{"order":{"b2":0,"b3":0,"b":1,"c":3}}'


def test_values_are_templates_of_json() -> None:
    block = {"body": {"set": {"/user": {"id": "{header.x-user}", "via": ["{upstream}"], "n": 1}}}}
    x = post(b"{}")
    x.add(b"x-user", b'a"\\,"admin":true')
    assert json.loads(rewritten(block, x).body)["user"] == {"id": 'a"\\,"admin":true', "via": ["app"], "n": 1}


def test_forms_and_json() -> None:
    seen = rewritten(
        {"body": {"convert": "form_to_json", "rename": {"/a": "b"}}}, post(b"a=1", "application/x-www-form-urlencoded")
    )
    assert (seen.body, seen.header(b"content-type")) == (b'{"b":"1"}', b"application/json")
    seen = rewritten({"body": {"convert": "json_to_form", "remove": ["/b"]}}, post(b'{"a":1.0,"b":2}'))
    assert (seen.body, seen.header(b"content-type")) == (b"a=1.0", b"application/x-www-form-urlencoded")
    untouched = rewritten({"body": {"convert": "form_to_json"}}, post(b'{"a":1}'))
    assert untouched.body == b'{"a":1}'


def test_a_body_for_a_request_that_has_none() -> None:
    block = {"when": "request.method == 'GET'", "method": "POST", "body": {"template": {"id": "{path.id}", "n": [1.5]}}}
    x = exchange("GET", "/orders/7")
    x.captures = {"id": "7"}
    seen = rewritten(block, x)
    assert (seen.method, seen.body, seen.header(b"content-type")) == (
        b"POST",
        b'{"id":"7","n":[1.5]}',
        b"application/json",
    )
    assert rewritten(block, post(b"{}")).body == b"{}"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"a":1}', "text/plain"), (b"a=1", "application/x-www-form-urlencoded"), (b"", "application/json")],
)
def test_bodies_of_another_kind_stay(body: bytes, kind: str) -> None:
    assert rewritten({"body": {"wrap": "/data"}}, post(body, kind)).body == body


def test_a_rewrite_that_changes_nothing_leaves_all_as_it_was() -> None:
    x = post(b'{ "a" : 1.0 }')
    x.add(b"digest", b"x")
    seen = rewritten({"body": {"remove": ["/b"]}}, x)
    assert seen.header(b"digest") is None, "the white space is ours now"
    seen = rewritten({"body": {"remove": ["/b"]}}, post(b'{"a":1.0}'))
    assert seen.body == b'{"a":1.0}'


@pytest.mark.parametrize(
    ("body", "headers", "kind", "status", "detail"),
    [
        (b'{"a":1,"a":2}', {}, "invalid", 400, "twice"),
        (b'{"a":"\xff"}', {}, "invalid", 400, "UTF-8"),
        (b"{", {}, "invalid", 400, "not JSON"),
        (b'{"meta":5}', {}, "invalid", 400, "no object at `/meta`"),
        (b'{"a":"' + b"x" * 100 + b'"}', {}, "too_large", 413, "larger than 64 bytes"),
        (
            gzip.compress(b'{"a":"' + b"x" * 100 + b'"}', mtime=0),
            {"content-encoding": "gzip"},
            "too_large",
            413,
            "once it is decoded",
        ),
        (b"junk", {"content-encoding": "gzip"}, "invalid", 400, "not valid gzip"),
        (b"junk", {"content-encoding": "zstd"}, "coding", 415, "content coding zstd"),
    ],
)
def test_a_body_that_cannot_be_rewritten_is_refused_or_passes_whole(
    body: bytes, headers: dict[str, str], kind: str, status: int, detail: str
) -> None:
    rules = {"max_body": "64B", "body": {"set": {"/meta/a": 1}}}
    for on_error in ("refuse", {kind: "refuse", **dict.fromkeys({"invalid", "too_large", "coding"} - {kind}, "pass")}):
        upstream = Upstream()
        x = exchange("POST", "/", {**JSON, **headers}, body=body)
        outcome = run(transform({"request": {**rules, "on_error": on_error}}, upstream), x)
        assert (outcome.status, upstream.seen) == (status, [])
        assert detail in outcome.refusal.detail
    env = make_env()
    for on_error in ("pass", {kind: "pass"}):
        upstream = Upstream()
        x = exchange("POST", "/", {**JSON, **headers}, body=body)
        assert run(transform({"request": {**rules, "on_error": on_error}}, upstream, env), x).status == 200
        assert upstream.last.body == body
    assert env.meter.value(metrics.TRANSFORM_SKIPPED, reason=kind, direction="request") == 2


def test_a_coded_body_is_decoded_and_encoded_again() -> None:
    x = exchange("POST", "/", {**JSON, "content-encoding": "GZip"}, body=gzip.compress(b'{"a":1.0}'))
    seen = rewritten({"body": {"set": {"/b": 2}}}, x)
    assert gzip.decompress(seen.body) == b'{"a":1.0,"b":2}'
    assert seen.header(b"content-encoding") == b"GZip"


def test_conditions_on_the_body() -> None:
    block = {"cases": [{"when": "request.body.qty > 100", "headers": {"set": {"x-big": "yes"}}}]}
    assert rewritten(block, post(b'{"qty": 101}')).header(b"x-big") == b"yes"
    for x in (post(b'{"qty": 1}'), post(b'{"qty":101,"qty":1}'), post(b"qty", "text/plain"), exchange()):
        assert rewritten(block, x).header(b"x-big") is None


# ----- bodies that stream


class Reader:
    def __init__(self) -> None:
        self.data = b""
        self.end: object = None

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.end = trailers

    def fail(self, failure: Failure) -> None:
        self.end = failure


@pytest.mark.parametrize(
    "block",
    [
        {"headers": {"set": {"a": "b"}}},
        {"path": "/x"},
        {"body": {"wrap": "/data"}},
        {"cases": [{"when": "request.body.a == 1", "path": "/x"}]},
    ],
)
def test_an_untouched_body_stays_streamed(block: Any) -> None:
    stream = Body()
    x = exchange("POST", "/", {"content-type": "text/plain"}, stream=stream)
    assert rewritten(block, x).stream is stream


@pytest.mark.parametrize("way", ["request", "response"])
def test_trailers_lose_what_any_of_the_rules_writes(way: str) -> None:
    cases = [
        {"headers": {"set": {"x-group": "staff"}}},
        {"when": "request.method != 'PUT'", "headers": {"remove": ["x-c"]}},
    ]
    block = {way: {"headers": {"set": {"x-user": "ada"}}, "cases": cases}}
    stream = Body()
    upstream = Upstream(lambda: Outcome(200, stream=stream))
    outcome = run(transform(block, upstream), exchange("POST", "/", stream=Body()))
    body = upstream.last.stream if way == "request" else outcome.stream
    assert body is not None
    body.finish([(name, b"1") for name in (b"x-user", b"X_Group".lower(), b"x-c", b"x-sum")])
    assert body.trailers == [(b"x-sum", b"1")]


def test_a_body_that_arrives_is_waited_for() -> None:
    upstream = Upstream()
    stream, told = Body(), []
    x = exchange("POST", "/", JSON, stream=stream, expects_continue=True, interim=lambda *a: told.append(a))
    running = Run(transform({"request": {"body": {"wrap": "/data"}}}, upstream)(x), lambda _: None)
    assert told == [(100, b"")]
    stream.feed(b'{"a":')
    stream.feed(b"1.0}")
    assert upstream.seen == []
    stream.finish()
    assert running.value is not None
    assert (upstream.last.body, upstream.last.stream) == (b'{"data":{"a":1.0}}', None)
    assert upstream.last.is_replayable
    assert not upstream.last.expects_continue
    assert x.stream is stream


def test_a_body_that_arrives_and_is_too_long_passes_whole_or_is_refused() -> None:
    for on_error in ("pass", "refuse"):
        upstream, stream = Upstream(), Body()
        rules = {"max_body": "8B", "on_error": on_error, "body": {"wrap": "/data"}}
        running = Run(
            transform({"request": rules}, upstream)(exchange("POST", "/", JSON, stream=stream)), lambda _: None
        )
        stream.feed(b'{"a":12345}')
        assert running.value is not None
        if on_error == "refuse":
            assert running.value.status == 413
            continue
        reader = Reader()
        assert upstream.last.stream is not None
        upstream.last.stream.attach(reader)
        stream.feed(b" ")
        stream.finish()
        assert (reader.data, reader.end) == (b'{"a":12345} ', [])


def test_a_body_that_breaks_off_is_no_request() -> None:
    upstream, stream = Upstream(), Body()
    x = exchange("POST", "/", JSON, stream=stream)
    running = Run(transform({"request": {"body": {"wrap": "/data"}}}, upstream)(x), lambda _: None)
    stream.fail(RESET)
    assert running.value is not None
    assert (running.value.failure, upstream.seen) == (RESET, [])


# ----- answers


def test_headers_status_cookies_and_body() -> None:
    rules = {
        "status": {"404": 410},
        "headers": {"set": {"x-served-by": "{upstream}"}, "remove": ["server"]},
        "cookies": {"*": {"secure": True, "same_site": "Lax"}, "sid": {"domain": "off"}},
        "body": {"unwrap": "/data"},
    }
    headers = {**JSON, "server": "x", "set-cookie": "sid=1; Domain=x", "etag": '"1"', "accept-ranges": "bytes"}
    outcome = answered(rules, response(404, b'{"data": {"n": 1.50}}', headers))
    assert (outcome.status, outcome.body) == (410, b'{"n": 1.50}')
    assert dict(outcome.headers) == {
        b"content-type": b"application/json",
        b"etag": b'W/"1"',
        b"set-cookie": b"sid=1; SameSite=Lax; Secure",
        b"x-served-by": b"app",
    }


@pytest.mark.parametrize(
    ("status", "came", "became"),
    [
        (500, 204, 500),
        ({"5xx": 502, "503": 503}, 500, 502),
        ({"503": 503, "5xx": 502}, 503, 503),
        ({"404": 200}, 200, 200),
    ],
)
def test_statuses(status: Any, came: int, became: int) -> None:
    assert answered({"status": status}, response(came)).status == became


def test_a_status_without_a_body_loses_it() -> None:
    stream = Body()
    outcome = answered({"status": {"200": 204}}, response(200, headers=JSON, stream=stream))
    assert (outcome.status, outcome.body, outcome.stream) == (204, b"", None)
    assert repr(stream).startswith("<Body cancelled")
    outcome = answered({"status": {"304": 200}}, response(304, headers={"content-length": "7"}))
    assert outcome.headers == []


def test_a_status_by_a_condition_on_the_body() -> None:
    rules = {
        "cases": [
            {"when": "response.status == 200 && response.body.error.code == 'not_found'", "status": 404},
            {"when": "response.status == 404", "headers": {"set": {"x-never": "as it came"}}},
        ]
    }
    outcome = answered(rules, response(200, b'{"error": {"code": "not_found"}}', JSON))
    assert (outcome.status, outcome.body) == (404, b'{"error": {"code": "not_found"}}')
    assert outcome.header(b"x-never") is None
    for other in (b'{"error": null}', b"[]", b'{"error": {"code": 404}}', b"{"):
        assert answered(rules, response(200, other, JSON)).status == 200


def test_an_answer_is_never_changed_under_those_who_settle_by_it() -> None:
    stream = Body()
    inner = response(500, headers={"retry-after": "9"}, stream=stream)
    outcome = answered({"status": {"500": 200}, "headers": {"remove": ["retry-after"]}}, inner)
    assert (outcome.status, outcome.headers) == (200, [])
    assert (inner.status, inner.headers) == (500, [(b"retry-after", b"9")])
    assert outcome.stream is stream


def test_failures_pass() -> None:
    refused = failed(BREAKER_OPEN)
    assert answered({"status": 200, "headers": {"set": {"a": "b"}}, "body": {"wrap": "/d"}}, refused) is refused
    assert answered({"headers": {"set": {"a": "b"}}}, refused) is refused
    assert refused.headers == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_without_a_body_the_fields_are_those_of_the_rewritten_one(method: str, status: int) -> None:
    headers = {**(JSON if status == 200 else {}), "etag": '"1"', "content-length": "9"}
    x = exchange(method, "/orders/7")
    outcome = answered({"body": {"wrap": "/data"}}, response(status, b"", headers), x)
    assert (outcome.header(b"etag"), outcome.header(b"content-length"), outcome.body) == (b'W/"1"', None, b"")


def test_an_answer_that_is_read_is_asked_for_whole() -> None:
    upstream = Upstream()
    x = exchange("GET", "/", {"range": "bytes=0-1", "accept-encoding": "zstd, gzip", "a": "b"})
    run(transform({"response": {"body": {"wrap": "/data"}}}, upstream), x)
    assert dict(upstream.last.headers) == {b"a": b"b", b"accept-encoding": b"gzip"}
    run(transform({"response": {"headers": {"set": {"a": "b"}}}}, upstream), x)
    assert upstream.last.header(b"range") == b"bytes=0-1"


def test_an_answer_that_cannot_be_rewritten() -> None:
    for body, headers, detail in (
        (b"{", {}, "not JSON"),
        (b'{"a":1,"a":1}', {}, "twice"),
        (b"x" * 100, {}, "larger than"),
        (b"{}", {"content-encoding": "zstd"}, "coding"),
    ):
        rules = {"max_body": "64B", "body": {"wrap": "/data"}}
        outcome = answered(rules, response(200, body, {**JSON, **headers}))
        assert (outcome.status, outcome.reason) == (502, "transform_failed")
        assert detail in outcome.refusal.detail
        assert outcome.failure.origin != "upstream"
        untouched = response(200, body, {**JSON, **headers, "etag": '"1"'})
        outcome = answered({**rules, "on_error": "pass"}, untouched)
        assert (outcome.status, outcome.body, outcome.header(b"etag")) == (200, body, b'"1"')


def test_an_answer_that_streams_is_collected_or_passed_on() -> None:
    for on_error, status in (("refuse", 502), ("pass", 200)):
        stream = Body()
        rules = {"max_body": "16B", "on_error": on_error, "body": {"wrap": "/data"}}
        service = transform({"response": rules}, Upstream(response(200, headers=JSON, stream=stream)))
        running = Run(service(exchange()), lambda _: None)
        stream.feed(b'{"a":"0123456789"}')
        assert running.value is not None
        assert running.value.status == status
        if on_error == "refuse":
            assert repr(stream).startswith("<Body cancelled")
        else:
            reader = Reader()
            assert running.value.stream is not None
            running.value.stream.attach(reader)
            stream.finish()
            assert reader.data == b'{"a":"0123456789"}'
    stream = Body()
    service = transform({"response": {"body": {"wrap": "/d"}}}, Upstream(response(200, headers=JSON, stream=stream)))
    running = Run(service(exchange()), lambda _: None)
    stream.feed(b"1")
    stream.feed(b"0")
    stream.finish()
    assert running.value is not None
    assert running.value.body == b'{"d":10}'
    stream = Body()
    service = transform({"response": {"body": {"wrap": "/d"}}}, Upstream(response(200, headers=JSON, stream=stream)))
    running = Run(service(exchange()), lambda _: None)
    stream.fail(RESET)
    assert running.value is not None
    assert running.value.failure is RESET


def test_addresses_are_in_the_clients_terms() -> None:
    block = {"request": {"path_prefix": {"/v1": "/v2"}, "host": "orders.internal"}}
    x = exchange("POST", "/v1/orders", authority=b"shop.example.com", scheme=b"https")
    headers = {"location": "http://orders.internal/v2/orders/8", "set-cookie": "a=b; Path=/v2; Domain=orders.internal"}
    outcome = run(transform(block, Upstream(lambda: response(201, headers=headers))), x)
    assert outcome.headers == [
        (b"location", b"https://shop.example.com/v1/orders/8"),
        (b"set-cookie", b"a=b; Path=/v1; Domain=shop.example.com"),
    ]
    kept = run(
        transform({**block, "response": {"addresses": "keep"}}, Upstream(lambda: response(201, headers=headers))), x
    )
    assert kept.header(b"location") == b"http://orders.internal/v2/orders/8"


@pytest.mark.parametrize(
    ("block", "location"),
    [
        ({}, "http://10.0.0.7:9000/login"),
        ({"response": {"headers": {"set": {"a": "b"}}}}, "http://10.0.0.7:9000/login"),
        ({"response": {"addresses": "always"}}, "https://shop.example.com/login"),
        ({"response": {"addresses": "always", "headers": {"set": {"a": "b"}}}}, "https://shop.example.com/login"),
        ({"request": {"headers": {"set": {"a": "b"}}}, "response": {"addresses": "always"}},
         "https://shop.example.com/login"),
        ({"request": {"host": "x.internal"}, "response": {"addresses": "always"}}, "https://shop.example.com/login"),
        ({"request": {"host": "x.internal"}}, "http://10.0.0.7:9000/login"),
        ({"request": {"host": "x.internal"}, "response": {"addresses": "keep"}}, "http://10.0.0.7:9000/login"),
    ],
)  # fmt: skip
def test_the_addresses_of_an_endpoint_lead_clients_around_the_sidecar_unless_a_policy_says_otherwise(
    block: dict[str, Any], location: str
) -> None:
    x = exchange("GET", "/a", authority=b"shop.example.com", scheme=b"https")
    for number in (1, 2):  # a hedge: the answer may come from either endpoint
        x.attempts.append(Attempt(number, 0.0))
        x.attempts[-1].endpoint = f"http://10.0.0.{number + 6}:9000"
    headers = {"location": "http://10.0.0.7:9000/login"}
    outcome = run(transform(block, Upstream(lambda: response(302, headers=headers))), x)
    assert outcome.header(b"location") == location.encode()


@pytest.mark.parametrize(
    ("block", "came", "vary"),
    [
        ({"response": {"when": "request.headers['X-Api'] == '1'", "headers": {"set": {"a": "b"}}}}, "", "x-api"),
        ({"response": {"cases": [{"when": "'x-b' in request.headers", "status": 404}]}}, "accept", "accept, x-b"),
        ({"request": {"when": "has(request.headers['x-a']) && request.path == '/'", "path": "/x"}}, "", "x-a"),
        ({"request": {"path": "/{header.x-tenant}/x"}}, "", "x-tenant"),
        ({"response": {"headers": {"set": {"a": "{header.x-a}"}}}}, "", "x-a"),
        ({"response": {"body": {"set": {"/a": {"b": ["{header.x-a}"]}}}}}, "", "x-a"),
        ({"request": {"headers": {"rename": {"X-User": "x-user-id"}}}}, "X-User-Id", "X-User-Id, x-user"),
        ({"request": {"headers": {"set": {"x-u": "{header.x-user}"}}}}, "accept, x-u", "accept, x-u, x-user"),
        ({"request": {"headers": {"rename": {"x-user": "x-user-id"}}}}, "accept", "accept"),
        ({"request": {"headers": {"rename": {"x-user": "x-user-id"}}}}, "", None),
        ({"request": {"headers": {"set": {"a": "b"}}}}, "", None),
    ],
)
def test_vary_names_what_an_answer_depends_on(block: Any, came: str, vary: str | None) -> None:
    headers = {"vary": came} if came else {}
    x = exchange("GET", "/", {"x-tenant": "t"})
    outcome = run(transform(block, Upstream(lambda: response(200, headers=headers))), x)
    joined = outcome.joined(b"vary")
    assert (None if joined is None else joined.decode()) == vary


def test_observing_changes_nothing_and_counts() -> None:
    env, upstream = make_env(), Upstream()
    block = {"mode": "observe", "request": {"when": "request.method == 'GET'", "path": "/x"}}
    service = transform(block, upstream, env)
    run(service, exchange("GET", "/a"))
    run(service, exchange("POST", "/a"))
    assert [x.path for x in upstream.seen] == [b"/a", b"/a"]
    assert env.meter.value(metrics.WOULD_REFUSE, policy="transform") == 1


@given(
    st.recursive(
        st.none() | st.integers() | st.text("ab\u00e9", max_size=3),
        lambda s: st.lists(s) | st.dictionaries(st.text("ab", max_size=2), s),
    )
)
def test_what_one_rule_wraps_another_unwraps(document: Any) -> None:
    data = json.dumps(document, ensure_ascii=False).encode()
    cases = {"body": {"wrap": "/a/b"}, "cases": [{"when": "true", "body": {"unwrap": "/a/b"}}]}
    assert answered(cases, response(200, data, JSON)).body == data
    assert rewritten(cases, post(data)).body == data


# ----- fields of the policy file


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"request": {"path": "orders"}}, 'write "/orders"'),
        ({"request": {"path": "/a/../b"}}, "leave out dot segments"),
        ({"request": {"path": "/a?b"}}, "parameters under `query`"),
        ({"request": {"path": "/{pth.id}"}}, "did you mean {path.id}?"),
        ({"request": {"path": "/a", "path_prefix": {"/a": "/b"}}}, "more than one of path"),
        ({"request": {"path_prefix": {"/a": "/{path.id}"}}}, "takes no names in braces"),
        ({"request": {"path_regex": {"pattern": "(a+)+", "to": "/x"}}}, "exponential"),
        ({"request": {"path_regex": {"pattern": "/(a)", "to": r"/\2"}}}, "no group"),
        ({"request": {"method": "HEAD"}}, "choose another method"),
        ({"request": {"host": "a b"}}, "is not a host"),
        ({"request": {"headers": {"set": {"a b": "c"}}}}, "not the name of a header field"),
        ({"request": {"headers": {"set": {"a": "b\r\nc"}}}}, "control character"),
        ({"request": {"headers": {"set": {"Host": "x"}}}}, "write `host:`"),
        ({"request": {"headers": {"remove": ["content-length"]}}}, "writes itself"),
        ({"request": {"headers": {"rename": {"a": "connection"}}}}, "writes itself"),
        ({"request": {"headers": {"remove": ["x-*-y"]}}}, "a star may only end a name"),
        ({"response": {"headers": {"set": {"transfer-encoding": "x"}}}}, "writes itself"),
        ({"request": {"body": {"remove": ["a.b"]}}}, 'write "/a/b"'),
        ({"request": {"body": {"rename": {"/a": "/b"}}}}, "without slashes"),
        ({"request": {"body": {"set": {"/a": "{nope}"}}}}, "which is unknown"),
        ({"request": {"when": "request.pth == 'a'"}}, "did you mean `path`?"),
        ({"request": {"when": "response.status == 1"}}, "no response yet"),
        ({"response": {"when": "request.body.a == 1"}}, "gone by then"),
        ({"response": {"status": {"6xx": 200}}}, "write a status such as 404"),
        ({"response": {"status": 99}}, "greater than or equal to 200"),
        ({"response": {"cookies": {"a": {"same_site": "lax"}}}}, "'Lax'"),
        ({"response": {"body": {"template": {}}}}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_an_error_at_load(block: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(block)
    assert message in str(caught.value)


BOM = b"\xef\xbb\xbf"


class TestOddJson:
    """JSON with a byte order mark or half of a surrogate pair, which are accepted (RFC 8259 8.1, 8.2)."""

    RULES = {"body": {"set": {"/b": 2}, "remove": ["/c"]}}
    CASES = [
        (BOM + b'{"a":1.10,"c":0}', b'{"a":1.10,"b":2}'),
        (b'{"a":"\\ud800","c":0}', b'{"a":"\\ufffd","b":2}'),
        (BOM + b'{"a":"\\udc00x","c":"\\ud800"}', b'{"a":"\\ufffdx","b":2}'),
    ]

    @pytest.mark.parametrize(("came", "sent"), CASES)
    def test_in_a_response(self, came: bytes, sent: bytes) -> None:
        answer = answered(self.RULES, response(200, came, JSON))
        assert (answer.status, answer.body) == (200, sent)

    @pytest.mark.parametrize(("came", "sent"), CASES)
    def test_in_a_compressed_response(self, came: bytes, sent: bytes) -> None:
        answer = answered(self.RULES, response(200, gzip.compress(came), {**JSON, "content-encoding": "gzip"}))
        assert (answer.status, gzip.decompress(answer.body)) == (200, sent)

    @pytest.mark.parametrize(("came", "sent"), CASES)
    def test_in_a_request(self, came: bytes, sent: bytes) -> None:
        assert rewritten(self.RULES, post(came)).body == sent

    @pytest.mark.parametrize(("came", "_"), CASES)
    def test_in_a_condition(self, came: bytes, _: bytes) -> None:
        rules = {"cases": [{"when": "has(response.body.a)", "status": 203}]}
        answer = answered(rules, response(200, came, JSON))
        assert (answer.status, answer.body) == (203, came)

    @pytest.mark.parametrize(("came", "_"), CASES)
    @pytest.mark.parametrize("compressed", [False, True])
    def test_what_no_operation_changes_stays_as_it_came(self, came: bytes, _: bytes, compressed: bool) -> None:
        fields = {**JSON, "etag": '"a"', "accept-ranges": "bytes"}
        if compressed:
            came, fields = gzip.compress(came, 1), fields | {"content-encoding": "gzip"}
        answer = answered({"body": {"remove": ["/nothing"]}}, response(200, came, fields))
        assert (answer.body, answer.header(b"etag"), answer.header(b"accept-ranges")) == (came, b'"a"', b"bytes")


class TestNoTransform:
    """RFC 9110 7.7 and RFC 9111 5.2.2.6: no-transform."""

    RULES = {"body": {"set": {"/b": 2}}, "headers": {"set": {"x-rule": "yes"}}, "status": {"200": 203}}
    SAID = [
        "no-transform",
        "max-age=60, No-Transform",
        "private , no-transform, x",
        'x="a,b", no-transform',
        "no-transform=1",
    ]

    @pytest.mark.parametrize("said", SAID)
    def test_the_body_stays_and_the_rest_is_edited(self, said: str) -> None:
        env = make_env()
        came = response(200, b'{"a": 1}', {**JSON, "cache-control": said, "etag": '"a"', "digest": "x"})
        answer = run(transform({"response": self.RULES}, Upstream(came), env), exchange("GET", "/"))
        assert (answer.status, answer.body, answer.header(b"x-rule")) == (203, b'{"a": 1}', b"yes")
        assert (answer.header(b"etag"), answer.header(b"digest")) == (b'"a"', b"x")
        assert env.meter.value(metrics.TRANSFORM_SKIPPED, direction="response", reason="no_transform") == 1

    def test_on_one_of_several_lines(self) -> None:
        lines = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"public"),
            (b"cache-control", b"no-transform"),
        ]
        assert answered(self.RULES, response(200, b"{}", lines)).body == b"{}"

    @pytest.mark.parametrize(
        "said", ["x-no-transform", 'x="no-transform"', 'x="a, no-transform, b"', "no-transforms", 'x="']
    )
    def test_what_only_looks_like_it(self, said: str) -> None:
        assert answered(self.RULES, response(200, b"{}", {**JSON, "cache-control": said})).body == b'{"b":2}'

    def test_a_policy_may_overrule_it(self) -> None:
        rules = {**self.RULES, "no_transform": "ignore"}
        answer = answered(rules, response(200, b"{}", {**JSON, "cache-control": "no-transform"}))
        assert answer.body == b'{"b":2}'

    @pytest.mark.parametrize(("status", "method"), [(304, "GET"), (200, "HEAD")])
    def test_a_response_without_a_body_keeps_its_fields(self, status: int, method: str) -> None:
        fields = {**JSON, "cache-control": "no-transform", "etag": '"a"'}
        answer = answered({"body": {"set": {"/b": 2}}}, response(status, b"", fields), exchange(method, "/"))
        assert answer.header(b"etag") == b'"a"'

    def test_it_stays_streamed(self) -> None:
        stream = Body(length=10)
        lines = b"content-type: application/json\r\ncache-control: no-transform\r\n"
        answer = answered(self.RULES, Outcome(200, stream=stream, lines=lines))
        assert (answer.status, answer.stream) == (203, stream)

    def test_a_condition_reads_it_all_the_same(self) -> None:
        rules = {"cases": [{"when": "response.body.a == 1", "status": 203, "body": {"set": {"/b": 2}}}]}
        answer = answered(rules, response(200, b'{"a":1}', {**JSON, "cache-control": "no-transform"}))
        assert (answer.status, answer.body) == (203, b'{"a":1}')

    def test_one_that_could_not_be_rewritten_passes(self) -> None:
        answer = answered(self.RULES, response(200, b"no json", {**JSON, "cache-control": "no-transform"}))
        assert (answer.failure, answer.body) == (None, b"no json")

    def test_a_client_cannot_switch_rules_for_requests_off(self) -> None:
        x = post(b'{"a":1}')
        x.add(b"cache-control", b"no-transform")
        assert rewritten({"body": {"set": {"/b": 2}}}, x).body == b'{"a":1,"b":2}'
