"""Tests of policies over gRPC answers: the status is the verdict, also one that comes late."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.core import events
from sidecar.core.body import Body
from sidecar.core.conditions import Conditions
from sidecar.core.outcome import CONNECT_FAILURE, PROTOCOL, RESET, TIMEOUT, Outcome, failed, grpc_verdict
from sidecar.core.stage import outcome_to_settle
from sidecar.engine.pipeline import Pipeline
from sidecar.grpc.status import status_from_http
from sidecar.stages.circuit_breaker.spec import Spec as BreakerSpec
from sidecar.stages.concurrency.spec import Spec as ConcurrencySpec
from sidecar.stages.concurrency.stage import Bulkhead
from sidecar.stages.fallback import stage as fallback
from sidecar.stages.fallback.spec import Spec as FallbackSpec
from sidecar.stages.fault import stage as fault
from sidecar.stages.fault.spec import Spec as FaultSpec
from sidecar.stages.hedge.stage import is_good
from sidecar.stages.retry.spec import Spec as RetrySpec
from tests.support.clock import make_env
from tests.support.grpc import call, streaming, trailers, trailers_only, whole
from tests.support.service import ScriptedService, context, response
from tests.unit.stages.circuit_breaker.test_stage import Bench as Breaker
from tests.unit.upstream.balancing.test_ejection import Bench as Ejection

FAULTS = (2, 4, 13, 14, 15)
OTHERS = (1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16)


# ----- conditions


@pytest.mark.parametrize(
    ("words", "hits", "misses"),
    [
        (["5xx"], [trailers_only(code) for code in FAULTS], [trailers_only(code) for code in (0, *OTHERS)]),
        (["4xx", 503, 502, 504], [], [trailers_only(code) for code in range(17)]),
        (["not_found"], [trailers_only(5)], [trailers_only(14), response(404)]),
        (["unavailable"], [whole(14), failed(RESET), failed(CONNECT_FAILURE)], [failed(TIMEOUT), response(503)]),
        (["deadline_exceeded"], [whole(4), failed(TIMEOUT)], [failed(RESET), response(504)]),
        (["internal"], [whole(13), failed(PROTOCOL)], [failed(RESET), response(500)]),
        (["resource_exhausted"], [whole(8)], [response(429)]),
    ],
)
def test_names_of_statuses_are_conditions(words: list[str], hits: list[Outcome], misses: list[Outcome]) -> None:
    conditions = Conditions(words)
    assert all(conditions.match(outcome) for outcome in hits)
    assert not any(conditions.match(outcome) for outcome in misses)


def test_a_deadline_that_the_caller_made_too_short_is_no_failure() -> None:
    outcome = trailers_only(4)
    outcome.verdict = 4
    assert not Conditions(["deadline_exceeded", "5xx"]).match(outcome)


@pytest.mark.parametrize("word", ["UNAVAILABLE", "Unavailable"])
def test_a_name_in_capitals_is_an_error_with_its_remedy(word: str) -> None:
    with pytest.raises(ValidationError, match="write the gRPC status in lower case, unavailable"):
        RetrySpec.model_validate({"on": [word]})
    with pytest.raises(ValidationError, match="write the gRPC status in lower case, unavailable"):
        FallbackSpec.model_validate({"on": [word], "steps": ["stale"]})


def test_ok_is_no_condition() -> None:
    with pytest.raises(ValidationError, match="is not a condition"):
        BreakerSpec.model_validate({"failures": ["ok"]})


# ----- breaker


def late(code: int) -> Outcome:
    """Return an answer as it is settled once late trailers have come."""
    body = Body()
    outcome = streaming(body)
    body.feed(b"message")
    body.finish(trailers(code))
    return outcome_to_settle(outcome, None)


@pytest.mark.parametrize("make", [trailers_only, whole, late])
def test_a_breaker_opens_by_the_status(make: object) -> None:
    for code in FAULTS:
        bench = Breaker(consecutive_failures=2)
        for _ in range(2):
            bench.call(make(code))  # type: ignore[operator]
        assert bench.state == "open", code
    bench = Breaker(consecutive_failures=1)
    for code in (0, *OTHERS):
        bench.call(make(code))  # type: ignore[operator]
        assert bench.state == "closed", code


def test_a_breaker_may_count_what_it_names() -> None:
    bench = Breaker(consecutive_failures=1, failures=["resource_exhausted"])
    bench.call(trailers_only(14))
    assert bench.state == "closed"
    bench.call(trailers_only(8))
    assert bench.state == "open"


def test_an_open_breaker_obeys_the_servers_pushback() -> None:
    bench = Breaker(consecutive_failures=1, open_for="5s")
    bench.call(whole(14, grpc_retry_pushback_ms="2500"))
    assert bench.breaker.opened_for == 2.5
    bench = Breaker(consecutive_failures=1, open_for="5s")
    bench.call(whole(14, grpc_retry_pushback_ms="-1"))
    assert bench.breaker.opened_for == 5


# ----- ejection


def test_an_endpoint_is_ejected_by_the_status() -> None:
    bench = Ejection()
    for code in (*OTHERS, 0):
        bench.answer(0, trailers_only(code), 3)
    assert bench[0].is_up
    bench.answer(0, late(14), 3)
    assert not bench[0].is_up
    assert bench.env.emitted(events.ENDPOINT_EJECTED)[0]["reason"] == "unavailable"


def from_http(status: int, **fields: str) -> Outcome:
    """Return an HTTP answer to a call, such as one of a proxy."""
    outcome = response(status, headers={name.replace("_", "-"): value for name, value in fields.items()})
    outcome.verdict = grpc_verdict(status_from_http(status))
    return outcome


def test_pressure_is_neither_fault_nor_success() -> None:
    bench = Ejection()
    bench.answer(0, trailers_only(14), 2)
    bench.answer(0, trailers_only(8), 1)
    assert bench[0].failures == 2
    bench.answer(0, whole(14, grpc_retry_pushback_ms="100"), 5)
    bench.answer(0, from_http(429), 5)
    bench.answer(0, from_http(503, retry_after="1"), 5)
    assert bench[0].failures == 2
    bench.answer(0, whole(14, grpc_retry_pushback_ms="-1"), 1)
    assert not bench[0].is_up


# ----- adaptive limit


def drops(outcome: Outcome, broken: bool = False) -> int:
    env = make_env()
    bulkhead = Bulkhead(ConcurrencySpec.model_validate({"adaptive": {"min": 1, "max": 100}}), env, {"route": "order"})
    bulkhead.learn(call(), outcome, env.now(), 0.1)
    if outcome.stream is not None and outcome.stream.state == 0:
        outcome.stream.finish(trailers(14))
    assert bulkhead.gradient is not None
    return bulkhead.gradient._drops


def test_the_adaptive_limit_counts_statuses_of_overload() -> None:
    assert [code for code in range(17) if drops(trailers_only(code))] == [4, 8, 14]
    assert drops(streaming(Body())) == 1, "a late status"


# ----- the others


def test_a_hedge_wins_unless_its_status_is_bad() -> None:
    assert [code for code in range(17) if not is_good(trailers_only(code))] == sorted((*FAULTS, 8))
    assert is_good(streaming(Body()))


async def test_a_fallback_replaces_a_bad_status() -> None:
    spec = FallbackSpec.model_validate({"steps": [{"response": {"status": 200, "body": "later"}}]})
    for code, replaced in ((14, True), (5, False)):
        service = Pipeline([fallback.build(spec, context())], ScriptedService(trailers_only(code)))
        assert ((await service(call())).body == b"later") is replaced


async def test_an_injected_status_counts_as_clients_take_it() -> None:
    spec = FaultSpec.model_validate({"abort": {"status": 503, "share": "100%"}})
    x = call()
    outcome = await Pipeline([fault.build(spec, context())], ScriptedService(200))(x)
    assert (outcome.status, outcome.verdict) == (503, grpc_verdict(14))
    assert x.attempts[0].verdict == 614
