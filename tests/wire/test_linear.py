"""Tests that work for hostile input is proportional to its length.

The calls of each case are counted at two sizes, one eight times the other.  The regular expressions of the grammar,
each of them one call, are counted in steps.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sidecar.config.process_spec import LimitsSpec
from sidecar.core import http1
from sidecar.core.body import Body, BodyReader
from sidecar.core.http1 import CHUNKED, Invalid
from tests.support.steps import steps
from tests.support.work import calls, grows_with
from tests.wire.answers import answer
from tests.wire.reader import dribble, read

LIMITS = LimitsSpec.model_validate(
    {"max_header_bytes": "1MiB", "max_fields": 10**6, "max_list_members": 10**6, "max_query_parameters": 10**6}
)
START = b"GET / HTTP/1.1\r\nHost: a\r\n"

HEADS: dict[str, Callable[[int], bytes]] = {
    "one long value": lambda n: START + b"X: " + b"y" * n,
    "one long name": lambda n: START + b"x" * n,
    "one long method": lambda n: b"G" * n,
    "one long target": lambda n: b"GET /" + b"a" * n,
    "dot segments": lambda n: b"GET /" + b"../" * (n // 3) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded dot segments": lambda n: b"GET /a" + b"/%2e%2E" * (n // 7) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "many fields": lambda n: START + b"X: y\r\n" * (n // 6) + b"\r\n",
    "many fields and no end": lambda n: START + b"X: y\r\n" * (n // 6),
    "many fields that are looked at": lambda n: START + b"te: a\r\nb: c\r\n" * (n // 13) + b"\r\n",
    "many that are added again": lambda n: START + b"x-criticality: critical\r\n" * (n // 25) + b"\r\n",
    "many names in Connection": lambda n: START + b"Connection: " + b"a, " * (n // 3) + b"\r\n\r\n",
    "many Connections": lambda n: START + b"Connection: a, b\r\n" * (n // 18) + b"\r\n",
    "white space in a value": lambda n: START + b"X: " + b" " * n + b"\r\n\r\n",
    "white space and no end": lambda n: START + b"X: " + b" " * n,
    "a wrong character at the end": lambda n: START + b"X: y\r\n" * (n // 6) + b"X: \x00\r\n\r\n",
    "empty lines": lambda n: b"\r\n" * (n // 2) + START + b"\r\n",
    "requests": lambda n: (START + b"\r\n") * (n // 27),
    "quotes": lambda n: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b'1;a="\\' * (n // 6),
}


GRAMMAR = {
    "request": (http1.REQUEST, "match", [START + b"X: y\r\n", b"a: b\r\n", b"x: " + b" " * 50 + b"\r\n", b"x", b"\t"]),
    "response": (http1.RESPONSE, "match", [b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", b":\r\n", b"x", b" "]),
    "trailers": (http1.TRAILERS, "match", [b"a: b\r\n", b"a:\r\n", b"a", b"a:"]),
    "chunk": (http1.CHUNK, "match", [b"1", b"1;a", b";a=b", b' ; a = "b\\""', b';a="', b"\\", b" ", b"\t;"]),
    "host": (http1.HOST, "fullmatch", [b"a", b"[::1]", b"1:", b"%"]),
    "codings": (http1.LAYERED, "fullmatch", [b"gzip, ", b"chunked,", b"a", b" ", b",\t"]),
    "bare": (http1.BARE, "search", [b"a", b"\r\n", b"\n\r"]),
}
"""Patterns of the grammar, each with the method that matches it and the pieces of its hostile texts."""


@pytest.mark.parametrize("name", HEADS)
def test_a_head_in_one_piece(name: str) -> None:
    def prepare(size: int) -> Callable[[], object]:
        data = HEADS[name](size)
        return lambda: read(data, LIMITS)

    assert not grows_with(prepare)


@pytest.mark.parametrize("name", GRAMMAR)
def test_the_grammar(name: str) -> None:
    pattern, how, pieces = GRAMMAR[name]
    for head in (b"", *pieces):
        for piece in pieces:
            short, long = (steps(pattern, (head + piece * size)[:size], how) for size in (64, 512))
            assert long <= 12 * short + 500, (head, piece)


@pytest.mark.parametrize(
    "name", ["one long value", "many fields and no end", "one long target", "white space and no end"]
)
def test_a_dribbled_head_is_not_read_anew_with_each_byte(name: str) -> None:
    def prepare(size: int) -> Callable[[], object]:
        pieces = dribble(HEADS[name](size))
        return lambda: read(pieces, LIMITS)

    assert not grows_with(prepare)
    assert calls(prepare(1024))[f"Pattern.match {http1.REQUEST.pattern!r}"] <= 2


def test_a_dribbled_response_head_is_not_read_anew_with_each_byte() -> None:
    def prepare(size: int) -> Callable[[], object]:
        pieces = dribble(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (size // 16))
        return lambda: answer(pieces)

    assert not grows_with(prepare)
    assert calls(prepare(1024))[f"Pattern.match {http1.RESPONSE.pattern!r}"] <= 2


@pytest.mark.parametrize("dribbled", [False, True])
@pytest.mark.parametrize("unit", [b"1\r\nx\r\n", b'1;a="b"\r\nx\r\n', b"a" * 900 + b"\r\n", b"0001\r\nx\r\n"])
def test_chunks(unit: bytes, dribbled: bool) -> None:
    def prepare(size: int) -> Callable[[], object]:
        data = unit * (size // len(unit))
        pieces = dribble(data[: len(data) // 4]) if dribbled else [data]

        def run() -> None:
            reader = BodyReader(Body(SimpleNamespace(pause_body=lambda: None)), CHUNKED)  # type: ignore[arg-type]
            try:
                for piece in pieces:
                    reader.feed(piece)
            except Invalid:
                pass

        return run

    assert not grows_with(prepare)
