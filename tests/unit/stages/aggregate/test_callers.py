"""Tests of callers on the way to parts: who is known there, and that nobody gets the answer of another."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from sidecar.core.exchange import SHEDDABLE, Exchange
from tests.support.backends import NOT_FOUND, Answer, answer
from tests.support.loop import virtual
from tests.unit.stages.aggregate.test_stage import ANSWER, PARTS, Page, policies

MESH = 'identities: {mesh: {external: {url: "http://check:80/", headers: [cookie], caller: x-user}}}\n'
OWN = (
    "  - {name: own, match: {path: /own}, upstream: users, "
    "authenticate: {any_of: [mesh], forward: {caller: x-caller, claims: {tenant: x-tenant}}}}\n"
)
AUTHENTICATE = "    authenticate: {any_of: [partners], forward: {caller: x-caller, claims: {tenant: x-tenant}}}\n"
ALICE, BOB = {"x-api-key": "alice"}, {"x-api-key": "bob"}
SCORE = {"credit/score/c%2F9": answer(b"1")}


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file with the keys of two callers, and change to its directory."""
    lines = []
    for name in ("alice", "bob"):
        digest = sha256(name.encode()).hexdigest()
        lines.append(f'  - {{name: {name}, owner: {name}, digest: "sha256:{digest}", claims: {{tenant: of-{name}}}}}\n')
    (tmp_path / "keys.yaml").write_text("keys:\n" + "".join(lines))
    monkeypatch.chdir(tmp_path)


IDENTITIES = (
    "identities: {partners: {api_key: {file: keys.yaml}}, staff: {api_key: {file: keys.yaml, header: x-badge}}}\n"
)


def page(
    inner: str = "", route: str = AUTHENTICATE, parts: str = PARTS, answers: dict[str, Answer] | None = None
) -> Page:
    """Return a page with callers; `inner` is within the route of its part `orders`."""
    text = policies(parts, ANSWER, route=route, top=IDENTITIES)
    return Page(text.replace("upstream: orders,\n", f"upstream: orders,{inner}\n"), {**SCORE, **(answers or {})})


def inner_requests(page: Page) -> dict[str, Exchange]:
    """Return the requests of the parts of the last request."""
    parts = page.proxy.records[-1][0].parts
    assert parts is not None
    return {part.name: part.x for part in parts if isinstance(part.x, Exchange)}


def fields_at(page: Page, host: str) -> list[dict[str, str]]:
    """Return the fields of the requests that have reached a service."""
    found = []
    for target, head in zip(page.services.seen, page.services.heads, strict=True):
        if target.startswith(f"{host}/"):
            lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
            found.append({name.lower(): value for name, _, value in (line.partition(": ") for line in lines)})
    return found


# ----- who is known in a part


@virtual
async def test_parts_of_an_anonymous_request_have_no_claims_of_the_client() -> None:
    page = Page(policies(top=MESH) + OWN)
    await page.get({"x-caller": "eve", "X_Tenant": "acme", "x-inner": "true"})
    heads = [head.lower() for head in page.services.heads]
    assert len(heads) == 3
    asked = next(head for head in heads if head.startswith(b"get /users/7"))
    assert b"eve" not in asked
    assert b"acme" not in asked
    outer = page.proxy.records[-1][0]
    assert not outer.is_inner
    assert outer.parts is not None
    parts = [part.x for part in outer.parts if isinstance(part.x, Exchange)]
    assert [(each.is_inner, each.caller) for each in parts] == [(True, None)] * 3


@virtual
async def test_all_parts_have_the_caller_and_the_claims_of_the_request() -> None:
    found = page()
    await found.get({**ALICE, "x-caller": "eve", "X_Tenant": "of-eve"})
    for host in ("users", "orders", "credit"):
        fields = fields_at(found, host)[0]
        assert (fields["x-caller"], fields["x-tenant"]) == ("alice", "of-alice")
        assert "x_tenant" not in fields
    assert {x.caller.id for x in inner_requests(found).values() if x.caller is not None} == {"alice"}


