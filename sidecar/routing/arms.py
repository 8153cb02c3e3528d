"""Router of a listener that has routes with candidates: the arm of a request takes the place of the matched route."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Generic

from sidecar.core.exchange import Exchange
from sidecar.rollout.arms import Arms
from sidecar.routing.preflight import PreflightRouter
from sidecar.routing.router import Router
from sidecar.routing.rule import R, Rule


class Candidates(Generic[R]):
    """Targets of one rollout: the matched one, then its candidates."""

    __slots__ = ("arms", "targets")

    def __init__(self, arms: Arms, targets: tuple[R, ...]) -> None:
        self.arms = arms
        self.targets = targets

    def pick(self, x: Exchange) -> R:
        """Return the arm of a request."""
        return self.targets[self.arms.choose(x)]


class ArmRouter(PreflightRouter[R]):
    """Rules of one listener, some of whose targets have candidates."""

    __slots__ = ("_candidates",)

    def __init__(self, rules: Iterable[Rule[R]], answering: Collection[R], candidates: dict[R, Candidates[R]]) -> None:
        """`candidates` has the targets with candidates; `answering` are those that answer preflights."""
        super().__init__(rules, answering)
        self._candidates = candidates

    def match(self, x: Exchange) -> R | None:
        """Return the target of a request: the arm, if the matched one has candidates."""
        found = super().match(x) if x.method == b"OPTIONS" else Router.match(self, x)  # no preflight
        if found is None:
            return None
        candidates = self._candidates.get(found)
        if candidates is None:
            return found
        arms = candidates.arms
        if arms.passing:  # inlined `Arms.choose`
            arms.passing -= 1
            return candidates.targets[0]
        return candidates.targets[arms.choose(x)]
