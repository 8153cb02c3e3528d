"""Tests of hostile clients and hostile services of parts: injection, and answers that are too large or no JSON."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from sidecar.downstream.connection import DownstreamConnection
from sidecar.simulation.transport import join
from tests.support.backends import RESET, Answer, answer
from tests.support.loop import settle, virtual
from tests.support.streams import CALL, MESSAGE, StreamEnd
from tests.unit.stages.aggregate.test_stage import ANSWER, Page, policies

ECHO = """
        user: {upstream: users, path: "/users/7"}
        echo:
          {upstream: credit, path: "/v/{parts.user./v}?q={parts.user./v}&who={query.who}",
           headers: {x-of: "{parts.user./v}", x-who: "{query.who}"}}"""
BIG = "9" * 9000


def said(value: str) -> dict[str, Answer]:
    """Return an answer of the first part with a JSON text as its value."""
    return {"users/users/7": answer(b'{"v": %b}' % value.encode())}


def target(page: Page) -> str:
    """Return the target of the second part's request."""
    return page.services.of("credit")[-1].removeprefix("credit")


# ----- values that are put into requests


@pytest.mark.parametrize(
    ("value", "path", "query"),
    [
        (r'"a\r\nx-evil: 1"', "a%0D%0Ax-evil%3A%201", "a%0D%0Ax-evil%3A%201"),
        (r'"a/../b"', None, ""),
        (r'".."', None, ""),
        (r'"%2e%2e"', None, ""),
        (r'"%252e%252e"', None, ""),
        (r'"a\u0000"', None, ""),
        (r'"a/b?c=d&e#f"', "a%2Fb%3Fc%3Dd%26e%23f", "a%2Fb%3Fc%3Dd%26e%23f"),
        (r'"a b+c%20;d\\e"', "a%20b%2Bc%2520%3Bd%5Ce", "a%20b%2Bc%2520%3Bd%5Ce"),
        (r'"\u00e4\ud83d\ude00"', "%C3%A4%F0%9F%98%80", "%C3%A4%F0%9F%98%80"),
        (r'"\ud83d"', None, ""),
        ("1.50", "1.50", "1.50"),
        ("-1e400", "-1e400", "-1e400"),
        ("true", "true", "true"),
        ('"{path.id}{parts.user}"', "%7Bpath.id%7D%7Bparts.user%7D", "%7Bpath.id%7D%7Bparts.user%7D"),
        (f'"{BIG}"', None, ""),
        (f'"{"/" * 3000}"', None, ""),
    ],
)
@virtual
async def test_a_value_stays_one_segment_and_one_value_of_the_query(value: str, path: str | None, query: str) -> None:
    page = Page(policies(ECHO), said(value))
    await page.get()
    if path is None:
        assert page.services.of("credit") == []
        assert page.results()["echo"] == "no_value"
        assert page.counted("echo", "failed") == 1
        return
    assert target(page) == f"/v/{path}?q={query}&who="
    head = page.services.heads[-1]
    assert b"\nx-evil" not in head.lower()
    assert head.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    "sent", ["a%0d%0ax-evil:%201", "a%00b", "a%26b%3Dc", "%ff%fe", "..%2f..", "x" * 5000, "a%23b", "%7Bservice%7D"]
)
@virtual
async def test_what_a_client_sends_stays_one_value_too(sent: str) -> None:
    page = Page(policies(ECHO), said("1"))
    await page.get(path=f"/profile/7?who={sent}")
    head, _, body = page.services.heads[-1].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    value = target(page).partition("&who=")[2]
    assert body == b""
    assert not set(value) & set("&=#?/ \r\n\0{}+")
    assert not [line for line in lines if line.lower().startswith(b"x-evil")]
    assert not [line for line in lines if b"\0" in line or b"\n" in line]


@virtual
async def test_captures_are_encoded_once_more_where_they_are_used() -> None:
    page = Page(policies().replace("required: true", "otherwise: {json: {}}"))
    await page.get(path="/profile/a%3Fb%26c%25d")
    assert page.services.of("users") == ["users/users/a%3Fb%26c%25d"]
    assert page.services.of("orders") == ["orders/orders?user=a%3Fb%26c%25d"]


@pytest.mark.parametrize("path", ["/profile/..%2f..%2fadmin", "/profile/%2e%2e", "/profile/%00", "/profile/a%5c..%5cb"])
@virtual
async def test_a_capture_never_leads_to_another_path(path: str) -> None:
    page = Page(policies())
    await page.get(path=path)
    assert page.services.seen == []


@virtual
async def test_fields_of_a_part_are_bounded() -> None:
    page = Page(policies(ECHO.replace("/v/{parts.user./v}?q={parts.user./v}&", "/v?")), said(f'"{BIG * 2}"'))
    await page.get()
    assert page.results()["echo"] == "no_value"


