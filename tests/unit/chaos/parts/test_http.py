"""Tests of HTTP messages for parts and tests: written, read from a buffer and from a stream."""

from __future__ import annotations

import asyncio

import pytest

from chaos.parts.http import MalformedError, Message, read_request, read_response, request, response, take

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-a: 2\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
)


def test_a_request_survives_writing_and_reading() -> None:
    data = request("POST", "/a?b", b"hello", host="shop", x_class="look")
    buffer = bytearray(data + b"GET")
    message = take(buffer)
    assert message is not None
    assert (message.method, message.target, message.get("host"), message.body) == ("POST", "/a?b", "shop", b"hello")
    assert (message.get("x-class"), message.get("nothing", "-"), message.closes) == ("look", "-", False)
    assert buffer == b"GET"


@pytest.mark.parametrize("data", [response(503, b"no", [("Connection", "close")]), CHUNKED])
async def test_a_response_is_read_the_same_from_a_buffer_and_a_stream(data: bytes) -> None:
    buffer = bytearray()
    taken: Message | None = None
    for at in range(len(data)):
        assert taken is None
        buffer += data[at : at + 1]
        taken = take(buffer, is_response=True)
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    assert await read_response(reader) == taken
    assert taken is not None
    assert (taken.status, taken.body, taken.chunks) in [(503, b"no", 0), (200, b"hello!", 2)]
    assert taken.closes == (taken.status == 503)
    assert taken.get_all("x-a") == (["1", "2"] if taken.status == 200 else [])


async def test_a_stream_that_ends_early_is_an_error() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(request("POST", "/", b"hello")[:-1])
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await read_request(reader)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 70_000, "head is too long"),
        (b"HTTP/1.1\r\n\r\n", "not the first line"),
        (b"HTTP/2 200 OK\r\n\r\n", "not the first line"),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "not a status"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not a field"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "not a number"),
    ],
)
def test_bytes_that_are_not_a_message_are_an_error(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        take(bytearray(data), is_response=True)
