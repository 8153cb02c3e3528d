"""Tests of the client and upstream in lockstep."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from bench.lockstep import PIECE, Lockstep, is_whole, pieces

SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (3 * PIECE) + bytes(3 * PIECE)


def test_an_answer_is_cut_after_whole_pieces_of_its_body() -> None:
    found = pieces(LARGE)

    assert b"".join(found) == LARGE
    assert [len(piece) for piece in found[1:]] == [PIECE, PIECE]
    assert pieces(SMALL) == [SMALL]


@pytest.mark.parametrize(
    ("received", "expected"), [(b"", False), (SMALL[:-5], False), (SMALL[:-1], False), (SMALL, True)]
)
def test_an_answer_is_whole_when_its_body_is(received: bytes, expected: bool) -> None:
    assert is_whole(received) is expected


def test_an_answer_must_say_its_length() -> None:
    with pytest.raises(RuntimeError, match="without Content-Length"):
        is_whole(b"HTTP/1.1 200 OK\r\n\r\nhi")


class Relay:
    """Proxy that relays bytes over one connection to the upstream; it may retry once after a 503."""

    def __init__(self, upstream_port: int, is_retrying: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.reads: list[int] = []
        self._is_retrying = is_retrying
        self._thread = threading.Thread(target=self._run, args=(upstream_port,), daemon=True)
        self._thread.start()

    def _run(self, upstream_port: int) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", upstream_port)) as upstream:
            while request := client.recv(PIECE):
                upstream.sendall(request)
                got = b""
                while not is_whole(got):
                    data = upstream.recv(4 * PIECE)
                    self.reads.append(len(data))
                    got += data
                    if self._is_retrying and data == FAILED:
                        upstream.sendall(request)
                        got = b""
                    else:
                        client.sendall(data)

    def close(self) -> None:
        self._listener.close()
        self._thread.join()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Lockstep, Relay]]:
    with Lockstep({"/small": [SMALL], "/large": [LARGE], "/failing": [FAILED, SMALL]}) as lockstep:
        relay = Relay(lockstep.upstream_port, request.param)
        lockstep.connect(relay.port)
        yield lockstep, relay
    relay.close()


@pytest.mark.parametrize("pair", [False], indirect=True)
def test_the_upstream_counts_what_it_is_asked(pair: tuple[Lockstep, Relay]) -> None:
    lockstep, _ = pair

    assert [lockstep.ask("/small"), lockstep.ask("/small?2")] == [SMALL, SMALL]
    assert lockstep.requests == 2


@pytest.mark.parametrize("pair", [False], indirect=True)
def test_a_body_takes_the_same_number_of_reads_each_time(pair: tuple[Lockstep, Relay]) -> None:
    lockstep, relay = pair

    assert [lockstep.ask("/large"), lockstep.ask("/large")] == [LARGE, LARGE]
    assert relay.reads == [len(piece) for piece in pieces(LARGE)] * 2


@pytest.mark.parametrize("pair", [True], indirect=True)
def test_answers_of_one_path_take_turns(pair: tuple[Lockstep, Relay]) -> None:
    lockstep, _ = pair

    assert [lockstep.ask("/failing"), lockstep.ask("/failing")] == [SMALL, SMALL]
    assert lockstep.requests == 4


@pytest.mark.parametrize("pair", [False], indirect=True)
def test_an_answer_other_than_200_is_an_error(pair: tuple[Lockstep, Relay]) -> None:
    lockstep, _ = pair

    with pytest.raises(RuntimeError, match="a wrong answer to /failing"):
        lockstep.ask("/failing")


def test_requests_of_parts_are_answered_together() -> None:
    with Lockstep({"/a": [SMALL]}) as lockstep, socket.create_server(("127.0.0.1", 0)) as front:
        seen: list[bytes] = []

        def gather() -> None:
            client, _ = front.accept()
            with client:
                client.recv(PIECE)
                ends = [socket.create_connection(("127.0.0.1", lockstep.upstream_port)) for _ in range(3)]
                for end in ends[:2]:
                    end.sendall(b"GET /a HTTP/1.1\r\n\r\n")
                ends[0].settimeout(0.05)
                try:
                    seen.append(ends[0].recv(PIECE))
                except TimeoutError:
                    seen.append(b"nothing before the third")
                ends[0].settimeout(None)
                ends[2].sendall(b"GET /a HTTP/1.1\r\n\r\n")
                seen.extend(end.recv(PIECE) for end in ends)
                client.sendall(SMALL)
                for end in ends:
                    end.close()

        thread = threading.Thread(target=gather, daemon=True)
        thread.start()
        lockstep.connect(front.getsockname()[1])
        assert lockstep.ask("/page", together=3) == SMALL
        thread.join(10)
    assert seen == [b"nothing before the third", SMALL, SMALL, SMALL]
    assert lockstep.requests == 3
