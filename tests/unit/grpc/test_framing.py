"""Tests of length-prefixed messages."""

from __future__ import annotations

import pytest

from sidecar.grpc.framing import COMPRESSED, MessageReader, MessageTooLarge, frame

MESSAGES = [(0, b""), (0, b"hello"), (COMPRESSED, b"x" * 300), (0, b""), (0, bytes(range(256)))]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 10_000])
def test_messages_are_read_from_pieces_of_any_size(step: int) -> None:
    data = b"".join(frame(content, flags) for flags, content in MESSAGES)
    reader = MessageReader()
    found = [message for at in range(0, len(data), step) for message in reader.feed(data[at : at + step])]
    assert found == MESSAGES
    assert reader.is_between


def test_an_incomplete_message_is_known() -> None:
    reader = MessageReader()
    assert reader.is_between
    assert reader.feed(frame(b"abc")[:-1]) == []
    assert not reader.is_between


def test_a_message_beyond_the_limit_is_refused_by_its_prefix() -> None:
    reader = MessageReader(limit=10)
    assert reader.feed(frame(b"0123456789")) == [(0, b"0123456789")]
    with pytest.raises(MessageTooLarge, match="11 bytes; the limit is 10"):
        reader.feed(b"\0\0\0\0\x0b")
