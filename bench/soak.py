"""Mixed traffic for a long time: `python -m bench.soak [--minutes 30]`; writes `bench/soak.md`.

All clients of `bench.traffic` run at once, with faults of the upstream and clients that are slow or disconnect.  A
reload follows every few seconds; every other one brings a broken file.  What must hold:

1. Every request is answered exactly once, with its own response; one that is not idempotent reaches the upstream once.
2. Memory, descriptors, tasks, timers and the number of objects do not grow: a straight line through the samples of the
   last three quarters may rise only a little.
3. When all clients have left, nothing remains: no connection, no request, no task, no timer of a request.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.judge import SPARE_FILES, Sample, Verdict, judge, markdown
from bench.subject import Subject
from bench.traffic import PATIENCE, Traffic, Upstream
from chaos.parts.servers import Server
from sidecar.control.reload import HISTORY

RESULTS: Final = Path(__file__).with_name("soak.md")
RELOAD_EVERY: Final = 3.0
WARM_UP: Final = 3.0
"""Seconds of traffic before the first sample that counts."""
WATCHED: Final = (sys.executable, "-m", "bench.watched")
LIMITS: Final = {
    "max_connections": 500,
    "header_timeout": "5s",
    "body_timeout": "5s",
    "idle_timeout": "3s",
    "drain_timeout": "5s",
}


def policies(urls: list[str], version: int) -> dict[str, Any]:
    """Return policies with every block that has state, with other numbers in each version."""
    write = {
        "upstream": "app",
        "retry": {"max_attempts": 3, "on": ["connect_failure", "reset", "timeout", 502, 504]},
        "timeout": {"request": "8s", "attempt": f"{600 + version % 50}ms", "idle": "2s"},
        "circuit_breaker": {"failure_rate": "95%", "min_calls": 1000, "window": f"{5 + version % 3}s"},
        "concurrency": {"max": 100 + version % 10, "queue": 50, "queue_timeout": "2s"},
    }
    read = {**write, "hedge": {"after": "300ms"}}
    long = {"upstream": "app", "timeout": {"request": "60s", "idle": "5s"}}
    return {
        "limits": LIMITS,
        "upstreams": {
            "app": {
                "endpoints": urls,
                "connections": {"max": 200, "idle_timeout": "3s"},
                "ejection": {"consecutive_failures": 50, "eject_for": "500ms"},
                "retry_budget": {"ratio": "100%", "min_per_second": 100},
            }
        },
        "routes": [
            {"name": "read", "match": {"path": "/read"}, **read},
            {"name": "write", "match": {"path": "/write"}, **write},
            {"name": "events", "match": {"path": "/events"}, **long},
            {"name": "ws", "match": {"path": "/ws"}, **long},
        ],
    }


class Soak:
    """Run of the soak: traffic, reloads and samples."""

    def __init__(self, subject: Subject, traffic: Traffic, servers: list[Server]) -> None:
        self.subject = subject
        self.traffic = traffic
        self.servers = servers
        self.samples: list[Sample] = []
        self.reloads = 0
        self._began = time.monotonic()

    async def run(self, seconds: float) -> Verdict:
        """Run the soak and return its verdict.

        A warm-up first creates all lasting objects and fills bounded histories.  Samples before and after the measured
        time are taken while the sidecar is idle.
        """
        for _ in range(HISTORY):
            await self.reload()
        await self.busy(WARM_UP, 0.5, self.traffic)
        before = await self.rest()
        self.samples.clear()
        self._began = time.monotonic()
        await self.busy(seconds, min(10.0, max(1.0, seconds / 60)), self.traffic)
        after = await self.rest(before.files + SPARE_FILES)
        return judge(self.samples, before, after, self.traffic.tally)

    async def busy(self, seconds: float, pause: float, traffic: Traffic) -> None:
        """Run traffic and reloads for so long; take a sample after each pause."""
        until = time.monotonic() + seconds
        traffic.is_over = False
        clients = asyncio.create_task(traffic.run())
        over = asyncio.Event()
        reloading = asyncio.create_task(self.keep_reloading(min(RELOAD_EVERY, seconds / 4), over))
        while time.monotonic() < until:
            await asyncio.sleep(pause)
            self.samples.append(await self.sample())
        traffic.is_over = True
        await asyncio.wait_for(clients, 10 * PATIENCE)
        over.set()
        await reloading  # not cancelled: the sidecar would go on with old and new policies while it should be at rest

    async def keep_reloading(self, pause: float, over: asyncio.Event) -> None:
        """Reload after each pause, until it is over."""
        while True:
            try:
                await asyncio.wait_for(over.wait(), pause)
                return
            except TimeoutError:
                await self.reload()

    async def reload(self) -> None:
        """Reload other policies, every other time broken ones."""
        self.reloads += 1
        text = json.dumps(self.subject.whole(policies([server.url for server in self.servers], self.reloads)))
        is_broken = self.reloads % 2 == 0
        self.subject.write(text.replace('"retry":', '"retyr":') if is_broken else text)
        status, body = await asyncio.to_thread(self.subject.ask, "POST", "/reload")
        if status != (422 if is_broken else 200):
            self.traffic.tally.violation(f"reload {self.reloads}: {status} {body[:200]!r}")

    async def sample(self) -> Sample:
        """Return the sidecar's present resources, and clear the requests that the servers have recorded."""
        for server in self.servers:
            server.requests.clear()
            server.connections[:] = [one for one in server.connections if one.is_open]
        state = await asyncio.to_thread(self.subject.state)
        objects = await asyncio.to_thread(self.objects)
        return Sample(
            at=time.monotonic() - self._began,
            memory=machine.resident_bytes(self.subject.pid),
            files=len(os.listdir(f"/proc/{self.subject.pid}/fd")),
            tasks=state["loop"]["tasks"],
            connections=state["listeners"]["inbound"]["connections"],
            in_flight=in_flight(state),
            requests=sum(self.traffic.tally.asked.values()),
            stalls=state["loop"]["stalls"],
            objects=objects,
        )

    def objects(self) -> dict[str, int]:
        """Return the number of the sidecar's live objects by type."""
        path = self.subject.path.with_suffix(".objects")
        path.unlink(missing_ok=True)
        os.kill(self.subject.pid, signal.SIGRTMIN)
        give_up = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > give_up:
                raise RuntimeError("the sidecar does not count its objects")
            time.sleep(0.02)
        counted: dict[str, int] = json.loads(path.read_text())
        return counted

    async def rest(self, files: int = 30) -> Sample:
        """Return a sample of the idle sidecar.

        Wait at most ten seconds for it to have no connection, no request, and at most `files` descriptors: idle
        connections to the upstreams are closed after a while.
        """
        for _ in range(20):
            sample = await self.sample()
            if not sample.connections and not sample.in_flight and sample.files <= files:
                break
            await asyncio.sleep(0.5)
        return await self.sample()


