"""Bearer tokens in field lines: the quick readers, in Python and in C where they are built, beside the plain one."""

from __future__ import annotations

import random

import pytest

from sidecar.identity.credentials import (
    TAIL,
    bearer_token,
    exchange_lines,
    find_tail,
    swap_lines,
    token_tail,
)

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


@pytest.mark.parametrize("find", [token_tail, find_tail])
def test_a_tail_that_is_found_is_that_of_the_token(find: object) -> None:
    assert callable(find)
    chance = random.Random(1)
    found = 0
    for _ in range(4000):
        lines = [chance.choice(OTHERS) for _ in range(chance.randrange(4))]
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            value = TOKEN[: chance.choice((0, 1, TAIL - 1, TAIL, TAIL + 1, 90, len(TOKEN)))]
            line = chance.choice(NAMES) + chance.choice(SEPARATORS) + chance.choice(SCHEMES) + value
            lines.insert(chance.randrange(len(lines) + 1), line)
        text = b"".join(b"%b\r\n" % line for line in lines)
        tail = find(text)
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


@pytest.mark.parametrize("find", [token_tail, find_tail])
def test_the_usual_spellings_are_found(find: object) -> None:
    assert callable(find)
    for name in NAMES[:2]:
        for before, after in ((b"", b""), (b"Host: a\r\n", b""), (b"Host: a\r\n", b"x-request-id: 1\r\n")):
            lines = b"%b%b: Bearer %b\r\n%b" % (before, name, TOKEN, after)
            assert find(lines) == TOKEN[-TAIL:]
    assert find(b"") is find(b"\r\n") is find(b"Authorization: Bearer " + b"x" * 39 + b"\r\n") is None
    assert find(b"Authorization: Bearer " + b"x" * 40 + b"\r\n") == b"x" * 40


@pytest.mark.parametrize("swap", [exchange_lines, swap_lines])
def test_only_the_very_same_lines_are_replaced(swap: object) -> None:
    assert callable(swap)
    known, others, own = b"a: 1\r\nb: 2\r\n", b"c: 3\r\n", b"x-request-id: 7\r\n"
    assert swap(known + own, known, others, len(own)) == others + own
    assert swap(known, known, others, 0) == others
    assert swap(known, known, b"", 0) == b""
    for lines, rest in (
        (known + own, 0),
        (known, len(own)),
        (b"a: 1\r\nb: 3\r\n" + own, len(own)),
        (known + b"x-request-Id: 7\r\n", len(own)),
        (known + b"y: 1\r\n", 6),
        (b"", 0),
    ):
        assert swap(lines, known, others, rest) is None
    assert swap(b"", b"", others, 0) is None
    assert swap(own, b"", others, len(own)) is None
