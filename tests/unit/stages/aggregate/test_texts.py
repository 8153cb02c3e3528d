"""Tests of texts with values from the answers of other parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.core.exchange import Exchange
from sidecar.stages.aggregate.texts import (
    Fields,
    JsonTemplate,
    Scope,
    Target,
    Text,
    Value,
    ValueMissing,
    references,
    split_target,
)

USER = b'{"id": 7.10, "name": "A\\"\\u00e4", "on": true, "no": null, "tags": ["a", "b"], "a/b": {"~": 1}}'


def scope(items: list[bytes] | None = None, **parts: bytes) -> Scope:
    x = Exchange(b"GET", b"/", [(b"x-a", b"1")])
    x.query = b"q=a%20b&r=%26"
    return Scope(
        x, {name: Value(text) for name, text in {"user": USER, **parts}.items()}, [Value(each) for each in items or []]
    )


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain", "plain"),
        ("{parts.user./id}", "7.10"),
        ("{parts.user./name}!", 'A"\u00e4!'),
        ("{parts.user./on}{parts.user./no}{parts.user./none}{parts.user}{parts.gone}", "true"),
        ("{parts.user./tags/1}{parts.user./a~1b/~0}", "b1"),
        ("{{parts.user./id}}", "{parts.user./id}"),
        ("{{parts.user}}", "{parts.user}"),
        ("{{item}} {query.q} {header.x-a}", "{item} a b 1"),
    ],
)
def test_a_text_has_values_in_place_of_references(text: str, rendered: str) -> None:
    assert Text(text, {}).render(scope()) == rendered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{parts}", "which is unknown"),
        ("{parts.}", "which is unknown"),
        ("{parts.a.b}", "which is unknown"),
        ("{item.x}", "which is unknown"),
        ("{items./a}", "which is unknown"),
        ("{path.id}{nonsense}", "which is unknown"),
    ],
)
def test_an_unknown_name_is_an_error_at_load(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="names") as caught:
        Text(text, {})
    assert message in str(caught.value)


def test_references_have_their_part_and_spelling() -> None:
    found = references("/{parts.a./b/c}/{item}/{items}")
    assert [(each.part, each.steps, each.is_batch, each.text) for each in found] == [
        ("a", ("b", "c"), False, "parts.a./b/c"), ("", (), False, "item"), ("", (), True, "items"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a", b"/a", None),
        ("/a?", b"/a", b""),
        ("/a b/{parts.user./id}", b"/a%20b/7.10", None),
        ("/{parts.user./name}?x={parts.user./name}&y", b"/A%22%C3%A4", b"x=A%22%C3%A4&y"),
        ("/a?b={query.r}?", b"/a", b"b=%26%3F"),
    ],
)
def test_values_of_a_target_are_percent_encoded(target: str, path: bytes, query: bytes | None) -> None:
    assert Target(target, {}).render(scope()) == (path, query)


@pytest.mark.parametrize("target", ["a", "", "/a#b", "/a/../b", "/a%2", "/a//b"])
def test_a_target_that_could_be_read_in_two_ways_is_an_error_at_load(target: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target(target, {})


@pytest.mark.parametrize("name", ["none", "no", "tags", "a~1b"])
def test_a_target_needs_all_its_values(name: str) -> None:
    for target in (f"/{{parts.user./{name}}}", f"/a?b={{parts.user./{name}}}"):
        with pytest.raises(ValueMissing):
            Target(target, {}).render(scope())


def test_a_question_mark_in_a_pointer_does_not_end_the_path() -> None:
    assert split_target("/a/{parts.a./b?c}?d=1") == ("/a/{parts.a./b?c}", "d=1")


def test_items_of_a_batch_are_joined() -> None:
    assert Target("/x?ids={items}", {}).render(scope([b'"a,b"', b"2"])) == (b"/x", b"ids=a%2Cb,2")


def test_fields_without_a_value_are_left_out_and_controls_taken_out() -> None:
    fields = Fields({"X-Name": "{parts.user./name}", "x-none": "{parts.user./none}", "x-c": "{parts.c}"}, {})
    assert fields.names == ("x-name", "x-none", "x-c")
    assert fields.render(scope(c=b'"a\\r\\nb: c"')) == 'x-name: A"\u00e4\r\nx-c: ab: c\r\n'.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "{parts.user./id}"}, b'{"a":7.10}'),
        (["{parts.user./none}", "{parts.user./no}", "{parts.gone}"], b"[null,null,null]"),
        (
            {"a": {}, "b": [], "c": [{}], "d": 1.5, "e": None, "\u00e4": "\u00e4"},
            '{"a":{},"b":[],"c":[{}],"d":1.5,"e":null,"\u00e4":"\u00e4"}'.encode(),
        ),
        ("{parts.user./tags}", b'["a", "b"]'),
        ({"a": "x {parts.user./name}"}, '{"a":"x A\\"\u00e4"}'.encode()),
        ({"a": "{{parts.user}}"}, b'{"a":"{parts.user}"}'),
    ],
)
def test_a_template_of_json_keeps_the_texts_of_values(value: Any, text: bytes) -> None:
    found = JsonTemplate(value, {}).render(scope())
    assert found == text
    json.loads(found)


def test_a_batch_is_a_list_in_json() -> None:
    assert JsonTemplate({"ids": "{items}"}, {}).render(scope([b"1.0", b'"b"'])) == b'{"ids":[1.0,"b"]}'


def test_a_substitute_stands_for_every_value_that_it_does_not_have() -> None:
    value = Value(b'{"a": 1}', is_substitute=True)
    assert (value.at(("a",)), value.at(("b",)), Value(b"[]").at(("b",))) == (b"1", b'{"a": 1}', None)


@pytest.mark.parametrize(
    ("one", "two", "may"),
    [
        ("/a", "/a", True),
        ("/a", "/b", False),
        ("/a", "/a?x=1", False),
        ("/a?x=1", "/a?x=2", False),
        ("/{path.id}?x=1", "/b?x=1", True),
        ("/{path.id}?x=1", "/b?x=2", False),
        ("/{parts.user./id}", "/{path.id}", True),
        ("/a?x={path.id}", "/a?x=2", True),
    ],
)
def test_targets_that_no_request_makes_equal_are_told_apart_at_load(one: str, two: str, may: bool) -> None:
    assert Target(one, {}).may_equal(Target(two, {})) == may
    assert Target(two, {}).may_equal(Target(one, {})) == may