@virtual
async def test_the_body_of_a_parts_request_is_bounded() -> None:
    parts = """
        user: {upstream: users, path: "/users/7"}
        copy: {upstream: credit, path: /copy, method: POST, max_body: 100B, json: ["{parts.user}", "{parts.user}"]}"""
    page = Page(policies(parts), {**said('"' + 60 * "x" + '"'), "credit/copy": answer()})
    await page.get()
    assert page.results()["copy"] == "no_value"


@virtual
async def test_a_path_that_is_none_of_the_parts_route_is_not_asked() -> None:
    parts = """
        user: {upstream: users, path: "/users/7"}
        one: {route: by-name, path: "/n/{parts.user./v}"}"""
    text = policies(parts) + "  - {name: by-name, listener: none, match: {path_regex: '/n/[a-z]+'}, upstream: credit}\n"
    page = Page(text, {**said('"x"'), "credit/n/x": answer()})
    await page.get()
    assert page.results()["one"] == "ok"
    page.services.answers.update(said('"ADMIN"'))
    await page.get()
    assert (page.results()["one"], len(page.services.of("credit"))) == ("no_value", 1)


# ----- answers


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (nested(100_000), "invalid"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "invalid"),
        (b'{"a": 1, "a": 2}', "invalid"),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', "invalid"),
        (b"NaN", "invalid"),
        (b'{"a": Infinity}', "invalid"),
        (b'{"a": "\xff"}', "invalid"),
        (b"\xef\xbb\xbf{}", ""),
        (b'{"a": "\\ud800"}', ""),
        (b"{} {}", "invalid"),
        (b"{}\0", "invalid"),
        (b"[1,]", "invalid"),
        (b"", ""),
        (b"[" + b"1," * 500_000 + b"1]", ""),
        (b'"' + b"x" * 2**20 + b'"', "answer_too_large"),
    ],
)
@virtual
async def test_only_json_is_an_answer(body: bytes, reason: str) -> None:
    page = Page(policies(more=ANSWER), {"orders/orders": answer(body)})
    found = await page.get()
    assert found.status == 200
    json.loads(found.body)
    assert page.results()["orders"] == (reason or "ok")


def bomb(size: int, coding: str = "gzip") -> Answer:
    text = b'"' + b"x" * size + b'"'
    return answer(gzip.compress(text) if coding == "gzip" else zlib.compress(text), content_encoding=coding)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (bomb(2**24), "answer_too_large"),
        (bomb(2**24, "deflate"), "answer_too_large"),
        (answer(gzip.compress(b"{}")[:-4], content_encoding="gzip"), "invalid"),
        (answer(gzip.compress(gzip.compress(b"{}")), content_encoding="gzip, gzip"), "invalid"),
        (answer(b"{}", content_encoding="rot13"), "invalid"),
        (answer(gzip.compress(b'{"items": [7]}'), content_encoding="gzip"), "ok"),
    ],
)
@virtual
async def test_a_coded_answer_is_decoded_within_the_bounds(said: Answer, reason: str) -> None:
    page = Page(policies(more=ANSWER), {"orders/orders": said})
    found = await page.get()
    assert page.results()["orders"] == reason
    assert found.get("content-encoding") == ""
    assert len(found.body) < 1000


@virtual
async def test_small_coded_answers_of_many_items_do_not_grow_together() -> None:
    parts = """
        orders: {upstream: orders, path: "/orders"}
        items: {upstream: users, path: "/item/{item}", each: {of: "{parts.orders./ids}", max: 100, at_once: 100}}"""
    item = bomb(60_000)
    assert len(item.data) < 500
    answers = {f"users/item/{n}": item for n in range(100)}
    answers["orders/orders"] = answer(b'{"ids": %b}' % json.dumps(list(range(100))).encode())
    page = Page(policies(parts, "      max_size: 1MiB\n"), answers)
    found = await page.get()
    results = list(page.results().values())
    assert len(found.body) <= 2**20
    assert results.count("answer_too_large") == 100 - results.count("ok") + 1 > 50


@virtual
async def test_a_failed_service_sends_no_fields_to_the_client() -> None:
    fields = {"set_cookie": "a=1", "x_region": "eu", "location": "/evil", "x_sidecar_reason": "none"}
    page = Page(
        policies(more="      headers: [x-region, set-cookie]\n"), {"orders/orders": answer(b"{}", 500, **fields)}
    )
    found = await page.get()
    assert [found.get(name) for name in ("set-cookie", "x-region", "location", "x-sidecar-reason")] == [""] * 4
    page.services.answers["orders/orders"] = answer(b"{}", 200, **fields)
    found = await page.get()
    assert [found.get(name) for name in ("set-cookie", "x-region", "location")] == ["a=1", "eu", ""]


@virtual
async def test_the_names_that_a_service_says_are_missing_are_bounded_words() -> None:
    hostile = ", ".join(f"n{number}" for number in range(1000)) + ', "x\\"; dur=1'
    page = Page(policies(), {"orders/orders": answer(b"{}", x_sidecar_partial=hostile)})
    names = (await page.get()).get("x-sidecar-partial").split(", ")
    assert names == [f"orders.n{number}" for number in range(20)]