def in_flight(state: dict[str, Any]) -> int:
    """Return the number of busy connections to upstreams and of requests that wait for one."""
    pools = [pool for one in state["state"].get("pools", {}).values() for pool in one["pools"].values()]
    return sum(pool["open"] - pool["idle"] + pool["opening"] + pool["waiting"] for pool in pools)


async def soak(seconds: float, seed: int = 1, report: Callable[[str], object] = print) -> Verdict:
    """Run the soak for so many seconds and return its verdict; `report` is called with the page `soak.md`."""
    upstream = Upstream()
    with tempfile.TemporaryDirectory(prefix="sidecar-soak-") as directory:
        async with Server(upstream.behave) as one, Server(upstream.behave) as other:
            urls = [one.url, other.url]
            place = Path(directory)
            subject = Subject(policies(urls, 0), place, "/read?id=probe", argv=WATCHED)
            await asyncio.to_thread(subject.__enter__)  # its upstreams run on this loop
            try:
                traffic = Traffic(f"127.0.0.1:{subject.port}", upstream, seed)
                running = Soak(subject, traffic, [one, other])
                verdict = await running.run(seconds)
            finally:
                subject.__exit__(None, None, None)
            verdict.faults.extend(line for line in subject.log.read_text().splitlines() if '"event":"bug"' in line)
            facts = {
                "length": f"{seconds / 60:.1f} minutes",
                "machine": machine.hardware(),
                "interpreter": machine.interpreter(),
                "reloads": f"{running.reloads}, every other one of a broken file",
            }
            report(markdown(facts, running.samples, verdict, traffic.tally))
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Run mixed traffic for a long time.")
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes of traffic (30)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the report")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    gc.freeze()
    verdict = asyncio.run(soak(options.minutes * 60, options.seed, options.output.write_text))
    print(options.output.read_text())
    if verdict.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
