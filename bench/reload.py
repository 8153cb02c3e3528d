"""Reloads under full load: `python -m bench.reload [--reloads 200] [--routes 5]`.

Every other reload brings a broken file.  Prints failed requests, which must be none, and p99 with and without reloads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.beside import TURNS, arguments, compare, report
from bench.subject import Subject


def policies(port: int, routes: int, version: int = 0) -> dict[str, Any]:
    """Return policies with every block that a route can have, with other numbers in each version."""
    block = {
        "upstream": "app",
        "timeout": {"request": "3s", "attempt": f"{1000 + version}ms"},
        "retry": {"max_attempts": 3},
        "circuit_breaker": {"failure_rate": "50%", "min_calls": 20, "window": f"{10 + version % 5}s"},
        "concurrency": {"max": 100 + version, "queue": 50, "queue_timeout": "100ms"},
    }
    others = [{"name": f"r{n}", "match": {"path": f"/other/{n}/{{id}}"}, **block} for n in range(1, routes)]
    return {
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"], "retry_budget": {"ratio": "20%"}}},
        "routes": [{"name": "all", "match": {"path_prefix": "/orders"}, **block}, *others],
    }


class Reloading:
    """Disturbance that reloads a number of times, at an even rate."""

    def __init__(self, routes: int, count: int) -> None:
        self.routes = routes
        self.count = count
        self.surprises: list[tuple[int, bytes]] = []
        """Unexpected answers to reloads: status and body."""

    @contextmanager
    def __call__(self, subject: Subject, port: int, seconds: float) -> Iterator[None]:
        thread = threading.Thread(target=self._run, args=(subject, port, seconds / self.count))
        thread.start()
        yield
        thread.join()

    def _run(self, subject: Subject, port: int, pause: float) -> None:
        due = time.monotonic()
        for version in range(self.count):
            text = json.dumps(subject.whole(policies(port, self.routes, version)), indent=2)
            subject.write(text if version % 2 == 0 else text.replace('"retry":', '"retyr":'))
            status, body = subject.ask("POST", "/reload")
            if status != (200 if version % 2 == 0 else 422):
                self.surprises.append((status, body))
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    parser = arguments("reload", "Measure reloads under full load.")
    parser.add_argument("--reloads", type=int, default=200, help="number of reloads (200)")
    parser.add_argument("--routes", type=int, default=5, help="routes in the policy file (5)")
    options = parser.parse_args()
    reloading = Reloading(options.routes, options.reloads // TURNS)
    turns = compare(partial(policies, routes=options.routes), reloading, options)
    report(turns, options, f"{options.reloads} reloads, {options.routes} routes")
    if reloading.surprises or any(one.errors for one in turns.disturbed):
        raise SystemExit(f"failed: {reloading.surprises[:3]}")


if __name__ == "__main__":
    main()
