"""Validation of the replay: its prediction for changes of policy against the outcome with the true upstreams.

The upstreams are made, so their behaviour is known and the outcome of each change can be computed.  The log comes from
one run under the old policies, the prediction and the outcome of both from runs with other seeds.  Keys of
the upstream stand behind a bar.
"""

from __future__ import annotations

import pytest

from sidecar.replay.run import mean, replay
from sidecar.replay.world import run_world
from tests.unit.replay.truth import A, Truth, policies, recorded, traffic

COUNT, RATE = 3200, 40.0
OUTAGE = ("", 20.0, 35.0)
CASES = {
    "retries added": (Truth(errors=0.05), "timeout: {request: 3s}", "timeout: {request: 3s}, retry: {max_attempts: 3}"),
    "retries removed": (
        Truth(errors=0.08), "timeout: {request: 3s}, retry: {max_attempts: 2}", "timeout: {request: 3s}",
    ),
    "timeout shortened too far": (
        Truth(slow=0.1), "timeout: {request: 3s}", "timeout: {request: 300ms}",
    ),
    "attempts cut off and retried": (
        Truth(hangs=0.03), "timeout: {request: 2s}", "timeout: {request: 2s, attempt: 500ms}, retry: {max_attempts: 2}",
    ),
    "hedge added": (
        Truth(slow=0.04), "timeout: {request: 3s}", "timeout: {request: 3s}, hedge: {after: 150ms}",
    ),
    "breaker added": (
        Truth(down=[OUTAGE]), "timeout: {request: 3s}",
        "timeout: {request: 3s}, circuit_breaker: {open_for: 2s}",
    ),
    "breaker for each endpoint while one fails": (
        Truth(down=[(A, 15.0, 45.0)]), "timeout: {request: 3s}",
        "timeout: {request: 3s} | circuit_breaker: {per: endpoint, open_for: 5s}",
    ),
    "ejection of an endpoint that fails": (
        Truth(down=[(A, 15.0, 45.0)]), "timeout: {request: 3s}", "timeout: {request: 3s} | ejection: {}",
    ),
    "retry across endpoints while one refuses": (
        Truth(refusing=[(A, 15.0, 35.0)]), "timeout: {request: 3s}, retry: off",
        "timeout: {request: 3s}, retry: {max_attempts: 2}",
    ),
    "cache added": (
        Truth(errors=0.1), "timeout: {request: 3s}", "timeout: {request: 3s}, cache: {ttl: 5s}",
    ),
    "rate limit too low": (
        Truth(), "timeout: {request: 3s}", "timeout: {request: 3s}, rate_limit: [{name: all, rate: 20/s, burst: 20}]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_prediction_agrees_with_the_outcome(name: str) -> None:
    truth, before, after = CASES[name]
    old, new = policies(*before.split(" | ")), policies(*after.split(" | "))
    requests = traffic(COUNT, RATE)
    record = recorded(old, truth, requests)
    predicted = replay(old, new, record, [1])
    outcome = predicted._replace(old=[run_world(old, requests, truth, 21)], new=[run_world(new, requests, truth, 21)])
    assert predicted.better == outcome.better != "neither"
    for expected, found in ((outcome.old, predicted.old), (outcome.new, predicted.new)):
        assert mean(found).goodput == pytest.approx(mean(expected).goodput, abs=0.03)
        assert mean(found).p99 == pytest.approx(mean(expected).p99, rel=0.2)
        assert mean(found).load == pytest.approx(mean(expected).load, rel=0.05, abs=0.05)
