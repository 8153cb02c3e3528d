from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.exchange import Exchange
from sidecar.transform.jsonbody import Document, InvalidBody, parse
from sidecar.transform.pointer import (
    EACH,
    Operation,
    copy,
    move,
    parse_pointer,
    remove,
    rename,
    select,
    set_at,
    unwrap,
    wrap,
)
from tests.unit.transform.test_jsonbody import values

X = Exchange(b"GET", b"/")


def value(given: Any) -> Callable[[Any, Any], Any]:
    return lambda _x, _o: json.loads(json.dumps(given))


def put(pointer: str, given: Any) -> Operation:
    return set_at(pointer, value(given))


def default(pointer: str, given: Any) -> Operation:
    return set_at(pointer, value(given), only_missing=True)


def applied(data: str, *operations: Operation) -> str:
    document = parse(data.encode())
    for operation in operations:
        operation(document, X, None)
    return document.encoded().decode()


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        (put("/a", 1), "{}", '{"a":1}'),
        (put("/a", 2), '{"a":1,"b":1.10}', '{"a":2,"b":1.10}'),
        (put("/a/b/c", 1), '{"x":0}', '{"x":0,"a":{"b":{"c":1}}}'),
        (put("/a/0", 9), '{"a":[1,2]}', '{"a":[9,2]}'),
        (put("/a/2", 9), '{"a":[1,2]}', '{"a":[1,2,9]}'),
        (put("/a/-", 9), '{"a":[1,2]}', '{"a":[1,2,9]}'),
        (put("/a/-/b", 9), '{"a":[]}', '{"a":[{"b":9}]}'),
        (put("/*/n", 1), '[{"n":0},{}]', '[{"n":1},{"n":1}]'),
        (put("/*/n", 1), '{"x":{},"y":{"n":0}}', '{"x":{"n":1},"y":{"n":1}}'),
        (put("/items/*/n", 1), '{"items":[]}', '{"items":[]}'),
        (put("", [1]), '{"a":1}', "[1]"),
        (put("/a~1b~0c~2d", 1), '{"a/b~c*d":0}', '{"a/b~c*d":1}'),
        (put("/", 1), "{}", '{"":1}'),
        (default("/a", 2), '{"a":null}', '{"a":null}'),
        (default("/a", 2), '{"b":1}', '{"b":1,"a":2}'),
        (default("/items/*/n", 0), '{"items":[{"n":1},{}]}', '{"items":[{"n":1},{"n":0}]}'),
        (remove("/a"), '{"a":1,"b":2}', '{"b":2}'),
        (remove("/a/b"), '{"a":1}', '{"a":1}'),
        (remove("/a/0"), '{"a":[1,2]}', '{"a":[2]}'),
        (remove("/a/-"), '{"a":[1,2]}', '{"a":[1,2]}'),
        (remove("/a/01"), '{"a":[1,2]}', '{"a":[1,2]}'),
        (remove("/a/*"), '{"a":[1,2,3]}', '{"a":[]}'),
        (remove("/a/*/p"), '{"a":[{"p":1,"q":2},{"q":1},5]}', '{"a":[{"q":2},{"q":1},5]}'),
        (rename("/b", "c"), '{"a":1,"b":2,"d":3}', '{"a":1,"c":2,"d":3}'),
        (rename("/b", "a"), '{"a":1,"b":2,"d":3}', '{"a":2,"d":3}'),
        (rename("/b", "b"), '{"b":2}', '{"b":2}'),
        (rename("/*/b", "c"), '[{"b":1},{"x":1},2]', '[{"c":1},{"x":1},2]'),
        (rename("/a/0", "c"), '{"a":[1]}', '{"a":[1]}'),
        (move("/a", "/b/c"), '{"a":1.0,"d":2}', '{"d":2,"b":{"c":1.0}}'),
        (move("/a", "/b"), '{"b":2}', '{"b":2}'),
        (move("/x/*/p", "/x/*/q/r"), '{"x":[{"p":1},{"p":2.50},{}]}', '{"x":[{"q":{"r":1}},{"q":{"r":2.50}},{}]}'),
        (move("/*/p", "/all/*"), '{"a":{"p":1},"all":{}}', '{"a":{},"all":{"a":1}}'),
        (move("/a", "/a/id"), '{"a":1.0,"b":2}', '{"a":{"id":1.0},"b":2}'),
        (move("/a/id", "/a"), '{"a":{"id":1.0,"x":1},"b":2}', '{"a":1.0,"b":2}'),
        (move("/*/a", "/*/a/x/y"), '[{"a":1},{"b":1}]', '[{"a":{"x":{"y":1}}},{"b":1}]'),
        (copy("/a", "/b"), '{"a":{"x":1e2}}', '{"a":{"x":1e2},"b":{"x":1e2}}'),
        (copy("/a", "/x/*/a"), '{"a":1,"x":[{},{}]}', '{"a":1,"x":[{"a":1},{"a":1}]}'),
        (select(["/a", "/c/x"]), '{"a":1,"b":2,"c":{"x":1,"y":2}}', '{"a":1,"c":{"x":1}}'),
        (select(["/i/*/s", "/i/*/t"]), '{"i":[{"s":1,"u":2},{"t":3},4]}', '{"i":[{"s":1},{"t":3}]}'),
        (select(["/a/1"]), '{"a":[1,2,3]}', '{"a":[2]}'),
        (select(["/x"]), '{"a":1}', "{}"),
        (select(["/x"]), "5", "{}"),
        (select([""]), '{"a":1}', '{"a":1}'),
        (wrap("/data"), "[1]", '{"data":[1]}'),
        (wrap("/a/b"), "1.0", '{"a":{"b":1.0}}'),
        (wrap("/x/*/v"), '{"x":[1,2]}', '{"x":[{"v":1},{"v":2}]}'),
        (unwrap("/data"), '{"data":{"a":1.0},"b":2}', '{"a":1.0}'),
        (unwrap("/data"), '{"error":1}', '{"error":1}'),
        (unwrap("/a/0"), '{"a":[7]}', "7"),
        (unwrap("/x/*/v"), '{"x":[{"v":1},{"w":2},3]}', '{"x":[1,{"w":2},3]}'),
    ],
)  # fmt: skip
def test_operations(operation: Operation, before: str, after: str) -> None:
    assert applied(before, operation) == after


