"""Metastability margin: the highest load at which a system still recovers after its trigger has ended.

The margin is found by bisection in virtual time: all rates of the scenario are multiplied by a factor, and its
`recovery` expectations are judged.  It tells an operator how far today's load is from one that does not recover.
"""

from __future__ import annotations

from chaos.cluster.simulate import simulate
from chaos.scenario.files import Loaded
from chaos.scenario.spec import Scenario
from chaos.verdict.judge import Verdict, judge
from chaos.verdict.recording import Recording

LOWEST, HIGHEST = 0.1, 4.0
"""Bounds of the factor."""


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """Return the scenario with all rates of its load multiplied."""
    load = {
        name: spec.model_copy(
            update={
                "rate": spec.rate * factor,
                "changes": [c.model_copy(update={"rate": c.rate * factor}) for c in spec.changes],
            }
        )
        for name, spec in scenario.load.items()
    }
    return scenario.model_copy(update={"load": load})


def can_recover(loaded: Loaded, arm: str, seed: int, factor: float) -> bool:
    """True if the system recovers with its load multiplied by `factor`."""
    scenario = scaled(loaded.scenario, factor)
    recording = simulate(loaded._replace(scenario=scenario), arm, seed)
    return not recording.trouble and all(verdict.passed for verdict in recoveries(recording, scenario))


def recoveries(recording: Recording, scenario: Scenario) -> list[Verdict]:
    """Return only the verdicts on recovery, in every arm by the expectations for sidecars."""
    wanted = [e for e in scenario.expect.contained if e.measure == "recovery"]
    expect = scenario.expect.model_copy(update={"contained": wanted, "cascade": wanted})
    return judge(recording, scenario.model_copy(update={"expect": expect}))


def margin(loaded: Loaded, arm: str, seed: int, steps: int = 7, highest: float = HIGHEST) -> float:
    """Return the highest factor up to `highest`, rounded; 0 if the system does not recover at a tenth of the load."""
    low, high = LOWEST, highest
    if not can_recover(loaded, arm, seed, low):
        return 0.0
    if can_recover(loaded, arm, seed, high):
        return high
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if can_recover(loaded, arm, seed, middle):
            low = middle
        else:
            high = middle
    return low
