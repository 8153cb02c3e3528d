"""Forged tokens beside another route: `python -m bench.token_flood [--rate 2000] [--turns 5] [--pure]`.

Tokens with the right header and claims and a wrong signature, none of which comes twice, arrive from many loopback
addresses, so that no address is refused for its failures.  Another process sends requests to a route without
authentication.  Both are open loops: a request is due at its time, whether or not earlier ones are answered.

What is told apart:

- Turns without a flood, with the flood, and with a control alternate.  The control sends as many requests of the same
  length to the same route, under another scheme, so that they are refused without a look at any token: the flood's
  ratio to it is what judging tokens costs others.
- The flood has a lower priority than the other client, and both have the upstream's core.
- All processes have real-time priorities where that is allowed (as root), so that nothing else on the machine disturbs.
- A latency begins at the instant of sending, and at that at which the request was due if it waited for a connection.
  The other client's timers are precise, and by how much its requests left late is printed.
- Where Envoy is installed, its `jwt_authn` gets the same turns; its figures are told and not judged.

What must hold: the median p99 of the other route is at most `MOST` times that without the flood, each of its requests
is answered with 200, no forged token is accepted, and memory is flat after the first flood.  Exit code 1 if one does
not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, cast

import httptools
import uvloop

from bench import machine, upstream
from bench.identity import AUDIENCE, END, ISSUER, KEYS, encode, issuer
from bench.peers import BEST, PEERS, ROOT, TOKENS, Place, sidecar
from bench.scenarios import wait_until_up
from bench.subject import Subject

MOST: Final = 1.2
"""Largest ratio of the p99 with the flood to that without."""
GROWTH: Final = 4 * 2**20
"""Bytes by which the sidecar may grow from the first flood to the last."""
OPEN: Final = "/orders/small"
GUARDED: Final = "/known/small"
HONEST_RATE: Final = 500
"""Requests a second to the other route."""
CONNECTIONS: Final = 32
ADDRESSES: Final = 200
"""Loopback addresses of the flood, with a connection each."""
FLOOD: Final = "flood"
CONTROL: Final = "control"
HONEST: Final = "honest"
"""Names of the clients."""
READY: Final = "ready"
"""Line that a client prints once it begins."""
NICE: Final = 10
"""Priority of flood and control below that of the other client."""
REAL_TIME: Final = 10
"""Real-time priority (`sched(7)`) of all processes but flood and control."""
LOW: Final = 5
"""Real-time priority of flood and control."""
SIGNATURE: Final = 256
"""Bytes of a signature of RS256."""
PATIENCE: Final = 5.0
"""Seconds for which answers are awaited at the end."""


def policies(port: int, keys: Path) -> dict[str, Any]:
    jwt = {"issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"file": str(keys)}}
    return {
        "telemetry": {"access_log": "off"},
        "identities": {"issuer": {"jwt": jwt}},
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
        "routes": [
            {"name": "open", "match": {"path_prefix": "/orders"}, "upstream": "app", "authenticate": "off"},
            {
                "name": "guarded",
                "match": {"path_prefix": "/known"},
                "upstream": "app",
                "authenticate": {"any_of": ["issuer"]},
            },
        ],
    }


class Connection(asyncio.Protocol):
    """Connection of a client with one request in flight at most."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.began = 0.0
        """Instant at which the latency of the request in flight begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass

    def ask(self, request: bytes, began: float) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.began = began
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.client.answered(self, self.parser.get_status_code())

    def connection_lost(self, _: Exception | None) -> None:
        self.client.lost()


class Client:
    """Open loop on a number of connections; a request that finds none free waits, and its latency counts."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.lags: list[float] = []
        """Seconds by which requests left after they were due, because of this process."""
        self._requests = iter(requests)
        self._total = len(requests)
        self._idle: deque[Connection] = deque()
        self._late: deque[float] = deque()
        """Instants at which requests were due that wait for a connection."""
        self._over = asyncio.Event()

    async def run(self, port: int, rate: float, addresses: Sequence[str]) -> None:
        """Send all requests at a rate a second, over a connection from each address, and wait for the answers."""
        loop = asyncio.get_running_loop()
        for address in addresses:
            connect = loop.create_connection(lambda: Connection(self), "127.0.0.1", port, local_addr=(address, 0))
            self._idle.append((await connect)[1])
        began = perf_counter()
        for number in range(self._total):
            due = began + number / rate
            if (left := due - perf_counter()) > 0:
                await asyncio.sleep(left)
            if self._idle:
                now = perf_counter()
                self.lags.append(now - due)
                self._idle.popleft().ask(next(self._requests), now)
            else:
                self._late.append(due)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), PATIENCE)

    def answered(self, connection: Connection, status: int) -> None:
        self.latencies.append(perf_counter() - connection.began)
        self.statuses[str(status)] += 1
        if self._late:
            connection.ask(next(self._requests), self._late.popleft())
        else:
            self._idle.append(connection)
        if self.statuses.total() == self._total:
            self._over.set()

    def lost(self) -> None:
        self.statuses["lost"] += 1

    def result(self) -> dict[str, Any]:
        return {
            "statuses": dict(self.statuses),
            "p50": quantile(self.latencies, 50),
            "p99": quantile(self.latencies, 99),
            "lag": quantile(self.lags, 99),
        }


