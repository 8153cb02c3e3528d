"""Memory of an idle client: `python -m bench.idle [--connections 10000] [--http2]`.

Opens that many keep-alive connections to the sidecar and prints by how much each made its resident set grow: once it is
open, and after its first response.  Connections come from several loopback addresses, so that ports do not run out.
Memory that the kernel keeps for a socket is not counted.
"""

from __future__ import annotations

import argparse
import resource
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import calls, machine, upstream
from bench.scenarios import wait_until_up
from bench.subject import Subject

TARGET: Final = "/orders/small"
REQUEST: Final = f"GET {TARGET} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
PER_ADDRESS: Final = 10_000
WARM_UP: Final = 300


def connect(port: int, number: int) -> socket.socket:
    """Return a new connection; its number chooses the loopback address."""
    source = (f"127.0.0.{2 + number // PER_ADDRESS}", 0)
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=source)


def ask(sock: socket.socket, is_http2: bool) -> None:
    if is_http2:
        is_good = calls.ask(sock, TARGET) == 200
    else:
        sock.sendall(REQUEST)
        is_good = sock.recv(65536).startswith(b"HTTP/1.1 200")
    if not is_good:
        raise SystemExit("an idle connection got no good answer")


def settled(subject: Subject) -> int:
    """Return the resident bytes once the sidecar is idle."""
    time.sleep(2.5)
    return machine.resident_bytes(subject.pid)


def run(count: int, is_http2: bool) -> tuple[float, float]:
    """Return the bytes by which a connection makes the sidecar grow: open, and after one answer.

    With `is_http2` that answer comes over HTTP/2; before the first byte no version is chosen.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-idle-")))
        port = machine.free_port()
        server = machine.spawn(upstream.command(port, directory), machine.cores()[1], directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, TARGET):
            raise SystemExit("the upstream does not answer")
        policies = {
            "limits": {"max_connections": 2 * count + WARM_UP, "idle_timeout": "10m", "header_timeout": "10m"},
            "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
            "routes": [{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app", "retry": {}}],
        }
        subject = stack.enter_context(Subject(policies, directory, TARGET))
        with ExitStack() as warm_up:
            for number in range(WARM_UP):
                ask(warm_up.enter_context(connect(subject.port, number)), is_http2)
        before = settled(subject)
        clients = [stack.enter_context(connect(subject.port, number)) for number in range(count)]
        opened = settled(subject)
        for client in clients:
            ask(client, is_http2)
        used = settled(subject)
        assert subject.state()["listeners"]["inbound"]["connections"] == count
    return (opened - before) / count, (used - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description="Measure memory of idle connections.")
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="connections to open (10000)")
    parser.add_argument("--http2", action="store_true", help="connections of HTTP/2, with prior knowledge")
    options = parser.parse_args()
    count = options.connections
    opened, used = run(count, options.http2)
    print(
        f"{machine.interpreter()}\n{count} connections: {opened / 1024:.2f} KiB each, {used / 1024:.2f} after an answer"
    )


if __name__ == "__main__":
    main()
