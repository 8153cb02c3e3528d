"""Latency of cache hits during evictions: `python -m bench.eviction [--megabytes 64]`.

In each turn one client stores so many megabytes of other responses, at an even rate, in a cache of that size.  From the
second turn on each store evicts as much.  Prints p99 of the hits with and without evictions.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from bench.beside import TURNS, arguments, compare, report
from bench.subject import PATIENCE, Subject
from bench.upstream import LARGE

HIT: Final = "/cached/small"
OTHER: Final = "/cached/large"


def policies(port: int, megabytes: int) -> dict[str, Any]:
    return {
        "caches": {"default": {"memory": {"max_size": f"{megabytes}MiB"}}},
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
        "routes": [{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app", "cache": {}}],
    }


class Evicting:
    """Client that stores other responses at an even rate."""

    def __init__(self, megabytes: int) -> None:
        self.count = megabytes * 2**20 // len(LARGE)
        self.stored = 0
        self.evicted = 0

    @contextmanager
    def __call__(self, subject: Subject, _port: int, seconds: float) -> Iterator[None]:
        thread = threading.Thread(target=self._run, args=(subject.port, seconds / self.count))
        thread.start()
        yield
        thread.join()
        _, body = subject.ask("GET", "/cache")
        self.evicted = json.loads(body)["default"]["evictions"]

    def _run(self, port: int, pause: float) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        due = time.monotonic()
        for _ in range(self.count):
            client.request("GET", f"{OTHER}?{self.stored}")
            client.getresponse().read()
            self.stored += 1
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))
        client.close()


def main() -> None:
    parser = arguments("eviction", "Measure cache hits beside evictions.")
    parser.add_argument("--megabytes", type=int, default=64, help="megabytes of the cache and of each turn (64)")
    options = parser.parse_args()
    evicting = Evicting(options.megabytes)
    turns = compare(partial(policies, megabytes=options.megabytes), evicting, options, HIT)
    size = len(LARGE) // 1024
    report(turns, options, f"{evicting.stored} answers of {size} KiB stored beside, {evicting.evicted} evicted")
    if evicting.evicted < evicting.count * (TURNS - 1):
        raise SystemExit("failed: fewer answers were evicted than stored beyond the cache's size")


if __name__ == "__main__":
    main()
