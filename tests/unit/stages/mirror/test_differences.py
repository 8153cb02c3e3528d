"""Tests of the comparison of two responses."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.outcome import Outcome
from sidecar.stages.mirror.differences import MOST, Comparison

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


def json_of(value: Any, status: int = 200) -> Outcome:
    return Outcome(status, [(b"content-type", b"application/json")], json.dumps(value).encode())


def found(old: Any, new: Any, *ignore: str) -> list[str]:
    return Comparison(["content-type"], ignore, 65536).find(json_of(old), json_of(new))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": 2}, ["/a"]),
        ({"a": 1}, {"a": "1"}, ["/a"]),
        ({"a": 1}, {"a": True}, ["/a"]),
        ({"a": 1}, {}, ["/a"]),
        ({}, {"a/b~": 1}, ["/a~1b~0"]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, ["/a"]),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 5}, {"x": 6}]}, ["/a/*/x"]),
        ([1], {"a": 1}, ["body"]),
        (12345678901234567890.0, 12345678901234567891.0, []),
    ],
)
def test_differences_of_json(old: Any, new: Any, names: list[str]) -> None:
    assert found(old, new) == names


def test_numbers_are_exact() -> None:
    old, new = (Outcome(200, body=body) for body in (b"0.1", b"0.10000000000000000001"))
    assert Comparison([], [], 100).find(old, new) == ["body"]


@pytest.mark.parametrize("ignored", ["/at", "/items/*/id", "/items", ""])
def test_ignored_values_may_differ_with_all_below(ignored: str) -> None:
    old = {"at": {"s": 1}, "items": [{"id": 1, "n": 5}]}
    new = {"at": {"s": 2}, "items": [{"id": 2, "n": 6}]}
    kept = {"/at/s", "/items/*/id", "/items/*/n"}
    expected = sorted(name for name in kept if not name.startswith(ignored))
    assert sorted(found(old, new, ignored)) == expected


def test_status_and_fields() -> None:
    old, new = json_of({}), Outcome(404, [(b"content-type", b"text/plain")], b"{}")
    assert Comparison(["content-type", "etag"], [], 100).find(old, new) == ["status", "header content-type"]


def test_bodies_that_are_not_json_are_compared_as_bytes() -> None:
    old, new = Outcome(200, body=b"a"), Outcome(200, body=b"b")
    assert Comparison([], [], 100).find(old, new) == ["body"]
    assert Comparison([], [], 100).find(old, old) == []


def test_long_bodies_are_not_compared() -> None:
    old, new = Outcome(200, body=b'"aaaa"'), Outcome(200, body=b'"bbbb"')
    assert Comparison([], [], 5).find(old, new) == []
    assert Comparison([], [], 6).find(old, new) == ["body"]


def test_deep_and_many_differences_are_bounded() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    assert Comparison([], [], 10**6).find(Outcome(200, body=deep), Outcome(200, body=b"[]")) in (["body"], ["/*"])
    many = {str(n): n for n in range(1000)}
    assert len(found(many, {})) == MOST


@given(VALUES, VALUES)
def test_equal_values_have_no_difference_and_others_have_one(old: Any, new: Any) -> None:
    assert found(old, old) == []
    if json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        assert found(old, new)


def coded(body: bytes, at: int) -> Outcome:
    """Return a response with a compressed body; `at` is a time that only the coding contains."""
    return Outcome(200, [(b"content-encoding", b"gzip")], gzip.compress(body, mtime=at))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (coded(b'{"a": 1}', 1), coded(b'{"a": 1}', 2), []),
        (coded(b'{"a": 1}', 1), coded(b'{"a": 2}', 1), ["/a"]),
        (coded(b"<p>", 1), coded(b"<p>", 2), []),
        (coded(b'{"a": 1}', 1), Outcome(200, body=b'{"a": 1}'), []),
        (coded(b" " * 100_000, 1), coded(b" " * 100_000, 2), ["body"]),
        (Outcome(200, [(b"content-encoding", b"gzip")], b"no gzip"), coded(b"1", 1), ["body"]),
    ],
)
def test_bodies_are_decoded_before_they_are_compared(old: Outcome, new: Outcome, names: list[str]) -> None:
    assert Comparison([], [], 65536).find(old, new) == names


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (b'{"a": 1e9999999999999999999999}', b'{"a": 2e9999999999999999999999}', ["/a"]),
        (b'{"a": 1e9999999999999999999999}', b'{"a":1e9999999999999999999999}', []),
        (b'{"a": 1e9999999999999999999999}', b'{"a": 1}', ["/a"]),
        (b'{"a": %b}' % (b"1" * 5000), b'{"a":  %b}' % (b"1" * 5000), []),
        (b'{"a": %b}' % (b"1" * 5000), b'{"a": %b2}' % (b"1" * 4999), ["/a"]),
        (b'{"a": 1.0}', b'{"a": 1}', []),
        (b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}', []),
        (b'{"a": "\\u00e9"}', b'{"a": "\xc3\xa9"}', []),
        (b'{"a": 1, "a": 2}', b'{"a": 2}', []),
        (b"1_0", b"10", ["body"]),
        (b"[1, 2,]", b"[1, 2]", ["body"]),
        (b'{"a": NaN, "b": 1}', b'{"b": 1, "a": NaN}', ["body"]),
        (b'{"a": "\xff"}', b'{"a": "\xfe"}', ["body"]),
        (b'{"\\ud800": 1}', b'{"\\ud800": 2}', ["/\ufffd"]),
        (b'{"%b": 1}' % (b"k" * 9000), b'{"%b": 2}' % (b"k" * 9000), ["/" + 199 * "k"]),
        *(
            (b"[" * deep + b"1" + b"]" * deep, b"[" * deep + b"2" + b"]" * deep, None)
            for deep in (500, 900, 5000, 30_000)
        ),
    ],
)
def test_hostile_bodies_are_compared_without_an_error(old: bytes, new: bytes, names: list[str] | None) -> None:
    found = Comparison([], [], 65536).find(Outcome(200, body=old), Outcome(200, body=new))
    assert found == names if names is not None else len(found) == 1
