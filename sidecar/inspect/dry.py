"""Policies compiled without a process around them: real chains of real stages, on a clock that stands still, before
upstreams that are not connected.  What `sidecar routes` and `sidecar explain` look at: it works on any machine, also on
one that has none of the certificates and endpoints that the policies name."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, NoReturn

from sidecar.config.spec import PolicySpec, UpstreamSpec
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import NO_ENDPOINT, Outcome, failed
from sidecar.telemetry.metrics.registry import Registry
from sidecar.upstream.endpoint import EndpointSet


class Unconnected:
    """An upstream that refuses everything."""

    def __init__(self, name: str, spec: UpstreamSpec, env: Env, *_: Any) -> None:
        self.name = name
        self.endpoints = EndpointSet(name, spec, env)

    async def service(self, _: Exchange) -> Outcome:
        return failed(NO_ENDPOINT)

    def start(self) -> None:
        """There is nothing to start."""


def _never(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("these policies are not in force: nothing runs")


def still() -> Env:
    """An env in which no time passes and nothing can be started."""
    return Env(
        now=lambda: 0.0,
        wall=lambda: 0.0,
        sleep=_never,
        call_later=_never,
        spawn=_never,
        future=_never,
        rng=random.Random(0),
        emit=lambda *_, **__: None,
        meter=Registry(),
    )


def compile_dry(spec: PolicySpec) -> Snapshot:
    """The pipelines of some policies.  Raises `CompileError`."""
    alone = {name: cache.model_copy(update={"redis": None}) for name, cache in spec.caches.items()}
    return compile_policies(replace(spec, caches=alone), still(), StateStore().lease(), make=Unconnected)
