"""Gate for speed: instructions and cache misses of a request, judged by limits (`make instructions`).

`sidecar run` serves real sockets under callgrind. After a warm-up, a client in lockstep repeats one request. On a busy
machine times vary by more than a change costs; these counts repeat.

They repeat because of these rules:

- One request at a time, the same bytes in the same pieces (`bench.lockstep`, `bench.lockstep_http2`), PYTHONHASHSEED=0,
  caches of a fixed size.
- Timers fire much later (`bench.slowed`). Callgrind slows the process and not the clock: periodic work, such as the
  sweep of deadlines, would run many times as often a request as in production, and more often on a busy machine.
- A figure is the median of blocks of requests, since rare work such as the growth of a table falls on few of them. The
  garbage collector runs as in production; it counts allocations, which are the same in each run.
- The median is averaged over several processes, whose objects lie differently in memory (`bench.slowed`).
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

from bench import callgrind, figures, machine, slowed, upstream
from bench.callgrind import Callgrind, Counts
from bench.figures import Figures
from bench.identity import Issuer
from bench.lockstep import Lockstep
from bench.lockstep_http2 import CALL, LockstepHttp2
from bench.peers import COMPILED, ROOT, Place, compile_bytecode, is_stale

LAYOUTS: Final = range(5)
"""Layouts of objects in memory, each measured in a process of its own."""
WARM_UP: Final = 300
"""Requests of each scenario before anything is counted."""
BLOCKS: Final = 7
"""Blocks of requests that count; one before them fills the simulated caches."""
FACTOR: Final = 1000
"""Factor of timers' delays: larger than callgrind's slowdown of the process on a busy machine."""
START_SECONDS: Final = 180.0
PURE: Final = "pure"
BUILDS: Final = {PURE: ROOT, "compiled": COMPILED}
"""Directory from which each build of the sidecar is imported."""


class Scenario(NamedTuple):
    """Kind of request."""

    name: str
    title: str
    path: str
    block: int
    """Requests of a block."""
    asked: float = 1
    """Number of requests that the upstream gets for one of the client's."""
    unique: bool = False
    """True if each request has another query."""
    kind: str = ""
    """Kind of request over HTTP/2 (`bench.lockstep_http2`); empty for HTTP/1.1."""
    at_once: int = 1
    """Number of requests that are sent at once, each on a stream of its own; over HTTP/1.1 always one."""
    has_token: bool = False
    """True if the requests have a signed token, always the same; over HTTP/1.1 only."""
    together: int = 1
    """Number of requests that the upstream answers together, as those of parts; over HTTP/1.1 only."""
    copied: str = ""
    """Path of every tenth request, which the upstream gets twice; empty for none."""


SCENARIOS: Final = (
    Scenario("demo", "plain GET of the demo route, small answer", "/orders/7", 30),
    Scenario("hit", "cache hit", "/cached/7", 50, asked=0),
    Scenario("stored", "cache miss, stored", "/cached/8", 30, unique=True),
    Scenario("retried", "503, retried, then 200", "/retried/7", 20, asked=2),
    Scenario("bearer", "plain GET of the demo route, with a token that nobody reads", "/orders/7", 30, has_token=True),
    Scenario("known", "the same with authenticate, token seen before", "/known/7", 30, has_token=True),
    Scenario("limited", "plain GET with a rate limit, all together", "/limited/7", 30),
    Scenario("counted", "plain GET with a quota, all together", "/counted/7", 30),
    Scenario("split", "the same as the plain GET, over a split", "/split/7", 30),
    Scenario(
        "mirror", "the same as the plain GET, every tenth copied", "/mirror/7", 30, asked=1.1, copied="/mirrored/7"
    ),
    Scenario("parts", "one answer made of three requests through the demo route", "/page/7", 20, asked=3, together=3),
    Scenario("large", "64 KiB answer", "/orders/large", 20),
    Scenario("h2", "GET over HTTP/2, both sides", "/http2/7", 30, kind="get"),
    Scenario("unary", "gRPC unary call", "/bench.Shop/Get", 30, kind=CALL),
    Scenario("unary8", "gRPC unary call, eight at once", "/bench.Shop/Get", 32, kind=CALL, at_once=8),
)