def quantile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of values; 0 without any."""
    return sorted(values)[len(values) * percent // 100] if values else 0.0


def unread(count: int) -> list[bytes]:
    """Return requests as long as those of `forged`, whose credentials are of a scheme that no identity reads."""
    return [request.replace(b" Bearer ", b" Basic_ ") for request in forged(count)]


def forged(count: int) -> list[bytes]:
    """Return requests with different tokens, whose header and claims are right and whose signatures are not."""
    rng = random.Random(os.getpid())
    header = issuer().token().partition(".")[0]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": END, "scope": "orders:read openid profile"}
    requests = []
    for _ in range(count):
        payload = encode(json.dumps({**claims, "jti": rng.randbytes(18).hex()}).encode())
        token = f"{header}.{payload}.{encode(rng.randbytes(SIGNATURE))}"
        requests.append(f"GET {GUARDED} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return requests


def be_client(kind: str, port: str, rate: str, seconds: str) -> None:
    """Run as one of the client processes; print a line once the requests are ready, and the result as JSON."""
    total = int(float(rate) * float(seconds))
    if kind == HONEST:
        requests = [f"GET {OPEN} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()] * total
        addresses = ["127.0.0.1"] * CONNECTIONS
    else:
        if os.sched_getscheduler(0) == os.SCHED_FIFO:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(LOW))
        else:
            os.nice(NICE)
        requests = (forged if kind == FLOOD else unread)(total)
        addresses = [f"127.0.1.{number + 1}" for number in range(ADDRESSES)]
    with asyncio.Runner(loop_factory=precise_loop if kind == HONEST else uvloop.new_event_loop) as runner:
        client = Client(requests)
        print(READY, flush=True)
        runner.run(client.run(int(port), float(rate), addresses))
    print(json.dumps(client.result()))


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers count microseconds; those of uvloop and of epoll count milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def begin(kind: str, port: int, rate: float, seconds: float) -> subprocess.Popen[str]:
    """Start a client process, and return it once it sends."""
    argv = [sys.executable, "-m", "bench.token_flood", kind, str(port), str(rate), str(seconds)]
    process = subprocess.Popen(machine.pinned(argv, machine.cores()[1]), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != READY:
        process.kill()
        raise SystemExit(f"the client {kind} has not begun")
    return process


def end(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    try:
        text, _ = process.communicate(timeout=seconds + 30)
    finally:
        process.kill()
    found: dict[str, Any] = json.loads(text)
    return found


def turn(port: int, options: argparse.Namespace, kind: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of the other route, and of the flood or control `kind`; without one, that is empty."""
    seconds = options.seconds
    flood = begin(kind, port, options.rate, seconds + 1) if kind else None
    try:
        honest = end(begin(HONEST, port, HONEST_RATE, seconds), seconds)
    except BaseException:
        if flood is not None:
            flood.kill()
        raise
    return honest, {} if flood is None else end(flood, seconds)


class Seen:
    """Results of all turns with one proxy."""

    def __init__(self) -> None:
        self.p99: dict[str, list[float]] = {"": [], CONTROL: [], FLOOD: []}
        """Seconds by kind of turn, one a turn."""
        self.statuses: dict[str, Counter[str]] = {HONEST: Counter(), FLOOD: Counter(), CONTROL: Counter()}
        self.resident: list[int] = []
        """Bytes of the proxy after each flood."""

    def ratio(self, kind: str, base: str) -> float:
        """Return the median p99 of a kind of turn divided by that of another kind."""
        return median(self.p99[kind]) / median(self.p99[base])


