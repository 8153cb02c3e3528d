"""CPU cost of each policy block: `python -m bench.costs [--repeat 1000] [--rows cache]`.

Measured are the CPU microseconds that a block adds to a request, in process and without sockets (`bench.rig`).

1. The same request runs through two sidecars in turn, one with the block and one without it.  The shortest of many
   short runs counts, since every disturbance makes a run longer.
2. Limits are multiples of the request without the block, so that they mean the same on a slower processor.
3. Work of other threads (the writer of the access log, the exporter of spans) counts too: the process's time is read.

A row of the cache has a base of its own: the same cacheable responses on a route without a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, NamedTuple

import uvloop

from bench import machine
from bench.peers import COMPILED, ROOT
from bench.rig import UPSTREAM, Rig
from bench.transform import COMPACT, LINES, OPERATIONS
from bench.upstream import SMALL, TAG, like_nginx
from sidecar.process.interpreter import freeze_startup, share_interpreter

RUN: Final = 100
"""Requests of a short run."""
REPEAT: Final = 1000
PASSES: Final = 5
"""Passes over all rows: a disturbance of some seconds then affects one pass alone."""
TURN: Final = 25
"""Requests in one turn of the loop, as a busy listener has them."""
STDOUT: Final = 1

GET: Final = b"GET /orders/7%b HTTP/1.1\r\nHost: bench\r\n%b\r\n"
BROWSER: Final = LINES


class Row(NamedTuple):
    """Block and the request on which it is measured."""

    name: str
    block: dict[str, Any]
    """Members of the route, the block among them."""
    limit: float | None = None
    """Most that the block may add, as a multiple of the request without it; None: no limit."""
    whole: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Top-level members of the policy file, for blocks of upstreams and of the process."""
    fields: bytes = b""
    body: bytes = SMALL
    """Body of the upstream's response."""
    fresh: bool = False
    """True if the response says that it may be stored."""
    unique: bool = False
    """True if each request has another query."""
    is_tagged: bool = False
    """True if each answer has an entity tag of its own."""


HEADERS: Final = {"set": {"x-source": "sidecar"}, "remove": ["cookie"], "rename": {"x-user": "x-id"}}
NOWHERE: Final = {"endpoint": "http://127.0.0.1:9", "protocol": "http", "metrics": "off"}
CACHES: Final = {"caches": {"default": {"memory": {"max_size": "8MiB"}}}}
ROWS: Final = (
    Row("timeout: request and attempt", {"timeout": {"request": "3s", "attempt": "1s"}}),
    Row("retry: three tries, with the budget", {"retry": {"max_attempts": 3}}),
    Row(
        "circuit_breaker: by failure rate",
        {"circuit_breaker": {"failure_rate": "50%", "min_calls": 20, "window": "10s"}},
    ),
    Row("concurrency: a limit with a queue", {"concurrency": {"max": 100, "queue": 50, "queue_timeout": "100ms"}}),
    Row("concurrency: adaptive", {"concurrency": {"adaptive": {"min": 4, "max": 400}}}),
    Row("hedge: not needed", {"hedge": {"after": "200ms"}}),
    Row("fallback: not needed", {"fallback": [{"response": {"status": 200, "json": {}}}]}),
    Row(
        "transform: one header set, one removed, one renamed",
        {"transform": {"request": {"headers": HEADERS}}},
        limit=0.42,
        fields=BROWSER,
    ),
    Row(
        "transform: three operations on a JSON body of 3 KiB",
        {"transform": {"response": {"body": OPERATIONS}}},
        limit=9.1,
        body=COMPACT,
    ),
    Row("cache: a hit", {"cache": {}}, whole=CACHES, fresh=True),
    Row("cache: a miss that is stored", {"cache": {}}, whole=CACHES, fresh=True, unique=True),
    Row(
        "cache: the same, each with a tag of its own",
        {"cache": {}},
        None,
        CACHES,
        fresh=True,
        unique=True,
        is_tagged=True,
    ),
    Row(
        "telemetry: traces, none sampled",
        {},
        limit=0.35,
        whole={"telemetry": {**NOWHERE, "sampling": {"ratio": "0%"}}},
    ),
    Row("telemetry: access log, every request", {}, limit=0.7, whole={"telemetry": {"access_log": {}}}),
)


class Cost(NamedTuple):
    """CPU of a block, in microseconds a request."""

    name: str
    bare: float
    """Cost of the request without the block."""
    added: float
    limit: float | None
    """Bound of `share`; None: without a limit."""

    @property
    def share(self) -> float:
        """Return what the block adds, as a multiple of the request without it."""
        return self.added / self.bare

    @property
    def holds(self) -> bool:
        """True if the block keeps to its limit, or has none."""
        return self.limit is None or self.share <= self.limit


