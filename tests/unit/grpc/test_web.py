"""Tests of the forms of gRPC-Web."""

from __future__ import annotations

from base64 import b64encode

import pytest

from sidecar.grpc.framing import frame
from sidecar.grpc.web import FrameFollower, TextDecoder, WebType, encode_text, parse_type, trailer_frame

DATA = bytes(range(256)) * 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/grpc-web", WebType(False, b"")),
        (b"application/grpc-web+proto", WebType(False, b"+proto")),
        (b"Application/gRPC-Web-Text+Proto; charset=utf-8", WebType(True, b"+proto")),
        (b"application/grpc-web-text", WebType(True, b"")),
        (b"application/grpc", None),
        (b"application/grpc-websocket", None),
        (b"", None),
    ],
)
def test_content_types(value: bytes, expected: WebType | None) -> None:
    assert parse_type(value) == expected


def test_the_last_frame_is_there_even_if_it_is_empty() -> None:
    assert trailer_frame([(b"grpc-status", b"0")]) == b"\x80\0\0\0\x10grpc-status: 0\r\n"
    assert trailer_frame([]) == b"\x80\0\0\0\0"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 100, 4000])
def test_text_is_decoded_from_pieces_of_any_size(step: int) -> None:
    text = b64encode(DATA[:100]) + b64encode(DATA[100:101]) + b64encode(DATA[101:103]) + b64encode(DATA[103:])
    decoder = TextDecoder()
    found = b"".join(decoder.feed(text[at : at + step]) for at in range(0, len(text), step))
    decoder.finish()
    assert found == DATA


def test_encoded_pieces_are_decoded_again() -> None:
    decoder = TextDecoder()
    assert b"".join(decoder.feed(encode_text(DATA[at : at + 7])) for at in range(0, len(DATA), 7)) == DATA


@pytest.mark.parametrize("text", [b"AAA!", b"A=AA", b"====", b"AA\nAA", b"\xff\xff\xff\xff"])
def test_what_is_no_base64_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="the body is not Base64"):
        TextDecoder().feed(text)


def test_an_incomplete_quad_is_refused_at_the_end() -> None:
    decoder = TextDecoder()
    assert decoder.feed(b"AAAAA") == b"\0\0\0"
    with pytest.raises(ValueError, match="no whole quad"):
        decoder.finish()


def test_frames_are_followed_in_pieces_of_any_size() -> None:
    data = frame(b"a" * 300) + frame(b"") + frame(b"b", 1) + b"\x80\0\0\0\x02hi"
    for step in (1, 2, 4, 7, 305, 1000):
        follower, passed = FrameFollower(), 0
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            size = follower.follow(piece)
            passed += size
            if size < len(piece):
                break
        assert passed == len(data) - 7, step
        assert follower.is_between
    for cut in (1, 4, 5, 304):
        follower = FrameFollower()
        assert follower.follow(data[:cut]) == cut
        assert not follower.is_between
