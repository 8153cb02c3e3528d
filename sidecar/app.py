"""Composition root: builds the process from all packages, and makes the `Env` that they are given.

uvloop runs the process if it is installed, because a proxy needs less CPU with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable

from sidecar import __version__
from sidecar.admin.view import AdminView, Readiness
from sidecar.config.files import Source, read
from sidecar.config.load import Loaded, load
from sidecar.config.spec import RouteSpec
from sidecar.control.reload import Control, PolicySource
from sidecar.control.state import StateStore
from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.downstream.descriptors import raise_limit
from sidecar.downstream.server import Server
from sidecar.engine.build import describe_build
from sidecar.process.handover import Inheritance
from sidecar.process.interpreter import freeze_startup, share_interpreter, yield_interpreter
from sidecar.process.lifecycle import Process
from sidecar.process.stall import StallWatch
from sidecar.telemetry.logs.lines import LineWriter
from sidecar.telemetry.logs.log import Emitter, LibraryLog
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.process import observe
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.pipeline import Telemetry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals, observed
from sidecar.upstream.resolver import NameResolver, system_resolver

WORKER = "SIDECAR_WORKER"
"""Environment variable of a process that a supervisor has started as a worker."""
STDOUT = 1
"""File descriptor of standard output."""
STDERR = 2
"""File descriptor of standard error."""


def run(path: str) -> None:
    """Serve the policies at `path` until SIGTERM; exit with 0 after a drain, with 1 if they cannot be served."""
    raise_limit()
    share_interpreter()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(supervise_or_serve(path))
    sys.exit(code)


async def supervise_or_serve(path: str, names: NameResolver | None = None) -> int:
    """Run the supervisor if the policies ask for several workers, else serve; return the exit code.

    `names` replaces the system's name look-ups.

    Files without the word `workers` are not loaded twice.
    """
    if os.environ.get(WORKER):
        return await serve(path, names)
    try:
        sources = read(path)
    except OSError:
        sources = []  # `serve` reports the error
    if any(b"workers" in source.text for source in sources):
        loaded = load(sources, os.environ)
        if loaded.spec is not None and (count := loaded.spec.process.number()) > 1:
            return await supervise(path, sources, loaded, count)
    return await serve(path, names)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the loop factory of uvloop; None if it is not installed, for that of asyncio."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(path: str, names: NameResolver | None = None) -> int:
    """Build the process, run it to its end, and return its exit code; `names` replaces the system's name look-ups."""
    loop = asyncio.get_running_loop()
    lines, secrets, registry = LineWriter(STDERR), Secrets(), Registry()
    link, inheritance, hop_key = None, Inheritance(), b""
    if worker := os.environ.pop(WORKER, ""):
        from sidecar.process.workers.link import WorkerLink

        link = WorkerLink(worker, time.monotonic)
        hop_key = bytes.fromhex((await link.connect())["hop_key"])
    else:
        inheritance = Inheritance.receive()
    emitter = Emitter(
        lines,
        now=time.monotonic,
        wall=time.time,
        call_later=loop.call_later,
        secrets=secrets,
        form="text" if os.isatty(STDERR) else "json",
        worker=0 if link is None else link.number + 1,
    )
    if names is None:
        names = system_resolver(time.monotonic, loop.create_task)
    env = Env.on(
        loop,
        now=time.monotonic,
        wall=time.time,
        rng=random.Random(),
        emit=emitter.emit,
        meter=registry,
        names=names,
        workers=link,
        instance=socket.gethostname(),
    )
    logging.getLogger().addHandler(LibraryLog(emitter.emit, loop.call_soon_threadsafe))
    refusals = Refusals(time.time, registry)
    recorder = Recorder(registry, refusals, env.now, env.wall)
    telemetry = Telemetry(
        env,
        registry,
        recorder,
        secrets,
        os.environ,
        __version__,
        loop.call_soon_threadsafe,
        pause=yield_interpreter,
        form="text" if os.isatty(STDOUT) else "json",
    )
    open_sockets = inheritance.open if link is None else link.open_sockets
    server = Server(env, recorder.record, telemetry, open_sockets=open_sockets, crowd=link, hop_key=hop_key)
    store = StateStore(registry)
    control = Control(
        env,
        store,
        PolicySource(path, pace=yield_interpreter) if link is None else link.policies(path, yield_interpreter),
        server,
        metrics=lambda spec: route_metrics(registry, spec),
        imported=freeze_startup,
        show=secrets.mask,
        agree=None if link is None else link.agree,
    )
    registry.total(metrics.LOG_DROPPED, lambda: lines.dropped)
    stalls = StallWatch(env)
    started = env.now()
    observe(registry, lambda: env.now() - started)
    view = AdminView(
        env=env,
        registry=registry,
        version=__version__,
        build=describe_build(),
        started=started,
        readiness=Readiness(),
        reload=lambda: control.reload("request"),
        states=store.objects,
        recent=emitter.recent,
        sections={
            "policies": control.describe_policies,
            "reloads": control.describe_reloads,
            "routes": control.describe_routes,
            "refusals": refusals.describe,
            "observed": lambda: observed(registry),
            "listeners": server.describe,
            "names": names.describe,
            "loop": lambda: {**stalls.describe(), "tasks": len(asyncio.all_tasks())},
        },
        secrets=secrets,
        limits=lambda: server.limits,
        path=path,
    )
    process: Process
    if link is None:
        process = Process(env, control, store, server, stalls, view, inheritance)
    else:
        from sidecar.process.workers.worker import WorkerProcess

        process = WorkerProcess(env, control, store, server, stalls, view, link)
    try:
        return await process.run()
    finally:
        await telemetry.close()
        names.close()
        lines.close()


