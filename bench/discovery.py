"""Endpoints that come and go under load: `python -m bench.discovery [--endpoints 1000] [--rate 50]`.

The sidecar watches an API server of Kubernetes.  Every change replaces a ready endpoint by another one, in slices of a
hundred.  All endpoints are addresses of 127/8, on which one upstream listens.

1. The same load runs in turns without and with the changes.  CPU time a request is compared within a pair of turns,
   since a machine's speed wanders.  In the turns without, another service changes: the API server makes the same texts
   on the core of load and upstream, which answers fewer requests then, and a sidecar that waits more does less at a
   time.
2. The upstream records the arrival of each request by address.  None may arrive later than `LATE_SECONDS` after its
   endpoint has left; requests in flight have arrived before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import load, machine
from bench.beside import CONNECTIONS, TARGET
from bench.subject import Subject
from bench.upstream import SMALL, like_nginx
from chaos.parts.kubernetes import ApiServer, endpoint

SERVICE: Final = "orders"
ANOTHER: Final = "others"
"""Service that nobody watches."""
NAMESPACE: Final = "shop"
SLICE: Final = 100
"""Endpoints in a slice, as many as Kubernetes puts there."""
SPARE: Final = 100
"""Addresses that are not in use at a time."""
LATE_SECONDS: Final = 1.0
LIMIT: Final = 1.05
"""Most CPU time a request with changes, relative to that without."""
PAIRS: Final = 8


def address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


class Served(asyncio.Protocol):
    """Connection of the upstream: answers each request, and records when one arrives."""

    last: dict[str, float] = {}  # noqa: RUF012 - shared on purpose
    """Instant of the last request to each address."""
    answer = like_nginx("200 OK", SMALL)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.host = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self.last[self.host] = time.monotonic()
        self.transport.write(self.answer * data.count(b"\r\n\r\n"))


class Cluster:
    """API server and upstream in a thread of this process."""

    def __init__(self, endpoints: int, rate: float) -> None:
        self.rate = rate
        self.port = machine.free_port()
        self.changes = 0
        self.late: list[float] = []
        """Seconds after which a request arrived at an endpoint that had left, if they were too many."""
        self._all = [address(number) for number in range(endpoints + SPARE)]
        self._spare = self._all[endpoints:]
        self._slices = [self._all[at : at + SLICE] for at in range(0, endpoints, SLICE)]
        self._left: dict[str, float] = {}
        self._rng = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Cluster:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.api.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        self.api = ApiServer()
        await self.api.listen()
        for host in self._all:
            await self._loop.create_server(Served, host, self.port, backlog=1024)
        for number in range(len(self._slices)):
            self._put(number)

    def _put(self, number: int, service: str = SERVICE) -> None:
        endpoints = [endpoint(host, "zone-a") for host in self._slices[number]]
        self.api.put(f"{service}-{number}", endpoints, port=self.port, service=service)

    def _change(self) -> None:
        """Replace one endpoint, and judge the one that comes back after its absence."""
        number = self._rng.randrange(len(self._slices))
        hosts = self._slices[number]
        gone = hosts.pop(self._rng.randrange(len(hosts)))
        back = self._spare.pop(0)
        self._judge(back)
        hosts.append(back)
        self._spare.append(gone)
        self._left[gone] = time.monotonic()
        self._put(number)
        self.changes += 1

    def _judge(self, host: str) -> None:
        since = self._left.pop(host, None)
        if since is not None and (late := Served.last.get(host, 0.0) - since) > LATE_SECONDS:
            self.late.append(late)

    def _change_another(self) -> None:
        """Replace a slice of a service that nobody watches, and make the text that a watch would get."""
        number = self._rng.randrange(len(self._slices))
        self._put(number, ANOTHER)
        json.dumps(self.api.slices[NAMESPACE, f"{ANOTHER}-{number}"])

    async def _run(self, seconds: float, change: Callable[[], None]) -> None:
        loop, due = self._loop, self._loop.time()
        end = due + seconds
        while due < end:
            change()
            due += 1 / self.rate
            await asyncio.sleep(max(0.0, due - loop.time()))

    @contextmanager
    def changing(self, seconds: float, *, is_watched: bool) -> Iterator[None]:
        """Change endpoints for so many seconds: those that the sidecar watches, or those of another service."""
        change = self._change if is_watched else self._change_another
        future = asyncio.run_coroutine_threadsafe(self._run(seconds, change), self._loop)
        yield
        future.result()

    def settle(self) -> None:
        """Judge the endpoints that are still away."""
        for host in list(self._left):
            self._judge(host)


def policies(cluster: Cluster) -> dict[str, Any]:
    source = {"service": SERVICE, "port": "http", "namespace": NAMESPACE, "api": {"url": cluster.api.url}}
    return {
        "upstreams": {"app": {"discover": {"kubernetes": source}, "ejection": {}}},
        "routes": [{"name": "order", "match": {"path_prefix": "/orders"}, "upstream": "app"}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.discovery", description="Change endpoints under load.")
    parser.add_argument("--endpoints", type=int, default=1000, help="endpoints at a time (1000)")
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second (50)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a turn (5)")
    parser.add_argument("--load", choices=load.GENERATORS, default=load.best(), help="load generator")
    options = parser.parse_args()
    _, core = machine.cores()
    generate = load.GENERATORS[options.load]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-discovery-")))
        cluster = stack.enter_context(Cluster(options.endpoints, options.rate))
        subject = stack.enter_context(Subject(policies(cluster), directory, TARGET))
        url = f"http://127.0.0.1:{subject.port}{TARGET}"

        def fire(*, is_watched: bool) -> tuple[float, load.Load]:
            with cluster.changing(options.seconds, is_watched=is_watched):
                began = machine.cpu_seconds(subject.pid)
                found = generate(url, CONNECTIONS, options.seconds, core)
            return (machine.cpu_seconds(subject.pid) - began) / found.requests * 1e6, found

        fire(is_watched=False)
        pairs = [(fire(is_watched=False), fire(is_watched=True)) for _ in range(PAIRS)]
        cluster.settle()
        state = next(iter(subject.state()["state"]["discovery"].values()))
    ratio = median(busy[0] / quiet[0] for quiet, busy in pairs)
    errors = sum(found.errors for pair in pairs for _, found in pair)
    rates = [median(found.requests / found.seconds for _, found in side) for side in zip(*pairs, strict=True)]
    each = median((busy[0] - quiet[0]) * busy[1].requests / busy[1].seconds / options.rate for quiet, busy in pairs)
    print(f"{machine.interpreter()}\n{load.version(options.load)}, {CONNECTIONS} connections")
    print(
        f"{options.endpoints} endpoints, {options.rate:g} changes a second, {cluster.changes} in all, {errors} failed"
    )
    print(f"requests/s: without {rates[0]:,.0f}, with {rates[1]:,.0f}")
    print(
        f"CPU a request: without {median(q[0] for q, _ in pairs):.1f} us, with {median(b[0] for _, b in pairs):.1f} us"
    )
    print(f"CPU a change: {each:,.0f} us, with the connections to the new endpoint")
    print(f"ratio {ratio:.3f}, at most {LIMIT}; too late {len(cluster.late)}; {json.dumps(state)}")
    if ratio > LIMIT or cluster.late or errors:
        sys.exit("failed")


if __name__ == "__main__":
    main()
