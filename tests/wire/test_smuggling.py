"""Tests of every vector: its result, however it is cut, and that no byte after a refused message is read."""

from __future__ import annotations

import pytest

from tests.support.cases import each
from tests.wire.reader import Conversation, dribble, halves, read
from tests.wire.vectors import GOOD, VECTORS, Vector

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def targets(conversation: Conversation) -> list[bytes]:
    return [request.target for request in conversation.requests]


@each(VECTORS.values())
def test_it_is_read_as_it_must_be(vector: Vector) -> None:
    conversation = read(vector.data)
    if vector.status == GOOD:
        assert conversation.status is None, conversation.reason
        assert [request.body for request in conversation.requests] == [vector.body]
        assert (conversation.rest, conversation.is_open) == (b"", False)
    else:
        assert conversation.requests == []
        if conversation.status is None:  # the message is incomplete, and further bytes must not complete it
            conversation = read(vector.data + SMUGGLED)
        assert conversation.status == vector.status, conversation.reason
        assert conversation.reason


@each(VECTORS.values())
def test_nothing_behind_it_is_read_when_it_is_turned_away(vector: Vector) -> None:
    conversation = read(vector.data + SMUGGLED)
    if vector.status == GOOD and b"HTTP/1.0" not in vector.data:
        assert targets(conversation)[1:] == [b"/smuggled"]
    else:
        assert b"/smuggled" not in targets(conversation)


@each(VECTORS.values())
def test_it_does_not_matter_where_it_is_cut(vector: Vector) -> None:
    data = vector.data + SMUGGLED
    whole = read(data)
    for pieces in halves(data) if len(data) < 1000 else [(data[:500], data[500:])]:
        cut = read(pieces)
        assert (cut.requests, cut.status) == (whole.requests, whole.status), pieces


@each(VECTORS.values())
def test_a_byte_at_a_time(vector: Vector) -> None:
    whole, cut = read(vector.data + SMUGGLED), read(dribble(vector.data + SMUGGLED))
    assert (cut.requests, cut.status) == (whole.requests, whole.status)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n",
        b"GET / HTTP/1\r\n",
        b"GET / HTTP/1.1 \r\nHost: a",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\x16",
        b" ",
    ],
)
def test_what_can_become_no_request_is_turned_away_before_its_end(data: bytes) -> None:
    for pieces in [data, *halves(data), dribble(data)]:
        assert read(pieces).status == 400, pieces


@pytest.mark.parametrize(
    "data", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r\n"]
)
def test_what_can_still_become_one_is_waited_for(data: bytes) -> None:
    for pieces in [data, *halves(data), dribble(data)]:
        assert read(pieces).status is None, pieces
