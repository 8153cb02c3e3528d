"""Tests of what the heads of parts' answers say, and of which heads and texts are remembered."""

from __future__ import annotations

import pytest

from sidecar.core.outcome import Outcome
from sidecar.stages.aggregate.heads import LONGEST, NO_ANSWER, NO_VALUE, Answered, may_remember, read_head, remembered
from sidecar.stages.aggregate.texts import Value

DATE = b"Date: Mon, 30 Nov 2026 12:00:00 GMT\r\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"", (b"", None, False)),
        (DATE, (b"", None, False)),
        (b"Content-Encoding: GZIP\r\n" + DATE, (b"gzip", None, False)),
        (DATE + b"X-Sidecar-Partial: a, b\r\n", (b"", b"a, b", False)),
        (DATE + b"Cache-Control: private\r\n", (b"", None, True)),
        (b"EXPIRES: 0\r\n", (b"", None, True)),
        (b"vary: x-a\r\n", (b"", None, True)),
        (b"x: 1\r\nPragma: no-cache\r\n", (b"", None, True)),
        (b"x-vary: 1\r\nx: expires:\r\n", (b"", None, False)),
    ],
)
def test_a_head_says_what_its_fields_say(lines: bytes, said: tuple[bytes, bytes | None, bool]) -> None:
    raw, parsed = Outcome(200, lines=lines), Outcome(200, lines=lines)
    assert parsed.headers is not None
    for outcome in (raw, parsed):
        head = read_head(outcome)
        assert (head.coding, head.partial, head.speaks) == said


@pytest.mark.parametrize(
    ("lines", "is_remembered"),
    [(DATE, True), (b"Set-Cookie: a=1\r\n", False), (b"x: %b\r\n" % (b"y" * LONGEST), False)],
)
def test_no_long_head_and_none_with_a_cookie_is_remembered(lines: bytes, is_remembered: bool) -> None:
    assert may_remember(read_head(Outcome(200, lines=lines))) == is_remembered


def answered(lines: bytes = DATE, text: bytes = b"{}") -> Answered:
    return Answered(read_head(Outcome(200, lines=lines)), Value(text))


def test_the_latest_answer_is_remembered() -> None:
    first, second = answered(), answered(b"x: 1\r\n", b"[]")
    assert remembered(NO_ANSWER, first, True) is first
    assert remembered(first, second, True) is second


@pytest.mark.parametrize(
    ("found", "is_whole"),
    [
        (answered(b"Cache-Control: no-store\r\n"), True),
        (answered(text=b"1" * (LONGEST + 1)), True),
        (answered(), False),
    ],
)
def test_only_the_head_of_an_answer_that_must_not_be_stored_or_is_long_or_encoded(
    found: Answered, is_whole: bool
) -> None:
    kept = remembered(answered(b"x: 1\r\n"), found, is_whole)
    assert (kept.head, kept.value) == (found.head, NO_VALUE)
    assert remembered(kept, found, is_whole) is kept, "the same head needs no new object"


def test_no_answer_with_a_cookie_is_remembered() -> None:
    latest = answered()
    assert remembered(latest, answered(b"Set-Cookie: a=1\r\n"), True) is latest
