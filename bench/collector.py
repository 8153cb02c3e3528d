"""Collector that stalls under full load: `python -m bench.collector [--seconds 60] [--turns 2] [--sampled 10%]`.

The collector takes spans over HTTP.  In each turn it answers for a minute; then it accepts connections and requests for
a minute and answers none, so that exports time out, the queue fills up and spans are dropped.  Each minute is loaded in
slices, and p99 is compared by the medians of the slices, since other work of the machine disturbs some of them.  Memory
is read after each slice; its growth counts from the instant at which the queue could be full.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from bench import machine
from bench.beside import Loaded, Turns, arguments, loaded, report
from bench.load import Load

SLICE: Final = 5.0
"""Seconds of one slice of load."""
DROPPED: Final = re.compile(rb'sidecar_telemetry_dropped_total\{[^}]*signal="traces"[^}]*\} (\d+)')


class Collector(ThreadingHTTPServer):
    """Collector that answers each export, unless it is stalled."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.flowing = threading.Event()
        self.flowing.set()
        self.posts = 0
        """Requests that were answered."""

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Leave all requests unanswered inside the `with` block."""
        self.flowing.clear()
        try:
            yield
        finally:
            self.flowing.set()


class Handler(BaseHTTPRequestHandler):
    """Connection of an exporter."""

    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.flowing.wait()
        self.server.posts += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the exporter's request has timed out
            return


def policies(port: int, collector: int, sampled: str) -> dict[str, Any]:
    return {
        "telemetry": {
            "endpoint": f"http://127.0.0.1:{collector}",
            "protocol": "http",
            "sampling": {"ratio": sampled},
            "metrics": None,
        },
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
        "routes": [{"name": "all", "match": {"path_prefix": "/orders"}, "upstream": "app", "retry": {}}],
    }


def slices(running: Loaded, seconds: float) -> tuple[list[Load], list[int]]:
    """Run the load in slices; return the result of each and the resident bytes after it."""
    length = min(SLICE, seconds)
    seen, resident = [], []
    for _ in range(round(seconds / length)):
        seen.append(running.fire(length))
        resident.append(machine.resident_bytes(running.subject.pid))
    return seen, resident


def main() -> None:
    parser = arguments("collector", "Measure a collector that stalls under full load.", seconds=60.0)
    parser.add_argument("--turns", type=int, default=2, help="number of turns, each without and with the stall (2)")
    parser.add_argument("--sampled", default="10%", help="share of the requests that are traced (10%%)")
    options = parser.parse_args()
    turns, grown = Turns([], []), []
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    with loaded(partial(policies, collector=collector.server_port, sampled=options.sampled), options) as running:
        for _ in range(options.turns):
            turns.quiet.extend(slices(running, options.seconds)[0])
            with collector.stalled():
                seen, resident = slices(running, options.seconds)
            turns.disturbed.extend(seen)
            grown.append((resident[-1] - resident[len(resident) // 4]) / 2**20)
        page = running.subject.ask("GET", "/metrics")[1]
    collector.shutdown()
    dropped = sum(map(int, DROPPED.findall(page)))
    report(
        turns, options, f"collector stalled {options.turns} times for {options.seconds:g} s, {options.sampled} traced"
    )
    print(f"resident {resident[-1] / 2**20:.1f} MiB; grew in the last three quarters of each stall by", end=" ")
    print(", ".join(f"{one:.2f}" for one in grown), f"MiB; {dropped} spans dropped, {collector.posts} exports taken")
    if any(one.errors for one in turns.disturbed):
        raise SystemExit("failed: some requests got no good answer")


if __name__ == "__main__":
    main()
