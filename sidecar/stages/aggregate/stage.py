"""Stage `aggregate`: answers requests with one answer made of the answers of several parts.

The stage stands where the upstream does, so it answers every request.  Each part is a request of its own through the
pipeline of its route, with all policies of that route (`sidecar.engine.inner`).  `run.py` has the parts of one request
in flight, and `docs/design/aggregation.md` the reasons.
"""

from __future__ import annotations

from itertools import combinations

from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Stage, Wait
from sidecar.stages.aggregate.answer import Answer
from sidecar.stages.aggregate.plan import needs_of
from sidecar.stages.aggregate.run import Gathering
from sidecar.stages.aggregate.spec import Spec
from sidecar.stages.aggregate.targets import ACCEPT, DROPPED, InnerRoute, PartPlan
from sidecar.transform.headers import LineRemover


class AggregateStage:
    """Aggregation of one route."""

    __slots__ = ("_answer", "_env", "_max_size", "_remove", "_where", "plans")

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self._env = ctx.env
        self._where = ctx.where
        self._max_size = spec.max_size
        self._remove = LineRemover(DROPPED)
        constants = {"service": ctx.service, "route": ctx.route, "upstream": ctx.upstream}
        self._answer = Answer(spec, constants)
        by_name: dict[str, PartPlan] = {}
        for number, (name, part) in enumerate(spec.parts.items()):
            route: InnerRoute = ctx.resources("route", part.route or f"{ctx.route}:{name}")
            by_name[name] = PartPlan(number, name, part, route, constants, ctx.env.meter)
            by_name[name].is_merged = self._answer.is_merged
        for name, part in spec.parts.items():
            by_name[name].needs = tuple(needs_of(part))
            for need in by_name[name].needs:
                by_name[need].dependents.append(by_name[name])
        self.plans = list(by_name.values())
        """Compiled parts in the order of the file."""
        for one, other in combinations(self.plans, 2):
            one.note_repeats(other)

    def admit(self, x: Exchange) -> Outcome | Wait:
        """Start the parts; return the answer if it is there at once."""
        lines = self._remove.cut(x.raw if x.parsed is None else x.lines) + ACCEPT
        gathering = Gathering(x, self.plans, self._answer, self._env, self._where, lines, self._max_size)
        gathering.start()
        outcome = gathering.outcome
        return gathering.wait() if outcome is None else outcome


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return AggregateStage(spec, ctx)
