"""Tests of ranges from a stored answer: RFC 9110 14, 13.1.5, 15.3.7, 15.5.17."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.ranges import is_applicable, parse_ranges, partial
from tests.unit.cache.support import WALL, date, entry


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        (b"bytes=0-1", [(0, 2)]),
        (b"bytes=1-", [(1, 10)]),
        (b"bytes=-1", [(9, 10)]),
        (b"BYTES=-99", [(0, 10)]),
        (b"bytes=0-99", [(0, 10)]),
        (b"bytes= 0-1 , 4-5", [(0, 2), (4, 6)]),
        (b"bytes=,0-1,", [(0, 2)]),
        (b"bytes=20-", []),
        (b"bytes=-0", []),
        (b"bytes=20-30, 1-1", [(1, 2)]),
    ],
)
def test_14_1_2_byte_ranges(value: bytes, ranges: list[tuple[int, int]]) -> None:
    assert parse_ranges(value, 10) == ranges


@pytest.mark.parametrize(
    "value",
    [b"", b"bytes", b"bytes=", b"lines=0-1", b"bytes=a-b", b"bytes=1", b"bytes=5-1", b"bytes=-", b"bytes=0-1;x",
     b"bytes=0-1, x", b"bytes=0-5, 3-9", b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(0, 40, 2))],
)  # fmt: skip
def test_14_2_what_is_ignored(value: bytes) -> None:
    assert parse_ranges(value, 100) is None


def test_an_empty_body_has_no_range() -> None:
    assert parse_ranges(b"bytes=0-", 0) == []
    assert parse_ranges(b"bytes=-5", 0) == []


class TestIfRange:
    """RFC 9110 13.1.5: If-Range."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, True), (b'"a"', True), (b'"b"', False), (b'W/"a"', False), (date(-60).encode(), True),
            (date(-59).encode(), False), (b"bad", False),
        ],
    )  # fmt: skip
    def test_it(self, value: bytes | None, expected: bool) -> None:
        stored = entry(("ETag", '"a"'), ("Last-Modified", date(-60)), ("Date", date(0)))
        assert is_applicable(value, stored, WALL) is expected

    def test_a_weak_tag_is_never_enough(self) -> None:
        assert not is_applicable(b'W/"a"', entry(("ETag", 'W/"a"')), WALL)

    def test_8_8_2_2_a_date_of_the_same_second_is_weak(self) -> None:
        stored = entry(("Last-Modified", date(0)), ("Date", date(0)))
        assert not is_applicable(date(0).encode(), stored, WALL)


def test_15_3_7_1_one_part() -> None:
    status, headers, body = partial(entry(("Content-Type", "text/plain"), ("ETag", '"a"')), [(2, 5)])
    assert (status, body) == (206, b"234")
    assert dict(headers) == {b"content-type": b"text/plain", b"etag": b'"a"', b"content-range": b"bytes 2-4/10"}


def test_15_3_7_2_several_parts() -> None:
    status, headers, body = partial(entry(("Content-Type", "text/plain"), ("ETag", '"a"')), [(0, 2), (8, 10)])
    kind = dict(headers)[b"content-type"]
    match = re.fullmatch(rb"multipart/byteranges; boundary=(\S+)", kind)
    assert status == 206
    assert match is not None
    assert b"content-range" not in dict(headers)
    assert body == (
        b"--%b\r\ncontent-type: text/plain\r\ncontent-range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--%b\r\ncontent-type: text/plain\r\ncontent-range: bytes 8-9/10\r\n\r\n89\r\n--%b--\r\n"
    ) % ((match[1],) * 3)


def test_15_5_17_none() -> None:
    assert partial(entry(), []) == (416, [(b"content-range", b"bytes */10")], b"")


@given(st.binary(max_size=40).map(lambda noise: b"bytes=" + noise), st.integers(0, 50))
def test_ranges_lie_within_the_body_and_apart(value: bytes, size: int) -> None:
    ranges = parse_ranges(value, size)
    covered: set[int] = set()
    for start, end in ranges or ():
        assert 0 <= start < end <= size
        assert covered.isdisjoint(range(start, end))
        covered.update(range(start, end))
