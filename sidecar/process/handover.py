"""Hand-over: a new process takes the listening sockets of this one, which then drains.

Rules:

1. The new process is started with the same command line, and gets a copy of each listening socket (SCM_RIGHTS).  The
   sockets are never closed, so no connection is refused, and none that waits in an accept queue is reset.
2. The old process serves until the new one is ready, and goes on if that fails: a hand-over is whole or nothing.
3. A process that is told to end during a hand-over ends the new one too, since both are one service.
4. The first process of a container hands nothing over: at its end the kernel would kill the new one, too.
5. State starts anew: counts, breakers, budgets and caches of the old process end with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sidecar.config.listen_address import ListenAddress
from sidecar.core.env import Env
from sidecar.downstream.sockets import Sockets, has_lost_file, socket_key

VARIABLE: Final = "SIDECAR_HANDOVER"
"""Environment variable with the descriptor through which a new process gets the sockets."""
READY: Final = b"ready"
RECEIVE_SECONDS: Final = 10.0
"""Longest wait of a new process for the sockets."""
START_SECONDS: Final = 60.0
"""Longest wait for a new process to be ready."""
MAX_TEXT: Final = 4096
"""Most bytes of the text that comes with a socket."""
FIRST: Final = 1
"""Identifier of the first process of a container."""
FIRST_PROBLEM: Final = (
    "this is the first process of its container (PID 1), whose end would end the new one too; replace the container"
)
"""Reason of that process to hand nothing over."""
ADMIN: Final = "(admin)"
"""Name of the admin listener among those of listeners, which have no brackets."""


class Inheritance:
    """Listening sockets that a new process has got from its predecessor; empty without one."""

    def __init__(self, predecessor: socket.socket | None = None, sockets: dict[str, list[socket.socket]] | None = None):
        self._predecessor = predecessor
        self._sockets = sockets or {}

    @classmethod
    def receive(cls) -> Inheritance:
        """Return the sockets from the predecessor that the environment names.  Raises `OSError` if it is gone."""
        handle = os.environ.pop(VARIABLE, "")
        if not handle:
            return cls()
        predecessor = socket.socket(fileno=int(handle))
        predecessor.settimeout(RECEIVE_SECONDS)
        found: dict[str, list[socket.socket]] = {}
        missing = 1
        while missing:
            text, handles, _flags, _address = socket.recv_fds(predecessor, MAX_TEXT, 1)
            if not handles:
                raise ConnectionResetError("the process that hands its sockets over is gone")
            key, missing = json.loads(text)
            sock = socket.socket(fileno=handles[0])
            sock.setblocking(False)
            found.setdefault(key, []).append(sock)
        return cls(predecessor, found)

    async def open(self, name: str, address: ListenAddress) -> Sockets:
        """Return the sockets of a listener, inherited ones if there are any.  Raises `OSError`."""
        inherited = self._sockets.pop(_key(name, address), [])
        if inherited and not has_lost_file(address):
            return Sockets.adopt(address, inherited, is_owner=True)
        for sock in inherited:
            sock.close()
        return await Sockets.open(address)

    async def open_admin(self, address: ListenAddress) -> Sockets:
        """Return the sockets of the admin listener.  Raises `OSError`."""
        return await self.open(ADMIN, address)

    def finish(self) -> None:
        """Close the sockets that no listener has taken, and tell the predecessor that this process is ready.

        The file of such a Unix socket is removed, too: the predecessor has left it to this process.
        """
        for sockets in self._sockets.values():
            for sock in sockets:
                if sock.family == socket.AF_UNIX:
                    with suppress(OSError):
                        os.unlink(sock.getsockname())
                sock.close()
        self._sockets = {}
        if self._predecessor is not None:
            try:
                self._predecessor.send(READY)
            except OSError:
                """Go on alone: the predecessor has died meanwhile."""
            self._predecessor.close()
            self._predecessor = None


async def start_successor(
    sockets: Mapping[tuple[str, ListenAddress], list[socket.socket]], env: Env, started: Callable[[int], object]
) -> str:
    """Start a new process with these listening sockets, by name and address of their listeners.

    `started(pid)` is called once it runs.  Returns an empty string once it is ready, or why it is not; it has then
    ended.  Cancelled, it tells the new process to end.
    """
    if os.getpid() == FIRST:
        return FIRST_PROBLEM
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        return f"cannot open a channel to a new process: {error.strerror}"
    with ours:
        with theirs:
            environ = {**os.environ, VARIABLE: str(theirs.fileno())}
            try:
                process = start_again(environ, [theirs.fileno()])
            except OSError as error:
                return f"cannot start {sys.executable}: {error.strerror}"
        started(process.pid)
        ours.setblocking(False)
        packets = [(_key(*place), sock) for place, each in sockets.items() for sock in each]
        try:
            reason = await _supply(process, ours, packets, env)
        except asyncio.CancelledError:
            process.terminate()
            raise
    return reason


async def _supply(
    process: subprocess.Popen[bytes], channel: socket.socket, packets: list[tuple[str, socket.socket]], env: Env
) -> str:
    """Send a new process its sockets, each with its key; return an empty string once it is ready, or why it is not."""
    answer: bytes | None = b""
    reason = "it closed its channel before it was ready"
    try:
        for left, (key, sock) in zip(reversed(range(len(packets))), packets, strict=True):
            await _when_writable(env, partial(_send, channel, key, left, sock))
        answer = await _within(START_SECONDS, asyncio.get_running_loop().sock_recv(channel, len(READY)))
    except ConnectionError:
        """Find out below why the channel is closed."""
    except OSError as error:
        answer, reason = None, error.strerror or str(error)
    else:
        if answer is None:
            reason = f"it was not ready within {START_SECONDS:g}s"
    if answer == READY:
        return ""
    if answer is not None:
        await asyncio.to_thread(_wait, process)
    if process.poll() is None:
        process.kill()
        await asyncio.to_thread(process.wait)
        return reason
    return f"it ended with {_cause(process.returncode)} before it was ready; its log says why"


def start_again(
    environ: Mapping[str, str], handles: Sequence[int], *, is_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process with this one's command line, another environment, and copies of descriptors.

    `is_session`: True for a session of its own, so that Ctrl-C in a terminal does not reach it.  Raises `OSError`.
    """
    command = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.Popen(command, env=environ, pass_fds=handles, start_new_session=is_session)  # noqa: S603 - its own command line


