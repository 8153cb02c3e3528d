"""Tests of `aggregate` in a whole proxy in virtual time: parts with all their policies, substitutes, deadline."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.core import metrics
from tests.support.backends import HANG, NOT_FOUND, RESET, Answer, Services, answer
from tests.support.loop import settle, virtual
from tests.support.proxy import Proxy

USER = answer(b'{"name": "Ada", "creditId": "c/9", "balance": 12345678901234567890.10}')
ORDERS = answer(b'{"items": [{"id": 1.0}, {"id": 2}], "ids": [1.0, 2]}')
SCORE = answer(b'{"value": 1e400}')
ANSWERS = {"users/users/7": USER, "orders/orders": ORDERS, "credit/score/c%2F9": SCORE}
PARTS = """
        user: {upstream: users, path: "/users/{path.id}", required: true}
        orders: {route: orders-of-user, path: "/orders?user={path.id}", timeout: 300ms, otherwise: {json: []}}
        score: {upstream: credit, path: "/score/{parts.user./creditId}"}"""
ANSWER = (
    '      answer: {json: {user: "{parts.user}", orders: "{parts.orders./items}", score: "{parts.score./value}"}}\n'
)


def policies(parts: str = PARTS, more: str = "", route: str = "", top: str = "", upstream: str = "") -> str:
    """Return policies with a page of parts; `more` is within the block, `route` on its route."""
    return f"""version: 1
listeners: {{inbound: {{address: "127.0.0.1:0"}}}}
upstreams:
  users: {{endpoints: ["http://users:80"]{upstream}}}
  orders: {{endpoints: ["http://orders:80"]}}
  credit: {{endpoints: ["http://credit:80"]}}
{top}routes:
  - name: page
    match: {{path: "/profile/{{id}}"}}
    timeout: {{request: 800ms}}
{route}    aggregate:
      parts:{parts}
{more}  - {{name: orders-of-user, listener: none, match: {{path: /orders}}, upstream: orders,
     retry: {{max_attempts: 1}}}}
