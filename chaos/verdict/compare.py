"""Comparison of the sidecars with Envoy: each measure of a scenario in both arms, and which of the two is better.

1. Values that differ by no more than two runs of one arm do are equal.
2. Measures that are taken from the events of sidecars are left out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from chaos.scenario.spec import Scenario
from chaos.verdict.judge import BIN, BY_EVENTS, MEASURES, Unmeasurable, describe
from chaos.verdict.recording import Recording

NOISE: Final = {
    "availability": (0.015, 0.0), "goodput": (0.015, 0.0), "refused": (0.015, 0.0), "latency": (0.01, 0.05),
    "amplification": (0.01, 0.03), "upstream_load": (0.01, 0.05), "recovery": (BIN, 0.0), "peak": (2.0, 0.2),
    "growth": (2**20, 0.0),
}  # fmt: skip
"""Difference that chance alone may make: absolute, and as a share of the larger value."""


class Compared(NamedTuple):
    """Measure in both arms.

    - `word`: whether the sidecars are `better`, `equal` or `worse`.
    """

    what: str
    ours: str
    theirs: str
    word: str


def compare(scenario: Scenario, ours: Recording, theirs: Recording) -> list[Compared]:
    """Return every measure that both arms have, in the scenario's order."""
    found = []
    for expectation in scenario.expect.contained:
        if expectation.measure in BY_EVENTS:
            continue
        measure = MEASURES[expectation.measure]
        try:
            (mine, form), (other, other_form) = (measure(each, scenario, expectation) for each in (ours, theirs))
        except Unmeasurable:
            continue
        word = _judge_difference(expectation, mine, other)
        found.append(Compared(describe(expectation), form(mine), other_form(other), word))
    return found


def _judge_difference(expectation: Any, mine: float, other: float) -> str:
    """Return `better`, `equal` or `worse` for a measure of the sidecars beside that of Envoy."""
    if mine == other:
        return "equal"
    absolute, relative = NOISE.get(expectation.measure, (0.0, 0.0))
    if abs(mine - other) <= max(absolute, relative * max(mine, other)):
        return "equal"
    more_is_better = getattr(expectation, "at_most", None) is None and expectation.measure != "blast_radius"
    return "better" if (mine > other) == more_is_better else "worse"
