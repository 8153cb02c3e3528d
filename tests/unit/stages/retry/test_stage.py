"""Tests of retry: causes, waits, numbers of attempts, and reasons against a retry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from tenacity.stop import stop_after_attempt

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.exchange import NEVER, Attempt, Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import (
    BREAKER_OPEN,
    CLIENT_CLOSED,
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    NO_ENDPOINT,
    OVERLOADED,
    RESET,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Outcome,
)
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.retry import stage as retry
from sidecar.stages.retry.spec import Spec
from sidecar.upstream.budget import LEAST_REQUESTS, WORTH_WINDOW
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import ScriptedBudget, ScriptedService, after, context, exchange, response


class Bench:
    """Retry stage over a script."""

    def __init__(self, *script: Any, tokens: float = 100, env: FakeEnv | None = None, **keys: Any) -> None:
        self.env = env or make_env()
        self.budget = ScriptedBudget(tokens)
        self.service = ScriptedService(*script, env=self.env)
        spec = Spec.model_validate(keys)
        ctx = context(self.env, resources={("retry_budget", "app"): self.budget})
        self.stage = retry.RetryStage(spec, ctx)
        self.call = Pipeline([self.stage], self.service)

    async def run(self, method: str = "GET", **facts: Any) -> tuple[Outcome, Exchange]:
        x = exchange(method, **facts)
        return await self.call(x), x

    def count(self, name: str, **labels: str) -> float:
        return self.env.meter.value(name, route="order", **labels)


async def test_a_success_is_passed_on_untouched_and_deposits_once() -> None:
    bench = Bench(200)
    outcome, x = await bench.run()
    assert (outcome.status, bench.service.exchanges, x.retry_stopped) == (200, [x], "")
    assert (bench.budget.deposits, bench.budget.withdrawals, bench.env.sleeps) == (1, 0, [])


@pytest.mark.parametrize("item", [CONNECT_FAILURE, CONNECT_TIMEOUT, RESET, STALE_CONNECTION, TIMEOUT, 502, 503, 504])
async def test_what_is_retried_by_default(item: Failure | int) -> None:
    bench = Bench(item, 200)
    outcome, x = await bench.run()
    assert outcome.status == 200
    reason = item.code if isinstance(item, Failure) else str(item)
    first, second = bench.service.exchanges
    assert (first, first.attempt, first.why) == (x, 1, "first")
    assert (second.attempt, second.why) == (2, f"retry:{reason}")
    assert bench.count(metrics.RETRIES, reason=reason) == 1
    assert (bench.budget.deposits, bench.budget.withdrawals) == (1, 1)


@pytest.mark.parametrize("item", [500, 404, 429, BREAKER_OPEN, NO_ENDPOINT, OVERLOADED, CLIENT_CLOSED])
async def test_what_is_not_retried(item: Failure | int) -> None:
    bench = Bench(item, 200)
    outcome, x = await bench.run()
    assert outcome.status != 200
    assert (bench.service.calls, x.retry_stopped) == (1, "")


async def test_attempts_count_in_all() -> None:
    bench = Bench(503, max_attempts=3)
    outcome, x = await bench.run()
    assert (outcome.status, bench.service.calls, x.retry_stopped) == (503, 3, "attempts")
    assert bench.count(metrics.RETRIES_DENIED, reason="attempts") == 1
    assert (bench.budget.deposits, bench.budget.withdrawals) == (1, 2)


async def test_the_last_answer_is_what_the_client_gets() -> None:
    bench = Bench(503, BREAKER_OPEN)
    outcome, _ = await bench.run()
    assert (outcome.failure, bench.service.calls) == (BREAKER_OPEN, 2)


# ----- methods


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_idempotent_methods(method: str) -> None:
    bench = Bench(503, 200)
    outcome, _ = await bench.run(method)
    assert outcome.status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
async def test_others_are_not_sent_twice(method: str) -> None:
    bench = Bench(RESET, 200)
    _, x = await bench.run(method)
    assert (bench.service.calls, x.retry_stopped) == (1, "method")


@pytest.mark.parametrize("failure", [CONNECT_FAILURE, CONNECT_TIMEOUT, STALE_CONNECTION])
async def test_what_never_left_is_safe_for_every_method(failure: Failure) -> None:
    outcome, _ = await Bench(failure, 200).run("POST")
    assert outcome.status == 200


async def test_post_and_patch_pass_with_an_idempotency_key_and_others_do_not() -> None:
    headers = [(b"idempotency-key", b'"8e03978e"')]
    for method, calls in (("POST", 2), ("PATCH", 2), ("LOCK", 1)):
        bench = Bench(503, 200)
        await bench.run(method, headers=headers)
        assert bench.service.calls == calls
    bench = Bench(503, 200)
    await bench.run("POST", headers=[(b"idempotency-key", b"")])
    assert bench.service.calls == 1


async def test_a_method_may_be_named_and_left_out() -> None:
    assert (await Bench(503, 200, methods=["POST"]).run("POST"))[0].status == 200
    assert (await Bench(503, 200, methods=["POST"]).run("GET"))[1].retry_stopped == "method"


async def test_a_request_that_is_someones_retry_is_not_multiplied_and_deposits_nothing() -> None:
    bench = Bench(503, 200)
    outcome, x = await bench.run(marked_attempt=2)
    assert (outcome.status, bench.service.calls, x.retry_stopped) == (503, 1, "marked")
    assert bench.budget.deposits == 0


async def test_a_hedge_is_not_retried() -> None:
    bench = Bench(503, 200)
    _, x = await bench.run(is_hedge=True, is_counted=True)
    assert (bench.service.calls, x.retry_stopped, bench.budget.deposits) == (1, "", 0)


# ----- waiting


async def waits(*script: Any, **backoff: Any) -> list[float]:
    bench = Bench(*script, max_attempts=6, backoff=backoff)
    await bench.run()
    return bench.env.sleeps


async def test_backoff_doubles_up_to_its_maximum() -> None:
    assert await waits(503, jitter="none") == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.25])
    assert await waits(503, jitter="none", base="1s", max="3s") == pytest.approx([1, 2, 3, 3, 3])


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5)])
async def test_jitter(jitter: str, least: float) -> None:
    parts = []
    for _ in range(40):
        found = await waits(503, jitter=jitter)
        parts += [wait / whole for wait, whole in zip(found, [0.025, 0.05, 0.1, 0.2, 0.25], strict=True)]
    bench = Bench(503, max_attempts=10, backoff={"jitter": jitter, "base": "1s", "max": "1s"})
    for seed in range(20):
        bench.env.rng.seed(seed)
        await bench.run()
    parts += bench.env.sleeps
    assert all(least <= part <= 1 for part in parts)
    assert min(parts) < least + 0.1
    assert max(parts) > 0.9


async def test_retry_after_is_waited_for_and_the_backoff_comes_on_top() -> None:
    bench = Bench(response(503, headers={"retry-after": "2"}), 200, backoff={"jitter": "none"})
    outcome, _ = await bench.run()
    assert (outcome.status, bench.env.sleeps) == (200, [2.025])


async def test_an_http_date_is_understood() -> None:
    headers = {"retry-after": "Sun, 06 Nov 1994 08:49:40 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}
    bench = Bench(response(503, headers=headers), 200, backoff={"jitter": "none"})
    await bench.run()
    assert bench.env.sleeps == [3.025]


async def test_a_longer_retry_after_is_passed_on_and_costs_nothing() -> None:
    bench = Bench(response(503, headers={"retry-after": "6"}), 200)
    outcome, x = await bench.run()
    assert (outcome.status, outcome.header(b"retry-after"), x.retry_stopped) == (503, b"6", "retry_after")
    assert bench.budget.withdrawals == 0
    bench = Bench(response(429, headers={"retry-after": "1"}), 200, on=[429], retry_after={"max": "0s"})
    assert (await bench.run())[1].retry_stopped == "retry_after"


async def test_it_never_sleeps_past_the_deadline() -> None:
    bench = Bench(503, 200, backoff={"jitter": "none", "base": "1s", "max": "1s"})
    outcome, x = await bench.run(deadline=bench.env.now() + 1)
    assert (outcome.status, x.retry_stopped, bench.env.sleeps) == (503, "deadline", [])
    assert bench.budget.withdrawals == 0


async def test_no_try_starts_that_cannot_finish() -> None:
    bench = Bench(after(0.2, 503), backoff={"jitter": "none"}, max_attempts=10)
    _, x = await bench.run(deadline=bench.env.now() + 1)
    # attempts at 0-0.2, 0.225-0.425, 0.475-0.675 and 0.775-0.975 s: the last one is just within 1 s
    assert (bench.service.calls, x.retry_stopped) == (4, "deadline")
    assert bench.env.now() < 1001


async def test_a_failure_does_not_say_how_long_an_answer_takes() -> None:
    bench = Bench(after(0.9, TIMEOUT), 200, backoff={"jitter": "none"})
    outcome, _ = await bench.run(deadline=bench.env.now() + 1)
    assert outcome.status == 200


# ----- the budget


async def test_a_spent_budget_gives_the_answer_in_hand() -> None:
    bench = Bench(response(503, b"in hand"), tokens=1)
    outcome, x = await bench.run()
    assert (outcome.body, bench.service.calls, x.retry_stopped) == (b"in hand", 2, "budget")
    assert bench.count(metrics.RETRIES_DENIED, reason="budget") == 1


async def test_the_budget_is_asked_last() -> None:
    bench = Bench(503)
    for facts in ({"marked_attempt": 2}, {"deadline": bench.env.now()}):
        await bench.run(**facts)
    await bench.run("POST")
    assert bench.budget.withdrawals == 0


async def test_a_deposit_is_made_once_however_many_layers_ask() -> None:
    bench = Bench(200)
    x = exchange(is_counted=True)
    await bench.call(x)
    assert bench.budget.deposits == 0


async def test_observe_counts_and_does_not_retry() -> None:
    bench = Bench(503, 200, mode="observe", tokens=0)
    outcome, _ = await bench.run()
    assert (outcome.status, bench.service.calls) == (503, 1)
    assert bench.count(metrics.WOULD_REFUSE, policy="retry") == 1
    await bench.run("POST")
    assert bench.count(metrics.WOULD_REFUSE, policy="retry") == 1


# ----- bodies


class Sent:
    """Sink of a request's body, in place of an upstream connection."""

    def __init__(self) -> None:
        self.data = b""
        self.is_whole = False

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.is_whole = True

    def fail(self, failure: Failure) -> None: ...