"""


class Page:
    """Whole proxy with a page, and the services behind it."""

    def __init__(self, text: str, answers: dict[str, Answer] | None = None) -> None:
        self.services = Services({**ANSWERS, **(answers or {})})
        self.proxy = Proxy(text, self.services)

    async def get(self, fields: dict[str, str] | None = None, path: str = "/profile/7") -> Any:
        found = await self.proxy.get(fields, path)
        assert self.proxy.bugs == []
        return found

    async def json(self, fields: dict[str, str] | None = None, path: str = "/profile/7") -> Any:
        found = await self.get(fields, path)
        assert found.status == 200, found.body
        return json.loads(found.body)

    async def json_orders(self) -> Any:
        """Return the value of the part `orders`."""
        return json.loads((await self.get()).body.replace(b"1e400", b"1"))["orders"]

    def results(self) -> dict[str, str]:
        """Return the results of the parts of the last request."""
        parts = self.proxy.records[-1][0].parts
        assert parts is not None
        return {part.name: part.reason or part.result for part in parts}

    def counted(self, part: str, result: str) -> float:
        value: float = self.proxy.env.meter.value(metrics.AGGREGATE_PARTS, part=part, result=result)
        return value


# ----- the answer


@virtual
async def test_the_answer_has_the_values_of_all_parts_with_their_spelling() -> None:
    page = Page(policies(more=ANSWER))
    found = await page.get()
    assert (found.status, found.get("content-type")) == (200, "application/json")
    user = USER.data.partition(b"\r\n\r\n")[2]
    assert found.body == b'{"user":%b,"orders":[{"id": 1.0}, {"id": 2}],"score":1e400}' % user
    assert found.get("x-sidecar-partial") == ""
    assert page.results() == {"user": "ok", "orders": "ok", "score": "ok"}


@virtual
async def test_parts_run_at_the_same_time_and_after_those_that_they_need() -> None:
    page = Page(policies(), {"users/users/7": USER._replace(after=0.1), "orders/orders": ORDERS._replace(after=0.1)})
    before = page.proxy.loop.time()
    await page.json()
    assert page.proxy.loop.time() - before == pytest.approx(0.1, abs=0.01)
    assert sorted(page.services.seen[:2]) == ["orders/orders?user=7", "users/users/7"]
    assert page.services.seen[2] == "credit/score/c%2F9", "values are percent-encoded"


@virtual
async def test_without_a_form_the_answer_is_nested() -> None:
    found = await Page(policies()).json()
    assert list(found) == ["user", "orders", "score"]
    assert found["orders"]["ids"] == [1.0, 2]


@virtual
async def test_merged_answers_have_the_members_of_all_parts() -> None:
    parts = """
        user: {upstream: users, path: "/users/7"}
        other: {upstream: credit, path: "/score/9"}"""
    page = Page(policies(parts, "      answer: merged\n"), {"credit/score/9": answer(b'{"name": "Bo", "x": 1.50}')})
    assert (await page.get()).body == (b'{"name":"Bo","creditId":"c/9","balance":12345678901234567890.10,"x":1.50}')


@virtual
async def test_an_answer_that_is_no_object_cannot_be_merged() -> None:
    parts = """
        user: {upstream: users, path: "/users/7"}
        other: {upstream: credit, path: "/score/9"}"""
    page = Page(policies(parts, "      answer: merged\n"), {"credit/score/9": answer(b"[1]")})
    found = await page.get()
    assert found.get("x-sidecar-partial") == "other"
    assert json.loads(found.body)["name"] == "Ada"


@virtual
async def test_a_text_may_hold_values() -> None:
    text = "Dear {parts.user./name}, {path.id}: {parts.user./no}{parts.user}"
    more = f"""      answer: {{json: {{hello: "{text}", plain: "{{{{parts.user}}}}"}}}}\n"""
    assert await Page(policies(more=more)).json() == {"hello": "Dear Ada, 7: ", "plain": "{parts.user}"}


@virtual
async def test_a_body_and_fields_of_a_part_may_hold_values_too() -> None:
    parts = """
        user: {upstream: users, path: "/users/7"}
        other:
          {upstream: credit, method: POST, path: /q, headers: {X-Of: "{parts.user./name}"}, json: {who: "{parts.user}"}}