@virtual
async def test_a_client_claims_nothing_in_a_part_that_has_an_authenticate_of_its_own() -> None:
    found = page(" authenticate: {any_of: [staff, partners], forward: {caller: x-who}},")
    await found.get({**ALICE, "x-caller": "eve", "X_Who": "eve"})
    fields = fields_at(found, "orders")[0]
    assert "eve" not in fields.values()
    assert (fields["x-who"], fields.get("x-caller")) == ("alice", None), "the fields are those of the part's own block"


@virtual
async def test_a_client_claims_nothing_at_the_candidate_of_a_part() -> None:
    text = policies(
        route="    authenticate: {any_of: [partners], optional: true, forward: {caller: x-caller}}\n", top=IDENTITIES
    )
    text = text.replace("upstream: orders,\n", "upstream: {split: {orders: 0%, new: 100%}},\n")
    found = Page(
        text.replace("  credit:", '  new: {endpoints: ["http://new:80"]}\n  credit:'), {"new/orders": answer()}
    )
    await found.get({"x-caller": "eve"})
    assert [fields.get("x-caller") for fields in fields_at(found, "new")] == [None]


@virtual
async def test_a_part_accepts_the_caller_of_the_request_if_one_of_its_identities_knows_it() -> None:
    found = page(
        " authenticate: {any_of: [staff, partners]},",
        AUTHENTICATE.replace("forward: {", "forward: {credentials: drop, "),
    )
    assert (await found.get(ALICE)).get("x-sidecar-partial") == ""
    assert found.results()["orders"] == "ok"


@virtual
async def test_a_part_whose_identities_do_not_know_the_caller_is_refused_and_replaced() -> None:
    found = page(" authenticate: {any_of: [staff]},")
    answer = await found.get(ALICE)
    assert (answer.status, answer.get("x-sidecar-partial")) == (200, "orders")
    assert json.loads(answer.body)["orders"] == []
    assert found.results()["orders"] == "unauthenticated"
    assert found.services.of("orders") == []


@virtual
async def test_if_that_part_is_required_the_client_is_asked_for_its_credentials() -> None:
    found = page(" authenticate: {any_of: [staff]},", parts=PARTS.replace("otherwise: {json: []}", "required: true"))
    answer = await found.get(ALICE)
    assert (answer.status, answer.get("x-sidecar-reason")) == (401, "part_failed")
    assert answer.get("www-authenticate").startswith("ApiKey")
    assert found.services.of("orders") == []


@virtual
async def test_with_credentials_of_its_own_the_part_has_another_caller() -> None:
    found = page(" authenticate: {any_of: [staff]},")
    await found.get({**ALICE, "x-badge": "bob"})
    callers = {name: x.caller.id for name, x in inner_requests(found).items() if x.caller is not None}
    assert callers == {"user": "alice", "orders": "bob", "score": "alice"}


@pytest.mark.parametrize("inner", ["optional: true", "mode: observe"])
@virtual
async def test_a_caller_that_a_part_does_not_know_is_nobody_there(inner: str) -> None:
    block = f" authenticate: {{any_of: [staff], {inner}}}, authorize: [{{allow: {{callers: [alice]}}}}],"
    found = page(block)
    await found.get(ALICE)
    assert found.services.of("orders") == [], "alice of one identity is not alice of another"
    assert found.results()["orders"] in ("unauthenticated", "forbidden")
    assert "x-caller" not in inner_requests(found)["orders"].lines.decode().lower()


@pytest.mark.parametrize(("keep", "goes_on"), [("", True), ("credentials: drop, ", False)])
@virtual
async def test_credentials_go_on_to_parts_unless_the_policy_drops_them(keep: str, goes_on: bool) -> None:
    found = page(route=AUTHENTICATE.replace("forward: {", f"forward: {{{keep}"))
    await found.get({**ALICE, "authorization": "Basic eDp5"})
    for host in ("users", "orders", "credit"):
        fields = fields_at(found, host)[0]
        assert ("x-api-key" in fields) == goes_on
        assert fields["authorization"] == "Basic eDp5", "a credential of another kind is not this policy's"


# ----- policies by caller in a part


@virtual
async def test_rules_of_a_part_hold_for_the_caller() -> None:
    found = page(" authorize: [{allow: {callers: [bob]}}],")
    await found.get(ALICE)
    assert found.results()["orders"] == "forbidden"
    await found.get(BOB)
    assert found.results()["orders"] == "ok"


