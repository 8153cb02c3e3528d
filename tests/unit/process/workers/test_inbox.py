"""Tests of inboxes and of the board: sockets reach a worker, and the loads count those on their way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from sidecar.process.workers import inbox
from sidecar.process.workers.board import BEAT, HANDED, OPEN, TAKEN, Board
from sidecar.process.workers.link import WorkerLink


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.make(2)
    yield made
    made.close()


def test_a_socket_reaches_the_worker() -> None:
    receiving, sending = inbox.open_inbox()
    ours, theirs = socket.socketpair()
    with receiving, sending, ours:
        with theirs:
            assert inbox.receive(receiving) is None
            assert inbox.send(sending, ["client", "inbound"], theirs)
        packet = inbox.receive(receiving)
        assert packet is not None
        with packet[1] as taken:
            assert packet[0] == ["client", "inbound"]
            ours.send(b"hello")
            assert taken.recv(5) == b"hello"


def test_a_full_inbox_takes_nothing() -> None:
    receiving, sending = inbox.open_inbox()
    with receiving, sending, socket.socket() as sock:
        count = 0
        while inbox.send(sending, ["client", "inbound"], sock):
            count += 1
            assert count < 10_000
        while (packet := inbox.receive(receiving)) is not None:
            packet[1].close()


def test_connections_on_their_way_count_for_the_worker_that_gets_them(board: Board) -> None:
    board.set(0, OPEN, 3)
    board.add(0, HANDED + 1)
    assert (board.load(0), board.load(1)) == (3, 1)
    board.add(1, TAKEN)
    board.set(1, OPEN, 1)
    assert (board.load(1), board.connections) == (1, 4)
    board.leave(0)
    assert (board.load(0), board.connections) == (0, 1)


def test_a_worker_without_a_turn_gets_no_connections(board: Board) -> None:
    assert not board.is_alive(0, 10.0, 0.5)
    board.set(0, BEAT, int(9.8e9))
    assert board.is_alive(0, 10.0, 0.5)
    assert not board.is_alive(0, 11.0, 0.5)


class Stopping(Board):
    """Board of a worker that stops taking connections right after it was found to take them."""

    def is_alive(self, worker: int, now: float, patience: float) -> bool:
        found = super().is_alive(worker, now, patience)
        self.set(worker, BEAT, 0)
        return found


@pytest.mark.parametrize("kind", [Board, Stopping])
async def test_no_connection_is_handed_to_a_worker_that_no_longer_takes_any(kind: type[Board]) -> None:
    receiving, sending = inbox.open_inbox()
    channel, supervisor = socket.socketpair()
    own, other = inbox.open_inbox()
    board = kind.make(2)
    facts = {
        "number": 0, "count": 2, "board": board.handle, "inbox": own.detach(), "channel": channel.detach(),
        "inboxes": [other.detach(), sending.detach()],
    }  # fmt: skip
    link = WorkerLink(json.dumps(facts), lambda: 10.0)
    link._board = board
    board.set(0, OPEN, 30)
    board.set(1, BEAT, int(9.9e9))
    with receiving, supervisor, socket.socket() as sock:
        is_handed = link.hand_over("inbound", sock)
        packet = inbox.receive(receiving)
        assert is_handed == (packet is not None) == (kind is Board)
        assert board.on_their_way(1) == is_handed
        if packet is not None:
            packet[1].close()
    for each in (link._inbox, link._socket, *link._inboxes):
        each.close()
    board.close()


@pytest.mark.parametrize("is_draining", [False, True])
async def test_without_its_supervisor_a_worker_listens_no_more_and_drains_once(is_draining: bool) -> None:
    board, pairs = Board.make(1), [socket.socketpair() for _ in range(3)]
    facts = {
        "number": 0, "count": 1, "board": board.handle, "inbox": pairs[0][0].detach(),
        "inboxes": [pairs[1][0].detach()], "channel": pairs[2][0].detach(),
    }  # fmt: skip
    link = WorkerLink(json.dumps(facts), lambda: 10.0)
    drained: list[str] = []
    link.drain = lambda reason, _: drained.append(reason)
    link._start.set_result({})
    with socket.socket() as listening:
        link._listening["inbound"] = [listening]
        if is_draining:
            link._receive(["drain", "SIGTERM", False])
        link._lose()
        assert listening.fileno() == -1
    assert drained == ["SIGTERM" if is_draining else "the supervisor is gone"], "a second call would cut requests off"
    for each in (link._inbox, link._socket, *link._inboxes, *(pair[1] for pair in pairs)):
        each.close()
    board.close()


def test_a_packet_without_its_socket_is_told() -> None:
    """The kernel closes a socket for which the process has no free descriptor."""
    receiving, sending = inbox.open_inbox()
    with receiving, sending:
        sending.send(b'["client","inbound"]')
        assert inbox.receive(receiving) == (["client", "inbound"], None)
        assert inbox.receive(receiving) is None
