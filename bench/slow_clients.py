"""Clients that send or read too slowly, beside normal ones: `python -m bench.slow_clients [--clients 300]`.

Each attack holds its connections open for the whole time, and connects again when the sidecar has closed one; a client
that is refused waits first.  A normal client sends ten requests a second, each on a connection of its own.

    heads      a byte of a request head every second
    bodies     ten bytes of a request body every five seconds
    readers    a 2 MiB response, read at 100 bytes a second
    mixed      a third of each
    edge       bodies and readers at twice the minimum rate: slow, and within the rules

What must hold: every normal request is answered 200 within a second; connections below the minimum rate are closed
within 25 s; the breaker stays closed; memory grows by less than 64 MiB.  Exit code 1 if one of these does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.subject import Subject

LARGE: Final = 2 * 2**20
"""Bytes of the response that slow readers ask for."""
WITHIN: Final = 1.0
"""Seconds in which a normal request must be answered."""
ENDED_WITHIN: Final = 25.0
"""Seconds after which no client below the minimum rate may still be connected."""
GROWTH: Final = 64 * 2**20
"""Bytes by which the sidecar's memory may grow."""
ESTABLISHED: Final = 1
"""State in TCP_INFO."""
EDGE_RATE: Final = 2048
"""Bytes a second of the clients that keep to the rules."""


@dataclass
class Tally:
    """Counts and times of one attack."""

    answered: Counter[str] = field(default_factory=Counter)
    """Number of normal requests by result."""
    slowest: float = 0.0
    """Seconds of the slowest answer to a normal request."""
    ended: list[float] = field(default_factory=list)
    """Seconds that each slow connection lasted until the sidecar closed it."""
    refused: int = 0
    """Slow clients that were answered 503."""
    oldest: float = 0.0
    """Age in seconds of the oldest slow connection at the end."""


