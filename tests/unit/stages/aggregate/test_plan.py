"""Tests of the plan of an `aggregate` block: order, circles, errors across parts, and the worst case."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.exchange import NEVER
from sidecar.stages.aggregate.plan import Cost, find_cycle, find_problems, levels, needs_of, path_of, worst_case
from sidecar.stages.aggregate.spec import Spec
from tests.support.cases import each as each_of


def spec(answer: Any = "nested", **parts: Any) -> Spec:
    """Return a block; a part may be written as its path."""
    known = {name: {"path": each} if isinstance(each, str) else each for name, each in parts.items()}
    return Spec.model_validate(
        {"parts": {name: {"upstream": "app", **each} for name, each in known.items()}, "answer": answer}
    )


def each(of: str = "{parts.a./ids}", **more: Any) -> dict[str, Any]:
    return {"path": "/x/{items}" if "batch" in more else "/x/{item}", "each": {"of": of, **more}}


def test_parts_that_need_no_other_are_on_the_first_level() -> None:
    block = spec(a="/a", b="/b/{parts.a./id}", c="/c", d={"path": "/d", "headers": {"x-a": "{parts.b./x}{parts.c./x}"}})
    assert levels(block) == [["a", "c"], ["b"], ["d"]]
    assert list(needs_of(block.parts["d"])) == ["b", "c"]


def test_a_body_and_a_list_are_needs_too() -> None:
    body = {"path": "/b", "method": "POST", "json": {"of": ["{parts.a./x}", 1]}}
    assert levels(spec(a="/a", b=body, c=each("{parts.b./ids}"))) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        ({}, []),
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, ["a"]),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c"]),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, []),
        ({"a": ["x"]}, []),
    ],
)
def test_circles_are_found(needs: dict[str, list[str]], circle: list[str]) -> None:
    assert find_cycle(needs) == circle


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": "/a/{parts.b./x}"}, "names {parts.b./x}, but there is no part `b`; known are a"),
        ({"a": "/a/{parts.a./x}"}, "names {parts.a./x}, which is its own answer; name another part"),
        ({"a": "/a/{item}"}, "names {item}, but the part has no list; add `each`"),
        ({"a": "/a/{parts.b./x}", "b": "/b/{parts.a./x}"}, "needs itself: a > b > a; break this circle"),
        ({"a": "/a", "b": {**each(batch=5), "path": "/x/{item}"}}, "write {items}"),
        ({"a": "/a", "b": {**each(), "path": "/x/{items}"}}, "write {item}, or add each.batch"),
        (
            {"a": "/a", "b": {**each(), "path": "/x"}},
            "does not name {item}, so all requests of `each` would be the same",
        ),
    ],
)
def test_errors_across_parts_are_found(parts: dict[str, Any], message: str) -> None:
    assert any(message in found for _, found in find_problems(spec(**parts)))


LONG = {"path": "/a", "stream": True}


@each_of(
    [
        (spec(a=LONG, b="/b"), ""),
        (spec({"json": ["{parts.b./x}", {"all": "{parts.a}"}]}, a=LONG, b="/b"), ""),
        (spec(a=LONG, b=LONG), "streams as a does, but one part can; take it out of the others"),
        (spec(a="/a", b={**each(), "stream": True}), "leave one of them out"),
        (spec(a=LONG, b="/b/{parts.a./x}"), "whose answer the part b needs, so it must be held; take `stream` out"),
        (spec("merged", a=LONG), "make the answer nested"),
        (spec({"json": "{parts.b}"}, a=LONG, b="/b"), "must have the part a, which streams, once"),
        (spec({"json": ["{parts.a}", "{parts.a}"]}, a=LONG), 'once and as a whole value: "{parts.a}"'),
        (spec({"json": ["{parts.a./x}"]}, a=LONG), "once and as a whole value"),
        (spec({"json": ["all: {parts.a}"]}, a=LONG), "once and as a whole value"),
    ]
)
def test_errors_of_a_part_that_streams_are_found(case: tuple[Spec, str]) -> None:
    block, message = case
    found = [text for _, text in find_problems(block)]
    assert len(found) == bool(message), found
    assert not message or message in found[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"json": {"x": "{parts.b}"}}, "there is no part `b`"),
        ({"json": "{item}"}, "which only a part with `each` has"),
        ({"json": {"x": ["{parts.a./y}"]}}, ""),
    ],
)
def test_errors_of_the_answer_are_found(answer: Any, message: str) -> None:
    found = [text for _, text in find_problems(spec(answer, a="/a"))]
    assert [message in each for each in found] == ([True] if message else [])


def test_lists_and_other_values_cannot_be_merged() -> None:
    block = spec("merged", a={"path": "/a", "otherwise": {"json": [1]}}, b=each())
    found = [message for _, message in find_problems(block)]
    assert ["cannot be merged" in each for each in found] == [True, True]


def test_the_worst_case_is_the_longest_way_and_all_calls() -> None:
    block = spec(a="/a", b="/b/{parts.a./id}", c={"path": "/c", "timeout": "5s"})
    assert worst_case(block, lambda _: Cost(2.0, 3, 1)) == Cost(4.0, 9, 3)
    assert worst_case(block, lambda _: Cost(NEVER, 3, 1)).seconds == NEVER


def test_a_list_multiplies_calls_and_its_rounds_multiply_time() -> None:
    block = spec(a="/a", b=each(max=25, at_once=10))
    assert worst_case(block, lambda _: Cost(1.0, 2, 1)) == Cost(4.0, 52, 26)
    block = spec(a="/a", b=each(max=25, at_once=10, batch=5))
    assert worst_case(block, lambda _: Cost(1.0, 2, 1)) == Cost(2.0, 12, 6)


def test_a_part_that_is_an_aggregate_counts_with_all_its_parts() -> None:
    assert worst_case(spec(a="/a", b=each(max=4)), lambda _: Cost(1.0, 6, 3)) == Cost(2.0, 30, 15)


def test_the_path_ends_before_the_query() -> None:
    assert path_of(spec(a="/a/b?c={query.d}").parts["a"]) == "/a/b"
