"""Redis servers of a test, each in a process of its own, a name that leads from one to another, and limits in them."""

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
from typing import Any

from sidecar.engine.pipeline import Pipeline
from sidecar.stages.quota import stage as quota
from sidecar.stages.quota.spec import Spec as Quotas
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import Spec as Limits
from sidecar.store.shared_limits import SharedLimits
from sidecar.store.shared_quotas import SharedQuotas
from sidecar.store.spec import StoreSpec
from tests.support.clock import FakeEnv, remembering
from tests.support.service import ScriptedService, Store, context, exchange

SERVER = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
"""Path of the server, which `REDIS_SERVER` may name, such as one of Valkey; None if none is installed."""


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


class Limited:
    """Quota of 10 requests, or rate limit of 10 at once and 1 a minute, as one process of a fleet has it.

    The clock of the process stands still: on a busy machine an answer may come after its lease has ended.  Timers run.
    """

    def __init__(self, url: str, kind: str, *, names: Any = None, **settings: Any) -> None:
        self.env: FakeEnv = remembering(asyncio.get_running_loop(), seed=None, names=names)
        began = self.env.now()
        self.env.now = lambda: began
        self._url = url
        stage: Any
        if kind == "quota":
            self.store: Any = SharedQuotas("fleet", self._spec("10s"), self.env)
            block = Quotas.model_validate([{"name": "day", "max": 10, "per": "day", "store": "fleet", **settings}])
            stage = quota.build(
                block, context(self.env, store=Store(), resources={("quota_store", "fleet"): self.store})
            )
        else:
            self.store = SharedLimits("fleet", self._spec("10s"), self.env)
            limit = {"name": "tenant", "rate": "1/m", "burst": 9, "store": "fleet", **settings}
            limits = Limits.model_validate([limit])
            stage = rate_limit.build(
                limits, context(self.env, store=Store(), resources={("store", "fleet"): self.store})
            )
        self.call = Pipeline([stage], ScriptedService(200))

    def _spec(self, timeout: str) -> StoreSpec:
        return StoreSpec.model_validate({"redis": {"url": self._url, "timeout": timeout}})

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Wait for answers no longer than 0.2 s meanwhile."""
        patient, self.store._spec = self.store._spec, self._spec("200ms")
        try:
            yield
        finally:
            self.store._spec = patient

    async def admitted(self, number: int) -> int:
        """Return how many of so many requests pass that come at once."""
        found = await asyncio.gather(*(self.call(exchange()) for _ in range(number)))
        return sum(each.status == 200 for each in found)

    async def until(self, is_up: bool) -> None:
        """Wait until the store is known to be up, or to be away."""
        for _ in range(3000):
            if self.store.is_up == is_up:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the store is still {'down' if is_up else 'up'}: {self.store.last_error}")

    async def close(self) -> None:
        if isinstance(self.store, SharedQuotas):
            await self.store.give_back()
        else:
            self.store.retire()
            await self.store._counts.close()
