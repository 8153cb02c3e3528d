"""Compilation of policies without a running process, for `sidecar routes` and `sidecar explain`.

The pipelines consist of real stages, but their clock stands still and their upstreams are not connected.  So it works
on any machine, even without the certificates and endpoints that the policies name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from sidecar.config.spec import PolicySpec, UpstreamSpec
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import NO_ENDPOINT, Outcome, failed
from sidecar.engine.pipeline import Call
from sidecar.telemetry.metrics.registry import Registry
from sidecar.upstream.endpoint import EndpointSet


class Unconnected:
    """Upstream that refuses every request."""

    def __init__(self, name: str, spec: UpstreamSpec, env: Env, *_: Any, **__: Any) -> None:
        self.name = name
        self.endpoints = EndpointSet(name, spec, env)

    def begin(self, _: Exchange, __: Call) -> Outcome:
        """Refuse the request, as if there were no endpoint."""
        return failed(NO_ENDPOINT)

    def reclaim(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """Return False: nothing is in flight."""
        return False

    def start(self) -> None:
        """Do nothing."""


class StoppedLoop:
    """Event loop on which no time passes and nothing can be started."""

    def time(self) -> float:
        return 0.0

    def call_later(self, *_: Any) -> NoReturn:
        raise RuntimeError("policies that are compiled for inspection cannot start timers or tasks")

    create_task = create_future = call_later


def stopped_env() -> Env:
    """Return an env in which no time passes and nothing can be started."""
    loop = StoppedLoop()
    silent: Callable[..., None] = lambda *_, **__: None  # noqa: E731 - typed
    return Env.on(loop, wall=loop.time, sleep=loop.call_later, rng=random.Random(0), emit=silent, meter=Registry())


def compile_dry(spec: PolicySpec) -> Snapshot:
    """Return a snapshot that can be inspected but not served.  Raises `CompileError`."""
    alone = {name: cache.model_copy(update={"redis": None}) for name, cache in spec.caches.items()}
    stores = {name: store.model_copy(update={"redis": None}) for name, store in spec.stores.items()}
    identities = dict(spec.identities)
    if identities:
        from sidecar.identity.spec import without_files

        identities = {name: without_files(identity) for name, identity in identities.items()}
    upstreams = dict(spec.upstreams)
    for name, upstream in upstreams.items():
        if upstream.credentials is not None:
            from sidecar.identity.outgoing.spec import stand_in

            upstreams[name] = upstream.model_copy(update={"credentials": stand_in(upstream.credentials)})
    spec = replace(spec, caches=alone, stores=stores, identities=identities, upstreams=upstreams)
    return compile_policies(spec, stopped_env(), StateStore().lease(), make=Unconnected)
