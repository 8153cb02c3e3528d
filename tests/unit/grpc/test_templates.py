"""Tests of path templates and of the table that finds them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.uri import canonical
from sidecar.grpc.templates import Template, TemplateError, TemplateTable
from tests.support.cases import each
from tests.support.work import grows_with

MATCHES: list[tuple[str, bytes, dict[str, bytes] | None]] = [
    ("/v1/orders", b"/v1/orders", {}),
    ("/v1/orders", b"/v1/orders/", None),
    ("/v1/orders", b"/v1/Orders", None),
    ("/v1/o%72ders", b"/v1/orders", {}),
    ("/v1/a%2fb", b"/v1/a%2Fb", {}),
    ("/v1/*", b"/v1/x", {}),
    ("/v1/*", b"/v1/", None),
    ("/v1/{id}", b"/v1/x%2Fy%20z", {"id": b"x/y z"}),
    ("/v1/{id}", b"/v1/a+b", {"id": b"a+b"}),
    ("/v1/{id}", b"/v1/x/y", None),
    ("/v1/{id}", b"/v1/a:b", {"id": b"a:b"}),
    ("/v1/{order.id=*}", b"/v1/x", {"order.id": b"x"}),
    ("/v1/{name=shops/*/orders/*}", b"/v1/shops/1/orders/2%2F3%20", {"name": b"shops/1/orders/2%2F3 "}),
    ("/v1/{name=shops/*/orders/*}", b"/v1/shops/1/items/2", None),
    ("/v1/{name=shops/*}/{id}", b"/v1/shops/1/2", {"name": b"shops/1", "id": b"2"}),
    ("/v1/{name=shops}", b"/v1/shops", {"name": b"shops"}),
    ("/v1/{path=**}", b"/v1/a/b%2Fc/d%20", {"path": b"a/b%2Fc/d "}),
    ("/v1/{path=**}", b"/v1", {"path": b""}),
    ("/v1/{path=files/**}", b"/v1/files/a/b", {"path": b"files/a/b"}),
    ("/v1/{path=files/**}", b"/v1/other/a", None),
    ("/v1/{path=**}:undo", b"/v1/a/b:undo", {"path": b"a/b"}),
    ("/**", b"/", {}),
    ("/v1/{id}:cancel", b"/v1/x:cancel", {"id": b"x"}),
    ("/v1/{id}:cancel", b"/v1/x:y:cancel", {"id": b"x:y"}),
    ("/v1/{id}:cancel", b"/v1/x", None),
    ("/v1/{id}:cancel", b"/v1/:cancel", None),
    ("/v1/orders:batch", b"/v1/orders:batch", {}),
    ("/{a}/{b}/{c}", b"/1/2/3", {"a": b"1", "b": b"2", "c": b"3"}),
]


@each(MATCHES)
def test_templates_match_paths(case: tuple[str, bytes, dict[str, bytes] | None]) -> None:
    text, path, captures = case
    template = Template(text)
    table: TemplateTable[Template] = TemplateTable()
    assert table.add("GET", template, template) is None
    match = table.find("GET", canonical(path))
    assert (match.target is None) == (captures is None)
    if captures is not None:
        names = [variable.name for variable in template.variables]
        assert dict(zip(names, template.captures(match.segments), strict=True)) == captures


@each(
    [
        ("", "a slash"),
        ("v1", "a slash"),
        ("/", "the segment ``"),
        ("/v1//x", "the segment ``"),
        ("/v1/", "the segment ``"),
        ("/v1/***", "the segment"),
        ("/v1/a*", "the segment"),
        ("/v1/é", "the segment"),
        ("/v1/%2", "the segment"),
        ("/v1/a b", "the segment"),
        ("/v1/**/x", "not its last"),
        ("/v1/{a=**}/x", "not its last"),
        ("/v1/{a", "without its end"),
        ("/v1/{a=x", "without its end"),
        ("/v1/{}", "no field"),
        ("/v1/{a.}", "no field"),
        ("/v1/{a-b}", "no field"),
        ("/v1/{a={b}}", "variable within"),
        ("/v1/{a}{b}", "where it should end"),
        ("/v1/{a}x", "where it should end"),
        ("/v1/x{a}", "where it should end"),
        ("/v1/{a}/{a}", "twice"),
        ("/v1/a:", "the verb"),
        ("/v1/a:b:c", "the verb"),
        ("/v1/a:b/c", "the verb"),
        ("/v1/a=b", "where it should end"),
        ("/x" * 65, "more than 64"),
    ]
)
def test_what_is_no_template(case: tuple[str, str]) -> None:
    with pytest.raises(TemplateError, match=re.escape(case[1])):
        Template(case[0])


def table_of(*rules: str) -> TemplateTable[str]:
    table: TemplateTable[str] = TemplateTable()
    for rule in rules:
        method, _, path = rule.partition(" ")
        assert table.add(method, Template(path), rule) is None
    return table


def test_the_most_specific_template_wins() -> None:
    table = table_of("GET /a/b/c", "GET /a/*/c", "GET /a/b/*", "GET /a/**", "GET /*/b/d", "GET /**")
    found = {path: table.find("GET", path.encode()).target for path in (
        "/a/b/c", "/a/x/c", "/a/b/x", "/a/b/d", "/z/b/d", "/a/x/y", "/q", "/a",
    )}  # fmt: skip
    assert found == {
        "/a/b/c": "GET /a/b/c",
        "/a/x/c": "GET /a/*/c",
        "/a/b/x": "GET /a/b/*",
        "/a/b/d": "GET /a/b/*",
        "/z/b/d": "GET /*/b/d",
        "/a/x/y": "GET /a/**",
        "/q": "GET /**",
        "/a": "GET /a/**",
    }


def test_a_path_without_the_method_is_looked_for_further_on() -> None:
    table = table_of("POST /a/new", "GET /a/*", "* /b", "DELETE /b", "GET /c:x", "POST /*")
    assert table.find("GET", b"/a/new").target == "GET /a/*"
    assert table.find("HEAD", b"/a/new").target == "GET /a/*"
    assert table.find("DELETE", b"/b").target == "DELETE /b"
    assert table.find("PATCH", b"/b").target == "* /b"
    assert table.find("POST", b"/c:x").target == "POST /*", "a verb of another method is a part of the word"
    missing = table.find("PUT", b"/a/new")
    assert (missing.target, missing.allowed) == (None, {"POST", "GET"})
    assert table.find("GET", b"/none/at/all").allowed == set()


@each([("/a/{x}", "/a/{y}"), ("/a/*", "/a/{y=*}"), ("/a/**", "/a/{y=**}"), ("/{n=a/*}:v", "/a/*:v"), ("/a%62", "/ab")])
def test_templates_that_take_the_same_paths_tie(case: tuple[str, str]) -> None:
    table: TemplateTable[str] = TemplateTable()
    assert table.add("GET", Template(case[0]), "first") is None
    assert table.add("GET", Template(case[1]), "second") == "first"
    assert table.add("POST", Template(case[1]), "second") is None


PIECES = st.sampled_from(["a", "b", "*", "**", "{v}", "{w=a/*}", "{u=**}"])


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=4), st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=5))
def test_templates_match_as_their_regular_expressions_do(pieces: list[str], path: list[str]) -> None:
    try:
        template = Template("/" + "/".join(pieces))
    except TemplateError:
        return
    parts = ["/[^/]+" if segment == b"*" else "(?:/.*)?" if segment == b"**" else "/" + segment.decode()
             for segment in template.segments]  # fmt: skip
    table: TemplateTable[bool] = TemplateTable()
    table.add("GET", template, True)
    text = "/" + "/".join(path)
    assert bool(table.find("GET", text.encode()).target) == bool(re.fullmatch("".join(parts), text))


def test_the_work_for_a_path_is_bounded_by_the_templates() -> None:
    table = table_of(*(f"GET /{'/'.join(parts)}/end" for parts in itertools.product("a*", repeat=6)))
    assert not grows_with(lambda size: lambda: table.find("GET", b"/a" * (size // 2)))