POLICIES: Final = (
    "retried.yaml", "known.yaml", "parts.yaml", "split.yaml", "mirror.yaml", "limited.yaml", "counted.yaml",
    "http2.yaml",
)  # fmt: skip
"""Policy files of the scenarios, beside those of the demo."""

TITLES: Final = {scenario.name: scenario.title for scenario in SCENARIOS}


def answers() -> dict[str, list[bytes]]:
    """Return the upstream's responses by path, with the fields that nginx sends."""
    small = upstream.like_nginx("200 OK", upstream.SMALL)
    fresh = upstream.like_nginx("200 OK", upstream.SMALL, "Cache-Control: max-age=3600\r\n")
    failed = upstream.like_nginx("503 Service Unavailable", b'{"error":"told to fail"}')
    return {
        "/orders/7": [small],
        "/cached/7": [fresh],
        "/cached/8": [fresh],
        "/retried/7": [failed, small],
        "/known/7": [small],
        "/limited/7": [small],
        "/counted/7": [small],
        "/split/7": [small],
        "/mirror/7": [small],
        "/mirrored/7": [small],
        "/orders/large": [upstream.like_nginx("200 OK", upstream.LARGE)],
    }


def measure(build: str, keep: Path | None) -> Figures:
    """Return the counts of each scenario with one build.  Its processes run at once, as there are cores.

    Callgrind's dumps go to `keep`; None: they are deleted.
    """
    compile_bytecode(BUILDS[build])
    with tempfile.TemporaryDirectory(prefix="sidecar-instructions-") as temporary:
        directories = [(keep or Path(temporary)) / f"{build}-{layout}" for layout in LAYOUTS]
        with ProcessPoolExecutor(
            len(os.sched_getaffinity(0)), get_context("spawn"), initializer=machine.end_with_parent
        ) as pool:
            several = list(pool.map(measure_one, [build] * len(LAYOUTS), LAYOUTS, directories))
    return {name: Counts(*map(fmean, zip(*(one[name] for one in several), strict=True))) for name in several[0]}


def measure_one(build: str, layout: int, directory: Path) -> Figures:
    """Return the counts of each scenario in one process; `directory` gets its files."""
    source = BUILDS[build]
    directory.mkdir(parents=True)
    with Lockstep(answers()) as lockstep, LockstepHttp2() as streams:
        ports = machine.free_port(), machine.free_port(), lockstep.upstream_port
        place = Place(*ports, directory, rpc_port=streams.upstream_port)
        issuer, keys = Issuer(), directory / "keys.json"
        keys.write_text(issuer.key_set())
        env = {**place.env(), "PYTHONHASHSEED": "0", "PYTHONPATH": f"{source}:{ROOT}", "BENCH_KEYS": str(keys)}
        policies = place.policies(*POLICIES)
        argv = [sys.executable, "-P", "-m", "bench.slowed", str(FACTOR), str(layout), policies]
        with Callgrind(argv, env, directory) as process:
            wait_until_ready(process, place.admin_port)
            lockstep.connect(place.port)
            lockstep.token = issuer.token()
            streams.connect(place.port)
            client = Client(lockstep, streams)
            for scenario in SCENARIOS:
                client.ask(scenario)  # stores the response that the hits get
                client.repeat(scenario, WARM_UP)
            process.instrument()
            return {scenario.name: a_request(process, client, scenario) for scenario in SCENARIOS}