def uploads(bodies: list[Sent], *items: Any) -> list[Any]:
    """Return a script whose attempts send the request's body."""

    def send(item: Any) -> Any:
        def step(x: Exchange) -> Any:
            assert x.stream is not None
            bodies.append(Sent())
            x.stream.attach(bodies[-1])
            return item

        return step

    return [send(item) for item in items]


async def test_a_streamed_body_is_recorded_and_sent_again_from_the_start() -> None:
    bodies: list[Sent] = []
    bench = Bench(*uploads(bodies, 503, 200), backoff={"jitter": "none"})
    stream = Body()
    stream.feed(b"one ")
    outcome, _ = await bench.run("PUT", stream=stream)
    stream.feed(b"two")
    stream.finish()
    assert outcome.status == 200
    assert [body.data for body in bodies] == [b"one ", b"one two"]
    assert bodies[1].is_whole


async def test_a_body_that_is_too_long_is_streamed_and_not_sent_again() -> None:
    bodies: list[Sent] = []
    bench = Bench(*uploads(bodies, 503, 200), max_body="4B")
    stream = Body()
    stream.feed(b"12345")
    outcome, x = await bench.run("PUT", stream=stream)
    assert (outcome.status, bench.service.calls, x.retry_stopped) == (503, 1, "body")


