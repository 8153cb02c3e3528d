"""Tests of the judge: good recordings pass, and bad ones fail."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.verdict.judge import judge, passed, percentile
from chaos.verdict.recording import FaultRecord, Recording
from tests.unit.chaos.verdict.recordings import call, event, quiet, recording, sample, scenario, with_bad

GOODPUT = {"measure": "goodput", "of": "buy", "phase": "during", "at_least": "99%"}
AVAILABILITY = {"measure": "availability", "of": "buy", "phase": "during", "at_least": "99%"}
LATENCY = {"measure": "latency", "of": "buy", "phase": "during", "percentile": "99%", "at_most": "1.2x"}
ABSOLUTE = {"measure": "latency", "of": "buy", "phase": "during", "percentile": "50%", "at_most": "30ms"}
AMPLIFICATION = {"measure": "amplification", "of": "buy", "to": "pay", "phase": "during", "at_most": 1.2}
LOAD = {"measure": "upstream_load", "to": "pay", "phase": "during", "at_most": 1.2}
DUPLICATES = {"measure": "duplicates", "at_most": 0}
DETECTION = {"measure": "detection", "at_most": "1s"}
RECOVERY = {"measure": "recovery", "of": "buy", "at_most": "2s"}
IDLE = {"measure": "events", "event": "capture.ended", "reason": "idle", "at_least": 1}
EVENTS = {"measure": "events", "to": "open", "at_least": 1}
PEAK = {"measure": "peak", "what": "queue", "node": "pay", "at_most": 5}
GROWTH = {"measure": "growth", "at_most": "10MiB"}
BLAST = {"measure": "blast_radius", "only": ["buy"]}
ALL = {"measure": "goodput", "of": "all", "phase": "during", "at_least": "85%"}
REFUSED = {"measure": "refused", "of": "look", "phase": "during", "at_most": "1%"}

CALLS = [call("pay", -4 + n / 10) for n in range(140)]

GOOD: list[tuple[dict[str, Any], Recording]] = [
    (GOODPUT, recording()),
    (AVAILABILITY, recording(requests=with_bad("buy", 0, 4, status=404))),
    (LATENCY, recording(requests=with_bad("buy", 0, 4, seconds=0.023))),
    (ABSOLUTE, recording()),
    (AMPLIFICATION, recording(calls=CALLS)),
    (LOAD, recording(calls=CALLS)),
    (DUPLICATES, recording(calls=[call("pay", 1, write="a"), call("pay", 2, write="b")])),
    (DUPLICATES, recording(calls=[call("pay", 1, write="a", status=503), call("pay", 2, write="a")])),
    (DETECTION, recording(events=[event(0.5, "breaker.transition", after="open")])),
    (RECOVERY, recording(requests=with_bad("buy", 0, 5, status=503))),
    (EVENTS, recording(events=[event(0.5, "breaker.transition", after="open")])),
    (IDLE, recording(events=[event(0.5, "capture.ended", reason="idle")])),
    (PEAK, recording(samples=[sample(1, queue=5), sample(2, "pay.1", queue=3)])),
    (GROWTH, recording(samples=[sample(-1, memory=50 * 2**20), sample(9, memory=55 * 2**20)])),
    (BLAST, recording(requests=with_bad("buy", 0, 4, status=503))),
    (REFUSED, recording()),
    (ALL, recording(requests=with_bad("buy", 0, 1, status=503))),
]
BAD: list[tuple[dict[str, Any], Recording]] = [
    (GOODPUT, recording(requests=with_bad("buy", 0, 1, status=503))),
    (GOODPUT, recording(requests=with_bad("buy", 0, 1, seconds=1.1))),
    (GOODPUT, recording(requests=with_bad("buy", 0, 1, status=0, reason="timeout"))),
    (GOODPUT, recording(requests=[])),
    (AVAILABILITY, recording(requests=with_bad("buy", 0, 1, status=0))),
    (LATENCY, recording(requests=with_bad("buy", 0, 0.2, seconds=0.5))),
    (LATENCY, recording(requests=[r for r in quiet() if r.due >= 0])),
    (ABSOLUTE, recording(requests=with_bad("buy", 0, 3, seconds=0.05))),
    (AMPLIFICATION, recording(calls=CALLS + [call("pay", n / 10) for n in range(10)])),
    (LOAD, recording(calls=CALLS + [call("pay", n / 10) for n in range(20)])),
    (LOAD, recording()),
    (DUPLICATES, recording(calls=[call("pay", 1, write="a"), call("pay", 2, write="a")])),
    (DUPLICATES, recording(calls=[call("pay.0", 1, write="a"), call("pay.1", 2, write="a")])),
    (DUPLICATES, recording(calls=CALLS)),
    (DETECTION, recording(events=[event(1.5, "breaker.transition", after="open")])),
    (DETECTION, recording(events=[event(-1.0, "breaker.transition", after="open")])),
    (DETECTION, recording()),
    (RECOVERY, recording(requests=with_bad("buy", 0, 8, status=503))),
    (RECOVERY, recording(requests=with_bad("buy", 8, 9, status=503))),
    (RECOVERY, recording(requests=[r for r in quiet() if r.due < 4])),
    (EVENTS, recording(events=[event(0.5, "breaker.transition", after="closed")])),
    (IDLE, recording(events=[event(0.5, "capture.ended", reason="server_reset")])),
    (PEAK, recording(samples=[sample(1, queue=6)])),
    (PEAK, recording()),
    (GROWTH, recording(samples=[sample(-1, memory=50 * 2**20), sample(9, memory=75 * 2**20)])),
    (GROWTH, recording()),
    (BLAST, recording(requests=with_bad("look", 0, 4, status=503))),
    (ALL, recording(requests=with_bad("buy", 0, 1.5, status=503))),
    (REFUSED, recording(requests=with_bad("look", 0, 1, status=503, reason="overloaded"))),
]


@pytest.mark.parametrize(("expectation", "run"), GOOD, ids=lambda v: v["measure"] if isinstance(v, dict) else "")
def test_expectations_that_are_met_pass(expectation: dict[str, Any], run: Recording) -> None:
    verdicts = judge(run, scenario(expectation))
    assert passed(verdicts), verdicts


@pytest.mark.parametrize(("expectation", "run"), BAD, ids=lambda v: v["measure"] if isinstance(v, dict) else "")
def test_recordings_that_must_fail_do(expectation: dict[str, Any], run: Recording) -> None:
    verdicts = judge(run, scenario(expectation))
    assert not passed(verdicts)
    assert verdicts[1].measured
    assert verdicts[1].limit


def test_a_run_that_was_stopped_has_failed_whatever_it_recorded() -> None:
    verdicts = judge(recording(trouble="the guard stopped it"), scenario(GOODPUT))
    assert not passed(verdicts)
    assert verdicts[0].measured == "the guard stopped it"


def test_a_bug_that_a_sidecar_reports_fails_the_run() -> None:
    verdicts = judge(recording(events=[event(1, "bug", error="KeyError: 'x'")]), scenario(GOODPUT))
    assert not passed(verdicts)
    assert verdicts[0].measured == "shop-sidecar reported a bug: KeyError: 'x'"


def test_the_bare_arm_has_to_show_its_cascade() -> None:
    broken = {**GOODPUT, "at_least": None, "at_most": "50%"}
    wanted = scenario(GOODPUT, cascade=[broken])
    assert not passed(judge(recording("bare"), wanted)), "no cascade was seen"
    assert passed(judge(recording("bare", requests=with_bad("buy", 0, 4, status=503)), wanted))


def test_recovery_counts_from_the_end_of_the_last_fault() -> None:
    faults = [FaultRecord("a", 0.0, 2.0), FaultRecord("b", 1.0, 6.0)]
    run = recording(requests=with_bad("buy", 0, 7, status=503), faults=faults)
    assert judge(run, scenario(RECOVERY))[1].measured == "1.00 s"


@pytest.mark.parametrize(("since", "measured"), [(9.85, "0 ms"), (9.75, "never")])
def test_failures_in_the_last_interval_count_by_their_share(since: float, measured: str) -> None:
    """One failure of sixty requests is allowed, two are not."""
    run = recording(requests=with_bad("buy", since, 10, status=503))
    assert judge(run, scenario({**RECOVERY, "to": "98%"}))[1].measured == measured


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_recordings_survive_json() -> None:
    import json

    run = recording(calls=CALLS[:3], events=[event(1, "x")], samples=[sample(1)])
    assert Recording.of(json.loads(json.dumps(run.json()))) == run
