"""Stages: one directory for each policy, and the table that puts them in order.

A directory has the name of its block in a policy file.  In it

- `spec.py` says what the file may hold (`Spec`), with examples (`EXAMPLES`); it imports nothing of the runtime;
- `stage.py` has the runtime classes, and `build(spec, ctx)`, which returns the stage (`sidecar.core.stage`);
- other modules are the stage's own.  Stages do not import each other.

The map is the table `STAGES`: outermost first, with the reason for each place.  The order is fixed in code as in Envoy
and Linkerd; `docs/design/stage-order.md` has the reasons.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from sidecar.core.env import BuildContext
from sidecar.core.spec import Block
from sidecar.core.stage import Stage


class StageKind:
    """Kind of stage: the name of its block, its spec, and its runtime module.

    Both modules are imported when they are first needed, so that a start imports only what is configured.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def spec(self) -> type[Block]:
        """Class of the block's spec."""
        spec: type[Block] = import_module(f"{__name__}.{self.name}.spec").Spec
        return spec

    @property
    def examples(self) -> tuple[Any, ...]:
        """Examples of the block as in a policy file, for the reference and the contract tests."""
        examples: tuple[Any, ...] = import_module(f"{__name__}.{self.name}.spec").EXAMPLES
        return examples

    def load(self) -> Any:
        """Return the runtime module, imported at the first call."""
        return import_module(f"{__name__}.{self.name}.stage")

    def load_rest(self) -> None:
        """Import the modules that the stage needs only once it serves (`LATER`).  Called in a worker thread."""
        for name in getattr(self.load(), "LATER", ()):
            import_module(name)

    def build(self, spec: Block, ctx: BuildContext) -> Stage | None:
        """Return the stage of a block; None if the whole block belongs directly inside the cache (`build_inside`).

        Raises `OSError` or `ValueError` if it cannot be built on this machine.
        """
        stage: Stage | None = self.load().build(spec, ctx)
        return stage

    def build_inside(self, spec: Block, ctx: BuildContext) -> Stage | None:
        """Return the part of a block whose place is directly inside the cache; None without one."""
        build = getattr(self.load(), "build_inside", None)
        stage: Stage | None = None if build is None else build(spec, ctx)
        return stage

    def __repr__(self) -> str:
        return f"<StageKind {self.name}>"


STAGES: Final = (
    StageKind("timeout"),  # outermost: the deadline covers all others, and each of them sees it
    StageKind("cors"),  # outside `cache`, which must not store its fields; no policy further in sees a preflight
    StageKind("authenticate"),  # nothing further in answers for a caller who is not authenticated
    StageKind("authorize"),  # knows the caller; nothing further in answers for one who may not call
    StageKind("rate_limit"),  # outside `fallback`, which must not answer for it, and `cache`, whose hits count too
    StageKind("quota"),  # inside `rate_limit`, whose refusals use up no quota
    StageKind("fallback"),  # replaces refusals and failures of the stages further in
    StageKind("cache"),  # inside `fallback`, which may use its stale entries; sees the request as the client sent it
    StageKind("concurrency"),  # inside `cache`: a hit costs no permit; a request has one for all its attempts
    StageKind("transform"),  # once for all attempts; a response before it is stored or sent
    StageKind("translate"),  # inside `cache` and `transform`, which see REST; retry and breaker see calls of gRPC
    StageKind(
        "mirror"
    ),  # inside `cache`, whose hits are not copied; outside of what repeats: one copy for all attempts
    StageKind("hedge"),  # outside `retry`: each of two racing requests may retry, and both pay from one budget
    StageKind("retry"),  # sees an open circuit as an outcome, and holds no probe while it waits
    StageKind("throttle"),  # inside `retry`, outside `circuit_breaker`: counts single attempts, and no open circuit
    StageKind("pacing"),  # inside `throttle`, whose refusals use up no turn; an open circuit is no answer
    StageKind("circuit_breaker"),  # judges single attempts, so it sees each failure
    StageKind("fault"),  # in front of the upstream: an injected fault looks like one of it
    StageKind("aggregate"),  # innermost: it stands where the upstream does, and answers every request
)
"""All policies, outermost first, with the reason for each place."""
BY_NAME: Final = {kind.name: kind for kind in STAGES}
"""Kinds of stages by the name of their block."""