async def test_a_body_of_any_length_that_nobody_took_is_still_whole() -> None:
    bench = Bench(CONNECT_FAILURE, 200, max_body="4B")
    stream = Body(length=10)
    stream.feed(b"1234567890")
    outcome, _ = await bench.run("POST", stream=stream)
    assert outcome.status == 200


async def test_the_body_of_a_discarded_answer_is_cancelled_and_of_one_in_hand_is_not() -> None:
    discarded, kept = Body(), Body()
    bench = Bench(response(503, stream=discarded), response(503, stream=kept), max_attempts=2)
    outcome, _ = await bench.run()
    assert "cancelled" in repr(discarded)
    assert outcome.stream is kept
    assert "open" in repr(kept)


# ----- forks and cancellation


async def test_another_try_avoids_the_endpoints_that_were_tried() -> None:
    def step(x: Exchange) -> int:
        attempt = Attempt(x.attempt, 0.0)
        attempt.endpoint = f"http://{len(x.attempts)}"
        x.attempts.append(attempt)
        return 503

    bench = Bench(step, max_attempts=3)
    _, x = await bench.run()
    assert [sorted(twin.avoid) for twin in bench.service.exchanges] == [[], ["http://0"], ["http://0", "http://1"]]
    assert [twin.attempt for twin in bench.service.exchanges] == [1, 2, 3]
    assert len(x.attempts) == 3