def policies(row: Row | None) -> dict[str, Any]:
    """Return policies with one route that has the block of a row; None: no block."""
    route = {"name": "order", "match": {"path": "/orders/{id}"}, "upstream": UPSTREAM}
    return {
        "upstreams": {UPSTREAM: {"endpoints": ["http://127.0.0.1:9"]}},
        "routes": [{**route, **(row.block if row else {})}],
        **(row.whole if row else {}),
    }


def answer(row: Row) -> bytes:
    """Return the upstream's response, with the fields that nginx sends."""
    return like_nginx("200 OK", row.body, "Cache-Control: max-age=3600\r\n" if row.fresh else "")


async def measure(row: Row, repeat: int) -> tuple[float, float]:
    """Return the shortest runs without the block and with it, in microseconds a request."""
    numbers = count()
    said = answer(row)
    same = GET % (b"", row.fields)

    async def run(rig: Rig) -> float:
        requests = [GET % (b"?%d" % next(numbers), row.fields) if row.unique else same for _ in range(RUN)]
        answers = [said.replace(TAG, b'"%08x-26"' % next(numbers)) if row.is_tagged else said for _ in range(RUN)]
        began = time.process_time()
        for number, (request, words) in enumerate(zip(requests, answers, strict=True), 1):
            await rig.ask(request, words)
            if number % TURN == 0:
                await asyncio.sleep(0)
        rig.settle()
        return (time.process_time() - began) / RUN * 1e6

    async with Rig(policies(None)) as bare, Rig(policies(row)) as whole:
        for rig in (bare, whole):
            got = await rig.ask(same, said)
            if not got.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"{row.name}: not answered with 200:\n{got.decode()}")
            await run(rig)
        found = [(await run(bare), await run(whole)) for _ in range(repeat)]
    return min(run[0] for run in found), min(run[1] for run in found)


def least(row: Row, found: Sequence[tuple[float, float]]) -> Cost:
    """Return the cost of a row from several passes."""
    bare, whole = min(run[0] for run in found), min(run[1] for run in found)
    return Cost(row.name, bare, whole - bare, row.limit)


@contextmanager
def redirect_output() -> Iterator[None]:
    """Redirect standard output, which has the access log, to a pipe that another process reads, as in a pod."""
    sys.stdout.flush()
    own = os.dup(STDOUT)
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), STDOUT)
    reader.stdin.close()
    try:
        yield
    finally:
        os.dup2(own, STDOUT)
        os.close(own)
        reader.wait()


def measure_all(rows: list[Row], repeat: int) -> list[Cost]:
    """Measure the rows in this process."""

    async def all_of_them() -> list[Cost]:
        passes = [[await measure(row, max(1, repeat // PASSES)) for row in rows] for _ in range(PASSES)]
        return [least(row, found) for row, found in zip(rows, zip(*passes, strict=True), strict=True)]

    share_interpreter()
    freeze_startup()
    with redirect_output(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(all_of_them())


def measure_apart(repeat: int) -> list[Cost]:
    """Measure in a process of its own; its request path is compiled if `bench.peers.COMPILED` exists."""
    path = [str(COMPILED)] if COMPILED.exists() else []
    argv = [sys.executable, "-P", "-m", "bench.costs", "--repeat", str(repeat), "--json"]
    done = subprocess.run(
        machine.pinned(argv, machine.cores()[0]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError("bench.costs failed")
    return [Cost(*values) for values in json.loads(done.stdout)]


def table(costs: Sequence[Cost]) -> list[str]:
    """Return the costs as Markdown."""
    lines = ["| block | adds, us | to a request of, us | adds | at most |", "|---|---:|---:|---:|---:|"]
    for cost in costs:
        limit = "" if cost.limit is None else f"{cost.limit:.2f}x"
        lines.append(f"| {cost.name} | {cost.added:.1f} | {cost.bare:.1f} | {cost.share:.2f}x | {limit} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.costs", description="What a policy costs a request.")
    parser.add_argument("--repeat", type=int, default=REPEAT, help=f"number of short runs of each ({REPEAT})")
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows with this text in their name")
    parser.add_argument("--json", action="store_true", help="print JSON, for the benchmark")
    options = parser.parse_args()
    costs = measure_all([row for row in ROWS if options.rows in row.name], options.repeat)
    print(json.dumps(costs) if options.json else "\n".join(table(costs)))


if __name__ == "__main__":
    main()
