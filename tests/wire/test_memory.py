"""Tests that memory for hostile input is bounded by its limits, however much one read of the socket brings.

A regular expression keeps positions for backtracking on a stack, which takes hundreds of bytes for each byte of input.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sidecar.core.body import Body, BodyReader
from sidecar.core.http1 import CHUNKED, Invalid, parse_request, parse_response

READ = 256 * 1024
"""Bytes that asyncio reads from a socket at once."""
LIMIT = 64 * 1024
REQUEST = b"GET / HTTP/1.1\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\n"


def peak(function: Callable[[], object]) -> int:
    """Return the peak of allocated bytes while a function runs."""
    tracemalloc.start()
    try:
        with pytest.raises(Invalid):
            function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def chunked(data: bytes) -> None:
    BodyReader(Body(SimpleNamespace(pause_body=lambda: None)), CHUNKED).feed(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit", [b'5;x="', b'5;x="\\', b"5" + b";x" * 500, b"0\r\n", b'5;x="y"'], ids=lambda unit: unit[:8].decode()
)
@pytest.mark.parametrize("filler", [b"x", b"\\x", b";a", b"a:\r\n", b";a=b", b';a="b"'])
def test_chunks(unit: bytes, filler: bytes) -> None:
    data = unit + filler * (READ // len(filler)) + b"\r\n\r\n"
    assert peak(lambda: chunked(data)) < 3 * READ


@pytest.mark.parametrize("end", [b"", b"\r\n"])
@pytest.mark.parametrize("filler", [b"a:\r\n", b"a: b\r\n", b"a", b" "])
def test_heads(filler: bytes, end: bytes) -> None:
    rest = filler * (READ // len(filler)) + end
    assert peak(lambda: parse_request(REQUEST + rest, LIMIT)) < 64 * LIMIT
    assert peak(lambda: parse_response(RESPONSE + rest, LIMIT)) < 64 * LIMIT
