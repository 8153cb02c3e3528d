"""Workers of one sidecar in one event loop, with the supervisor's state between them: for tests without processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sidecar.core.env import Env
from sidecar.process.workers.borrowed import WorkerPermits, WorkerTokens
from sidecar.process.workers.sharing import Sharing


class InMemoryWorker:
    """Worker's link to the supervisor (`sidecar.core.env.Workers`), whose messages take `Crew.delay` seconds."""

    is_first = False

    def __init__(self, crew: Crew, number: int) -> None:
        self.count = crew.count
        self.number = number
        self.leases: dict[str, Any] = {}
        self._crew = crew
        self._exchanges: dict[int, Any] = {}
        self._last = 0

    def send(self, *message: Any) -> None:
        self._crew.env.call_later(self._crew.delay, self._crew.receive, self, list(message))

    def receive(self, message: list[Any]) -> None:
        kind, *rest = message
        if kind == "grants":
            number, now, grants = rest
            if number in self._exchanges:
                self._exchanges.pop(number).set_result((now, grants))
        elif kind == "lease":
            name, what, count = rest
            self.leases[name].lease.receive(what, count)

    def declare_rate(self, *settings: Any) -> None:
        self.send("rate", *settings)

    def end_rate(self, name: str) -> None:
        self.send("unlease", name)

    async def lease_rates(self, asks: list[list[Any]]) -> Any:
        self._last += 1
        number, waiting = self._last, self._crew.env.future()
        self._exchanges[number] = waiting
        self.send("rates", number, asks)
        try:
            return await waiting
        finally:
            self._exchanges.pop(number, None)

    def lease_permits(self, name: str, total: int, *calls: Callable[[], Any]) -> WorkerPermits:
        permits = self.leases[name] = WorkerPermits(self, name, *calls)
        permits.resize(total)
        return permits

    def lease_tokens(self, name: str) -> WorkerTokens:
        tokens = self.leases[name] = WorkerTokens(self, name)
        return tokens

    def end_lease(self, name: str, lease: Any) -> None:
        lease.lease.end()
        del self.leases[name]
        self.send("unlease", name)

    def subscribe(self, topic: str, apply: Any) -> Callable[[str, Any], None]:
        return lambda key, value: None

    def leave(self, topic: str, apply: Any) -> None:
        """Do nothing: nothing is told."""

    def may_probe(self, topic: str, seconds: float) -> bool:
        return True

    def when_first(self, topic: str, start: Callable[[], None]) -> None:
        """Do nothing: no worker is the first."""


class Crew:
    """All workers and their supervisor."""

    def __init__(self, env: Any, count: int, delay: float = 0.0005) -> None:
        self.env = env
        self.count = count
        self.delay = delay
        """Seconds that a message takes."""
        self.is_stalled = False
        """True while the supervisor handles no message."""
        self.sharing = Sharing(count, self._send, env.now)
        self.links = [InMemoryWorker(self, number) for number in range(count)]
        self._is_alive = dict.fromkeys(self.links, True)

    def env_of(self, number: int) -> Env:
        """Return the env of a worker."""
        return replace(self.env, workers=self.links[number])

    def restart(self, number: int) -> Env:
        """Kill a worker; return the env of its successor."""
        del self._is_alive[self.links[number]]
        self.sharing.leave(number)
        self.links[number] = InMemoryWorker(self, number)
        self._is_alive[self.links[number]] = True
        return self.env_of(number)

    def receive(self, link: InMemoryWorker, message: list[Any]) -> None:
        if link in self._is_alive and not self.is_stalled:
            assert self.sharing.receive(link.number, message)

    def _send(self, number: int, *message: Any) -> None:
        link = self.links[number]
        self.env.call_later(self.delay, lambda: link in self._is_alive and link.receive(list(message)))
