"""Link of a worker to its supervisor and to the other workers.

It implements `Env.workers` (`shared.py`) and the `Crowd` of the server: connections that are handed over (`inbox.py`,
`board.py`).

Rules:

1. A new connection goes to the worker with the fewest, if this one has more than `SLACK` allows.  So a few long
   connections are spread evenly, and many short ones stay where the kernel put them.
2. Without its supervisor a worker drains and ends: nobody would restart it, and its leases count for nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from sidecar.config.files import Source
from sidecar.config.listen_address import ListenAddress
from sidecar.control.reload import PolicySource
from sidecar.downstream.descriptors import HasFileno
from sidecar.downstream.sockets import Sockets, socket_key
from sidecar.process.workers import inbox
from sidecar.process.workers.board import BEAT, HANDED, OPEN, TAKEN, Board
from sidecar.process.workers.channel import Channel
from sidecar.process.workers.shared import SharedState

VARIABLE: Final = "SIDECAR_WORKER"
"""Environment variable that tells a worker its number and its descriptors, as JSON."""
TICK_SECONDS: Final = 0.1
"""Pause between two looks at the leases."""
SHORT_TICK: Final = 0.025
"""Pause while requests wait for a permit, or a lease has run out: others may have given something back."""
SLACK: Final = 8
"""A worker keeps a connection if it has at most one `SLACK`th more of them than the worker with the fewest."""
PATIENCE: Final = 0.5
"""Seconds without a turn of its loop after which a worker gets no connections from others."""
SOCKETS_SECONDS: Final = 10.0
"""Longest wait for the listening sockets of an address."""
MAX_TAKEN: Final = 64
"""Most connections that are taken in one turn of the loop."""


class WorkerLink(SharedState):
    """Link of this worker."""

    def __init__(self, text: str, now: Callable[[], float]) -> None:
        """Take the value of `VARIABLE`, and the clock, which is the same in all processes."""
        facts = json.loads(text)
        super().__init__(facts["number"], facts["count"], now, self._send)
        self._board = Board(facts["board"], self.count)
        self._inbox = socket.socket(fileno=facts["inbox"])
        self._inboxes = [socket.socket(fileno=handle) for handle in facts["inboxes"]]
        self._channel = Channel(self._receive, self._lose)
        self._socket = socket.socket(fileno=facts["channel"])
        self._start: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._listening: dict[str, list[socket.socket]] = {}
        """Listening sockets that the supervisor has sent, by key."""
        self._expected: dict[str, int] = {}
        """Number of sockets of each key."""
        self._news = asyncio.Event()
        self._vote: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_accepting = False
        self._is_draining = False
        """True once the supervisor has said so."""
        self.sources: list[Source] = []
        """Policy files as the supervisor has read them."""
        self.take: Callable[[str, socket.socket], None] = lambda _, sock: sock.close()
        """Serves a connection that another worker has accepted: `take(listener, socket)`."""
        self.reload: Callable[[str], None] = lambda _: None
        """Starts a reload for a trigger."""
        self.call: Callable[[int, str, list[Any]], None] = lambda *_: None
        """Starts a command of the admin listener: `call(number, command, arguments)`."""
        self.drain: Callable[[str, bool], None] = lambda *_: None
        """Starts to drain: `drain(reason, is_gentle)`; a second call ends the process."""

    async def connect(self) -> dict[str, Any]:
        """Connect to the supervisor, and return what it says at the start."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=self._socket)
        loop.add_reader(self._inbox, self._read_inbox)
        self.send("hello", os.getpid())
        return await self._start

    def policies(self, path: str, pace: Callable[[], object]) -> PolicySource:
        """Return the source of the policy files that the supervisor has read at `path`."""
        return PolicySource(path, read=lambda _: self.sources, look=lambda _: None, pace=pace)

    def _send(self, *message: Any) -> None:
        self._channel.send(*message)

    def close(self) -> None:
        """Close the link: its end tells the supervisor that the worker has ended."""
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._inbox)
        self._board.leave(self.number)
        self._channel.close()

    # ----- messages of the supervisor

    def _receive(self, message: list[Any]) -> None:
        if self.receive(message):
            if message[0] == "lease" and self._timer is not None:
                self._look_in(SHORT_TICK)
            return
        kind, *rest = message
        if kind == "start":
            self.sources = [Source(name, text.encode("latin-1")) for name, text in rest[0]["sources"]]
            for topic, key, value in rest[0]["values"]:
                self._topics.receive(topic, key, value, False)
            self._start.set_result(rest[0])
        elif kind == "prepare":
            self.sources = [Source(name, text.encode("latin-1")) for name, text in rest[1]]
            self.reload(rest[0])
        elif kind in ("commit", "abandon"):
            if self._vote is not None and not self._vote.done():
                self._vote.set_result(kind == "commit")
        elif kind == "forget":
            for sock in self._listening.pop(rest[0], []):
                sock.close()
        elif kind == "call":
            number, command, arguments = rest
            self.call(number, command, arguments)
        elif kind == "drain":
            self._is_draining = True
            self.stop_accepting()
            self.drain(*rest)

    def _lose(self) -> None:
        """Drain, because the supervisor is gone."""
        if not self._start.done():
            self._start.set_exception(ConnectionResetError("the supervisor is gone"))
        if self._vote is not None and not self._vote.done():
            self._vote.set_result(False)
        self.stop_accepting()
        for (
            sockets
        ) in self._listening.values():  # else clients could connect until the end, and nobody would serve them
            for sock in sockets:
                sock.close()
        self._listening.clear()
        if not self._is_draining:  # a second call would end it at once
            self.drain("the supervisor is gone", False)

    async def agree(self, digest: str) -> bool:
        """Tell the supervisor that these policies can be applied; True once all workers can apply them."""
        if self._timer is None:  # the process starts with policies that are in force
            return True
        self._vote = asyncio.get_running_loop().create_future()
        self.send("prepared", digest)
        return await self._vote

    # ----- connections

    @property
    def connections(self) -> int:
        """Number of open connections of all workers."""
        return self._board.connections

    def note(self, connections: int) -> None:
        """Implement `Crowd.note`."""
        self._board.set(self.number, OPEN, connections)

    def start_accepting(self) -> None:
        """Take connections from now on, and begin to look at the leases."""
        self._is_accepting = True
        self._tick()
        self.send("ready")

    def stop_accepting(self) -> None:
        """Take no more connections from other workers."""
        self._is_accepting = False
        self._board.set(self.number, BEAT, 0)

    @property
    def on_their_way(self) -> int:
        """Number of connections that others are handing over; after `stop_accepting` it only falls."""
        return self._board.on_their_way(self.number)

    def _tick(self) -> None:
        if self._is_accepting:
            self._board.set(self.number, BEAT, int(self._now() * 1e9))
        self._timer = None
        self._look_in(SHORT_TICK if self.look() else TICK_SECONDS)

    def _look_in(self, seconds: float) -> None:
        """Look at the leases in so many seconds, or earlier if that was planned."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._tick)

    def hand_over(self, listener: str, sock: HasFileno) -> bool:
        """Implement `Crowd.hand_over`."""
        board, now = self._board, self._now()
        best, least = self.number, board.load(self.number)
        mine = least
        for other in range(self.count):
            if other != self.number and board.is_alive(other, now, PATIENCE) and (load := board.load(other)) < least:
                best, least = other, load
        if best == self.number or mine - least <= least // SLACK:
            return False
        board.add(self.number, HANDED + best)
        # asked again: a worker that stops taking connections then looks at what is on its way
        if board.is_alive(best, now, PATIENCE) and inbox.send(self._inboxes[best], ["client", listener], sock):
            return True
        board.add(self.number, HANDED + best, -1)
        return False

    def _read_inbox(self) -> None:
        """Take what others have sent."""
        for _ in range(MAX_TAKEN):
            packet = inbox.receive(self._inbox)
            if packet is None:
                return
            (kind, name, *rest), sock = packet
            if kind == "client":
                self._board.add(self.number, TAKEN)
            if sock is None:
                continue
            if kind == "client":
                self.take(name, sock)
            else:
                self._expected[name] = rest[0]
                self._listening.setdefault(name, []).append(sock)
                self._news.set()

    async def open_sockets(self, name: str, address: ListenAddress) -> Sockets:
        """Return the listening sockets of a listener, which the supervisor has opened.  Raises `OSError`."""
        key = socket_key(name, address)
        until = self._now() + SOCKETS_SECONDS
        while len(self._listening.get(key, ())) < self._expected.get(key, 1):
            if self._now() >= until:
                raise OSError("the supervisor has sent no socket for it; see its log")
            self._news.clear()
            await asyncio.wait([asyncio.ensure_future(self._news.wait())], timeout=SHORT_TICK)
        return Sockets.adopt(address, [sock.dup() for sock in self._listening[key]])