def wait_until_ready(process: Callgrind, port: int) -> None:
    """Wait until the sidecar is ready; raise `RuntimeError` if it ends or takes too long."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and not process.has_ended:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                break
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()
    else:
        raise RuntimeError(f"the sidecar is not ready; its output:\n{process.log.read_text()[-4000:]}")
    if slowed.TOLD not in process.log.read_text():
        raise RuntimeError("the sidecar's loop is not the one of bench.slowed; figures would depend on the clock")


def a_request(process: Callgrind, client: Client, scenario: Scenario) -> Counts:
    """Return the counts of one request."""
    blocks = []
    for _ in range(1 + BLOCKS):
        client.repeat(scenario, scenario.block)
        blocks.append(process.take() / scenario.block)
    return Counts(*(median(values) for values in zip(*blocks[1:], strict=True)))


NUMBERS: Final = count(10_000_000)
"""Numbers for queries, all with the same count of digits."""


class Client(NamedTuple):
    """Clients and upstreams in lockstep of both versions."""

    lines: Lockstep
    streams: LockstepHttp2

    @property
    def requests(self) -> int:
        """Number of requests that the upstreams have received."""
        return self.lines.requests + self.streams.requests

    def ask(self, scenario: Scenario) -> None:
        """Send the requests of one write and wait for their answers."""
        if scenario.kind:
            self.streams.ask(scenario.kind, scenario.path, scenario.at_once)
        else:
            target = f"{scenario.path}?{next(NUMBERS)}" if scenario.unique else scenario.path
            self.lines.ask(target, has_token=scenario.has_token, together=scenario.together)

    def repeat(self, scenario: Scenario, times: int) -> None:
        """Send so many requests or slightly fewer; raise `RuntimeError` unless the upstream got the expected number."""
        before = self.requests
        times -= times % scenario.at_once
        copied = scenario._replace(path=scenario.copied, together=2)
        for number in range(times // scenario.at_once):
            self.ask(copied if scenario.copied and not number % 10 else scenario)
        asked = self.requests - before
        if asked != round(times * scenario.asked):
            raise RuntimeError(
                f"{scenario.title}: {times} requests made {asked} of the upstream, not {scenario.asked} each"
            )


def missing(build: str) -> str:
    """Return the reason why a build cannot be measured; empty if it can."""
    if build == PURE:
        return ""
    if not COMPILED.exists():
        return "there is no build/compiled; `make compiled` makes it"
    return (
        "build/compiled was made from other sources; `make compiled` makes it anew" if is_stale(COMPILED, ROOT) else ""
    )


def run(builds: Sequence[str], keep: Path | None, *, is_written: bool) -> int:
    """Measure, print and judge the builds; return the exit code."""
    known = figures.load()
    found: dict[str, Figures] = {}
    told: list[str] = []
    is_broken = False
    for build in builds:
        if reason := missing(build):
            told.append(f"{build}: left out, {reason}")
            continue
        print(f"{build}: counting", flush=True)
        found[build] = measure(build, keep)
        verdict = figures.judge(found[build], figures.environment(build != PURE), known.get(build))
        told += [f"{build}: {line}" for line in (*verdict.lines, *figures.goals(build, found[build], TITLES))]
        told += [f"{build}: {line}" for line in figures.ratios(found[build])]
        is_broken |= verdict.is_broken
    print("\n".join([*figures.table(found, {build: one.figures for build, one in known.items()}, TITLES), *told]))
    if is_written:  # a build that was not measured keeps its figures
        fresh = {build: figures.known(one, figures.environment(build != PURE)) for build, one in found.items()}
        figures.save({**known, **fresh}, TITLES)
        print(f"written: {figures.FILE.name}, {figures.PAGE.name}")
    return 1 if is_broken and not is_written else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description="Count instructions of requests.")
    parser.add_argument("--write", action="store_true", help="record the figures; limits refer to them")
    parser.add_argument("--build", choices=BUILDS, action="append", help="count only this build; may be repeated")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep callgrind's dumps, for callgrind_annotate")
    options = parser.parse_args()
    if callgrind.find() is None:
        parser.error("valgrind is not installed (apt install valgrind)")
    try:
        code = run(options.build or list(BUILDS), options.keep, is_written=options.write)
    except (RuntimeError, ValueError, subprocess.SubprocessError) as error:
        raise SystemExit(f"instructions: {error}") from error
    raise SystemExit(code)


if __name__ == "__main__":
    main()
