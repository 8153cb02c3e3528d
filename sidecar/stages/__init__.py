"""The policies: one module for each, and the one ordered table of them.

A stage module has `Spec` (what a policy file may say) and `build(spec, ctx)` (the gate or layer that it becomes).  The
order is outermost first, and fixed here rather than in policy files, as in Envoy and Linkerd.  Why this order:

* timeout is outermost: the deadline covers everything else, and every stage further in can see it.
* fallback is next, so that it stands in for whatever refuses or fails further in.
* the cache is outside of concurrency: a hit costs no permit, and stale can stand in for an overload.  It is inside of
  fallback, which may use what it still has.
* concurrency admits a request once, whatever number of attempts it makes.
* transform rewrites a request once, for all its attempts, and an answer before it is stored or sent; the cache knows a
  request by what the client asked for.
* hedge is outside of retry: each of two racing requests may retry, and both pay from the same budget.
* the breaker judges single attempts, so that retries see an open one and it sees each of their failures.
* fault is innermost: what it injects looks to all others as if the upstream had done it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Final, Literal, NamedTuple

from sidecar.core.env import BuildContext
from sidecar.core.spec import Block
from sidecar.core.stage import Stage
from sidecar.stages.cache import stage as cache
from sidecar.stages.circuit_breaker import stage as breaker
from sidecar.stages.concurrency import stage as concurrency
from sidecar.stages.fallback import stage as fallback
from sidecar.stages.fault import stage as fault
from sidecar.stages.hedge import stage as hedge
from sidecar.stages.retry import stage as retry
from sidecar.stages.timeout import stage as deadline
from sidecar.stages.transform import stage as transform

Scope = Literal["request", "attempt"]


class Entry(NamedTuple):
    """A policy: the name of its block, its module, and whether it surrounds the request or each attempt."""

    name: str
    module: ModuleType
    scope: Scope

    @property
    def spec(self) -> type[Block]:
        spec: type[Block] = self.module.Spec
        return spec

    @property
    def build(self) -> Callable[[Block, BuildContext], Stage]:
        build: Callable[[Block, BuildContext], Stage] = self.module.build
        return build


STAGES: Final = (
    Entry("timeout", deadline, "request"),
    Entry("fallback", fallback, "request"),
    Entry("cache", cache, "request"),
    Entry("concurrency", concurrency, "request"),
    Entry("transform", transform, "request"),
    Entry("hedge", hedge, "request"),
    Entry("retry", retry, "request"),
    Entry("circuit_breaker", breaker, "attempt"),
    Entry("fault", fault, "attempt"),
)
BY_NAME: Final = {entry.name: entry for entry in STAGES}
