"""Clients that never complete a request, beside full load: `python -m bench.slowloris [--clients 200]`.

Each sends a byte of a head every second, and connects again when the sidecar has closed its connection.  Prints p99
with and without them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.beside import arguments, compare, report
from bench.subject import Subject

PAUSE = 1.0
"""Seconds between two bytes."""


def policies(port: int) -> dict[str, Any]:
    return {
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
        "routes": [{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app", "retry": {}}],
        "limits": {"header_timeout": "3s"},
    }


class Slow:
    """Disturbance by a number of slow clients."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.dropped = 0

    @contextmanager
    def __call__(self, subject: Subject, _port: int, _seconds: float) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(subject.port, over))
        thread.start()
        yield
        over.set()
        thread.join()

    def _run(self, port: int, over: threading.Event) -> None:
        clients = [self._connect(port) for _ in range(self.count)]
        while not over.wait(PAUSE):
            for number, client in enumerate(clients):
                try:
                    client.send(b"x")
                    with suppress(BlockingIOError):
                        if client.recv(1000):
                            raise ConnectionResetError  # the sidecar has answered that it is too slow
                except OSError:
                    client.close()
                    self.dropped += 1
                    clients[number] = self._connect(port)
        for client in clients:
            client.close()

    def _connect(self, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.sendall(b"GET /orders/small HTTP/1.1\r\nHost: slow\r\nX-Filler: ")
        client.setblocking(False)
        return client


def main() -> None:
    parser = arguments("slowloris", "Measure slow clients beside full load.")
    parser.add_argument("--clients", type=int, default=200, help="slow clients (200)")
    options = parser.parse_args()
    slow = Slow(options.clients)
    turns = compare(policies, slow, options)
    report(turns, options, f"{options.clients} slow clients, {slow.dropped} connections closed")


if __name__ == "__main__":
    main()
