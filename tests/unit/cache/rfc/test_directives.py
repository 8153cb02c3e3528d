"""Tests of cache directives: RFC 9111 5.2 and 4.2.1, RFC 5861, RFC 8246, RFC 9213 2.1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.directives import FOREVER, parse, parse_targeted


def said(*lines: bytes) -> dict[str, Any]:
    return {name: value for name, value in vars(parse(lines)).items() if value not in (None, False)}


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b"max-age=3600", {"max_age": 3600}),
        (b"MaX-aGe=3600, No-StOrE", {"max_age": 3600, "no_store": True}),
        (b"foobar, max-age=3600, community=\"UCI\"", {"max_age": 3600}),
        (b" ,, max-age=1 ,", {"max_age": 1}),
        (b'max-age="3600"', {"max_age": 3600}),
        (b"max-age=003600", {"max_age": 3600}),
        (b"private, must-revalidate", {"private": True, "must_revalidate": True}),
        (b"proxy-revalidate, public", {"proxy_revalidate": True, "public": True}),
        (b'no-cache="Set-Cookie, X-A"', {"no_cache_fields": frozenset((b"set-cookie", b"x-a"))}),
        (b"private=x-a", {"private_fields": frozenset((b"x-a",))}),
        (b'private, private="x-a"', {"private": True, "private_fields": frozenset((b"x-a",))}),
        (b"stale-while-revalidate=5, stale-if-error=6", {"stale_while_revalidate": 5, "stale_if_error": 6}),
        (b"immutable", {"immutable": True}),
        (b"max-stale", {"max_stale": FOREVER}),
        (b"max-stale=5, min-fresh=6, only-if-cached", {"max_stale": 5, "min_fresh": 6, "only_if_cached": True}),
    ],
)  # fmt: skip
def test_5_2_directives(line: bytes, meaning: dict[str, Any]) -> None:
    assert said(line) == meaning


def test_5_2_lines_are_one_list() -> None:
    assert said(b"max-age=5", b"no-store") == {"max_age": 5, "no_store": True}


@pytest.mark.parametrize("value", [b"2147483648", b"2147483649", b"99999999999", b"9" * 400])
def test_1_2_2_larger_numbers_are_for_ever(value: bytes) -> None:
    assert parse([b"max-age=" + value]).max_age == FOREVER


@pytest.mark.parametrize(
    "value",
    [b"", b"=", b"=x", b"=-1", b"=1.0", b"=1.5", b"=3600a", b"=a3600", b"='3600'", b" =5", b"= 5", b'="', b'="5'],
)  # fmt: skip
def test_4_2_1_an_unusable_lifetime_is_none_at_all(value: bytes) -> None:
    assert parse([b"max-age" + value]).max_age == 0


def test_4_2_1_a_lifetime_twice() -> None:
    assert parse([b"max-age=5, max-age=5"]).max_age == 5
    assert parse([b"max-age=1800, max-age=1"]).max_age == 0
    assert parse([b"max-age=1", b"max-age=1800"]).max_age == 0
    assert parse([b"s-maxage=1, s-maxage=2"]).s_maxage == 0


def test_windows_and_wishes_are_read_the_careful_way() -> None:
    assert parse([b"stale-if-error=9, stale-if-error=5"]).stale_if_error == 5
    assert parse([b"stale-if-error=x"]).stale_if_error == 0
    assert parse([b"min-fresh=5, min-fresh=9"]).min_fresh == 9
    assert parse([b"min-fresh=x"]).min_fresh == FOREVER
    assert parse([b"max-stale=x"]).max_stale == 0


@pytest.mark.parametrize("line", [b"no-store=1", b'no-store="x"', b"no-store =1", b"no-store;", b'a="b, no-store'])
def test_a_restriction_counts_whatever_is_wrong_with_it(line: bytes) -> None:
    assert parse([line]).no_store


def test_a_quoted_lifetime_is_not_one() -> None:
    assert said(b'extension="max-age=3600", max-age=1') == {"max_age": 1}
    assert said(b'max-age=1, extension="a, max-age=3600, \\"no-store"') == {"max_age": 1}


def test_an_open_quote_voids_all_permissions() -> None:
    found = parse([b'public, stale-if-error=60, s-maxage=60, x="y, max-age=60'])
    assert (found.public, found.max_age, found.s_maxage, found.stale_if_error) == (False, 0, 0, None)


@pytest.mark.parametrize("argument", [b'""', b'"a b"', b'","', b'"a;b"'])
def test_a_qualified_form_without_names_is_the_unqualified(argument: bytes) -> None:
    assert parse([b"no-cache=" + argument]).no_cache


@given(st.binary(max_size=80))
def test_nothing_raises_and_no_restriction_is_lost(noise: bytes) -> None:
    assert parse([noise, b"no-store"]).no_store or b'"' in noise
    assert parse([b"no-store", noise]).no_store


@given(st.text(' ,="\\amxge-0159', max_size=30).map(str.encode))
def test_a_lifetime_is_never_longer_than_the_longest_number_says(noise: bytes) -> None:
    found = parse([noise])
    assert found.max_age is None or 0 <= found.max_age <= FOREVER


class TestTargeted:
    """RFC 9213 2.1: a Structured Field, which is ignored as a whole if it is malformed."""

    def test_it_is_read(self) -> None:
        found = parse_targeted([b"max-age=60, private", b"stale-while-revalidate=5;x"])
        assert found is not None
        assert (found.max_age, found.private, found.stale_while_revalidate) == (60, True, 5)

    @pytest.mark.parametrize(
        "line",
        [b"", b"max-age=10000, &&&&&", b'max-age="10000"', b"max-age=1.5", b"max-age=-1", b"max-age", b"MaX-aGe=5",
         b"no-store=1", b"private=x"],
    )  # fmt: skip
    def test_it_is_ignored(self, line: bytes) -> None:
        assert parse_targeted([line]) is None

    def test_absence(self) -> None:
        assert parse_targeted([]) is None

    def test_false_and_unknown_members(self) -> None:
        found = parse_targeted([b"no-store=?0, foobar, max-age=5"])
        assert found is not None
        assert (found.no_store, found.max_age) == (False, 5)

    def test_a_qualified_form_is_taken_whole(self) -> None:
        found = parse_targeted([b'no-cache="set-cookie"'])
        assert found is not None
        assert found.no_cache
