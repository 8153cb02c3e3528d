"""Tests of the plan of an aggregated answer in `sidecar explain`."""

from __future__ import annotations

from typing import Any

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.control.compiler import Snapshot
from sidecar.inspect.dry import compile_dry
from sidecar.inspect.explain import exchange_of, explain_text
from sidecar.inspect.explain_json import explain_document
from tests.unit.stages.aggregate.test_stage import ANSWER, policies


def snapshot(text: str) -> Snapshot:
    loaded = load([Source("policies.yaml", text.encode())], {})
    assert loaded.spec is not None, loaded.problems
    return compile_dry(loaded.spec)


def explained(text: str) -> str:
    return explain_text(snapshot(text), "inbound", exchange_of("GET", "/profile/7", []))


def plan(text: str) -> Any:
    document: Any = explain_document(snapshot(text), "inbound", exchange_of("GET", "/profile/7", []))
    return document["route"]["aggregate"]


def test_parts_are_told_in_their_order_with_the_worst_case() -> None:
    lines = explained(policies(more=ANSWER)).partition("\naggregate\n")[2].splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "1. user GET /users/{path.id} > page:user > users required",
        "orders GET /orders?user={path.id} > orders-of-user > orders within 0.3s, otherwise []",
        "2. score GET /score/{parts.user./creditId} > page:score > credit after user, otherwise null",
        "at most 3 requests of parts, 3 calls with retries and hedges, in 0.8s; the answer is made by a template",
    ]


def test_the_document_has_the_same_facts() -> None:
    text = policies(upstream=", policy: {retry: {max_attempts: 3}}")
    found = plan(text)
    assert [(part["name"], part["level"], part["route"], part["needs"]) for part in found["parts"]] == [
        ("user", 1, "page:user", []), ("orders", 1, "orders-of-user", []), ("score", 2, "page:score", ["user"]),
    ]  # fmt: skip
    assert found["parts"][0]["policies"] == ["retry"]
    assert found["parts"][0]["is_required"]
    assert found["parts"][1]["otherwise"] == [{"json": []}]
    assert (found["answer"], found["seconds"], found["requests"], found["calls"]) == ("nested", 0.8, 3, 5)


def test_an_aggregate_has_no_upstream_and_other_routes_have_no_plan() -> None:
    document: Any = explain_document(snapshot(policies()), "inbound", exchange_of("GET", "/profile/7", []))
    assert document["route"]["upstream"] is None
    other = policies() + "  - {name: plain, match: {path: /plain}, upstream: users}\n"
    document = explain_document(snapshot(other), "inbound", exchange_of("GET", "/plain", []))
    assert document["route"]["aggregate"] is None
    assert document["route"]["upstream"]["name"] == "users"


LONG = """
        orders: {upstream: orders, path: /orders, stream: true}"""


def test_lists_and_substitutes_are_told() -> None:
    parts = """
        orders: {upstream: orders, path: /orders, otherwise: [stale, {json: {ids: []}}]}
        items: {upstream: users, path: "/item/{item}", each: {of: "{parts.orders./ids}", max: 30}, otherwise: stale}"""
    text = explained(policies(parts).replace("timeout: {request: 800ms}", "timeout: off"))
    assert 'otherwise stale, then {"ids": []}' in text
    assert "> orders streams, otherwise null" in " ".join(explained(policies(LONG)).split())
    assert [part["streams"] for part in plan(policies(LONG))["parts"]] == [True]
    assert "for each of {parts.orders./ids}, after orders, otherwise stale, then null" in text
    assert "at most 31 requests of parts" in text
