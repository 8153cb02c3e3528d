"""Forged tokens beside another route: `python -m bench.token_flood [--rate 2000] [--turns 5] [--pure]`.

Tokens with the right header and claims and a wrong signature, none of which comes twice, arrive from many loopback
addresses, so that no address is refused for its failures.  Another process sends requests to a route without
authentication.  Both are open loops: a request is due at its time, whether or not earlier ones are answered, and its
latency begins there.  Turns without and with the flood alternate.

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
from bench.peers import BEST, ROOT, sidecar
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
HONEST: Final = "honest"
"""Names of the two clients."""
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
        self.due = 0.0
        """Instant at which the request in flight was due."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass

    def ask(self, request: bytes, due: float) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.due = due
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
        began = perf_counter()  # the loop's own clock counts milliseconds
        for number in range(self._total):
            due = began + number / rate
            if (left := due - perf_counter()) > 0:
                await asyncio.sleep(left)
            if self._idle:
                self._idle.popleft().ask(next(self._requests), due)
            else:
                self._late.append(due)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), PATIENCE)

    def answered(self, connection: Connection, status: int) -> None:
        self.latencies.append(perf_counter() - connection.due)
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
        times = sorted(self.latencies) or [0.0]
        statuses = dict(self.statuses)
        return {"statuses": statuses, "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


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
    """Run as one of the client processes; print the result as JSON."""
    total = int(float(rate) * float(seconds))
    if kind == FLOOD:
        requests, addresses = forged(total), [f"127.0.1.{number + 1}" for number in range(ADDRESSES)]
    else:
        requests = [f"GET {OPEN} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()] * total
        addresses = ["127.0.0.1"] * CONNECTIONS
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = Client(requests)
        runner.run(client.run(int(port), float(rate), addresses))
    print(json.dumps(client.result()))


def begin(kind: str, port: int, rate: float, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "bench.token_flood", kind, str(port), str(rate), str(seconds)]
    return subprocess.Popen(machine.pinned(argv, machine.cores()[1]), stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    try:
        text, _ = process.communicate(timeout=seconds + 30)
    finally:
        process.kill()
    found: dict[str, Any] = json.loads(text)
    return found


def turn(port: int, options: argparse.Namespace, *, is_flooded: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of the other route and of the flood."""
    seconds = options.seconds
    flood = begin(FLOOD, port, options.rate, seconds + 1) if is_flooded else None
    try:
        honest = end(begin(HONEST, port, HONEST_RATE, seconds), seconds)
    except BaseException:
        if flood is not None:
            flood.kill()
        raise
    return honest, {} if flood is None else end(flood, seconds)


def measure(options: argparse.Namespace) -> int:
    """Run the turns, print what was seen, and return the exit code."""
    quiet, flooded, resident = [], [], []
    statuses: dict[str, Counter[str]] = {HONEST: Counter(), FLOOD: Counter()}
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
        subject = stack.enter_context(Subject(policies(port, directory / KEYS), directory, OPEN, command))
        turn(subject.port, options, is_flooded=False)  # warms up
        for _ in range(options.turns):
            honest, _ = turn(subject.port, options, is_flooded=False)
            quiet.append(honest["p99"])
            statuses[HONEST].update(honest["statuses"])
            before = machine.cpu_seconds(subject.pid)
            honest, flood = turn(subject.port, options, is_flooded=True)
            spent = machine.cpu_seconds(subject.pid) - before
            flooded.append(honest["p99"])
            statuses[HONEST].update(honest["statuses"])
            statuses[FLOOD].update(flood["statuses"])
            resident.append(machine.resident_bytes(subject.pid))
            print(
                f"p99 {quiet[-1] * 1e3:.2f} ms without, {flooded[-1] * 1e3:.2f} ms with the flood; forged tokens "
                f"{dict(flood['statuses'])}; CPU {spent:.1f} s; {resident[-1] / 2**20:.1f} MiB",
                flush=True,
            )
    return judge(median(flooded) / median(quiet), resident[-1] - resident[0], statuses)


def judge(ratio: float, growth: int, statuses: dict[str, Counter[str]]) -> int:
    """Print the verdict, and return the exit code."""
    faults = []
    if ratio > MOST:
        faults.append(f"p99 is {ratio:.2f}x")
    if growth > GROWTH:
        faults.append(f"memory grew by {growth / 2**20:.1f} MiB")
    if set(statuses[HONEST]) != {"200"}:
        faults.append(f"the other route answered {dict(statuses['honest'])}")
    if not set(statuses[FLOOD]) <= {"401", "503"}:
        faults.append(f"forged tokens were answered {dict(statuses['flood'])}")
    print(f"p99 {ratio:.2f}x, memory {growth / 2**20:+.1f} MiB: {'; '.join(faults) or 'holds'}")
    return 1 if faults else 0


def main() -> None:
    if sys.argv[1:2] in ([FLOOD], [HONEST]):
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
