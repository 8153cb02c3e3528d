"""Policies for the tests of the control plane."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.engine.pipeline import Awaited, Call, InFlight
from sidecar.upstream.endpoint import EndpointSet
from tests.support.service import ScriptedService

HEAD = """\
version: 1
service: orders
listeners: {inbound: {address: "127.0.0.1:8080"}}
"""


def policies(*texts: str) -> PolicySpec:
    """Return the spec of one file: `HEAD` and these texts without their indent."""
    loaded = load([Source("p.yaml", "".join([HEAD, *map(dedent, texts)]).encode())], {})
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.spec is not None
    return loaded.spec


class ScriptedUpstream:
    """Upstream that plays a script."""

    def __init__(
        self, name: str, spec: Any, env: Env, obtain: Any, where: str = "", endpoint_gate: Any = None, **more: Any
    ) -> None:
        self.name = name
        self.where = where
        self.endpoint_gate = endpoint_gate
        self.endpoints: EndpointSet = obtain(("endpoints", name), spec, lambda: EndpointSet(name, spec, env))
        self.script = ScriptedService(200, env=env)
        self.starts = 0
        self.asked_to_make_way = 0

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        return Awaited(self.script).begin(x, call)

    def reclaim(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        self.asked_to_make_way += 1
        return False

    def start(self) -> None:
        self.starts += 1
