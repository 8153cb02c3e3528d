"""`sidecar run` for callgrind: `python -m bench.slowed FACTOR LAYOUT POLICIES`.

- Timers fire later by a factor. Callgrind slows a process down a lot, but not its clock: periodic work such as sweeps
  and watches would run that many times as often a request as in production.
- Objects lie elsewhere in memory for each number of a layout. CPython caches attributes of types in a table of fixed
  size, by the address of the name. Two entries that a request needs may share a slot and evict each other each time.
  Which ones do is chance, and differs after any change of the code.

Nothing else is changed. `time.monotonic` is the real clock, so deadlines are unchanged and only checked later.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Final, TypeVarTuple

import uvloop

Ts = TypeVarTuple("Ts")
TOLD: Final = "timers are slowed down"
"""Line that the process prints, so that its starter knows that timers are slowed down."""
STRIDE: Final = 331
"""Number of objects by which one layout differs from the next."""


def loop_factory(factor: float) -> Callable[[], uvloop.Loop]:
    """Return a factory of uvloop's loops whose delays are longer by a factor."""

    class Slowed(uvloop.Loop):
        def call_later(
            self, delay: float, callback: Callable[[*Ts], object], *args: *Ts,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:  # fmt: skip
            return super().call_later(delay * factor, callback, *args, context=context)

    def make() -> uvloop.Loop:
        print(TOLD, flush=True)
        return Slowed()

    return make


def displaced(layout: int) -> list[str]:
    """Use up versions of types; return strings that take up memory as long as they are kept.

    Both decide the slots in CPython's table of attributes.
    """
    for _ in range(layout * STRIDE):
        getattr(type("", (), {})(), "", None)
    return [f"{number:<{length}}" for number in range(layout * STRIDE) for length in (8, 24, 40)]


if __name__ == "__main__":
    kept = displaced(int(sys.argv[2]))
    uvloop.new_event_loop = loop_factory(float(sys.argv[1]))
    sys.argv = ["sidecar", "run", *sys.argv[3:]]
    runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
