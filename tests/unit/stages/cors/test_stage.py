"""Tests of `cors`: answers to preflights, fields on responses, and what is left to the browser."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.outcome import OVERLOADED, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.cors import stage as cors
from sidecar.stages.cors.origins import Origins, check_origin
from sidecar.stages.cors.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import ScriptedService, context, exchange, response

SHOP = "https://shop.example"


def build(env: FakeEnv | None = None, **block: Any) -> Any:
    return cors.build(Spec.model_validate({"origins": [SHOP], **block}), context(env or make_env()))


def preflight(origin: str = SHOP, method: str = "PUT", headers: str = "", **more: str) -> Any:
    fields = {"origin": origin, "access-control-request-method": method, **more}
    if headers:
        fields["access-control-request-headers"] = headers
    return exchange("OPTIONS", "/orders/7", fields)


def named(outcome: Outcome) -> dict[str, str]:
    """Return the fields about CORS without their common prefix, and Vary."""
    prefix = "access-control-"
    assert len({name for name, _ in outcome.headers}) == len(outcome.headers), "no field twice"
    fields = {name.decode(): value.decode() for name, value in outcome.headers}
    return {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith((prefix, "vary"))}


async def test_a_preflight_is_answered_with_all_that_is_allowed() -> None:
    env, inner = make_env(), ScriptedService(200)
    stage = build(env, methods=["GET", "PUT"], headers=["Content-Type", "x-cart"], credentials=True, max_age="10m")
    outcome = await Pipeline([stage], inner)(preflight(headers="content-type,x-cart"))
    assert (outcome.status, outcome.failure, outcome.body, inner.calls) == (204, None, b"", 0)
    assert named(outcome) == {
        "allow-origin": SHOP,
        "allow-credentials": "true",
        "allow-methods": "GET, PUT",
        "allow-headers": "content-type, x-cart",
        "max-age": "600",
        "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    assert env.meter.value(metrics.PREFLIGHTS, route="order", result="allowed") == 1


@pytest.mark.parametrize(
    ("result", "x"),
    [
        ("method", preflight(method="DELETE")),
        ("headers", preflight(headers="content-type, x-secret")),
        ("private_network", preflight(**{"access-control-request-private-network": "true"})),
        ("allowed", preflight(method="POST", headers="Content-Type")),
        ("origin", preflight("https://evil.example")),
        ("origin", preflight("null")),
        ("origin", preflight("https://shop.example.evil.example")),
        ("origin", preflight("http://shop.example")),
    ],
)
def test_what_is_missing_is_for_the_browser_to_tell_except_a_foreign_origin(result: str, x: Any) -> None:
    env = make_env()
    outcome = build(env, methods=["PUT"], headers=["content-type"]).admit(x)
    assert env.meter.value(metrics.PREFLIGHTS, route="order", result=result) == 1
    if result == "origin":
        assert (outcome.status, outcome.reason, outcome.refusal.policy) == (403, "origin_refused", "cors")
        assert "allow-origin" not in named(outcome)
    else:
        assert (outcome.status, named(outcome)["allow-methods"]) == (204, "PUT")
        assert "allow-private-network" not in named(outcome)


def test_a_private_network_may_be_opened() -> None:
    stage = build(private_network=True)
    asked = named(stage.admit(preflight(method="GET", **{"access-control-request-private-network": "true"})))
    assert asked["allow-private-network"] == "true"
    assert "Access-Control-Request-Private-Network" in asked["vary"]
    assert "allow-private-network" not in named(stage.admit(preflight()))


@pytest.mark.parametrize(
    "x",
    [
        exchange("OPTIONS", "/", {"origin": SHOP}),
        exchange("OPTIONS", "/", {"access-control-request-method": "PUT"}),
        exchange("GET", "/", {"origin": SHOP, "access-control-request-method": "PUT"}),
        exchange("POST", "/", {"origin": "https://evil.example"}),
    ],
)
def test_other_requests_go_on_whatever_their_origin(x: Any) -> None:
    assert build().admit(x) is None


@pytest.mark.parametrize("origin", [SHOP, "https://evil.example", None])
@pytest.mark.parametrize("kind", ["whole", "lines", "stream"])
async def test_fields_of_the_upstream_are_replaced_and_vary_names_the_origin(origin: str | None, kind: str) -> None:
    fields = {"x-total": "7", "Access-Control-Allow-Origin": "*", "access-control-allow-credentials": "true"}
    body = Body() if kind == "stream" else None
    answer = response(200, headers=fields, stream=body)
    if kind == "lines":
        answer = Outcome(200, lines=answer.lines)
    before = list(answer.headers) if kind == "stream" else None
    x = exchange(headers={} if origin is None else {"origin": origin})
    outcome = await Pipeline([build(expose=["X-Total"])], ScriptedService(answer))(x)
    expected = {"allow-origin": SHOP, "vary": "Origin", "expose-headers": "x-total"} if origin == SHOP else {}
    assert named(outcome) == {"vary": "Origin", **expected}
    assert outcome.header(b"x-total") == b"7"
    if body is not None:
        assert answer.headers == before, "stages further in settle the original"
        assert outcome.stream is body
        body.finish()


def test_every_origin_needs_no_vary() -> None:
    stage = build(origins=["*"])
    assert named(stage.answer(exchange(), None, response(200))) == {"allow-origin": "*"}
    refused = named(stage.answer(exchange(headers={"origin": "null"}), None, response(500)))
    assert refused == {"allow-origin": "*"}


@pytest.mark.parametrize(
    ("origins", "vary", "found"),
    [
        ([SHOP], ["Accept"], b"Accept, Origin"),
        ([SHOP], ["accept, origin", "Cookie"], b"accept, Origin, Cookie"),
        ([SHOP], ["*"], b"*, Origin"),
        ([SHOP], [" ,"], b"Origin"),
        (["*"], ["Accept"], b"Accept"),
        (["*"], [""], None),
    ],
)
def test_vary_of_the_upstream_stays(origins: list[str], vary: list[str], found: bytes | None) -> None:
    fields = [(b"vary", value.encode()) for value in vary]
    outcome = build(origins=origins).answer(exchange(), None, response(200, headers=fields))
    assert [value for name, value in outcome.headers if name == b"vary"] == ([] if found is None else [found])


def test_a_call_of_grpc_web_exposes_its_status() -> None:
    x = exchange("POST", headers={"origin": SHOP}, is_grpc=True, web=b"application/grpc-web")
    outcome = build(expose=["x-total"]).answer(x, None, response(200))
    assert named(outcome)["expose-headers"] == "x-total, grpc-status, grpc-message, grpc-status-details-bin"


def test_failures_get_their_fields_with_their_document() -> None:
    stage = build()
    failure = Outcome(503, failure=OVERLOADED)
    assert stage.answer(exchange(headers={"origin": SHOP}), None, failure) is failure
    assert failure.headers == []
    fields = stage.problem_fields(exchange(headers={"origin": SHOP}))
    assert fields == [(b"access-control-allow-origin", SHOP.encode()), (b"vary", b"Origin")]


def test_observing_counts_what_would_be_refused() -> None:
    env = make_env()
    stage = build(env, mode="observe")
    for x in (preflight(method="POST"), preflight("https://evil.example"), preflight(headers="x-other")):
        assert stage.admit(x) is None
    assert env.meter.value(metrics.WOULD_REFUSE, policy="cors", route="order") == 2
    outcome = response(200, headers={"access-control-allow-origin": "*"})
    assert stage.answer(exchange(headers={"origin": SHOP}), None, outcome) is outcome
    assert (stage.problem_fields(exchange()), stage.answers_preflights) == ([], False)


# ----- origins


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://a.shop.example", True),
        ("https://a-1.shop.example", True),
        ("https://shop.example", False),
        ("https://.shop.example", False),
        ("https://a.b.shop.example", False),
        ("https://evil.example/.shop.example", False),
        ("https://evil.example?.shop.example", False),
        ("https://a.shopxexample", False),
        ("https://A.shop.example", False),
        ("https://-.shop.example", False),
        ("https://a.shop.example:8443", False),
        ("http://a.shop.example", False),
        (f"https://{'a' * 400}.shop.example", False),
        ("https://a\n.shop.example", False),
        ("http://localhost:5173", True),
        ("http://[::1]:5173", True),
        ("", False),
    ],
)
def test_a_star_is_one_label(origin: str, is_allowed: bool) -> None:
    texts = ["https://*.shop.example", "http://localhost:5173", "http://[::1]:5173"]
    assert [check_origin(text) for text in texts] == texts
    assert Origins(texts).allows(origin.encode()) == is_allowed


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"origins": ["null"]}, "name the origins of your pages"),
        ({"origins": ["*"], "credentials": True}, "in origins beside credentials"),
        ({"headers": ["*"], "credentials": True}, "write out the headers"),
        ({"origins": ["*", SHOP]}, "keep one of the two"),
        ({"origins": ["https://shop.example/"]}, "write https://shop.example"),
        ({"origins": ["https://Shop.example"]}, "write https://shop.example"),
        ({"origins": ["https://shop.example:443"]}, "write https://shop.example"),
        ({"origins": ["shop.example"]}, "write scheme and host"),
        ({"origins": ["https://*"]}, "name yours"),
        ({"origins": ["https://*.example"]}, "name yours"),
        ({"origins": ["https://a.*.example"]}, "whole first label"),
        ({"origins": ["https://a*.shop.example"]}, "whole first label"),
        ({"origins": ["https://.*.example"]}, "whole first label"),
        ({"origins": ["https://shop.example:99999"]}, "from 1 to 65535"),
        ({"origins": []}, "at least 1"),
        ({"methods": ["get"]}, "write GET"),
        ({"methods": ["TRACE"]}, "no browser"),
        ({"headers": ["content type"]}, "not the name"),
    ],
)
def test_what_browsers_would_not_understand_is_an_error(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("*", r"\*")):
        Spec.model_validate({"origins": [SHOP], **block})
