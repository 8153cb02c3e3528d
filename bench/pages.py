"""Cost of the live page: `python -m bench.pages [--readers 50] [--routes 200] [--minutes 60]`.

A sidecar with so many routes, each with a breaker, serves twenty requests a second.

1. CPU time is measured without and with so many readers of the page's event stream.  It is printed as the number of
   requests a second that take as much in the same run.
2. With `--minutes`, one page is open in a browser (Debian's chromium) for so long.  Each minute the sidecar's resident
   set is read, and the objects in the page after a garbage collection.  The first quarter, in which the page fills its
   window of the last minutes, does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import load, machine, upstream
from bench.scenarios import wait_until_up
from bench.subject import Subject

TARGET: Final = "/orders/small"
GAP: Final = 0.05
"""Seconds between two requests."""
SECONDS: Final = 20.0
"""Seconds for which CPU time is counted."""
SETTLE: Final = 6.0
LOAD_SECONDS: Final = 2.0
CONNECTIONS: Final = 32
MOST: Final = 12.0
"""Requests a second whose CPU one page may take."""
GROWTH: Final = 1.1
"""Largest ratio of a size at the end to that after the first quarter; a larger one is a leak."""


class Sample(NamedTuple):
    """Sizes of the page and its sidecar at one instant."""

    minute: float
    resident: int
    """Resident bytes of the sidecar."""
    heap: int
    """Bytes of the page's objects."""
    nodes: int
    """Nodes of the page's document."""
    listeners: int


def policies(port: int, routes: int) -> dict[str, Any]:
    """Return policies with one route for requests, and others with breakers of their own."""
    breaker = {"failure_rate": "50%", "min_calls": 20, "window": "10s"}
    others = [
        {"name": f"other-{n}", "match": {"path": f"/other/{n}"}, "upstream": "app", "circuit_breaker": breaker}
        for n in range(routes - 1)
    ]
    return {
        "upstreams": {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}},
        "routes": [*others, {"name": "orders", "upstream": "app", "circuit_breaker": breaker, "retry": {}}],
    }


@contextmanager
def served(routes: int) -> Iterator[Subject]:
    """Run the sidecar in front of an upstream."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-pages-")))
        port = machine.free_port()
        server = machine.spawn(upstream.command(port, directory), machine.cores()[1], directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, TARGET):
            raise SystemExit("the upstream does not answer")
        yield stack.enter_context(Subject(policies(port, routes), directory, TARGET))


async def traffic(port: int) -> None:
    """Send requests, one after the other, until cancelled."""
    client = http.client.HTTPConnection("127.0.0.1", port)

    def ask() -> None:
        client.request("GET", TARGET)
        answer = client.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"a request got {answer.status}")

    while True:
        await asyncio.to_thread(ask)
        await asyncio.sleep(GAP)


async def read(port: int) -> None:
    """Read the page's event stream until cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while await reader.read(1 << 16):
        pass
    raise SystemExit("the stream ended")


async def share(subject: Subject) -> float:
    """Return the share of one core that the sidecar uses."""
    await asyncio.sleep(SETTLE)
    began, before = time.monotonic(), machine.cpu_seconds(subject.pid)
    await asyncio.sleep(SECONDS)
    return (machine.cpu_seconds(subject.pid) - before) / (time.monotonic() - began)


async def cost(subject: Subject, readers: int) -> float:
    """Return the share of one core that so many readers add."""
    alone = await share(subject)
    reading = [asyncio.create_task(read(subject.admin_port)) for _ in range(readers)]
    beside = await share(subject)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return beside - alone


def request_cpu(subject: Subject) -> float:
    """Return the CPU seconds of a request under load."""
    url = f"http://127.0.0.1:{subject.port}{TARGET}"
    before = machine.cpu_seconds(subject.pid)
    seen = load.GENERATORS[load.best()](url, CONNECTIONS, LOAD_SECONDS, machine.cores()[1])
    return (machine.cpu_seconds(subject.pid) - before) / seen.requests


async def watch(subject: Subject, minutes: float, say: Callable[[str], object]) -> list[Sample]:
    """Keep a page open in a browser for so long; return a sample for each minute."""
    from playwright.async_api import async_playwright  # a tool of the tests, needed here alone

    samples = []
    async with async_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{subject.admin_port}/")
        inspector = await page.context.new_cdp_session(page)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * 60:
            await asyncio.sleep(min(60.0, minutes * 60 - passed))
            await inspector.send("HeapProfiler.collectGarbage")
            heap = await inspector.send("Runtime.getHeapUsage")
            counters = await inspector.send("Memory.getDOMCounters")
            samples.append(
                Sample(
                    (time.monotonic() - began) / 60,
                    machine.resident_bytes(subject.pid),
                    int(heap["usedSize"]),
                    counters["nodes"],
                    counters["jsEventListeners"],
                )
            )
            minute, resident, used, nodes, listeners = samples[-1]
            say(
                f"{minute:5.1f} min  sidecar {resident / 2**20:6.1f} MiB  page {used / 2**20:6.2f} MiB"
                f"  {nodes} nodes  {listeners} listeners"
            )
        await browser.close()
    return samples


def grown(samples: list[Sample]) -> list[str]:
    """Return in words which sizes grew by more than `GROWTH` after the first quarter."""
    first, last = samples[len(samples) // 4], samples[-1]
    return [
        f"{name} grew from {before} to {after}"
        for name, before, after in zip(Sample._fields[1:], first[1:], last[1:], strict=True)
        if after > GROWTH * before
    ]


async def run(options: argparse.Namespace) -> int:
    with served(options.routes) as subject:
        asking = asyncio.create_task(traffic(subject.port))
        print(machine.interpreter())
        found: list[str] = []
        if options.readers:
            added = await cost(subject, options.readers)
            worth = added / await asyncio.to_thread(request_cpu, subject) / options.readers
            print(f"{options.readers} pages, {options.routes} routes with breakers: {added:.2%} of a core")
            print(f"each as much as {worth:.1f} requests a second; at most {MOST:g}", flush=True)
            if worth > MOST:
                found.append("a page costs too much")
        if options.minutes:
            leaks = grown(await watch(subject, options.minutes, lambda line: print(line, flush=True)))
            print("\n".join(leaks) or f"nothing grew in {options.minutes:g} minutes")
            found += leaks
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return 1 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description="Measure the cost of the live page.")
    parser.add_argument("--readers", type=int, default=50, metavar="N", help="simultaneous readers of the stream (50)")
    parser.add_argument("--routes", type=int, default=200, metavar="N", help="routes, each with a breaker (200)")
    parser.add_argument("--minutes", type=float, default=0.0, metavar="N", help="minutes of a page in a browser (0)")
    raise SystemExit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