def policies(port: int, maximum: int) -> dict[str, Any]:
    """Return policies with one route without a `timeout` block; normal and slow clients share its breaker."""
    return {
        "upstreams": {
            "app": {
                "endpoints": [f"http://127.0.0.1:{port}"],
                "connections": {"max": maximum},
                "circuit_breaker": {"consecutive_failures": 5, "open_for": "5s"},
            }
        },
        "routes": [{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app"}],
    }


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve as the upstream: read a whole request and answer after 20 ms."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
                elif line.lower() == b"transfer-encoding: chunked":
                    await reader.readuntil(b"0\r\n\r\n")
            body = b"x" * (LARGE if b" /large" in head else 2)
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    writer.close()


async def attack(port: int, kind: str, until: float, tally: Tally) -> None:
    """Run one slow client, which connects again when the sidecar has closed its connection."""
    loop = asyncio.get_running_loop()
    while (began := loop.time()) < until:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            is_refused = await dribble(loop, sock, kind, until)
            tally.refused += is_refused
            if loop.time() < until:
                tally.ended.append(loop.time() - began)
                await asyncio.sleep(0.5)
            elif is_established(sock) and not is_refused:
                tally.oldest = max(tally.oldest, until - began)
        except OSError:
            if loop.time() < until:
                tally.ended.append(loop.time() - began)
                await asyncio.sleep(0.5)
        finally:
            sock.close()


async def dribble(loop: asyncio.AbstractEventLoop, sock: socket.socket, kind: str, until: float) -> bool:
    """Make one request at the kind's pace, until it has ended or the time is over; True if it was refused."""
    if kind == "heads":
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: slow\r\nX-Filler: ")
        send, pause, read, size = b"x", 1.0, 0, 0
    elif kind.endswith("bodies"):
        await loop.sock_sendall(sock, b"POST / HTTP/1.1\r\nHost: slow\r\nContent-Length: 100000\r\n\r\n")
        send, pause = (b"x" * EDGE_RATE, 1.0) if kind.startswith("edge") else (b"x" * 10, 5.0)
        read, size = 0, 100_000
    else:
        await loop.sock_sendall(sock, b"GET /large HTTP/1.1\r\nHost: slow\r\n\r\n")
        send, pause, read, size = b"", 1.0, EDGE_RATE if kind.startswith("edge") else 100, LARGE
    moved = 0
    while loop.time() < until:
        await asyncio.sleep(pause)
        if not is_established(sock):
            return False
        if send:
            await loop.sock_sendall(sock, send)
            moved += len(send)
            with suppress(BlockingIOError):
                sock.recv(65536)
                return False  # a response before the body is complete, or the end
        if read:
            with suppress(BlockingIOError):
                data = sock.recv(read)
                if data.startswith(b"HTTP/1.1 503"):
                    await asyncio.sleep(max(0.0, until - loop.time()))
                    return True
                if not data:
                    return False
                moved += len(data)
        if size and moved >= size:
            return False
    return False


def is_established(sock: socket.socket) -> bool:
    """True unless the peer has closed or reset the connection; a slow reader's reads would show that much later."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


async def ask(port: int, tally: Tally) -> None:
    """Send one normal request and count its result."""
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: honest\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        took = time.monotonic() - began
        tally.slowest = max(tally.slowest, took)
        status = answer[9:12].decode()
        tally.answered["ok" if status == "200" and took <= WITHIN else f"{status} in {took:.1f} s"] += 1
    except (OSError, TimeoutError) as error:
        tally.answered[f"{type(error).__name__}"] += 1


KINDS: Final[dict[str, tuple[str, ...]]] = {
    "heads": ("heads",),
    "bodies": ("bodies",),
    "readers": ("readers",),
    "mixed": ("heads", "bodies", "readers"),
    "edge": ("edge-bodies", "edge-readers"),
}


async def run(port: int, kind: str, clients: int, seconds: float) -> Tally:
    """Run one attack, with normal requests beside it."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    kinds = KINDS[kind]
    slow = [loop.create_task(attack(port, kinds[n % len(kinds)], until, tally)) for n in range(clients)]
    honest = []
    await asyncio.sleep(1.0)
    while loop.time() < until:
        honest.append(loop.create_task(ask(port, tally)))
        await asyncio.sleep(0.1)
    await asyncio.gather(*honest)
    await asyncio.gather(*slow)
    return tally


async def measure(options: argparse.Namespace) -> int:
    """Run all attacks, each against a sidecar of its own; return the number of those that failed."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    upstream = server.sockets[0].getsockname()[1]
    failed = 0
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as directory:
            subject = Subject(policies(upstream, options.connections), Path(directory), "/")
            await asyncio.to_thread(subject.__enter__)
            try:
                before = machine.resident_bytes(subject.pid)
                tally = await run(subject.port, kind, options.clients, options.seconds)
                growth = machine.resident_bytes(subject.pid) - before
                state = json.loads((await asyncio.to_thread(subject.ask, "GET", "/state"))[1])
            finally:
                await asyncio.to_thread(subject.__exit__, None, None, None)
        failed += judge(kind, tally, growth, state)
    server.close()
    return failed


def judge(kind: str, tally: Tally, growth: int, state: dict[str, Any]) -> bool:
    """Print a line for an attack; True if something did not hold."""
    faults = []
    if bad := {what: count for what, count in tally.answered.items() if what != "ok"}:
        faults.append(f"honest requests: {bad}")
    longest = max([*tally.ended, tally.oldest]) if kind != "edge" else 0.0
    if longest > ENDED_WITHIN:
        faults.append(f"a slow client was connected for {longest:.0f} s")
    if growth > GROWTH:
        faults.append(f"memory grew by {growth / 2**20:.0f} MiB")
    for name, breaker in state.get("breaker", {}).items():
        if breaker.get("state") != "closed":
            faults.append(f"breaker {name} is {breaker.get('state')}")
    print(
        f"{kind:<8} honest {tally.answered['ok']}/{tally.answered.total()} slowest {tally.slowest:.2f} s, "
        f"{len(tally.ended)} slow clients ended, {tally.refused} refused, longest {longest:.0f} s, "
        f"memory {growth / 2**20:+.0f} MiB: {'; '.join(faults) or 'ok'}",
        flush=True,
    )
    return bool(faults)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.slow_clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=300, help="slow clients at once (300)")
    parser.add_argument("--connections", type=int, default=256, help="`connections.max` of the upstream (256)")
    parser.add_argument("--seconds", type=float, default=40.0, help="seconds of each attack (40)")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="attacks to run (all)")
    sys.exit(1 if asyncio.run(measure(parser.parse_args())) else 0)


if __name__ == "__main__":
    main()
