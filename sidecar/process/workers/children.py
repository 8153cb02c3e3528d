"""Worker processes as the supervisor sees them: it starts them, and starts another for each that ends.

Rules:

1. A worker that ends is started again: at once if it has served for a while, else with growing pauses.
2. The end of a worker's channel is its end.  What it had is free once the process has been reaped (`ended`).
3. A worker without a turn of its loop for `STUCK_SECONDS` gets no connections from others, and another worker does
   what only one should do.  After `KILL_SECONDS` it is killed, as is one that is not ready after `START_SECONDS`.
   A look that comes late judges none: the whole sidecar may have been stopped, as by `docker pause`.
4. Connections that wait at the inbox of a worker that has ended or is stuck go to others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from sidecar.core import events
from sidecar.core.env import Env
from sidecar.process.handover import start_again
from sidecar.process.workers import inbox
from sidecar.process.workers.board import BEAT, HANDED, OPEN, TAKEN, Board
from sidecar.process.workers.channel import Channel
from sidecar.process.workers.link import VARIABLE

SETTLED_SECONDS: Final = 10.0
"""Seconds after which a worker that ends is started again at once."""
FIRST_PAUSE: Final = 0.1
"""Seconds before the third start of a worker that ends early; each further pause is twice as long."""
LONGEST_PAUSE: Final = 5.0
"""Longest pause before a start, in seconds."""
STUCK_SECONDS: Final = 2.0
"""Seconds without a turn of its loop after which a worker is stuck."""
KILL_SECONDS: Final = 30.0
"""Seconds without a turn after which a worker is killed."""
LATE_SECONDS: Final = 5.0
"""Seconds between two looks after which the supervisor may have been stopped itself."""
START_SECONDS: Final = 60.0
"""Seconds after which a worker that is not ready is killed."""
EXIT_SECONDS: Final = 5.0
"""Seconds after which a worker that has closed its channel is killed."""
NOBODY: Final = -1
"""Number of no worker."""


class Child:
    """Worker as the supervisor sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Number, from 0; people see it from 1."""
        self.process: subprocess.Popen[bytes] | None = None
        """Process; None between two starts."""
        self.channel: Channel | None = None
        """Channel to the process; None between two starts."""
        self.read_inbox, self.inbox = inbox.open_inbox()
        """Receiving and sending end of the worker's inbox, which all its processes use one after the other."""
        self.is_ready = False
        """True while the process serves."""
        self.was_ready = False
        """True once the process has served."""
        self.is_stuck = False
        """True while its loop does not turn."""
        self.started = 0.0
        """Instant of the last start."""
        self.starts = 0
        """Number of starts."""
        self.early_ends = 0
        """Number of successive ends within `SETTLED_SECONDS`."""

    @property
    def pid(self) -> int | None:
        """Identifier of the process; None between two starts."""
        return None if self.process is None else self.process.pid

    @property
    def state(self) -> str:
        """State as a word: `down`, `starting`, `ready` or `stuck`."""
        if self.process is None:
            return "down"
        return "stuck" if self.is_stuck else "ready" if self.is_ready else "starting"

    def send(self, *message: Any) -> None:
        """Send a message; it is dropped if the worker is gone."""
        if self.channel is not None:
            self.channel.send(*message)

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