@virtual
async def test_cancelling_ends_the_wait_and_tries_no_more() -> None:
    env = virtual_env()
    bench = Bench(503, 200, env=env, backoff={"base": "10s", "max": "10s", "jitter": "none"})
    task = asyncio.create_task(bench.call(exchange()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.service.calls == 1
    assert bench.budget.withdrawals == 1


@virtual
async def test_cancelling_a_try_is_not_a_failure_to_retry() -> None:
    env = virtual_env()
    bench = Bench(503, after(60, 200), env=env)
    task = asyncio.create_task(bench.call(exchange()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bench.service.calls, bench.service.cancelled) == (2, 1)


async def test_a_bug_is_raised_and_not_retried() -> None:
    bench = Bench(ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        await bench.run()
    assert bench.service.calls == 1


async def test_success_does_not_touch_tenacity(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, state: Any) -> bool:
        raise AssertionError

    bench = Bench(200)
    monkeypatch.setattr(stop_after_attempt, "__call__", never)
    outcome, _ = await bench.run(deadline=NEVER)
    assert outcome.status == 200


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_attempts": 0}, "greater than or equal to 1"),
        ({"on": ["5x"]}, "is not a condition"),
        ({"methods": ["get"]}, "in capitals: GET"),
        ({"backoff": {"jitter": "some"}}, "full"),
        ({"max_body": 65536}, "without a unit"),
        ({"retry_after": "5s"}, "valid dictionary"),
    ],
)
def test_rubbish_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec.model_validate(keys)


async def test_what_retries_were_worth_is_counted() -> None:
    bench = Bench(503, 200, 503, 503, 503, 200)
    for _ in range(3):
        await bench.run()
    assert bench.count(metrics.REPEATED_REQUESTS, by="retry", result="rescued") == 1
    assert bench.count(metrics.REPEATED_REQUESTS, by="retry", result="lost") == 1
    worth = bench.stage.worth.describe()
    assert (worth["requests"], worth["rescued"], worth["attempts"], worth["is_useless"]) == (2, 1, 3, False)


async def test_a_request_that_is_not_retried_says_nothing_about_retries() -> None:
    bench = Bench(503, 200)
    await bench.run("POST")
    await bench.run()
    assert bench.stage.worth.describe()["requests"] == 0


@virtual
async def test_retries_stop_while_they_rescue_nothing_and_try_again_later() -> None:
    bench = Bench(*[503] * 200, env=virtual_env(), max_attempts=2, stop_when_useless=True)
    for _ in range(30):
        await bench.run()
    assert bench.budget.withdrawals == LEAST_REQUESTS
    _, x = await bench.run()
    assert x.retry_stopped == "useless"
    await asyncio.sleep(WORTH_WINDOW)
    _, x = await bench.run()
    assert x.retry_stopped == "attempts"


@virtual
async def test_retries_that_rescue_one_in_ten_go_on() -> None:
    bench = Bench(*([503, 503] * 9 + [503, 200]) * 6, env=virtual_env(), max_attempts=2, stop_when_useless=True)
    for _ in range(60):
        _, x = await bench.run()
        assert x.retry_stopped in ("", "attempts")


async def test_useless_retries_go_on_unless_the_policy_stops_them() -> None:
    bench = Bench(*[503] * 90, max_attempts=2)
    for _ in range(30):
        _, x = await bench.run()
    assert (bench.budget.withdrawals, x.retry_stopped) == (30, "attempts")
