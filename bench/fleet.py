"""CPU of a request under a rate limit of the process, and under one in Redis: `python -m bench.fleet [--rounds 9]`.

Three sidecars with the same policies, two of them with a limit that no load reaches, are loaded in turn within each
round.  CPU is the sidecar's alone, that of its calls of Redis included.  Redis itself runs on the core of the load.
Needs `redis-server`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import load, machine, upstream
from bench.reload import policies
from bench.scenarios import wait_until_up
from bench.subject import Subject

TARGET: Final = "/orders/small"
CONNECTIONS: Final = 32
ROOMY: Final = 900
"""Version of the policies, whose limit of concurrency has room for all connections."""
LIMIT: Final = {"name": "all", "rate": "1000000/s"}
MOST: Final = {"process": 1.03, "fleet": 1.05}
"""Largest ratios of CPU a request to one without a limit."""
SETTLED: Final = 1.0
"""Seconds after the start in which a sidecar may still do what is done once."""


def kinds(port: int, redis: int) -> dict[str, dict[str, Any]]:
    """Return policies without a limit, with one of the process, and with one in Redis."""
    plain = policies(port, 1, ROOMY)
    (route,) = plain["routes"]
    stores = {"redis": {"redis": {"url": f"redis://127.0.0.1:{redis}/0"}}}
    return {
        "plain": plain,
        "process": {**plain, "routes": [{**route, "rate_limit": [LIMIT]}]},
        "fleet": {**plain, "stores": stores, "routes": [{**route, "rate_limit": [{**LIMIT, "store": "redis"}]}]},
    }


def measure(subject: Subject, seconds: float) -> float:
    """Return microseconds of CPU a request."""
    before = machine.cpu_seconds(subject.pid)
    found = load.wrk(f"http://127.0.0.1:{subject.port}{TARGET}", CONNECTIONS, seconds, machine.cores()[1])
    if found.errors:
        raise SystemExit(f"{found.errors} requests failed")
    return (machine.cpu_seconds(subject.pid) - before) / found.requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description="Compare limits by who shares them.")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each kind (9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement (1)")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-fleet-")))
        port, redis = machine.free_port(), machine.free_port()
        argv = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        for name, command in (("upstream", upstream.command(port, directory)), ("redis", argv)):
            stack.callback(machine.end, machine.spawn(command, machine.cores()[1], directory / f"{name}-output"))
        if not wait_until_up(port, TARGET):
            raise SystemExit("the upstream does not answer")
        subjects = {}
        for name, whole in kinds(port, redis).items():
            place = directory / name
            place.mkdir()
            subjects[name] = stack.enter_context(Subject(whole, place, TARGET))
        time.sleep(SETTLED)
        rounds = [
            {name: measure(each, options.seconds) for name, each in subjects.items()} for _ in range(1 + options.rounds)
        ][1:]  # the first one warms up
        (store,) = subjects["fleet"].state()["state"]["store"].values()
        if not store["up"]:
            raise SystemExit(f"the limit was not in Redis: {store}")
        print(f"{machine.interpreter()}; {load.version('wrk')}, {CONNECTIONS} connections, {options.rounds} rounds")
        failed = False
        for name, most in MOST.items():
            ratio = median(each[name] / each["plain"] for each in rounds)
            failed |= ratio > most
            print(f"{name}: {median(each[name] for each in rounds):.1f} us a request, {ratio:.3f}x, at most {most}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