class Children:
    """All workers, by their numbers."""

    def __init__(
        self,
        count: int,
        env: Env,
        receive: Callable[[Child, list[Any]], None],
        started: Callable[[Child], None],
        ended: Callable[[Child, int], None],
    ) -> None:
        """Take what is called for workers.

        - `receive(child, message)` gets each message of a worker.
        - `started(child)` is called after each start, before the worker runs.
        - `ended(child, code)` is called once a worker has been reaped; `code` is its exit code, or a signal below 0.
        """
        self.board = Board.make(count)
        self._children = [Child(number) for number in range(count)]
        self._env = env
        self._receive = receive
        self._started = started
        self._ended = ended
        self._first = NOBODY
        """Number of the worker that does what only one should do."""
        self._looked = env.now()
        """Instant of the last look."""
        self._is_stopping = False

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, number: int) -> Child:
        return self._children[number]

    @property
    def ready(self) -> list[Child]:
        """Workers that serve."""
        return [child for child in self._children if child.is_ready and not child.is_stuck]

    @property
    def is_running(self) -> bool:
        """True while a worker has a process."""
        return any(child.process is not None for child in self._children)

    @property
    def first(self) -> int:
        """Number of the worker that does what only one should do; `NOBODY` without one."""
        return self._first

    def start(self) -> None:
        """Start all workers."""
        for child in self._children:
            self._start(child)

    def stop(self) -> None:
        """Start no worker from now on."""
        self._is_stopping = True

    async def close(self) -> None:
        """Kill the workers that are left, and close all that they were given."""
        self.stop()
        for child in self._children:
            child.kill()
            if child.process is not None:
                await asyncio.to_thread(child.process.wait)
            child.read_inbox.close()
            child.inbox.close()
        self.board.close()

    # ----- start

    def _start(self, child: Child) -> None:
        """Start a worker."""
        if self._is_stopping:
            return
        child.started = self._env.now()
        child.starts += 1
        child.is_ready = child.was_ready = child.is_stuck = False
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._start_later(child, None, f"cannot start: {error.strerror}")
            return
        ours.setblocking(False)
        theirs.setblocking(False)
        channel_end, own_inbox = theirs.fileno(), child.read_inbox.fileno()
        inboxes = [each.inbox.fileno() for each in self._children]
        facts = {
            "number": child.number,
            "count": len(self._children),
            "channel": channel_end,
            "inbox": own_inbox,
            "board": self.board.handle,
            "inboxes": inboxes,
        }
        channel = Channel(partial(self._receive, child), partial(self._lose, child))
        inherited = [channel_end, own_inbox, self.board.handle, *inboxes]
        try:
            child.process = start_again({**os.environ, VARIABLE: json.dumps(facts)}, inherited, is_session=True)
        except OSError as error:
            ours.close()
            theirs.close()
            self._start_later(child, None, f"cannot start: {error.strerror}")
            return
        theirs.close()
        child.channel = channel
        self._started(child)
        self._env.spawn(_connect(channel, ours))

    def _start_later(self, child: Child, pid: int | None, cause: str) -> None:
        """Start a worker after a pause that grows with its early ends."""
        now = self._env.now()
        child.early_ends = 0 if now - child.started >= SETTLED_SECONDS else child.early_ends + 1
        doublings = child.early_ends - 2
        pause = 0.0 if doublings < 0 else min(FIRST_PAUSE * 2.0 ** min(doublings, 16), LONGEST_PAUSE)
        self._env.call_later(pause, self._start, child)
        self._env.emit(
            events.WORKER_ENDED,
            worker=child.number + 1,
            pid=pid,
            cause=cause,
            early_ends=child.early_ends,
            starts_again_in=pause,
        )

    def greet(self, child: Child) -> None:
        """Take note that a worker is ready."""
        child.is_ready = child.was_ready = True
        self._choose_first()
        self._env.emit(events.WORKER_READY, worker=child.number + 1, pid=child.pid)

    # ----- end

    def _lose(self, child: Child) -> None:
        """Handle the end of a worker's channel, which is that of its process."""
        self._env.spawn(self._reap(child))

    async def _reap(self, child: Child) -> None:
        """Wait for the end of a process, take back what it had, and start another."""
        process, child.channel, child.is_ready = child.process, None, False
        self.board.leave(child.number)
        assert process is not None
        for _ in range(int(EXIT_SECONDS / 0.01)):
            if process.poll() is not None:
                break
            await self._env.sleep(0.01)
        else:
            process.kill()
        code = await asyncio.to_thread(process.wait)
        child.process, child.is_stuck = None, False
        self.board.leave(child.number)  # it may have written until its end
        self._empty_inbox(child)
        self._choose_first()
        self._ended(child, code)
        if not self._is_stopping:
            self._start_later(child, process.pid, _cause(code))

    def _empty_inbox(self, child: Child) -> None:
        """Send the connections that wait at a worker's inbox to others; they stay there if it is the only one."""
        others = [each for each in self.ready if each is not child]
        number, board = child.number, self.board
        kept: list[tuple[Any, socket.socket]] = []
        while (packet := inbox.receive(child.read_inbox)) is not None:
            text, sock = packet
            if sock is None:
                if text[0] == "client":
                    board.add(number, TAKEN)
            elif text[0] != "client" and child.process is None:
                sock.close()  # the next process gets all listening sockets
            elif text[0] != "client" or not others:
                kept.append((text, sock))
            else:
                to = min(others, key=lambda each: board.load(each.number))
                board.add(number, HANDED + to.number)
                if inbox.send(to.inbox, text, sock):
                    board.add(number, TAKEN)
                    sock.close()
                else:
                    board.add(number, HANDED + to.number, -1)
                    kept.append((text, sock))
        for text, sock in kept:
            inbox.send(child.inbox, text, sock)
            sock.close()

    # ----- watch

    def look(self) -> None:
        """Find workers whose loop does not turn, and kill those that have not turned for long.

        Called about once a second.
        """
        now = self._env.now()
        pause, self._looked = now - self._looked, now
        if pause > LATE_SECONDS:
            return
        for child in self._children:
            beat = self.board.get(child.number, BEAT)
            silence = now - beat / 1e9 if beat and child.is_ready else 0.0
            was_stuck, child.is_stuck = child.is_stuck, silence > STUCK_SECONDS
            if child.is_stuck and not was_stuck:
                self._env.emit(events.WORKER_STUCK, worker=child.number + 1, seconds=round(silence, 1))
            if child.is_stuck:
                self._empty_inbox(child)
            is_late = child.process is not None and not child.is_ready and now - child.started > START_SECONDS
            if silence > KILL_SECONDS or is_late:
                child.kill()
            if child.is_stuck != was_stuck:
                self._choose_first()

    def _choose_first(self) -> None:
        """Choose the worker that does what only one should do, if the present one cannot."""
        able = [child.number for child in self.ready]
        if self._first in able or not able:
            return
        before, self._first = self._first, able[0]
        if before != NOBODY:
            self._children[before].send("first", False)
        self._children[self._first].send("first", True)

    def describe(self) -> list[dict[str, Any]]:
        """Return the state of each worker as JSON-ready values."""
        return [
            {
                "number": child.number + 1,
                "pid": child.pid,
                "state": child.state,
                "uptime_seconds": round(self._env.now() - child.started, 3),
                "starts": child.starts,
                "connections": self.board.get(child.number, OPEN),
                "first": child.number == self._first,
            }
            for child in self._children
        ]


async def _connect(channel: Channel, sock: socket.socket) -> None:
    """Let a channel use a socket."""
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=sock)


def _cause(code: int) -> str:
    """Return the cause of a worker's end as words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
