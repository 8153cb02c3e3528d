"""The load: open loop, so that a system that stalls is not spared, and measured from the intended send time.

A closed loop waits for answers before it asks again, and so asks least when things are worst (coordinated omission).
Here each class of requests has a rate; its arrivals are drawn in advance from the class's own generator, and a request
that is sent late, because the loop was busy, has waited since it was due.  In flight there are at most as many as the
client has connections; what is beyond that fails as `client_full`.

Users may try again (`retries`): each try is a request upstream, one line in the recording.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chaos.parts.client import Answer, Client
from chaos.parts.part import World


@dataclass(frozen=True)
class Change:
    """From `at` on, in seconds since the start of the load, the rate goes to another within `over` seconds."""

    at: float
    rate: float
    over: float = 0.0


@dataclass(frozen=True)
class Class:
    """Requests of one kind."""

    name: str
    to: str
    path: str
    rate: float
    """Requests a second."""
    method: str = "GET"
    timeout: float = 5.0
    arrivals: str = "poisson"
    changes: tuple[Change, ...] = ()
    retries: int = 0
    retry_after: float = 0.1
    criticality: str = ""
    keys: int = 0
    """The path's `{key}` is one of so many, the low ones more often (Zipf, s = 1); 0 for a new one each time."""
    is_write: bool = False
    idempotency_key: bool = False


def rate_at(spec: Class, seconds: float) -> float:
    """Requests a second at an instant of the load."""
    rate = spec.rate
    for change in spec.changes:
        if seconds < change.at:
            break
        done = 1.0 if change.over <= 0 else min(1.0, (seconds - change.at) / change.over)
        rate += (change.rate - rate) * done
    return rate


def arrivals(spec: Class, seconds: float, rng: random.Random) -> Iterator[float]:
    """When requests are due, in seconds since the start; a changing rate is thinned from its peak (Lewis 1979)."""
    peak = max([spec.rate, *(change.rate for change in spec.changes)])
    if peak <= 0:
        return
    at, owed = 0.0, rng.random()
    while True:
        step = rng.expovariate(peak) if spec.arrivals == "poisson" else 1.0 / peak
        at += step
        if at >= seconds:
            return
        if spec.arrivals == "poisson":
            if rng.random() * peak < rate_at(spec, at):
                yield at
        else:
            owed += rate_at(spec, at) / peak
            if owed >= 1.0:
                owed -= 1.0
                yield at


def keys(count: int) -> list[float]:
    """Cumulative weights of `count` keys by Zipf's law."""
    total, weights = 0.0, []
    for rank in range(1, count + 1):
        total += 1.0 / rank
        weights.append(total)
    return weights


class Load:
    """The part: all classes of a run."""

    def __init__(self, spec: dict[str, Any], world: World) -> None:
        self.world = world
        self.classes = [
            Class(**{**each, "changes": tuple(Change(**change) for change in each.get("changes", ()))})
            for each in spec["classes"]
        ]
        self.client = Client()
        self.targets: dict[str, list[str]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.turn = 0

    async def start(self) -> list[str]:
        return []

    async def do(self, command: str, **arguments: Any) -> Any:
        """`run` (from the instant `at`, for `seconds`) and `wait` for the last answer."""
        if command == "run":
            self.targets = arguments["targets"]
            for spec in self.classes:
                self._spawn(self._run(spec, arguments["at"], arguments["seconds"]))
        elif command == "wait":
            until = self.world.now() + arguments["grace"]
            while self.tasks and (left := until - self.world.now()) > 0:  # those that go on may bring others
                await asyncio.wait(self.tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        else:
            raise ValueError(f"the load knows no command {command}")

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.client.close()

    async def _run(self, spec: Class, start: float, seconds: float) -> None:
        rng = random.Random(f"{self.world.seed}:{spec.name}")
        weights = keys(spec.keys)
        for number, offset in enumerate(arrivals(spec, seconds, rng)):
            wait = start + offset - self.world.now()
            if wait > 0:
                await asyncio.sleep(wait)
            key = rng.choices(range(spec.keys), cum_weights=weights)[0] if weights else number
            self._spawn(self._request(spec, start + offset, f"{spec.name}-{number}", key))

    async def _request(self, spec: Class, due: float, name: str, key: int) -> None:
        fields = {"x-class": spec.name, "x-request-id": name}
        if spec.criticality:
            fields["x-criticality"] = spec.criticality
        if spec.is_write:
            fields["x-write-id"] = name
        if spec.idempotency_key:
            fields["idempotency-key"] = name
        answer = Answer(0, "not sent")
        tries = 0
        while tries <= spec.retries:
            tries += 1
            self.turn += 1
            addresses = self.targets[spec.to]
            answer = await self.client.fetch(
                addresses[self.turn % len(addresses)], spec.method, spec.path.replace("{key}", str(key)), spec.to,
                fields, b"{}" if spec.method in ("POST", "PUT") else b"", spec.timeout,
            )  # fmt: skip
            if answer.is_good or tries > spec.retries:
                break
            await asyncio.sleep(spec.retry_after)
        spent = self.world.now() - due
        self.world.report(("request", spec.name, due, spent, answer.status, answer.reason, tries, name))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
