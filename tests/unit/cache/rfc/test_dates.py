"""Tests of HTTP dates: RFC 9110 5.6.7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.dates import format_date, parse_date

NOW = 1_750_000_000.0
"""Instant in June 2025, as Unix time."""


@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"SUN, 06 NOV 1994 08:49:37 gmt",
    ],
)
def test_all_three_forms_are_read(text: bytes) -> None:
    assert parse_date(text, NOW) == 784111777


@pytest.mark.parametrize(
    "text",
    [
        b"", b"0", b"-1", b"now", b"Thu, 18 Aug 50 02:01:18 GMT", b"Thu 18 Aug 2050 02:01:18 GMT",
        b"Thu, 18  Aug  2050 02:01:18 GMT", b"Thu, 18-Aug-2050 02:01:18 GMT", b"Thu, 18 Aug 2050 02.01.18 GMT",
        b"Thu, 18 Aug 2050 2:01:18 GMT", b"Thu, 18 Aug 2050 02:01:18 UTC", b"Thu, 18 Aug 2050 02:01:18 AEST",
        b"Thu, 18 Aug 2050 02:01:18", b"Thu, 31 Feb 2050 02:01:18 GMT", b"Thu, 18 Aug 2050 24:01:18 GMT",
        b"Thu, 18 Aug 2050 02:60:18 GMT", b"Thu, 18 Aug 2050 02:01:61 GMT",
        b"Thu, 18 Aug 0000 02:01:18 GMT", b" Thu, 18 Aug 2050 02:01:18 GMT",
        b"Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT", b"x" * 10_000,
    ],
)  # fmt: skip
def test_what_merely_resembles_a_date_is_none(text: bytes) -> None:
    assert parse_date(text, NOW) is None


def test_a_year_of_two_digits_lies_at_most_fifty_years_ahead() -> None:
    in_2050 = parse_date(b"Thursday, 18-Aug-50 02:01:18 GMT", NOW)
    assert in_2050 == parse_date(b"Thu, 18 Aug 2050 02:01:18 GMT", NOW)
    assert parse_date(b"Friday, 18-Aug-78 02:01:18 GMT", NOW) == parse_date(b"Fri, 18 Aug 1978 02:01:18 GMT", NOW)


def test_a_leap_second_is_the_second_after() -> None:
    assert parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT", NOW) == parse_date(b"Sun, 01 Jan 2017 00:00:00 GMT", NOW)


@given(st.integers(0, 4_000_000_000))
def test_what_is_written_is_read(second: int) -> None:
    assert parse_date(format_date(second), NOW) == second


@given(st.binary(max_size=60))
def test_nothing_raises(text: bytes) -> None:
    parse_date(text, NOW)
