"""Bearer tokens in field lines: the quick reader beside the plain one, and tables of lines in Python and C."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import pytest

from sidecar.identity.credentials import MOST_LINES, TAIL, KnownLines, bearer_token, known_lines, token_tail

TOKEN = b"eyJhbGciOiJFUzI1NiJ9." + b"p" * 60 + b"." + bytes(range(65, 91)) * 3
OTHERS = (
    b"Host: a",
    b"Accept: */*",
    b"X-Forwarded-Authorization: Bearer " + TOKEN,
    b"x-authorization: Bearer x",
    b"a:",
)
NAMES = (b"Authorization", b"authorization", b"AUTHORIZATION", b"Authorizatio", b"x-authorization")
SEPARATORS = (b": ", b":", b":  ", b": \t")
SCHEMES = (b"Bearer ", b"bearer ", b"Bearer", b"Bearer  ", b"Basic ")


def test_a_tail_that_is_found_is_that_of_the_token() -> None:
    chance = random.Random(1)
    found = 0
    for _ in range(4000):
        lines = [chance.choice(OTHERS) for _ in range(chance.randrange(4))]
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            value = TOKEN[: chance.choice((0, 1, TAIL - 1, TAIL, TAIL + 1, 90, len(TOKEN)))]
            line = chance.choice(NAMES) + chance.choice(SEPARATORS) + chance.choice(SCHEMES) + value
            lines.insert(chance.randrange(len(lines) + 1), line)
        text = b"".join(b"%b\r\n" % line for line in lines)
        tail = token_tail(text)
        if tail is None:
            continue
        found += 1
        token = bearer_token(text, b"\n" + text.lower())
        assert isinstance(token, bytes) is (
            text.lower().count(b"\nauthorization:") + text.lower().startswith(b"authorization:") == 1
        )
        if isinstance(token, bytes):
            assert token.endswith(tail.lstrip()), text
    assert found > 50


def test_the_usual_spellings_are_found() -> None:
    for name in NAMES[:2]:
        for before, after in ((b"", b""), (b"Host: a\r\n", b""), (b"Host: a\r\n", b"x-request-id: 1\r\n")):
            lines = b"%b%b: Bearer %b\r\n%b" % (before, name, TOKEN, after)
            assert token_tail(lines) == TOKEN[-TAIL:]
    assert token_tail(b"") is token_tail(b"\r\n") is token_tail(b"Authorization: Bearer " + b"x" * 39 + b"\r\n") is None
    assert token_tail(b"Authorization: Bearer " + b"x" * 40 + b"\r\n") == b"x" * 40


def tables() -> list[Any]:
    """Return tables in Python and, if it is built, in C, each with the list that it sets."""
    return [(found, make(found)) for make in (KnownLines, known_lines) for found in [[None]]]


@pytest.mark.parametrize("case", range(2))
def test_only_the_very_same_lines_are_known(case: int) -> None:
    found, table = tables()[case]
    token, others, own = b"Authorization: Bearer " + TOKEN + b"\r\n", b"c: 3\r\n", b"x-request-id: 7\r\n"
    known = b"a: 1\r\n" + token
    assert table.find(known + own, b"7") is None
    table.keep(known, others, "entry")
    assert table.find(known + own, b"7") == others + own
    assert found == ["entry"]
    assert table.find(known + b"x-request-id: \r\n", b"") == others + b"x-request-id: \r\n"
    for lines, request_id in (
        (known + own, b""),
        (known + own, b"77"),
        (known, b"7"),
        (b"a: 2\r\n" + token + own, b"7"),
        (b"b: 1\r\n" + token + own, b"7"),
        (known + b"x-request-Id: 7\r\n", b"7"),
        (known + b"y: 1\r\n", b"1"),
        (known + own[:-1], b"7"),
        (token + own, b"7"),
        (own, b"7"),
        (b"", b""),
    ):
        assert table.find(lines, request_id) is None, lines
    table.keep(b"a: 1\r\n", others, "no token")
    assert table.find(b"a: 1\r\n" + own, b"7") is None
    table.keep(known, b"", "another")
    assert table.find(known + own, b"7") == own
    assert found == ["another"]


@pytest.mark.parametrize("case", range(2))
def test_a_table_is_bounded(case: int) -> None:
    found, table = tables()[case]
    ends = [sha256(b"%d" % number).hexdigest().encode() for number in range(4 * MOST_LINES)]
    many = [b"Authorization: Bearer %b\r\n" % end for end in ends]
    for number, lines in enumerate(many):
        table.keep(lines, b"", number)
    known = [
        number
        for number, lines in enumerate(many)
        if table.find(lines + b"x-request-id: 7\r\n", b"7") is not None and found == [number]
    ]
    assert MOST_LINES / 2 < len(known) <= MOST_LINES
