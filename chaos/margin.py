"""The metastability margin: the highest load at which a system still comes back once the trigger is gone.

Searched by bisection on the virtual clock: all rates of a scenario are multiplied by a factor, and the question is
whether its `recovery` expectations are met.  The distance from today's load is what an operator wants to know.
"""

from __future__ import annotations

from chaos.cluster.simulate import simulate
from chaos.scenario.files import Loaded
from chaos.scenario.spec import Scenario
from chaos.verdict.judge import Verdict, judge
from chaos.verdict.recording import Recording

LOWEST, HIGHEST = 0.1, 4.0


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with all rates of its load multiplied."""
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


def comes_back(loaded: Loaded, arm: str, seed: int, factor: float) -> bool:
    """Does it, at that load?"""
    scenario = scaled(loaded.scenario, factor)
    recording = simulate(loaded._replace(scenario=scenario), arm, seed)
    return not recording.trouble and all(verdict.passed for verdict in recoveries(recording, scenario))


def recoveries(recording: Recording, scenario: Scenario) -> list[Verdict]:
    """The verdicts on recovery alone, by what is expected with sidecars, whatever the arm."""
    wanted = [e for e in scenario.expect.contained if e.measure == "recovery"]
    expect = scenario.expect.model_copy(update={"contained": wanted, "cascade": wanted})
    return judge(recording, scenario.model_copy(update={"expect": expect}))


def margin(loaded: Loaded, arm: str, seed: int, steps: int = 7) -> float:
    """The highest factor, to 3 %; 0 if it does not even come back at a tenth of the load."""
    low, high = LOWEST, HIGHEST
    if not comes_back(loaded, arm, seed, low):
        return 0.0
    if comes_back(loaded, arm, seed, high):
        return high
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if comes_back(loaded, arm, seed, middle):
            low = middle
        else:
            high = middle
    return low