def _key(name: str, address: ListenAddress) -> str:
    """Return the key of a listener's sockets; that of the admin listener is always its own."""
    return f"{ADMIN} {address}" if name == ADMIN else socket_key(name, address)


def _send(channel: socket.socket, key: str, left: int, sock: socket.socket) -> None:
    socket.send_fds(channel, [json.dumps([key, left]).encode()], [sock.fileno()])


async def _when_writable(env: Env, send: Callable[[], None]) -> None:
    """Call `send` until the channel takes the packet."""
    for _ in range(int(RECEIVE_SECONDS / 0.01)):
        try:
            send()
        except BlockingIOError:
            await env.sleep(0.01)
        else:
            return
    raise OSError("it takes no sockets")


async def _within(seconds: float, waiting: Awaitable[bytes]) -> bytes | None:
    """Return the result of `waiting`; None if it takes longer."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait([task], timeout=seconds)
        return task.result() if task.done() else None
    finally:
        task.cancel()


def _cause(code: int) -> str:
    """Return an exit code or a signal as a word."""
    return signal.Signals(-code).name if code < 0 else str(code)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment for the end of a process that has closed its channel."""
    try:
        process.wait(RECEIVE_SECONDS)
    except subprocess.TimeoutExpired:
        """Leave it to the caller to kill it."""
