"""CPU of evidence before a policy ships: `python -m bench.evidence [--routes 200] [--requests 100000]`.

Prints what `lint` takes beyond `check`, and what the replay of a log takes for one policy set and one seed, beside
their limits.  The exit code is 1 beyond one of them.  Both run in one thread, so CPU time is that of one core.  Reading
of the log is part of the replay, making it is not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from sidecar.config.spec import PolicySpec
from sidecar.lint.run import lint
from sidecar.replay.fit import Fitted
from sidecar.replay.formats import read_log
from sidecar.replay.tally import Numbers
from sidecar.replay.world import run_world

LINT_SECONDS: Final = 1.0
"""Most CPU seconds of `lint` of 200 routes beyond `check`."""
REPLAY_SECONDS: Final = 60.0
"""Most CPU seconds of a replay of 100,000 requests."""
RATE: Final = 100.0
"""Requests a second in the log."""
START: Final = 1_750_000_000.0
"""Unix time of the first request."""
ENDPOINTS: Final = ("http://app-1:80", "http://app-2:80")
BLOCKS: Final[dict[str, Any]] = {
    "timeout": {"request": "3s", "attempt": "900ms"},
    "retry": {"max_attempts": 3},
    "circuit_breaker": {"failure_rate": "50%", "min_calls": 20, "window": "10s"},
    "concurrency": {"max": 100, "queue": 50, "queue_timeout": "100ms"},
    "rate_limit": [{"name": "all", "rate": "500/s", "burst": 100}],
}
"""Blocks of every route."""


def policies(routes: int) -> list[Source]:
    """Return policies with so many routes, each with blocks of its own, and an upstream for ten of them."""
    upstreams = {
        f"u{n}": {
            "endpoints": list(ENDPOINTS),
            "ejection": {"consecutive_failures": 5, "eject_for": "10s"},
            "retry_budget": {"ratio": "20%"},
        }
        for n in range(-(-routes // 10))
    }
    document = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:8080"}},
        "upstreams": upstreams,
        "routes": [
            {"name": f"r{n}", "match": {"path": f"/r{n}/{{id}}"}, "upstream": f"u{n // 10}", **BLOCKS}
            for n in range(routes)
        ],
    }
    return [Source("policies.yaml", json.dumps(document, indent=2).encode())]


def spec_of(sources: list[Source]) -> PolicySpec:
    """Return the spec of policies without errors."""
    spec = load(sources, {}).spec
    assert spec is not None
    return spec


def log(requests: int, routes: int, rate: float = RATE) -> Iterator[str]:
    """Yield the lines of an access log; one attempt in fifty fails and is made again."""
    rng = random.Random("evidence")
    at = START
    for number in range(requests):
        at += rng.expovariate(rate)
        attempts: list[dict[str, Any]] = []
        while not attempts or (attempts[-1]["status"] == 503 and len(attempts) < 3):
            attempts.append(
                {
                    "endpoint": ENDPOINTS[rng.randrange(2)],
                    "status": 503 if rng.random() < 0.02 else 200,
                    "duration_ms": round(1000 * rng.lognormvariate(-3.2, 0.5), 3),
                    "why": "retry:503" if attempts else "first",
                }
            )
        took = sum(each["duration_ms"] for each in attempts) / 1000
        stamp = datetime.fromtimestamp(at + took, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        route = number % routes
        line = {
            "time": stamp, "route": f"r{route}", "method": "GET", "path": f"/r{route}/{rng.randrange(40)}",
            "status": attempts[-1]["status"], "duration_ms": round(1000 * took, 3),
            "client": f"10.0.0.{rng.randrange(200)}", "attempts": attempts,
        }  # fmt: skip
        yield json.dumps(line)


def replay(path: Path, spec: PolicySpec) -> Numbers:
    """Return the numbers of a replay of the log at a path with one seed."""
    record = read_log(str(path))
    fitted = Fitted(record)
    return run_world(spec, record.requests, fitted, 1, fitted.endpoints)


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of some work."""
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description="CPU of lint and of a replay.")
    parser.add_argument("--routes", type=int, default=200, help="routes in the policies of lint (200)")
    parser.add_argument("--requests", type=int, default=100_000, help="requests in the log (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of check and lint; the least counts (5)")
    options = parser.parse_args()
    sources = policies(options.routes)
    loaded: list[Loaded] = []
    check = min(cpu(lambda: loaded.append(load(sources, {}))) for _ in range(options.rounds))
    beyond = min(cpu(lambda: lint(loaded[0], sources)) for _ in range(options.rounds))
    spec = spec_of(policies(20))
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as directory:
        path = Path(directory) / "access.jsonl"
        with path.open("w") as file:
            file.writelines(f"{line}\n" for line in log(options.requests, 20))
        numbers: list[Numbers] = []
        replayed = cpu(lambda: numbers.append(replay(path, spec)))
    assert numbers[0].requests == options.requests
    print("| | CPU seconds | limit |\n|---|---:|---:|")
    print(f"| check of {options.routes} routes | {check:.3f} | |")
    print(f"| lint of them beyond check | {beyond:.3f} | {LINT_SECONDS:g} for 200 |")
    what = f"replay of {options.requests} requests, one policy set, one seed"
    print(f"| {what} | {replayed:.1f} | {REPLAY_SECONDS:g} for 100000 |")
    if beyond > LINT_SECONDS * options.routes / 200 or replayed > REPLAY_SECONDS * options.requests / 100_000:
        sys.exit("beyond the limit")


if __name__ == "__main__":
    main()