async def supervise(path: str, sources: list[Source], loaded: Loaded, count: int) -> int:
    """Build the supervisor of `count` workers, run it to its end, and return its exit code."""
    from sidecar.process.workers.supervisor import Supervisor

    loop = asyncio.get_running_loop()
    lines, secrets, registry = LineWriter(STDERR), Secrets(), Registry()
    assert loaded.spec is not None
    secrets.mask(loaded.spec.facts)
    emitter = Emitter(
        lines,
        now=time.monotonic,
        wall=time.time,
        call_later=loop.call_later,
        secrets=secrets,
        form="text" if os.isatty(STDERR) else "json",
    )
    env = Env.on(loop, now=time.monotonic, wall=time.time, rng=random.Random(), emit=emitter.emit, meter=registry)
    logging.getLogger().addHandler(LibraryLog(emitter.emit, loop.call_soon_threadsafe))
    own, started = Registry(), env.now()
    own.total(metrics.LOG_DROPPED, lambda: lines.dropped)
    observe(own, lambda: env.now() - started)
    try:
        supervisor = Supervisor(path, sources, loaded, count, env, registry, own, Inheritance.receive())
    except OSError as error:
        reason = f"process.workers: {count} workers cannot be supervised: {error.strerror or error}"
        print(f"{reason}; allow more open files (ulimit -n), or lower it", file=sys.stderr)
        lines.close()
        return 1
    view = AdminView(
        env=env,
        registry=registry,
        version=__version__,
        build=describe_build(),
        started=started,
        readiness=Readiness(),
        reload=lambda: supervisor.reloading.reload("request"),
        states=dict,
        recent=emitter.recent,
        secrets=secrets,
        limits=supervisor.limits,
        path=path,
        commands=supervisor.commands,
        joined=supervisor.commands.parts,
        refresh=supervisor.refresh,
    )
    freeze_startup()
    try:
        return await supervisor.run(view)
    finally:
        lines.close()


def route_metrics(registry: Registry, spec: RouteSpec) -> RouteMetrics:
    """Return the duration histograms for the requests of a route."""
    labels = {"route": spec.name, "http.route": spec.match.template}
    return RouteMetrics(registry, labels | {"url.scheme": spec.scheme} if spec.scheme else labels)
