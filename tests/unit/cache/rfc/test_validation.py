"""Tests of validation: RFC 9110 8.8.3, 13.1, 13.2; RFC 9111 3.2, 4.3."""

from __future__ import annotations

import pytest

from sidecar.cache.rfc.etag import is_tag, tags_of, weakly_equal
from sidecar.cache.rfc.validation import (
    conditional,
    freshened,
    is_not_modified,
    is_same,
    is_same_by_head,
    unconditional,
)
from tests.unit.cache.support import WALL, date, entry

AGED = ("Last-Modified", date(-3000))
TAGGED = ("ETag", '"a"')


class TestEntityTags:
    """RFC 9110 8.8.3: entity tags."""

    @pytest.mark.parametrize("text", [b'"a"', b'""', b'W/"a"', b'"\xfc"', b'"a,b"', b'"a\\"'])
    def test_tags(self, text: bytes) -> None:
        assert is_tag(text)

    @pytest.mark.parametrize(
        "text", [b"", b"a", b'"a', b'w/"a"', b'W\\"a"', b'W"a"', b'"a"b', b'"a b"', b"*", b'"\x7f"']
    )
    def test_none(self, text: bytes) -> None:
        assert not is_tag(text)

    def test_lists(self) -> None:
        assert tags_of(b'"a", W/"b" ,"c,d"') == [b'"a"', b'W/"b"', b'"c,d"']
        assert tags_of(b'"a",') == [b'"a"']
        assert tags_of(b"") == []
        assert tags_of(b"a") is None
        assert tags_of(b'"a" "b"') is None

    def test_8_8_3_2_weak_comparison(self) -> None:
        assert weakly_equal(b'W/"a"', b'"a"')
        assert not weakly_equal(b'W/"a"', b'W/"b"')


class TestAnswering:
    """RFC 9110 13.1.2, 13.1.3, 13.2.2; RFC 9111 4.3.2: conditional requests of clients."""

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            (b'"a"', True), (b'W/"a"', True), (b'"x", "a"', True), (b'"a", "x", "y"', True), (b"*", True),
            (b'"x"', False), (b"a", False), (b'"a', False), (b"", False),
        ],
    )  # fmt: skip
    def test_if_none_match(self, condition: bytes, expected: bool) -> None:
        assert is_not_modified(entry(TAGGED), condition, None, WALL) is expected

    def test_13_2_2_if_none_match_goes_before_if_modified_since(self) -> None:
        stored = entry(TAGGED, AGED)
        assert is_not_modified(stored, b'"a"', date(-9000).encode(), WALL)
        assert not is_not_modified(stored, b'"x"', date(0).encode(), WALL)

    @pytest.mark.parametrize(
        ("since", "expected"),
        [(date(-3000), True), (date(-2000), True), (date(-3001), False), ("yesterday", False), ("", False)],
    )
    def test_if_modified_since(self, since: str, expected: bool) -> None:
        assert is_not_modified(entry(AGED), None, since.encode(), WALL) is expected

    def test_4_3_2_date_stands_in_for_last_modified(self) -> None:
        stored = entry(("Cache-Control", "max-age=60"), ("Date", date(-10)))
        assert is_not_modified(stored, None, date(-10).encode(), WALL)
        assert not is_not_modified(stored, None, date(-11).encode(), WALL)


class TestAsking:
    """RFC 9111 4.3.1: conditional requests to the upstream."""

    FIELDS = [(b"accept", b"*/*"), (b"if-none-match", b'"theirs"'), (b"range", b"bytes=0-1"), (b"if-range", b'"x"')]

    def test_ours_take_the_place_of_theirs(self) -> None:
        asked = conditional(self.FIELDS, entry(TAGGED, AGED))
        assert asked == [(b"accept", b"*/*"), (b"if-none-match", b'"a"'), (b"if-modified-since", AGED[1].encode())]

    def test_nothing_is_made_up(self) -> None:
        assert conditional(self.FIELDS, entry()) == unconditional(self.FIELDS) == [(b"accept", b"*/*")]


class TestNotModified:
    """RFC 9111 4.3.4: stored answer that a 304 refers to."""

    @pytest.mark.parametrize(
        ("stored", "answered", "expected"),
        [
            ('"a"', [(b"etag", b'"a"')], True),
            ('"a"', [(b"etag", b'"b"')], False),
            ('W/"a"', [(b"etag", b'"a"')], False),
            ('"a"', [(b"etag", b'W/"a"')], True),
            ('W/"a"', [(b"etag", b'W/"a"')], True),
            ('"a"', [], True),
            ('"a"', [(b"etag", b"bad")], True),
            ('"a"', [(b"last-modified", AGED[1].encode())], True),
            ('"a"', [(b"last-modified", date(0).encode())], False),
        ],
    )
    def test_it(self, stored: str, answered: list[tuple[bytes, bytes]], expected: bool) -> None:
        assert is_same(entry(("ETag", stored), AGED), answered, WALL) is expected


class TestHead:
    """RFC 9111 4.3.5: answers to HEAD."""

    @pytest.mark.parametrize(
        ("answered", "expected"),
        [
            ([], True),
            ([(b"etag", b'"a"')], True),
            ([(b"etag", b'"b"')], False),
            ([(b"etag", b'"a"'), (b"last-modified", date(0).encode())], False),
            ([(b"content-length", b"10")], True),
            ([(b"content-length", b"11")], False),
        ],
    )
    def test_it(self, answered: list[tuple[bytes, bytes]], expected: bool) -> None:
        assert is_same_by_head(entry(TAGGED, AGED), answered, WALL) is expected


class TestUpdating:
    """RFC 9111 3.2: updating stored fields."""

    def test_what_is_new_replaces_all_of_the_old(self) -> None:
        stored = [(b"a", b"1"), (b"b", b"1"), (b"b", b"2"), (b"content-type", b"x")]
        assert freshened(stored, [(b"b", b"3"), (b"c", b"4")]) == [
            (b"a", b"1"), (b"content-type", b"x"), (b"b", b"3"), (b"c", b"4"),
        ]  # fmt: skip

    def test_what_stays(self) -> None:
        stored = [(b"content-range", b"x"), (b"set-cookie", b"a=1")]
        update = [(b"content-length", b"5"), (b"content-range", b"y"), (b"age", b"5"), (b"set-cookie", b"a=2")]
        assert freshened(stored, update, frozenset((b"set-cookie",))) == stored
