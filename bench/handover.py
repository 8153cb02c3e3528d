"""Hand-overs under load: `python -m bench.handover [--count 100] [--workers 1] [--clients 8]`.

Clients open a connection for each request.  Prints the numbers of refused connections and of failed requests over all
hand-overs, and exits with 1 unless both are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from chaos.parts.client import fetch
from chaos.parts.servers import Server, answering
from sidecar.process.children import tied_to_parent

PATIENCE = 60.0
"""Seconds after which a hand-over counts as failed."""


def policies(url: str, workers: int) -> dict[str, Any]:
    """Return policies with one route to an upstream."""
    return {
        "version": 1,
        "process": {"workers": workers},
        "listeners": {"inbound": {"address": "127.0.0.1:0"}},
        "admin": "off",
        "limits": {"drain_timeout": "2s"},
        "upstreams": {"app": {"endpoints": [url]}},
        "routes": [{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app"}],
    }


class Log:
    """Events that all processes have logged."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def read(self) -> None:
        """Read until the end."""
        async for line in self._stream:
            if line.startswith(b"{"):
                event = json.loads(line)
                self._events.put_nowait({**event, **event.get("attributes", {})})

    async def until(self, *names: str) -> dict[str, Any]:
        """Return the next event with one of these names."""
        async with asyncio.timeout(PATIENCE):
            while (event := await self._events.get())["event"] not in names:
                pass
            return event


async def load(address: str, results: Counter[str], stop: asyncio.Event) -> None:
    """Send requests one after the other, each on a new connection."""
    while not stop.is_set():
        try:
            answer = await fetch(address, "GET", "/")
        except ConnectionRefusedError:
            results["refused"] += 1
        except (OSError, EOFError, ValueError):
            results["failed"] += 1
        else:
            results["answered" if answer.status == 200 else "failed"] += 1


async def measure(count: int, workers: int, clients: int) -> int:
    """Do the hand-overs, print the result, and return the exit code."""
    results: Counter[str] = Counter()
    stop = asyncio.Event()
    async with Server(answering()) as server:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "policies.yaml"
            path.write_text(json.dumps(policies(server.url, workers)))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sidecar", "run", path, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, preexec_fn=tied_to_parent(),
            )  # fmt: skip
            assert process.stderr is not None
            log = Log(process.stderr)
            reading = asyncio.create_task(log.read())
            address = (await log.until("ready"))["listeners"]["inbound"]
            pid, done = process.pid, 0
            sending = [asyncio.create_task(load(address, results, stop)) for _ in range(clients)]
            try:
                for _ in range(count):
                    os.kill(pid, signal.SIGUSR2)
                    begun = await log.until("handover.begun")
                    if (await log.until("handover.done", "handover.failed"))["event"] == "handover.failed":
                        break
                    pid, done = begun["pid"], done + 1
            finally:
                stop.set()
                await asyncio.gather(*sending)
                os.kill(pid, signal.SIGTERM)
                await reading
    print(f"{done} of {count} hand-overs, {workers} workers, {clients} clients: {results['answered']} answered, "
          f"{results['failed']} failed, {results['refused']} connections refused")  # fmt: skip
    return int(done < count or results["failed"] + results["refused"] > 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.handover")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    sys.exit(asyncio.run(measure(options.count, options.workers, options.clients)))


if __name__ == "__main__":
    main()
