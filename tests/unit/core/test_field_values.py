"""Tests of Retry-After in its two forms (RFC 9110 10.2.3)."""

from __future__ import annotations

import pytest

from sidecar.core.message import http_date, retry_after

WALL = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the RFC's own example


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_the_three_forms_of_a_date(text: str) -> None:
    assert http_date(text.encode()) == WALL


@pytest.mark.parametrize(
    "text",
    [
        b"", b"soon", b"-5", b"Sun, 99 Foo 1994", b"\xff\xfe", b"Sun, 06 Nov 1994 99:99:99 GMT",
        b"Sun, 99999999999999999999 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 +" + b"9" * 30, b"Sun, 06 Nov 1994 08:49:37 GMT" + b" " * 100_000,
    ],
)  # fmt: skip
def test_rubbish_is_none(text: bytes) -> None:
    assert retry_after([(b"retry-after", text)], WALL) in (None, 0.0)
    assert retry_after([], WALL) is None
    assert http_date(None) is None


def test_seconds() -> None:
    assert retry_after([(b"retry-after", b"120")], WALL) == 120
    assert retry_after([(b"retry-after", b"9" * 400)], WALL) == 1e9
    assert retry_after([(b"retry-after", b"Sun, 06 Nov 1994 08:49:37 -" + b"9" * 30)], WALL) in (None, 1e9)


def test_a_date_is_read_against_the_answers_own_date() -> None:
    later = (b"retry-after", b"Sun, 06 Nov 1994 08:50:07 GMT")
    assert retry_after([later], WALL) == 30
    assert retry_after([later], WALL + 100) == 0
    assert retry_after([later, (b"date", b"Sun, 06 Nov 1994 08:49:57 GMT")], WALL + 5000) == 10