@pytest.mark.parametrize(
    ("operation", "before", "message"),
    [
        (put("/a/b", 1), '{"a":5}', "has no object at `/a`"),
        (put("/a/b/c", 1), '{"a":"x"}', "has no object at `/a`"),
        (put("/a/5", 1), '{"a":[]}', "finds no place"),
        (put("/a/x", 1), '{"a":[]}', "finds no place"),
        (put("/*/a", 1), "[1]", "has no object at `/*`"),
        (move("/a", "/b/c"), '{"a":1,"b":2}', "has no object at `/b`"),
    ],
)
def test_where_something_bars_the_way_the_document_is_invalid(operation: Operation, before: str, message: str) -> None:
    with pytest.raises(InvalidBody, match=re.escape(message)):
        applied(before, operation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_pointer("a.b"), 'write "/a/b"'),
        (lambda: parse_pointer("/a~3"), "write ~0 for a tilde"),
        (lambda: parse_pointer("/a" * 40), "at most 32"),
        (lambda: remove(""), "name a member"),
        (lambda: rename("/*", "a"), "name the one to rename"),
        (lambda: move("/a/*/b", "/c"), "give both the same"),
        (lambda: move("/a", "/a"), "leads into itself"),
        (lambda: move("/a", "/a/*"), "leads into itself"),
        (lambda: copy("/a", "/a/b"), "leads into itself"),
        (lambda: copy("/*/a", "/*/*"), "give both the same"),
        (lambda: wrap("/a/*"), "name a member after it"),
        (lambda: unwrap("/*"), "name a member after it"),
        (lambda: unwrap(""), "name a member"),
    ],
)
def test_operations_that_mean_nothing_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_steps() -> None:
    assert parse_pointer("/a/*/~2") == ("a", EACH, "*")
    assert parse_pointer("") == ()


def test_values_that_are_copied_do_not_share() -> None:
    assert applied('{"a":{"x":1}}', copy("/a", "/b"), put("/b/y", 2)) == '{"a":{"x":1},"b":{"x":1,"y":2}}'
    assert applied('{"a":{"x":1}}', put("/a/z", 0), copy("/a", "/b"), put("/b/y", 2)).startswith('{"a":{"x":1,"z":0},')


def test_stars_under_stars_are_bounded() -> None:
    row = json.dumps([[0] * 400] * 400)
    with pytest.raises(InvalidBody, match="more than"):
        applied(row, put("/*/*", 1))


# ----- an operation and its inverse give the same document

KEYS = st.text("abz/~* é", min_size=1, max_size=3)
VALUES = values(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8))
"""Values without control characters, which are written either unchanged or escaped as JSON demands."""
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


def escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1").replace("*", "~2")


def text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


@given(VALUES, st.lists(KEYS, min_size=1, max_size=3))
def test_unwrap_undoes_wrap(document: Any, keys: list[str]) -> None:
    pointer = "".join(f"/{escaped(key)}" for key in keys)
    before = text(document)
    assert applied(before, wrap(pointer), unwrap(pointer)) == before


@given(OBJECTS, KEYS, VALUES, KEYS)
def test_renaming_and_moving_back_undo_themselves(document: dict[str, Any], old: str, given: Any, new: str) -> None:
    new = new.replace("/", "+") if new.replace("/", "+") != old else f"{old}."
    document.pop(new, None)
    document[old] = given
    data = text(document)
    there, back = rename(f"/{escaped(old)}", new), rename(f"/{escaped(new)}", old)
    assert json.loads(applied(data, there, back)) == document
    assert list(json.loads(applied(data, there, back))) == list(document)
    there, back = move(f"/{escaped(old)}", f"/{escaped(new)}"), move(f"/{escaped(new)}", f"/{escaped(old)}")
    assert json.loads(applied(data, there, back)) == document


@given(OBJECTS, KEYS, VALUES)
def test_removing_undoes_setting(document: dict[str, Any], key: str, new: Any) -> None:
    document.pop(key, None)
    before = text(document)
    pointer = f"/{escaped(key)}"
    assert json.loads(applied(before, put(pointer, new), remove(pointer))) == document
    assert json.loads(applied(before, put(pointer, new)))[key] == new


@given(OBJECTS, st.lists(KEYS, max_size=3))
def test_select_keeps_what_remove_would_take(document: dict[str, Any], keys: list[str]) -> None:
    before = text(document)
    kept = json.loads(applied(before, select([f"/{escaped(key)}" for key in keys])))
    left = json.loads(applied(before, *(remove(f"/{escaped(key)}") for key in keys)))
    assert kept | left == document
    assert not kept.keys() & left.keys()


def test_a_document_of_plain_values_is_operated_on_too() -> None:
    document = Document({"a": ["x"]})
    put("/a/0", "y")(document, X, None)
    assert document.encoded() == b'{"a":["y"]}'
