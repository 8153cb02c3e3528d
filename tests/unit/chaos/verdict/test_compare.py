"""Tests of the comparison with Envoy: the better arm, and differences that do not count."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.verdict.compare import compare
from chaos.verdict.recording import Recording
from tests.unit.chaos.verdict.recordings import call, event, recording, scenario, with_bad

GOODPUT = {"measure": "goodput", "of": "buy", "phase": "during", "at_least": "99%"}
LATENCY = {"measure": "latency", "of": "buy", "phase": "during", "percentile": "99%", "at_most": "1.2x"}
AMPLIFICATION = {"measure": "amplification", "of": "buy", "to": "pay", "phase": "during", "at_most": 1.2}
BLAST = {"measure": "blast_radius", "only": ["buy"]}

FINE = recording()
ONE_LOST = recording(requests=with_bad("buy", 0, 0.05, status=503))
MANY_LOST = recording(requests=with_bad("buy", 0, 3, status=503))
SLOW = recording(requests=with_bad("buy", 0, 3, seconds=0.2))
ONCE = recording(calls=[call("pay", n / 10) for n in range(40)])
TWICE = recording(calls=[call("pay", n / 20) for n in range(80)])
OTHERS_LOST = recording(requests=with_bad("look", 0, 3, status=503))


@pytest.mark.parametrize(
    ("expectation", "ours", "theirs", "word"),
    [
        (GOODPUT, FINE, MANY_LOST, "better"),
        (GOODPUT, MANY_LOST, FINE, "worse"),
        (GOODPUT, FINE, FINE, "equal"),
        (LATENCY, FINE, SLOW, "better"),
        (LATENCY, SLOW, FINE, "worse"),
        (LATENCY, FINE, recording(requests=with_bad("buy", 0, 3, seconds=0.025)), "equal"),
        (AMPLIFICATION, ONCE, TWICE, "better"),
        (AMPLIFICATION, TWICE, ONCE, "worse"),
        (BLAST, FINE, OTHERS_LOST, "better"),
        (BLAST, OTHERS_LOST, FINE, "worse"),
    ],
)
def test_the_better_one_is_named(expectation: dict[str, Any], ours: Recording, theirs: Recording, word: str) -> None:
    (found,) = compare(scenario(expectation), ours, theirs)
    assert found.word == word
    assert found.ours
    assert found.theirs


def test_a_measure_that_one_arm_lacks_is_left_out() -> None:
    wanted = scenario({"measure": "detection", "at_most": "1s"}, AMPLIFICATION, GOODPUT)
    ours = recording(events=[event(0.5, "breaker.transition", after="open")], requests=[])
    assert compare(wanted, ours, ONE_LOST) == []