@virtual
async def test_a_part_that_is_required_and_forbidden_forbids_the_whole() -> None:
    found = page(
        " authorize: [{allow: {callers: [bob]}}],", parts=PARTS.replace("otherwise: {json: []}", "required: true")
    )
    assert (await found.get(ALICE)).status == 403


@virtual
async def test_limits_of_a_part_count_each_caller() -> None:
    found = page(" rate_limit: [{name: one, rate: 1/m, burst: 0, key: caller}],")
    for who, result in ((ALICE, "ok"), (BOB, "ok"), (ALICE, "rate_limited")):
        await found.get(who)
        assert found.results()["orders"] == result


@virtual
async def test_a_part_is_no_more_important_than_its_request() -> None:
    inner = " authenticate: {any_of: [partners]}, criticality: {by_caller: {alice: sheddable, bob: critical}},"
    found = page(inner)
    for who, rank in ((ALICE, SHEDDABLE), (BOB, 1)):
        await found.get(who)
        assert inner_requests(found)["orders"].criticality == rank


@virtual
async def test_a_candidate_of_the_whole_has_parts_of_its_own() -> None:
    found = page(route=AUTHENTICATE + "    candidate: {share: 100%, timeout: {request: 2s}}\n")
    await found.get(ALICE)
    assert found.proxy.records[-1][0].route is found.proxy.snapshot.routes["page@candidate"]
    assert {x.caller.id for x in inner_requests(found).values() if x.caller is not None} == {"alice"}


# ----- caches


@virtual
async def test_callers_share_no_answer_of_a_part() -> None:
    found = page(" cache: {ttl: 1m},")
    for who in (ALICE, BOB, ALICE, BOB):
        await found.get(who)
    assert [fields["x-caller"] for fields in fields_at(found, "orders")] == ["alice", "bob"]


@virtual
async def test_callers_share_no_stale_answer_of_a_part() -> None:
    found = page(" cache: {ttl: 10s, keep: 1h},", parts=PARTS.replace("otherwise: {json: []}", "otherwise: stale"))
    await found.get(ALICE)
    found.services.answers["orders/orders"] = NOT_FOUND._replace(data=NOT_FOUND.data.replace(b"404", b"500"))
    body = json.loads((await found.get(BOB)).body)
    assert body["orders"] is None
    assert found.counted("orders", "failed") == 1


@virtual
async def test_callers_share_no_answer_of_the_whole() -> None:
    found = page(route=AUTHENTICATE + "    cache: {ttl: 1m}\n")
    for who in (ALICE, BOB, ALICE, BOB):
        await found.get(who)
    assert [fields["x-caller"] for fields in fields_at(found, "users")] == ["alice", "bob"]


@virtual
async def test_a_whole_with_a_part_of_another_caller_is_never_stored() -> None:
    found = page(" authenticate: {any_of: [staff]},", route=AUTHENTICATE + "    cache: {ttl: 1m}\n")
    answers = {"orders/orders": answer(b'{"items": []}', cache_control="public, max-age=60")}
    found.services.answers.update(answers)
    for badge in ("bob", "alice", "bob"):
        whole = await found.get({**ALICE, "x-badge": badge})
        assert (whole.status, whole.get("cache-control")) == (200, "no-store")
    assert len(found.services.of("orders")) == 3


@virtual
async def test_an_aggregate_that_is_a_part_hands_the_caller_on() -> None:
    parts = """
        deep: {route: inner, path: "/inner/{path.id}"}"""
    text = policies(parts, route=AUTHENTICATE, top=IDENTITIES)
    text += """  - name: inner
    listener: none
    match: {path: "/inner/{who}"}
    aggregate:
      parts:
        orders: {route: orders-of-user, path: /orders}
"""
    found = Page(text.replace("upstream: orders,\n", "upstream: orders, cache: {ttl: 1m},\n"))
    for who in (ALICE, BOB, ALICE):
        await found.get(who)
    assert [fields["x-caller"] for fields in fields_at(found, "orders")] == ["alice", "bob"]
