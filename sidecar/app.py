"""The composition root: the one module that knows every package.  It makes the world that all others are handed.

uvloop runs the process where it is installed: it takes 7 to 15 % of the CPU of a proxy away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Callable

from sidecar import __version__
from sidecar.config.spec import RouteSpec
from sidecar.control.reload import Control, Origin
from sidecar.control.state import StateStore
from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.pace import give_way
from sidecar.downstream.descriptors import raise_limit
from sidecar.downstream.server import Server
from sidecar.process.lifecycle import Process
from sidecar.process.stall import freeze_startup, share_interpreter
from sidecar.telemetry.logs.lines import LineWriter
from sidecar.telemetry.logs.log import Emitter, LibraryLog
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.process import observe
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.pipeline import Telemetry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals

STDERR = 2


def run(path: str) -> None:
    """Serve the policies at `path` until SIGTERM; exits with 0 after a drain, 1 if they cannot be served."""
    raise_limit()
    share_interpreter()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(serve(path))
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(path: str) -> int:
    """One life of the process; returns its exit code."""
    loop = asyncio.get_running_loop()
    lines, secrets, registry = LineWriter(STDERR), Secrets(), Registry()
    emitter = Emitter(
        lines,
        now=time.monotonic,
        wall=time.time,
        call_later=loop.call_later,
        secrets=secrets,
        form="text" if os.isatty(STDERR) else "json",
    )
    env = Env(
        now=time.monotonic,
        wall=time.time,
        sleep=asyncio.sleep,
        call_later=loop.call_later,
        spawn=loop.create_task,
        future=loop.create_future,
        rng=random.Random(),
        emit=emitter.emit,
        meter=registry,
    )
    logging.getLogger().addHandler(LibraryLog(emitter.emit, loop.call_soon_threadsafe))
    refusals = Refusals(time.time)
    recorder = Recorder(registry, refusals, env.now, env.wall)
    telemetry = Telemetry(env, registry, recorder, secrets, os.environ, __version__, loop.call_soon_threadsafe)
    server = Server(env, recorder.record, telemetry)
    store = StateStore(registry)
    control = Control(
        env, store, Origin(path, pace=give_way), server, metrics=lambda spec: route_metrics(registry, spec)
    )
    registry.total(metrics.LOG_DROPPED, lambda: lines.dropped)
    started = time.monotonic()
    observe(registry, lambda: time.monotonic() - started)
    freeze_startup()
    process = Process(env, control, store, server, registry, emitter, refusals, secrets, __version__)
    try:
        return await process.live()
    finally:
        await telemetry.close()
        lines.close()


def route_metrics(registry: Registry, spec: RouteSpec) -> RouteMetrics:
    """Where the durations of a route's requests go."""
    match = spec.match
    template = match.path or match.path_prefix or match.path_regex or ""
    labels = {"route": spec.name, "http.route": template}
    return RouteMetrics(registry, labels | {"url.scheme": spec.scheme} if spec.scheme else labels)
