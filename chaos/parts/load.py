"""Load: users who send requests at a rate, independent of the responses (an open loop).

A closed loop waits for responses before it sends again, so it sends least when answers are slow (coordinated omission).

1. Each class of requests has a rate; its arrivals are drawn from the class's own generator.
2. Latency counts from the instant at which a request was due.  One that is sent late has waited since then.
3. At most as many requests are in flight as the client has connections; further ones fail with `client_full`.
4. Users may retry: the attempts of one user's request are one row of the recording.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chaos.parts.issuer import token
from chaos.parts.part import PartEnv
from chaos.parts.pooled_client import Answer, PooledClient


@dataclass(frozen=True)
class Change:
    """Change of the rate: from `at`, in seconds since the load began, it moves to `rate` within `over` seconds."""

    at: float
    rate: float
    over: float = 0.0


@dataclass(frozen=True)
class Class:
    """Requests of one kind.

    - `rate`: requests a second.
    - `grpc`: True for calls of gRPC.
    - `token`: kind of bearer token, `signed` or `opaque`; empty for none.
    - `tokens`: number of different tokens; 0 for a new one each time.
    - `keys`: number of keys for `{key}` in the path, the low ones more often (Zipf, s = 1); 0 for a new one each time.
    """

    name: str
    to: str
    path: str
    rate: float
    method: str = "GET"
    timeout: float = 5.0
    arrivals: str = "poisson"
    changes: tuple[Change, ...] = ()
    retries: int = 0
    retry_after: float = 0.1
    criticality: str = ""
    keys: int = 0
    is_write: bool = False
    idempotency_key: bool = False
    token: str = ""
    tokens: int = 0
    grpc: bool = False


def rate_at(spec: Class, seconds: float) -> float:
    """Return the requests a second at an instant, in seconds since the start of the load."""
    rate = spec.rate
    for change in spec.changes:
        if seconds < change.at:
            break
        done = 1.0 if change.over <= 0 else min(1.0, (seconds - change.at) / change.over)
        rate += (change.rate - rate) * done
    return rate


def arrivals(spec: Class, seconds: float, rng: random.Random) -> Iterator[float]:
    """Yield the instants at which requests are due, in seconds since the load began.

    A changing rate is thinned from its peak (Lewis 1979).
    """
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
    """Return the cumulative weights of `count` keys by Zipf's law."""
    total, weights = 0.0, []
    for rank in range(1, count + 1):
        total += 1.0 / rank
        weights.append(total)
    return weights


class Load:
    """Part: all classes of a run.

    - `targets`: addresses of each service.
    - `tasks`: running tasks, in order, so that a simulated run can be repeated.

    Commands: `run` (from the instant `at`, for `seconds`), `wait` (for the last response, at most `grace` seconds).
    """

    def __init__(self, spec: dict[str, Any], env: PartEnv) -> None:
        self.env = env
        self.classes = [
            Class(**{**each, "changes": tuple(Change(**change) for change in each.get("changes", ()))})
            for each in spec["classes"]
        ]
        self.client = PooledClient()
        self.targets: dict[str, list[str]] = {}
        self.tasks: dict[asyncio.Task[None], None] = {}
        self.turn = 0

    async def start(self) -> list[str]:
        return []

    async def do(self, command: str, **arguments: Any) -> Any:
        if command == "run":
            self.targets = arguments["targets"]
            for spec in self.classes:
                self._spawn(self._run(spec, arguments["at"], arguments["seconds"]))
        elif command == "wait":
            until = self.env.now() + arguments["grace"]
            while self.tasks and (left := until - self.env.now()) > 0:  # a class that still runs adds requests
                await asyncio.wait(self.tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        else:
            raise ValueError(f"the load knows no command {command}")

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.client.close()

    async def _run(self, spec: Class, start: float, seconds: float) -> None:
        rng = random.Random(f"{self.env.seed}:{spec.name}")
        weights = keys(spec.keys)
        for number, offset in enumerate(arrivals(spec, seconds, rng)):
            wait = start + offset - self.env.now()
            if wait > 0:
                await asyncio.sleep(wait)
            key = rng.choices(range(spec.keys), cum_weights=weights)[0] if weights else number
            bearer = token(spec.token, number % spec.tokens if spec.tokens else number) if spec.token else ""
            self._spawn(self._request(spec, start + offset, f"{spec.name}-{number}", key, bearer))

    async def _request(self, spec: Class, due: float, name: str, key: int, bearer: str) -> None:
        fields = {"x-class": spec.name, "x-request-id": name}
        if spec.criticality:
            fields["x-criticality"] = spec.criticality
        if bearer:
            fields["authorization"] = f"Bearer {bearer}"
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
                is_call=spec.grpc,
            )  # fmt: skip
            if answer.is_good or tries > spec.retries:
                break
            await asyncio.sleep(spec.retry_after)
        spent = self.env.now() - due
        self.env.report(("request", spec.name, due, spent, answer.status, answer.reason, tries, name))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
