"""Redis servers of a test, each in a process of its own, and a name that leads from one to another."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = shutil.which("redis-server")
"""Path of the server; None if it is not installed."""


class Redis:
    """Redis server in a process of its own."""

    def __init__(self, directory: Path, *options: str, tls: dict[str, str] | None = None) -> None:
        """`tls` has the files `cert`, `key` and `ca` of a server that speaks TLS alone."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"{'redis' if tls is None else 'rediss'}://127.0.0.1:{self.port}/1"
        place = ["--port", str(self.port)]
        if tls is not None:
            place = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            place += ["--tls-cert-file", tls["cert"], "--tls-key-file", tls["key"], "--tls-ca-cert-file", tls["ca"]]
        place += ["--bind", "127.0.0.1", "--dir", str(directory)]
        self._command = [str(SERVER), *place, "--save", "", *options]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("redis-server did not start")

    def command(self, *words: str) -> str:
        """Return the first line of the answer to a command."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.makefile().readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class Switch:
    """Resolver of names after which the only name leads to one of several servers."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)

    async def open_socket(self, host: str, port: int) -> socket.socket:
        found = socket.socket()
        found.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(found, ("127.0.0.1", self.ports[0]))
        except BaseException:
            found.close()
            raise
        return found

    def is_awaited(self, name: str) -> bool:
        return False


async def replicated(replica: Redis) -> None:
    """Wait until a replica has the data of its primary."""
    for _ in range(500):
        with socket.create_connection(("127.0.0.1", replica.port), 10) as connection:
            connection.sendall(b"INFO replication\r\n")
            size = int(connection.makefile("rb", buffering=0).readline()[1:])
            if b"master_link_status:up" in connection.recv(size):
                return
        await asyncio.sleep(0.02)
    raise RuntimeError("the replica did not connect to its primary")
