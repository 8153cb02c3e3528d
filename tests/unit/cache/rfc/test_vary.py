"""Tests of selecting among stored answers: RFC 9111 4.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.vary import field_names, selecting
from tests.support.service import exchange


def selection(names: bytes, *headers: tuple[str, str], forwarding: bytes = b"") -> bytes:
    fields = [(name.lower().encode(), value.encode()) for name, value in headers]
    return selecting(exchange(headers=fields, forwarding=forwarding), field_names([names]) or ())


@pytest.mark.parametrize("line", [b"*", b"*, *", b", *", b"*,foo", b"foo,*"])
def test_a_star_matches_nothing(line: bytes) -> None:
    assert field_names([line]) is None
    assert field_names([b"", line]) is None


def test_names_are_sorted_and_each_once() -> None:
    assert field_names([b"Foo, bar", b"FOO"]) == (b"bar", b"foo")
    assert field_names([b""]) == ()
    assert field_names([]) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("Foo", "1")], [("Foo", "1"), ("Other", "2")]),
        ([("Foo", "1, 2")], [("Foo", "1"), ("Foo", "2")]),
        ([("Foo", "1,2")], [("Foo", " 1, 2 ")]),
        ([], []),
    ],
)
def test_these_match(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    assert selection(b"Foo, Bar", *one) == selection(b"bar,foo", *other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("Foo", "1")], [("Foo", "2")]),
        ([("Foo", "1")], []),
        ([("Foo", "")], []),
        ([("Foo", "1")], [("Bar", "1")]),
        ([("Foo", "a")], [("Foo", "A")]),
        ([("Foo", "1, 2")], [("Foo", "2, 1")]),
        ([("Foo", '"1, 2"')], [("Foo", '"1,2"')]),
        ([("Foo", "1 2")], [("Foo", "12")]),
    ],
)
def test_these_do_not(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    assert selection(b"Foo, Bar", *one) != selection(b"Foo, Bar", *other)


def test_known_lists_are_normalised_by_their_own_rules() -> None:
    assert selection(b"accept-language", ("Accept-Language", "en, De;q=0.5")) == selection(
        b"accept-language", ("Accept-Language", "EN ,de; q=0.5")
    )
    assert selection(b"accept-encoding", ("Accept-Encoding", "gzip, br")) == selection(
        b"accept-encoding", ("Accept-Encoding", "br,GZIP")
    )
    assert selection(b"accept-language", ("Accept-Language", "en, de")) != selection(
        b"accept-language", ("Accept-Language", "de, en")
    )


def test_fields_that_the_edge_writes_count_as_they_go_upstream() -> None:
    ours = b"x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: http\r\n"
    theirs = b"x-forwarded-for: 10.0.0.2\r\nx-forwarded-proto: http\r\n"
    assert selection(b"X-Forwarded-For", forwarding=ours) != selection(b"X-Forwarded-For", forwarding=theirs)
    assert selection(b"X-Forwarded-Proto", forwarding=ours) == selection(b"X-Forwarded-Proto", forwarding=theirs)


@given(st.lists(st.text(" ,;=*abAB19", max_size=9), min_size=1, max_size=3))
def test_spreading_over_lines_changes_nothing(values: list[str]) -> None:
    apart = selection(b"foo", *(("foo", value) for value in values))
    assert apart == selection(b"foo", ("foo", ",".join(values)))