"""
    page = Page(policies(parts), {"credit/q": answer()})
    await page.json({"x-of": "Eve", "x-a": "1", "cookie": "c=1", "if-none-match": "x", "accept-encoding": "br"})
    head, _, body = page.services.heads[-1].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /q http/1.1"
    assert {b"x-of: ada", b"x-a: 1", b"cookie: c=1", b"accept: application/json"} <= set(lines)
    assert not [line for line in lines if line.startswith((b"if-none-match", b"accept-encoding", b"x-of: eve"))]
    assert json.loads(body)["who"]["balance"] == pytest.approx(1.2345678901234567e19)
    assert b"12345678901234567890.10" in body


@pytest.mark.parametrize(
    ("said", "value"), [(answer(b"", 204), None), (answer(b""), None), (answer(b" \n[1] "), [1]), (answer(b'"x"'), "x")]
)
@virtual
async def test_every_json_value_is_an_answer(said: Answer, value: object) -> None:
    found = await Page(policies(), {"orders/orders": said}).json()
    assert found["orders"] == value


# ----- failures


@virtual
async def test_an_answer_like_the_latest_one_is_taken_and_every_other_is_checked() -> None:
    page = Page(policies(more=ANSWER.replace("score:", 'first: "{parts.orders./items/0/id}", score:')))
    whole = (await page.get()).body
    for _ in range(2):
        assert (await page.get()).body == whole, "with the same spelling each time"
    page.services.answers["orders/orders"] = answer(b"{")
    assert (await page.get()).get("x-sidecar-partial") == "orders"
    page.services.answers["orders/orders"] = ORDERS
    page.services.answers["users/users/7"] = answer(b'{"creditId": "c/9"}')
    found = await page.get()
    assert found.body == b'{"user":{"creditId": "c/9"},"orders":[{"id": 1.0}, {"id": 2}],"first":1.0,"score":1e400}'
    assert found.get("x-sidecar-partial") == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NOT_FOUND, "404"),
        (answer(b"{}", 503), "503"),
        (answer(b"<html>"), "invalid"),
        (answer(b'{"a": 1, "a": 2}'), "invalid"),
        (RESET, "reset"),
        (HANG, "timeout"),
        (answer(b'"%b"' % (b"x" * 2**20)), "answer_too_large"),
    ],
)
@virtual
async def test_an_optional_part_that_fails_is_replaced_and_named(said: Answer, reason: str) -> None:
    page = Page(policies(more=ANSWER), {"orders/orders": said})
    found = await page.get()
    assert found.status == 200
    assert found.get("x-sidecar-partial") == "orders"
    assert found.get("cache-control") == "no-store"
    timing = found.get("server-timing")
    assert f'desc="{reason}"' in timing
    assert [member.partition(";")[0] for member in timing.split(", ")] == ["user", "orders", "score"]
    body = json.loads(found.body.replace(b"1e400", b"1"))
    assert (body["orders"], body["score"]) == ([], 1)
    assert page.counted("orders", "substituted") == 1


@virtual
async def test_a_part_without_a_substitute_is_null() -> None:
    page = Page(policies(more=ANSWER), {"credit/score/c%2F9": answer(b"", 500)})
    found = await page.get()
    assert json.loads(found.body)["score"] is None
    assert page.counted("score", "failed") == 1


@virtual
async def test_a_part_that_needs_a_failed_one_is_not_started() -> None:
    page = Page(policies(PARTS.replace(", required: true", "")), {"users/users/7": NOT_FOUND})
    found = await page.get()
    assert found.get("x-sidecar-partial") == "user, score"
    assert page.results() == {"user": "404", "orders": "ok", "score": "needs"}
    assert page.services.of("credit") == []


@virtual
async def test_unless_it_has_a_substitute() -> None:
    parts = PARTS.replace("required: true", 'otherwise: {json: {creditId: "c/9"}}')
    page = Page(policies(parts), {"users/users/7": NOT_FOUND})
    assert (await page.get()).get("x-sidecar-partial") == "user"
    assert page.services.of("credit") == ["credit/score/c%2F9"]


@pytest.mark.parametrize(
    "said", [b"{}", b'{"creditId": null}', b'{"creditId": {}}', b'{"creditId": ""}', b'{"creditId": ".."}']
)
@virtual
async def test_a_path_is_never_sent_without_its_value(said: bytes) -> None:
    page = Page(policies(), {"users/users/7": answer(said)})
    await page.get()
    assert page.results()["score"] == "no_value"
    assert page.services.of("credit") == []


@virtual
async def test_the_names_of_missing_parts_are_a_member_if_wanted() -> None:
    more = "      partial: {status: 206, member: missing}\n"
    for answers, missing, status in (({}, [], 200), ({"orders/orders": NOT_FOUND}, ["orders"], 206)):
        found = await Page(policies(more=more), answers).get()
        assert (found.status, json.loads(found.body.replace(b"1e400", b"1"))["missing"]) == (status, missing)


@virtual
async def test_stale_answers_of_the_parts_own_cache_are_substitutes() -> None:
    parts = PARTS.replace("otherwise: {json: []}", "otherwise: [stale, {json: []}]")
    cached = policies(parts).replace("upstream: orders,", "upstream: orders, cache: {ttl: 10s, keep: 1h},")
    page = Page(cached)
    await page.get()
    await page.get()
    assert len(page.services.of("orders")) == 1, "the part's route has a cache"
    page.services.answers["orders/orders"] = answer(b"", 500)
    await asyncio.sleep(60)
    found = await page.get()
    assert json.loads(found.body.replace(b"1e400", b"1"))["orders"]["ids"] == [1.0, 2]
    assert found.get("x-sidecar-partial") == "orders"
    assert page.counted("orders", "stale") == 1


# ----- required parts


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (answer(b"{}", 500), 502), (answer(b"{}", 503), 503), (answer(b"{}", 504), 504), (RESET, 502), (HANG, 504),
        (answer(b"<html>"), 502), (answer(b"{}", 302), 502),
    ],
)  # fmt: skip
@virtual
async def test_a_required_part_that_fails_fails_the_whole(said: Answer, status: int) -> None:
    page = Page(policies(), {"users/users/7": said, "orders/orders": HANG})
    found = await page.get()
    assert (found.status, found.get("x-sidecar-reason")) == (status, "part_failed")
    problem = json.loads(found.body)
    assert problem["policy"] == "aggregate"
    assert problem["detail"].startswith("The required part user failed: ")
    assert page.services.of("credit") == []
    await settle()
    assert page.proxy.state("endpoints")["orders"]["endpoints"][0]["in_flight"] == 0, "the others are cancelled"


@pytest.mark.parametrize("status", [401, 404, 429])
@virtual
async def test_its_client_error_is_the_clients(status: int) -> None:
    said = answer(b"{}", status, retry_after="9", www_authenticate="Bearer")
    found = await Page(policies(), {"users/users/7": said}).get()
    assert (found.status, found.get("x-sidecar-reason"), found.get("retry-after")) == (status, "part_failed", "9")
    assert found.get("www-authenticate") == "Bearer"
    assert json.loads(found.body)["part"] == "user"


@virtual
async def test_an_open_breaker_of_a_required_part_is_told_with_its_time() -> None:
    upstream = ", circuit_breaker: {consecutive_failures: 1, open_for: 30s, jitter: 0%}"
    page = Page(policies(upstream=upstream), {"users/users/7": answer(b"", 500)})
    assert (await page.get()).status == 502
    found = await page.get()
    assert (found.status, found.get("retry-after")) == (503, "30")
    assert len(page.services.of("users")) == 1


@virtual
async def test_a_fallback_of_the_route_answers_for_it() -> None:
    route = "    fallback: [{response: {status: 200, json: {sorry: true}}}]\n"
    page = Page(policies(route=route), {"users/users/7": answer(b"", 500)})
    assert await page.json() == {"sorry": True}


# ----- policies of the parts


@virtual
async def test_a_part_has_the_policies_of_its_upstream_and_of_the_defaults() -> None:
    upstream = ", policy: {retry: {max_attempts: 3, backoff: {base: 1ms}}}"
    page = Page(policies(upstream=upstream), {"users/users/7": answer(b"", 503)})
    await page.get()
    assert len(page.services.of("users")) == 3


@virtual
async def test_a_part_has_the_policies_of_its_route() -> None:
    text = policies().replace("upstream: orders,", "upstream: orders, rate_limit: [{name: one, rate: 1/m, burst: 0}],")
    page = Page(text)
    assert (await page.get()).get("x-sidecar-partial") == ""
    assert (await page.get()).get("x-sidecar-partial") == "orders"
    assert page.results()["orders"] == "rate_limited"


@virtual
async def test_captures_of_the_parts_route_are_those_of_its_own_path() -> None:
    text = policies(PARTS.replace('"/orders?user={path.id}"', '"/of/{path.id}/orders"')).replace(
        "match: {path: /orders}, upstream: orders,",
        'match: {path: "/of/{who}/orders"}, upstream: orders, transform: {request: {path: "/x/{path.who}"}},',
    )
    page = Page(text, {"orders/x/a%20b": ORDERS, "users/users/a%20b": USER})
    await page.json(path="/profile/a%20b")
    assert page.services.of("orders") == ["orders/x/a%20b"]


@virtual
async def test_a_part_whose_route_has_a_candidate_gets_one_of_both() -> None:
    text = policies().replace("upstream: orders,\n", "upstream: {split: {orders: 50%, credit: 50%}},\n")
    page = Page(text, {"credit/orders": answer(b'{"items": "new"}')})
    for _ in range(20):
        await page.json_orders()
    old, new = len(page.services.of("orders")), sum("credit/orders" in each for each in page.services.seen)
    assert old + new == 20
    assert min(old, new) > 2


@virtual
async def test_the_body_of_a_request_goes_to_no_part() -> None:
    page = Page(policies())
    client = page.proxy.send({"content-length": "5"}, "POST", b"hello", "/profile/7")
    assert (await client.answer()).status == 200
    assert all(b"hello" not in head and b"content-length" not in head.lower() for head in page.services.heads)
    late = page.proxy.send({"content-length": "500000"}, "POST", b"hello", "/profile/7")
    assert (await late.answer()).status == 200
    assert page.proxy.bugs == []


@virtual
async def test_a_route_without_a_listener_serves_nobody() -> None:
    assert (await Page(policies()).get(path="/orders")).status == 404


@virtual
async def test_the_answer_can_be_cached_as_any_other() -> None:
    page = Page(policies(route="    cache: {ttl: 10s}\n", more=ANSWER.replace("./value", "")))
    page.services.answers["credit/score/c%2F9"] = answer(b"1")
    first = await page.get()
    second = await page.get()
    assert (first.body, len(page.services.seen)) == (second.body, 3)
    assert "hit" in second.get("cache-status")


# ----- time


@virtual
async def test_all_parts_share_one_deadline() -> None:
    page = Page(
        policies(), {"users/users/7": USER._replace(after=0.6), "credit/score/c%2F9": SCORE._replace(after=0.6)}
    )
    before = page.proxy.loop.time()
    found = await page.get()
    assert found.get("x-sidecar-partial") == "score"
    assert page.proxy.loop.time() - before == pytest.approx(0.8, abs=0.02)
    assert page.results() == {"user": "ok", "orders": "ok", "score": "timeout"}


@virtual
async def test_a_part_that_cannot_end_in_time_is_not_started() -> None:
    slow = {"users/users/7": USER._replace(after=0.3), "credit/score/c%2F9": SCORE._replace(after=0.3)}
    page = Page(policies().replace("inbound: {", "inbound: {trusted_proxies: ['192.0.2.0/24'], "), slow)
    assert (await page.get()).get("x-sidecar-partial") == ""
    page.services.answers["users/users/7"] = USER._replace(after=0.105)
    before, hurried = len(page.services.of("credit")), {"x-request-timeout-ms": "250"}
    assert (await page.get(hurried)).get("x-sidecar-partial") == "score"
    assert len(page.services.of("credit")) == before
    for _ in range(10):
        await page.get(hurried)
    assert len(page.services.of("credit")) > before, "it is tried again some time"


@virtual
async def test_a_part_leaves_time_to_those_that_need_it() -> None:
    parts = PARTS.replace(", required: true", ', otherwise: {json: {creditId: "c/9"}}')
    page = Page(policies(parts), {"credit/score/c%2F9": SCORE._replace(after=0.3)})
    await page.get()
    page.services.answers["users/users/7"] = HANG
    found = await page.get()
    assert found.get("x-sidecar-partial") == "user"
    assert page.results()["score"] == "ok"


@virtual
async def test_a_deadline_that_is_too_short_is_not_charged_to_a_parts_upstream() -> None:
    upstream = ", circuit_breaker: {consecutive_failures: 3}"
    slow = {"users/users/7": USER._replace(after=0.1)}
    text = (
        policies(upstream=upstream)
        .replace("request: 800ms", "request: 5s")
        .replace("inbound: {", "inbound: {trusted_proxies: ['192.0.2.0/24'], ")
    )
    page = Page(text, slow)
    for _ in range(20):
        await page.get()
    for _ in range(10):
        assert (await page.get({"x-request-timeout-ms": "50"})).status == 504
    assert set(page.proxy.breakers().values()) == {"closed"}


@virtual
async def test_a_client_that_leaves_cancels_all_parts() -> None:
    page = Page(policies(), {"users/users/7": HANG, "orders/orders": HANG})
    client = page.proxy.send(path="/profile/7")
    await asyncio.sleep(0.01)
    assert page.services.active == 2
    client.transport.abort()
    await settle()
    for name in ("users", "orders"):
        assert page.proxy.state("endpoints")[name]["endpoints"][0]["in_flight"] == 0
    assert page.results() == {"user": "cancelled", "orders": "cancelled"}
    assert page.proxy.records[-1][2] == "client_closed"
    assert page.proxy.bugs == []


# ----- bounds, duplicates, lists


@virtual
async def test_all_answers_together_are_bounded() -> None:
    page = Page(policies(more="      max_size: 100B\n"), {"orders/orders": answer(b'"%b"' % (b"x" * 90))})
    await page.get()
    assert "answer_too_large" in page.results().values()


@virtual
async def test_the_same_request_is_made_once() -> None:
    parts = """
        one: {upstream: users, path: "/users/7"}
        two: {upstream: orders, path: "/users/7"}
        again: {route: r, path: "/users/{path.id}"}
        more: {route: r, path: "/users/7"}
        posted: {route: r, path: "/users/7", method: POST}
        twice: {route: r, path: "/users/7", method: POST}"""
    text = policies(parts) + '  - {name: r, listener: none, match: {path: "/users/{x}"}, upstream: users}\n'
    page = Page(text, {"users/users/7": USER._replace(after=0.1)})
    found = await page.json()
    assert found["again"] == found["more"] == found["posted"]
    assert len(page.services.of("users")) == 4
    assert page.results() == {
        "one": "ok", "two": "404", "again": "ok", "more": "duplicate", "posted": "ok", "twice": "ok",
    }  # fmt: skip


@virtual
async def test_parts_of_one_upstream_with_the_same_value_ask_once() -> None:
    """As the author and the reviewer of an article, who may be one person."""
    parts = """
        post: {upstream: orders, path: /post}
        author: {upstream: users, path: "/users/{parts.post./author}"}
        reviewer: {upstream: users, path: "/users/{parts.post./reviewer}"}
        hurried: {upstream: users, path: "/users/{parts.post./author}", timeout: 1ms}"""
    said = {"orders/post": answer(b'{"author": 7, "reviewer": 7}'), "users/users/7": USER._replace(after=0.1)}
    page = Page(policies(parts), said)
    found = await page.json()
    assert found["author"] == found["reviewer"] != found["hurried"]
    assert page.results() == {"post": "ok", "author": "ok", "reviewer": "duplicate", "hurried": "timeout"}
    assert len(page.services.of("users")) == 2
    page.services.answers["orders/post"] = answer(b'{"author": 7, "reviewer": 8}')
    await page.get()
    assert page.results()["reviewer"] == "404", "other values are other requests"


EACH = """
        orders: {upstream: orders, path: "/orders"}
        items: {upstream: users, path: "/item/{item}", each: "{parts.orders./ids}"}"""


@virtual
async def test_a_part_is_asked_for_each_item_of_a_list() -> None:
    items = {f"users/item/{n}": answer(b'{"n": %b}' % n.encode(), after=0.1) for n in ("1", "2", "3")}
    items["orders/orders"] = answer(b'{"ids": [1, 2, 3, 2]}')
    page = Page(policies(EACH), items)
    assert (await page.json())["items"] == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 2}]
    assert page.services.of("users") == ["users/item/1", "users/item/2", "users/item/3"], "duplicates are asked once"
    assert page.results() == {
        "orders": "ok", "items[0]": "ok", "items[1]": "ok", "items[2]": "ok", "items[3]": "duplicate",
    }  # fmt: skip


@virtual
async def test_an_item_that_fails_is_null_and_the_answer_partial() -> None:
    page = Page(policies(EACH), {"users/item/1.0": answer(b"1")})
    found = await page.get()
    assert json.loads(found.body)["items"] == [1, None]
    assert found.get("x-sidecar-partial") == "items"
    page.services.answers.pop("users/item/1.0")
    assert json.loads((await page.get()).body)["items"] is None


@pytest.mark.parametrize("gone", ["1.0", "2"])
@virtual
async def test_any_item_of_a_required_part_that_fails_fails_the_whole(gone: str) -> None:
    items = {f"users/item/{number}": answer(b"1") for number in ("1.0", "2") if number != gone}
    page = Page(policies(EACH.replace("each:", "required: true, each:")), items)
    assert (await page.get()).status == 404


@pytest.mark.parametrize(
    ("said", "reason"), [(b'{"ids": 1}', "no_value"), (b"{}", "no_value"), (b'{"ids": [1, 2, 3, 4]}', "too_many")]
)
@virtual
async def test_a_list_that_is_none_or_too_long_fails_the_part(said: bytes, reason: str) -> None:
    text = policies(EACH.replace('"{parts.orders./ids}"', '{of: "{parts.orders./ids}", max: 3}'))
    page = Page(text, {"orders/orders": answer(said)})
    await page.get()
    assert page.results()["items"] == reason


@virtual
async def test_an_empty_list_has_an_empty_answer() -> None:
    page = Page(policies(EACH), {"orders/orders": answer(b'{"ids": []}')})
    assert (await page.json())["items"] == []


@virtual
async def test_only_so_many_items_are_asked_at_once() -> None:
    text = policies(EACH.replace('"{parts.orders./ids}"', '{of: "{parts.orders./*}", at_once: 2}'))
    items = {f"users/item/{n}": answer(b"1", after=0.1) for n in range(5)}
    page = Page(text, {**items, "orders/orders": answer(b"[0, 1, 2, 3, 4]")})
    assert (await page.json())["items"] == [1] * 5
    assert page.services.peak == 2


@virtual
async def test_items_are_asked_in_batches_where_the_service_can() -> None:
    parts = EACH.replace('"/item/{item}"', '"/items?ids={items}"').replace(
        '"{parts.orders./ids}"', '{of: "{parts.orders./ids}", batch: 2}'
    )
    said = {
        "orders/orders": answer(b'{"ids": ["a,b", 2, 3]}'),
        "users/items?ids=a%2Cb,2": answer(b"[1, 2]"),
        "users/items?ids=3": answer(b"[3.0]"),
    }
    page = Page(policies(parts), said)
    found = await page.get()
    assert found.body == b'{"orders":{"ids": ["a,b", 2, 3]},"items":[1,2,3.0]}'


# ----- nested aggregates


@virtual
async def test_a_part_may_be_an_aggregate_itself() -> None:
    text = policies().replace(
        '{route: orders-of-user, path: "/orders?user={path.id}", timeout: 300ms, otherwise: {json: []}}',
        '{route: inner, path: "/inner/{path.id}"}',
    )
    text += """  - name: inner
    listener: none
    match: {path: "/inner/{who}"}
    aggregate:
      parts:
        a: {upstream: orders, path: "/a/{path.who}"}
        b: {upstream: credit, path: "/b/{path.who}"}
"""
    page = Page(text, {"orders/a/7": answer(b"1.0"), "credit/b/7": answer(b"2")})
    assert (await page.json())["orders"] == {"a": 1.0, "b": 2}
    page.services.answers["credit/b/7"] = RESET
    found = await page.get()
    assert json.loads(found.body.replace(b"1e400", b"1"))["orders"] == {"a": 1.0, "b": None}
    assert found.get("x-sidecar-partial") == "orders.b"


@virtual
async def test_a_bug_at_the_end_of_a_part_is_answered_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(policies(route="    concurrency: {max: 1, queue: 0}\n"))
    count = page.proxy.env.meter.counter

    def fail(name: str, **labels: str) -> Any:
        if name == metrics.AGGREGATE_PARTS:
            raise ZeroDivisionError
        return count(name, **labels)

    monkeypatch.setattr(page.proxy.env.meter, "counter", fail)
    for _ in range(2):  # the first one has given its permit back
        found = await page.proxy.get(None, "/profile/7")
        assert found.status == 500
    assert {type(each["error"]) for each in page.proxy.bugs} == {ZeroDivisionError}
    assert len(page.proxy.bugs) == 2
