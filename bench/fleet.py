"""Rate limits of the process and in Redis: CPU of a request, and p99 while Redis stalls: `python -m bench.fleet`.

Three sidecars with the same policies, two of them with a limit that no load reaches, are loaded in turn within each
round.  CPU is the sidecar's alone, that of its calls of Redis included.  Redis itself runs on the core of the load.

With `--stall`, Redis is stopped (SIGSTOP) for five seconds in each round.  The p99 is compared with that of the five
seconds before.  A second limit, which the load exceeds, must admit no more than this process's share meanwhile.
Needs `redis-server` and wrk.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
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
TIGHT: Final = {"name": "tight", "rate": "1000/s", "burst": 100}
"""Limit that the load exceeds."""
STALL: Final = 5.0
"""Seconds for which Redis is stopped."""
STALLED_MOST: Final = 1.1
"""Largest ratio of the p99 while Redis is stopped to that before."""
SETTLED: Final = 1.0
"""Seconds after the start in which a sidecar may still do what is done once."""


def kinds(port: int, redis: int, limit: dict[str, Any] = LIMIT) -> dict[str, dict[str, Any]]:
    """Return policies without a limit, with one of the process, and with one in Redis."""
    plain = policies(port, 1, ROOMY)
    (route,) = plain["routes"]
    stores = {"redis": {"redis": {"url": f"redis://127.0.0.1:{redis}/0"}}}
    return {
        "plain": plain,
        "process": {**plain, "routes": [{**route, "rate_limit": [LIMIT]}]},
        "fleet": {**plain, "stores": stores, "routes": [{**route, "rate_limit": [{**limit, "store": "redis"}]}]},
    }


def measure(subject: Subject, seconds: float) -> float:
    """Return microseconds of CPU a request."""
    before = machine.cpu_seconds(subject.pid)
    found = load.wrk(f"http://127.0.0.1:{subject.port}{TARGET}", CONNECTIONS, seconds, machine.cores()[1])
    if found.errors:
        raise SystemExit(f"{found.errors} requests failed")
    return (machine.cpu_seconds(subject.pid) - before) / found.requests * 1e6


def stall(subjects: dict[str, Subject], redis: subprocess.Popen[bytes], rounds: int) -> bool:
    """Print the p99 and the admissions while Redis is stopped; return True if one is too high."""
    url, core, ratios, passed = "http://127.0.0.1:{}" + TARGET, machine.cores()[1], [], []
    for _ in range(rounds):
        before = load.wrk(url.format(subjects["fleet"].port), CONNECTIONS, STALL, core)
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            during = load.wrk(url.format(subjects["fleet"].port), CONNECTIONS, STALL, core)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        if before.errors or during.errors:
            raise SystemExit(f"{before.errors + during.errors} requests failed")
        ratios.append(during.p99 / before.p99)
        load.wrk(url.format(subjects["tight"].port), CONNECTIONS, 1.0, core)  # the bucket is empty then
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            found = load.wrk(url.format(subjects["tight"].port), CONNECTIONS, STALL, core)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        passed.append((found.requests - found.errors) / (1000 * found.seconds + 101))
        time.sleep(2 * SETTLED)  # a probe finds Redis again
    print(f"Redis stopped for {STALL:g} s: p99 {median(ratios):.3f}x, at most {STALLED_MOST}")
    print(f"admitted then: {max(passed):.3f}x the limit with its burst, at most 1")
    return median(ratios) > STALLED_MOST or max(passed) > 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description="Compare limits by who shares them.")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each kind (9)")
    parser.add_argument("--stall", action="store_true", help="stop Redis in each round, and compare the p99")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement (1)")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-fleet-")))
        port, redis = machine.free_port(), machine.free_port()
        argv = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        spawned = {}
        for name, command in (("upstream", upstream.command(port, directory)), ("redis", argv)):
            spawned[name] = machine.spawn(command, machine.cores()[1], directory / f"{name}-output")
            stack.callback(machine.end, spawned[name])
        if not wait_until_up(port, TARGET):
            raise SystemExit("the upstream does not answer")
        subjects = {}
        wanted = kinds(port, redis)
        if options.stall:
            wanted = {"fleet": wanted["fleet"], "tight": kinds(port, redis, TIGHT)["fleet"]}
        for name, whole in wanted.items():
            place = directory / name
            place.mkdir()
            subjects[name] = stack.enter_context(Subject(whole, place, TARGET))
        time.sleep(SETTLED)
        if options.stall:
            raise SystemExit(stall(subjects, spawned["redis"], options.rounds))
        (before,) = subjects["fleet"].state()["state"]["store"].values()
        rounds = [
            {name: measure(each, options.seconds) for name, each in subjects.items()} for _ in range(1 + options.rounds)
        ][1:]  # the first one warms up
        (store,) = subjects["fleet"].state()["state"]["store"].values()
        if not store["up"]:
            raise SystemExit(f"the limit was not in Redis: {store}")
        print(f"{machine.interpreter()}; {load.version('wrk')}, {CONNECTIONS} connections, {options.rounds} rounds")
        calls = (store["exchanges"] - before["exchanges"]) / (1 + options.rounds) / options.seconds
        print(f"calls of Redis: {calls:.1f} a second of load, with a lease of 100 ms")
        failed = False
        for name, most in MOST.items():
            ratio = median(each[name] / each["plain"] for each in rounds)
            failed |= ratio > most
            print(f"{name}: {median(each[name] for each in rounds):.1f} us a request, {ratio:.3f}x, at most {most}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
