"""Tests of the work of a check: it grows with files or problems, never with a product of two of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.config import report
from sidecar.config.files import Source
from sidecar.config.load import load
from tests.support.work import grows_with

Document = dict[str, Any]
HEAD: Document = {"version": 1, "listeners": {"inbound": {"address": "127.0.0.1:8080"}}}
APP: Document = {"app": {"endpoints": ["http://a:1"]}}


def routes(count: int, **more: Any) -> list[Document]:
    return [{"name": f"r{n}", "upstream": "app", "match": {"path": f"/{n}"}, **more} for n in range(count)]


def unknown_keys(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": routes(1, **{f"retri{n}": {} for n in range(count)})}


def unknown_keys_of_a_block(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": routes(1, timeout={f"reqest{n}": "1s" for n in range(count)})}


def unknown_keys_of_an_upstream(count: int) -> Document:
    return {**HEAD, "upstreams": {"app": {f"endpoint{n}": [] for n in range(count)}}, "routes": routes(1)}


def missing_keys(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": [{"nam": "r", "upsteam": "app"} for _ in range(count)]}


def bad_values(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": routes(count, timeout={"request": 3})}


def bad_conditions(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": routes(1, retry={"on": [f"5{n}" for n in range(count)]})}


def missing_upstreams(count: int) -> Document:
    known = {f"known-{n}": APP["app"] for n in range(count)}
    return {**HEAD, "upstreams": known, "routes": [{"name": f"r{n}", "upstream": f"knwn-{n}"} for n in range(count)]}


def missing_bundles(count: int) -> Document:
    bundles = {f"known-{n}": {"timeout": {"request": "1s"}} for n in range(count)}
    many = [{**route, "use": [f"knwn-{n}"]} for n, route in enumerate(routes(count))]
    return {**HEAD, "upstreams": APP, "policies": bundles, "routes": many}


def missing_listeners(count: int) -> Document:
    known = {f"l{n}": {"address": f"127.0.0.1:{8000 + n}"} for n in range(count)}
    many = [{**route, "listener": f"k{n}"} for n, route in enumerate(routes(count))]
    return {"version": 1, "listeners": known, "upstreams": APP, "routes": many}


def missing_caches(count: int) -> Document:
    many = [{**route, "cache": {"store": f"k{n}"}} for n, route in enumerate(routes(count))]
    return {**HEAD, "caches": {f"c{n}": {} for n in range(count)}, "upstreams": APP, "routes": many}


def unused(count: int) -> Document:
    return {**HEAD, "upstreams": {f"u{n}": APP["app"] for n in range(count)}, "routes": []}


def equal_routes(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": [{"name": f"r{n}", "upstream": "app"} for n in range(count)]}


def equal_names(count: int) -> Document:
    return {**HEAD, "upstreams": APP, "routes": [{**route, "name": "r"} for route in routes(count)]}


def routes_of_many_listeners(count: int) -> Document:
    known = {f"l{n}": {"address": f"127.0.0.1:{8000 + n}"} for n in range(count)}
    many = [{**route, "listener": f"l{n}"} for n, route in enumerate(routes(count))]
    return {"version": 1, "listeners": known, "upstreams": APP, "routes": many}


def routes_of_all_listeners(count: int) -> Document:
    known = {f"l{n}": {"address": f"127.0.0.1:{8000 + n}"} for n in range(count)}
    return {"version": 1, "listeners": known, "upstreams": APP, "routes": routes(count)}


def one_address(count: int) -> Document:
    known = {f"l{n}": {"address": "127.0.0.1:8000"} for n in range(count)}
    return {"version": 1, "listeners": known, "upstreams": APP, "routes": routes(1)}


def many_addresses(count: int) -> Document:
    known = {f"l{n}": {"address": f"10.0.{n // 250}.{n % 250}:80"} for n in range(count)}
    return {"version": 1, "listeners": known, "upstreams": APP, "routes": routes(1)}


def own_listeners(count: int) -> Document:
    known = {f"l{n}": {"address": f"127.0.0.1:{8000 + n}"} for n in range(count)}
    upstreams = {f"u{n}": {"endpoints": [f"http://127.0.0.1:{8000 + n}"]} for n in range(count)}
    many = [{**route, "upstream": f"u{n}"} for n, route in enumerate(routes(count))]
    return {"version": 1, "listeners": known, "upstreams": upstreams, "routes": many}


def inherited_fallbacks(count: int) -> Document:
    steps = [*({"upstream": f"k{n}"} for n in range(count)), {"response": {"status": 200}}]
    return {**HEAD, "upstreams": APP, "defaults": {"fallback": {"steps": steps}}, "routes": routes(count)}


def uncaptured_names(count: int) -> Document:
    headers = {f"x-{n}": f"{{path.id{n}}}" for n in range(30)}
    layer = {"transform": {"request": {"headers": {"set": headers}}}}
    return {**HEAD, "upstreams": APP, "defaults": layer, "routes": routes(count)}


def values_of_variables(count: int) -> Document:
    many = [{"name": f"r{n}", "upstream": f"${{V}}-{n}"} for n in range(count)]
    return {**HEAD, "upstreams": APP, "routes": many}


KINDS = (
    unknown_keys, unknown_keys_of_a_block, unknown_keys_of_an_upstream, missing_keys, bad_values, bad_conditions,
    missing_upstreams, missing_bundles, missing_listeners, missing_caches, unused, equal_routes, equal_names,
    routes_of_many_listeners, routes_of_all_listeners, one_address, many_addresses, own_listeners, inherited_fallbacks,
    uncaptured_names, values_of_variables,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_work_grows_with_the_problems_and_not_with_their_square(
    kind: Callable[[int], Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "COMPARISONS", 500)  # the smaller input must reach this limit

    def make(count: int) -> Callable[[], object]:
        source = Source("p.yaml", json.dumps(kind(count)).encode())
        return lambda: load([source], {"V": "some-secret"}).problems

    make(1)()
    assert grows_with(make, 25, 8) == ""


def test_work_grows_with_the_files() -> None:
    def make(count: int) -> Callable[[], object]:
        sources = [Source("0.yaml", json.dumps({**HEAD, "upstreams": APP}).encode())]
        for n in range(count):
            document = {"policies": {f"b{n}": {}}, "routes": [{**route, "name": f"r{n}"} for route in routes(1)]}
            sources.append(Source(f"{n + 1}.yaml", json.dumps(document).encode()))
        return lambda: load(sources, {}).problems

    make(1)()
    assert grows_with(make, 25, 8) == ""
