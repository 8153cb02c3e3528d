"""CPU that floods of HTTP/2 cost until they are cut off: `python -m bench.floods [--repeat 5]`.

Each flood of `chaos.parts.floods` goes to a listener in this process, between transports in memory (`bench.rig`).  Its
requests reach a route with a timeout, retries and a breaker, and an upstream that never answers.

What must hold: each flood ends after twice its number of steps, and costs at most `MOST_MS` of CPU.  Exit code 1 if one
of these does not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import uvloop

from bench import machine
from bench.rig import UPSTREAM, Rig, Wire
from chaos.parts.floods import ACK, FLOODS, PREFACE, SETTINGS, Flood, frame
from sidecar.downstream.connection import DownstreamConnection

MOST_MS: Final = 50.0
"""Milliseconds of CPU that a flood may cost."""
STRIDE: Final = 20
"""Steps that arrive in one read."""
POLICIES: Final = {
    "telemetry": {"access_log": "off"},
    "upstreams": {
        UPSTREAM: {
            "endpoints": ["http://127.0.0.1:9"],
            "circuit_breaker": {"consecutive_failures": 5},
            "connections": {"max": 100},
        }
    },
    "routes": [
        {
            "name": "all",
            "match": {"path_prefix": "/"},
            "upstream": UPSTREAM,
            "timeout": {"request": "10s"},
            "retry": {"max_attempts": 3},
        }
    ],
}
OPENING: Final = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)


class Client(Wire):
    """Client's transport: hands over to successors of its protocol, and tells when nothing is read any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_over = True

    def get_write_buffer_size(self) -> int:
        return 0


class FloodedRig(Rig):
    """Sidecar whose upstream takes everything and answers nothing."""

    async def _connect(self, factory: Callable[[], Any]) -> None:
        wire = Wire()
        wire.protocol = factory()
        wire.protocol.connection_made(wire)

    def connect(self) -> Client:
        client = Client()
        client.protocol = DownstreamConnection(self._server.listeners["inbound"])
        client.protocol.connection_made(cast("asyncio.Transport", client))
        return client


class Result(NamedTuple):
    """Cost of one flood."""

    name: str
    steps: int
    """Steps until it was cut off, in strides."""
    size: int
    """Bytes of these steps."""
    milliseconds: float
    """CPU until then."""
    most: int
    """Steps that are allowed."""

    @property
    def holds(self) -> bool:
        """True if the flood was cut off in time and at a bearable cost; time that passes allows more steps."""
        return self.steps <= 2 * self.most + STRIDE and self.milliseconds <= MOST_MS


async def run(flood: Flood) -> Result:
    """Send a flood until it is cut off."""
    rig = FloodedRig(POLICIES)
    async with rig:
        client = rig.connect()
        pieces = [
            b"".join([flood.frames(step + at) for at in range(STRIDE)])
            for step in range(0, 2 * flood.most + STRIDE, STRIDE)
        ]
        client.protocol.data_received(OPENING + flood.start)
        if flood.is_silent:
            client.protocol.pause_writing()
        await asyncio.sleep(0)
        steps = size = 0
        started = time.process_time()
        for piece in pieces:
            client.protocol.data_received(piece)
            await asyncio.sleep(0)
            steps += STRIDE
            size += len(piece)
            if client.is_over:
                break
        spent = time.process_time() - started
        client.protocol.connection_lost(None)
        return Result(flood.name, steps if client.is_over else sys.maxsize, size, spent * 1e3, flood.most)


def best(flood: Flood, repeat: int) -> Result:
    """Return the cheapest of several runs: every disturbance adds to one."""
    return min((uvloop.run(run(flood)) for _ in range(repeat)), key=lambda result: result.milliseconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine.hardware()}, {machine.interpreter()}")
    print(f"| flood | steps | KiB | CPU ms | at most {MOST_MS:g} ms |\n|---|---:|---:|---:|---|")
    is_good = True
    for flood in FLOODS:
        result = best(flood, options.repeat)
        is_good = is_good and result.holds
        verdict = "kept" if result.holds else "**missed**"
        print(f"| {flood.name} | {result.steps} | {result.size / 1024:.0f} | {result.milliseconds:.1f} | {verdict} |")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
