"""Latency and CPU of an open breaker's refusals: `python -m bench.refusal [--seconds 5] [--connections 8]`.

One route's upstream answers 500 until its breaker opens.  A client with one keep-alive connection then times refusals:
alone; while so many connections load another, healthy route in a closed loop; and while those are refused too.

1. Percentiles of the refusals' latency are printed.
2. The upstream must get no request while the breaker is open.
3. A refusal must take no more CPU than an answered request, since refusing has to relieve an overloaded sidecar.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import load, machine, upstream
from bench.scenarios import wait_until_up
from bench.subject import Subject

HEALTHY: Final = "/orders/small"
BROKEN: Final = "/broken"
REQUEST: Final = b"GET /broken HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER: Final = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
PAUSE: Final = 0.002
"""Seconds between two requests of the client that times refusals."""
FAILURES: Final = 3
MOST: Final = 1.0
"""CPU of a refusal, as a multiple of that of an answered request in the same run."""


class Broken:
    """Upstream that answers every request with 500, and counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._fail, args=(connection,), daemon=True).start()

    def _fail(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            self.asked += 1
            connection.sendall(ANSWER)


class Timed(NamedTuple):
    """Latencies of the refusals, in milliseconds."""

    name: str
    times: list[float]

    def share(self, share: float) -> float:
        return self.times[min(len(self.times) - 1, int(len(self.times) * share))]

    def __str__(self) -> str:
        p50, p90, p99 = (self.share(share) for share in (0.5, 0.9, 0.99))
        return f"{self.name:<28} p50 {p50:.3f} ms  p90 {p90:.3f} ms  p99 {p99:.3f} ms  of {len(self.times)}"


def policies(healthy: int, broken: int) -> dict[str, Any]:
    """Return policies with a healthy route, and one whose breaker opens soon and stays open."""
    breaker = {"consecutive_failures": FAILURES, "open_for": "10m", "max_open_for": "10m"}
    return {
        "upstreams": {
            "app": {"endpoints": [f"http://127.0.0.1:{healthy}"]},
            "broken": {"endpoints": [f"http://127.0.0.1:{broken}"]},
        },
        "routes": [
            {"name": "orders", "match": {"path_prefix": "/orders"}, "upstream": "app"},
            {"name": "broken", "match": {"path": BROKEN}, "upstream": "broken", "circuit_breaker": breaker},
        ],
    }


def ask(client: socket.socket) -> bytes:
    """Send one request to the broken route and return the head of its response."""
    client.sendall(REQUEST)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head


def measure(name: str, port: int, seconds: float) -> Timed:
    """Time refusals for so many seconds."""
    times = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            head = ask(client)
            times.append((time.perf_counter() - began) * 1000)
            if b"x-sidecar-reason: breaker_open" not in head:
                raise SystemExit(f"not refused by the breaker:\n{head.decode()}")
            time.sleep(PAUSE)
    return Timed(name, sorted(times))


class Loaded(NamedTuple):
    """Result of the load generator."""

    name: str
    seen: load.Load
    cpu: float
    """Seconds that the sidecar used."""

    @property
    def cpu_each(self) -> float:
        """Return the CPU seconds of the sidecar for each request."""
        return self.cpu / self.seen.requests

    def __str__(self) -> str:
        rate, cost = self.seen.requests / self.seen.seconds, self.cpu_each * 1e6
        return f"{self.name:<28} p50 {self.seen.p50 / 1000:.3f} ms  {rate:,.0f}/s, {cost:.0f} us CPU each"


def share(loads: list[Loaded]) -> float:
    """Return the CPU of a refusal as a multiple of that of an answered request; the loads are in the order of `run`."""
    answered, refused = loads
    return refused.cpu_each / answered.cpu_each


def run(seconds: float, connections: int, generate: str) -> tuple[list[Timed], list[Loaded], int]:
    """Return the latencies, the results of the load, and the number of requests that reached the broken upstream."""
    broken, (_, core) = Broken(), machine.cores()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-refusal-")))
        port = machine.free_port()
        server = machine.spawn(upstream.command(port, directory), core, directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, HEALTHY):
            raise SystemExit("the upstream does not answer")
        subject = stack.enter_context(Subject(policies(port, broken.port), directory, HEALTHY))
        with socket.create_connection(("127.0.0.1", subject.port)) as client:
            for _ in range(FAILURES):
                ask(client)
        found = [measure("alone", subject.port, seconds)]
        loads = []
        with ThreadPoolExecutor(1) as pool:
            for name, target in (("another route", HEALTHY), ("refusals", BROKEN)):
                url = f"http://127.0.0.1:{subject.port}{target}"
                before = machine.cpu_seconds(subject.pid)
                loading = pool.submit(load.GENERATORS[generate], url, connections, seconds, core)
                found.append(measure(f"under load of {name}", subject.port, seconds))
                seen = loading.result()
                loads.append(Loaded(f"the load of {name}", seen, machine.cpu_seconds(subject.pid) - before))
        return found, loads, broken.asked - FAILURES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.refusal", description="Measure refusals of an open breaker.")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each measurement (5)")
    parser.add_argument("--connections", type=int, default=8, help="connections of the load (8)")
    parser.add_argument("--load", choices=load.GENERATORS, default=load.best(), help="load generator")
    options = parser.parse_args()
    found, loads, asked = run(options.seconds, options.connections, options.load)
    print(machine.interpreter())
    print(f"{load.version(options.load)}, {options.connections} connections")
    for line in (*found, *loads):
        print(line)
    print(f"the upstream got {asked} requests meanwhile")
    print(f"a refusal takes {share(loads):.2f}x the CPU of an answered request; at most {MOST:g}x")
    if asked or share(loads) > MOST:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