def watch(name: str, port: int, pid: int, options: argparse.Namespace) -> Seen:
    """Run the turns with a proxy, and print what is seen."""
    seen = Seen()
    turn(port, options)  # warms up
    for _ in range(options.turns):
        told = []
        for kind in seen.p99:
            before = machine.cpu_seconds(pid)
            honest, flood = turn(port, options, kind)
            spent = machine.cpu_seconds(pid) - before
            seen.p99[kind].append(honest["p99"])
            seen.statuses[HONEST].update(honest["statuses"])
            told.append(
                f"{kind or 'quiet'} p99 {honest['p99'] * 1e3:.2f} ms (p50 {honest['p50'] * 1e3:.2f}, sent "
                f"{honest['lag'] * 1e3:.2f} late), CPU {spent:.1f} s"
            )
            if kind:
                seen.statuses[kind].update(flood["statuses"])
                told[-1] += f", answered {flood['statuses']}"
        seen.resident.append(machine.resident_bytes(pid))
        print(f"{name}: {'; '.join(told)}; {seen.resident[-1] / 2**20:.1f} MiB", flush=True)
    print(
        f"{name}: p99 {seen.ratio(FLOOD, ''):.2f}x with the flood, {seen.ratio(CONTROL, ''):.2f}x with the control; "
        f"flood to control {seen.ratio(FLOOD, CONTROL):.2f}x",
        flush=True,
    )
    return seen


def measure(options: argparse.Namespace) -> int:
    """Run the turns with each proxy, print what is seen, and return the exit code."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME))  # children inherit it
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-flood-")))
        port = machine.free_port()
        argv = upstream.command(port, directory)
        server = machine.spawn(argv, machine.cores()[1], directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, OPEN):
            raise SystemExit("the upstream does not answer")
        (directory / KEYS).write_text(issuer().key_set())
        command = tuple(sidecar(sys.executable, "run", source=ROOT if options.pure else BEST))
        with Subject(policies(port, directory / KEYS), directory, OPEN, command) as subject:
            seen = watch("sidecar", subject.port, subject.pid, options)
        beside(port, directory, options)
    return judge(seen.ratio(FLOOD, ""), seen.resident[-1] - seen.resident[0], seen.statuses)


def beside(upstream_port: int, directory: Path, options: argparse.Namespace) -> None:
    """Run the turns with Envoy if it is installed."""
    envoy = next(peer for peer in PEERS if peer.name == "envoy")
    if (program := envoy.find()) is None:
        print("envoy: not installed")
        return
    place = Place(machine.free_port(), machine.free_port(), upstream_port, directory, TOKENS, identity=directory)
    process = machine.spawn(envoy.argv(program, place), machine.cores()[0], directory / "envoy-output")
    try:
        if wait_until_up(place.port, OPEN):
            watch("envoy", place.port, process.pid, options)
        else:
            print("envoy: does not answer")
    finally:
        machine.end(process)


def judge(ratio: float, growth: int, statuses: dict[str, Counter[str]]) -> int:
    """Print the verdict, and return the exit code."""
    faults = []
    if ratio > MOST:
        faults.append(f"p99 is {ratio:.2f}x")
    if growth > GROWTH:
        faults.append(f"memory grew by {growth / 2**20:.1f} MiB")
    if set(statuses[HONEST]) != {"200"}:
        faults.append(f"the other route answered {dict(statuses[HONEST])}")
    if not set(statuses[CONTROL]) <= {"401"}:
        faults.append(f"the control was answered {dict(statuses[CONTROL])}")
    if not set(statuses[FLOOD]) <= {"401", "503"}:
        faults.append(f"forged tokens were answered {dict(statuses[FLOOD])}")
    print(f"p99 {ratio:.2f}x, memory {growth / 2**20:+.1f} MiB: {'; '.join(faults) or 'holds'}")
    return 1 if faults else 0


def main() -> None:
    if sys.argv[1:2] in ([FLOOD], [CONTROL], [HONEST]):
        be_client(*sys.argv[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m bench.token_flood", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=2000.0, help="forged tokens a second (2000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a turn (5)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each kind (5)")
    parser.add_argument("--pure", action="store_true", help="measure the pure build where there is a compiled one")
    raise SystemExit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
