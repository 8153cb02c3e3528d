"""Tests of WebSocket frames: the end of each, in whatever pieces it arrives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.parts.websocket import BINARY, CLOSE, PING, TEXT, Frame, mask
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameFollower

FRAMES = [
    Frame(TEXT, b""),
    Frame(TEXT, b"hello"),
    Frame(TEXT, b"hello", masked=True),
    Frame(PING, b"", masked=True),
    Frame(BINARY, b"x" * 125),
    Frame(BINARY, b"x" * 126),
    Frame(BINARY, b"x" * 300, masked=True),
    Frame(TEXT, b"part", final=False),
    Frame(0, b"two"),
]


@pytest.mark.parametrize(
    "frame", [*FRAMES, Frame(BINARY, b"x" * 70_000, masked=True)], ids=lambda f: f"{f[0]}-{len(f[1])}"
)
def test_the_end_of_a_frame_is_found(frame: Frame) -> None:
    data = frame.encode()
    for step in {1, 2, 3, 7, len(data)} if len(data) < 1000 else {4096, len(data)}:
        follower = FrameFollower()
        assert follower.is_between
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            assert follower.follow(piece) == len(piece)
            assert follower.is_between == (at + step >= len(data))
        assert not follower.is_closed


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(FRAMES), max_size=6), st.lists(st.integers(1, 40), max_size=20), st.integers(0, 5))
def test_following_stops_at_the_end_of_a_frame(frames: list[Frame], sizes: list[int], at: int) -> None:
    encoded = [frame.encode() for frame in frames]
    data = b"".join(encoded)
    ends = [sum(map(len, encoded[:n])) for n in range(len(encoded) + 1)]
    follower, position = FrameFollower(), 0
    for number, size in enumerate(sizes):
        piece = data[position : position + size]
        if number == at:
            taken = follower.follow(piece, stop=True)
            wanted = next((end for end in ends if end >= position), len(data))
            assert taken == min(len(piece), wanted - position)
            assert follower.is_between == (position + taken in ends)
            return
        follower.follow(piece)
        position += len(piece)


def test_a_close_frame_is_seen() -> None:
    follower = FrameFollower()
    follower.follow(Frame(TEXT, b"\x88\x02").encode())
    assert not follower.is_closed
    for byte in Frame(CLOSE, b"\x03\xe8", masked=True).encode():
        follower.follow(bytes((byte,)))
    assert follower.is_closed


def test_the_close_frames_are_valid() -> None:
    assert Frame(CLOSE, b"\x03\xe9").encode() == GOING_AWAY
    head, key, payload = GOING_AWAY_MASKED[:2], GOING_AWAY_MASKED[2:6], GOING_AWAY_MASKED[6:]
    assert (head, mask(payload, key)) == (b"\x88\x82", b"\x03\xe9")
