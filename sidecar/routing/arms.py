"""Router of a listener that has routes with candidates: the arm of a request takes the place of the matched route."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from sidecar.core.exchange import Exchange
from sidecar.routing.preflight import PreflightRouter
from sidecar.routing.rule import R, Rule

Pick = Callable[[Exchange], R]
"""Function that returns the arm of a request: the matched target, or a candidate."""


class ArmRouter(PreflightRouter[R]):
    """Rules of one listener, some of whose targets have candidates."""

    __slots__ = ("_picks",)

    def __init__(self, rules: Iterable[Rule[R]], answering: Collection[R], picks: Mapping[R, Pick[R]]) -> None:
        """`picks` has the targets with candidates; `answering` are those that answer preflights."""
        super().__init__(rules, answering)
        self._picks = picks

    def match(self, x: Exchange) -> R | None:
        """Return the target of a request: the arm, if the matched one has candidates."""
        found = super().match(x)
        pick = None if found is None else self._picks.get(found)
        return found if pick is None else pick(x)
