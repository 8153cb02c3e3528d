"""Tests of `when` in retry, fault and cache."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import CONNECT_FAILURE, Outcome
from sidecar.core.promise import Run
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.fault import stage as fault
from sidecar.stages.fault.spec import Spec as FaultSpec
from sidecar.stages.retry import stage as retry
from sidecar.stages.retry.spec import Spec as RetrySpec
from tests.support.clock import make_env
from tests.support.service import ScriptedService, context, exchange, response

JSON = {"content-type": "application/json"}


def retried(on: list[Any], *script: Any, x: Exchange | None = None) -> tuple[int, Outcome]:
    """Return the number of attempts, and the answer."""
    env = make_env()
    service = ScriptedService(*script, env=env)
    layer = retry.build(RetrySpec.model_validate({"on": on}), context(env))
    run = Run(Pipeline([layer], service)(x or exchange(arrived=env.now())), lambda _: None)
    assert run.value is not None
    return service.calls, run.value


def busy(_: Exchange) -> Outcome:
    return response(200, b'{"error": {"code": "busy"}}', JSON)


BUSY = {"when": "response.status == 200 && response.body.error.code == 'busy'"}


def test_an_answer_that_meets_a_condition_is_tried_again() -> None:
    calls, outcome = retried([503, BUSY], busy, lambda _: response(503), lambda _: response(200, b"ok"))
    assert (calls, outcome.body) == (3, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: response(200, b'{"error": {"code": "other"}}', JSON),
        lambda _: response(200, b'{"error": {"code": "busy"}}', {"content-type": "text/plain"}),
        lambda _: response(201, b'{"error": {"code": "busy"}}', JSON),
        lambda _: response(200, b"{", JSON),
        lambda _: response(200, b'{"a": "' + b"x" * 70_000 + b'", "error": {"code": "busy"}}', JSON),
        lambda _: CONNECT_FAILURE,
    ],
)
def test_one_that_does_not_is_passed_on(answer: Any) -> None:
    assert retried([BUSY], answer)[0] == 1


def test_conditions_on_the_head_alone_read_no_body() -> None:
    stream = Body()
    calls, outcome = retried(
        [{"when": "response.headers['x-retry'] == 'yes' && request.path == '/'"}],
        lambda _: response(200, headers={"x-retry": "yes"}),
        lambda _: response(200, headers=JSON, stream=stream),
    )
    assert (calls, outcome.stream) == (2, stream)


def test_a_body_that_was_read_is_passed_on_whole() -> None:
    stream = Body()
    stream.feed(b'{"error": nu')
    stream.feed(b"ll}")
    stream.finish()
    calls, outcome = retried([BUSY], lambda _: response(200, headers=JSON, stream=stream))
    assert (calls, outcome.body, outcome.stream) == (1, b'{"error": null}', None)


def test_the_request_body_is_not_known_there() -> None:
    with pytest.raises(ValidationError, match="gone by then"):
        RetrySpec.model_validate({"on": [{"when": "request.body.a == 1"}]})
    with pytest.raises(ValidationError, match="did you mean `response`"):
        RetrySpec.model_validate({"on": [{"when": "respnse.status == 1"}]})


def test_faults_strike_only_whom_they_are_for() -> None:
    env = make_env()
    spec = {"when": "request.headers['x-drill'] == 'yes'", "abort": {"status": 503, "share": "100%"}}
    service = ScriptedService(200, env=env)
    layer = fault.build(FaultSpec.model_validate(spec), context(env))
    for headers, status in (({}, 200), ({"x-drill": "no"}, 200), ({"x-drill": "yes"}, 503)):
        run = Run(Pipeline([layer], service)(exchange(headers=headers, arrived=env.now())), lambda _: None)
        assert run.value is not None
        assert run.value.status == status