# ----- bounds


@virtual
async def test_a_list_that_is_too_long_asks_nothing() -> None:
    parts = """
        orders: {upstream: orders, path: "/orders"}
        items: {upstream: users, path: "/item/{item}", each: "{parts.orders./ids}"}"""
    page = Page(policies(parts), {"orders/orders": answer(b'{"ids": [%b1]}' % (b"1," * 50))})
    await page.get()
    assert page.results()["items"] == "too_many"
    assert page.services.of("users") == []


@pytest.mark.parametrize("items", [b'["..", "a/b"]', b'[{"a": 1}, null]', b'["\\u0000", ""]'])
@virtual
async def test_items_of_a_list_are_values_as_any_other(items: bytes) -> None:
    parts = """
        orders: {upstream: orders, path: "/orders"}
        items: {upstream: users, path: "/item/{item}", each: "{parts.orders./ids}"}"""
    page = Page(policies(parts), {"orders/orders": answer(b'{"ids": %b}' % items), "users/item/a%2Fb": answer(b"1")})
    body = json.loads((await page.get()).body)
    assert body["items"] == ([None, 1] if b"a/b" in items else None)
    assert set(page.services.of("users")) <= {"users/item/a%2Fb"}


LIST = """
        orders: {upstream: orders, path: "/orders"}
        items: {route: item, path: "/item/{item}", each: {of: "{parts.orders./ids}", max: 1000, at_once: 1}}"""
ITEM = "  - {name: item, listener: none, match: {path: '/item/{n}'}, upstream: users, cache: {ttl: 60s}}\n"


@pytest.mark.parametrize(
    ("items", "upstream", "reason"),
    [
        ([None] * 1000, "", "no_value"),  # requests that are not made
        ([7] * 1000, "", "ok"),  # one request for all, and a hit of a cache at the second time
        (list(range(1000)), ", circuit_breaker: {consecutive_failures: 1}", "breaker_open"),
    ],
)
@virtual
async def test_a_long_list_of_requests_that_end_at_once_is_answered(
    items: list[object], upstream: str, reason: str
) -> None:
    answers = {"orders/orders": answer(b'{"ids": %b}' % json.dumps(items).encode()), "users/item/7": answer(b"1")}
    answers["users/item/0"] = RESET
    page = Page(policies(LIST, "      max_calls: 5000\n", upstream=upstream) + ITEM, answers)
    for _ in range(2):
        found = await page.get()
    assert found.status == 200
    assert page.results()["items[0]"] == reason
    assert json.loads(found.body)["items"] == ([1] * 1000 if reason == "ok" else None)
    assert len(found.get("server-timing")) < 8192, "a client refuses longer heads"


# ----- callers of other kinds


@virtual
async def test_conditions_and_ranges_are_of_the_whole_and_go_to_no_part() -> None:
    fields = {"If-None-Match": '"1"', "If-Modified-Since": "Mon, 01 Jan 2029 00:00:00 GMT", "Range": "bytes=0-1"}
    page = Page(policies(), {"orders/orders": answer(b"{}", etag='"1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT")})
    found = await page.get(fields)
    assert found.status == 200
    assert json.loads(found.body)["orders"] == {}
    assert [found.get(name) for name in ("etag", "last-modified", "content-range")] == [""] * 3
    assert not [head for head in page.services.heads if b"\nif-" in head.lower() or b"\nrange" in head.lower()]


@virtual
async def test_a_head_request_has_the_head_of_the_answer() -> None:
    page = Page(policies())
    client = page.proxy.send(method="HEAD", path="/profile/7")
    found = await client.answer("HEAD")
    assert (found.status, found.body, found.get("content-type")) == (200, b"", "application/json")
    assert bytes(client.received).endswith(b"\r\n\r\n")
    assert all(head.startswith(b"GET ") for head in page.services.heads), "parts are asked as the policy says"


@virtual
async def test_callers_of_http2_get_answers_and_callers_of_grpc_a_status() -> None:
    page = Page(policies().replace('address: "127.0.0.1:0"', 'address: "127.0.0.1:0", protocols: [http1, http2]'))
    client = StreamEnd(is_client=True)
    join(page.proxy.loop, client, DownstreamConnection(page.proxy.listener))
    found = await client.ask(b"GET", b"", path=b"/profile/7").end()
    assert json.loads(found.body)["user"]["name"] == "Ada"
    head = await client.ask(b"HEAD", b"", path=b"/profile/7").end()
    assert (head.is_whole, head.body) == (True, b"")
    call = await client.ask(b"POST", CALL, MESSAGE, path=b"/profile/7").end()
    assert call.body == b""
    assert b"grpc-status: 2" in call.lines + call.trailers
    gone = client.ask(b"GET", b"", path=b"/profile/7")
    gone.reset(8)
    await settle()
    assert (await client.ask(b"GET", b"", path=b"/profile/7").end()).body == found.body
