"""Tests of retries of gRPC calls: by the name of a status, early or late, and by what the server asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.outcome import CONNECT_FAILURE, RESET, STATUS_TO_COME, Outcome
from sidecar.grpc.framing import frame
from tests.support.grpc import call, streaming, trailers, trailers_only, whole
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import after, response
from tests.unit.downstream.front import Source
from tests.unit.stages.retry.test_stage import Bench

OK = whole(0, frame(b"done"))


async def run(bench: Bench, **facts: Any) -> tuple[Outcome, Any]:
    x = call(**facts)
    return await bench.call(x), x


@pytest.mark.parametrize(
    "first", [trailers_only(14), whole(14), whole(14, frame(b"half")), RESET, response(503), CONNECT_FAILURE]
)
async def test_a_status_that_is_named_is_retried(first: Any) -> None:
    if isinstance(first, Outcome):
        first.verdict = 614
    bench = Bench(first, OK, on=["unavailable"])
    outcome, x = await run(bench)
    assert (outcome, x.retry_stopped) == (OK, "")
    assert bench.service.calls == 2


async def test_the_reason_of_a_retry_is_the_name_of_the_status() -> None:
    bench = Bench(trailers_only(8), OK, on=["resource_exhausted"])
    await run(bench)
    assert bench.service.exchanges[1].why == "retry:resource_exhausted"
    assert bench.count(metrics.RETRIES, reason="resource_exhausted") == 1


@pytest.mark.parametrize("code", [3, 5, 12, 13])
async def test_a_status_that_is_not_named_is_passed_on(code: int) -> None:
    bench = Bench(trailers_only(code), OK, on=["unavailable"])
    outcome, x = await run(bench)
    assert outcome is not OK
    assert (bench.service.calls, x.retry_stopped) == (1, "")


async def test_by_default_no_status_is_retried() -> None:
    bench = Bench(trailers_only(14), OK)
    assert (await run(bench))[0].verdict == 614


@pytest.mark.parametrize(("item", "calls"), [(CONNECT_FAILURE, 2), (RESET, 1)])
async def test_by_default_only_what_was_never_sent_is_repeated(item: Any, calls: int) -> None:
    bench = Bench(item, OK)
    _, x = await run(bench)
    assert bench.service.calls == calls
    assert x.retry_stopped == ("" if calls == 2 else "method")


async def test_naming_one_status_does_not_open_the_way_for_other_failures() -> None:
    bench = Bench(RESET, OK, on=["reset", "resource_exhausted"])
    _, x = await run(bench)
    assert (bench.service.calls, x.retry_stopped) == (1, "method")


async def test_a_route_may_name_the_method_instead() -> None:
    bench = Bench(RESET, OK, on=["reset"], methods=["POST"])
    assert (await run(bench))[0] is OK


async def test_plain_requests_are_repeated_as_ever() -> None:
    bench = Bench(RESET, 200, on=["unavailable"])
    _, x = await bench.run("POST")
    assert x.retry_stopped == "method"
    bench = Bench(RESET, 200, on=["unavailable"])
    outcome, _ = await bench.run("GET")
    assert outcome.status == 200


@pytest.mark.parametrize("value", ["-1", "soon"])
async def test_a_server_may_ask_for_no_retry(value: str) -> None:
    bench = Bench(whole(14, grpc_retry_pushback_ms=value), OK, on=["unavailable"])
    outcome, x = await run(bench)
    assert (outcome.verdict, x.retry_stopped) == (614, "retry_after")


async def test_a_server_may_ask_for_a_later_retry() -> None:
    bench = Bench(trailers_only(14, grpc_retry_pushback_ms="1500"), OK, on=["unavailable"], backoff={"jitter": "none"})
    outcome, _ = await run(bench)
    assert outcome is OK
    assert bench.env.sleeps == [pytest.approx(1.525)]


async def test_a_server_that_asks_for_too_much_is_not_waited_for() -> None:
    bench = Bench(trailers_only(14, grpc_retry_pushback_ms="60000"), OK, on=["unavailable"])
    _, x = await run(bench)
    assert x.retry_stopped == "retry_after"


# ----- a status that comes late


@virtual
async def test_a_late_status_without_a_message_is_retried() -> None:
    """envoy#11049, #17629."""
    body = Body(Source())
    bench = Bench(streaming(body), OK, env=virtual_env(), on=["unavailable"])
    task = asyncio.ensure_future(run(bench))
    await asyncio.sleep(0.3)
    assert not task.done()
    body.finish(trailers(14))
    outcome, x = await task
    assert outcome is OK
    assert [each.why for each in bench.service.exchanges] == ["first", "retry:unavailable"]
    assert x.retry_stopped == ""


@virtual
async def test_trailers_of_the_answer_after_a_retry_are_kept() -> None:
    """traefik#4433."""
    later = Body(Source())
    bench = Bench(trailers_only(14), streaming(later), env=virtual_env(), on=["unavailable"])
    task = asyncio.ensure_future(run(bench))
    await asyncio.sleep(0.1)
    later.feed(frame(b"done"))
    outcome, _ = await task
    assert outcome.stream is later
    later.finish([*trailers(0), (b"x-sum", b"1")])
    assert (later.whole(), later.trailers[-1]) == (frame(b"done"), (b"x-sum", b"1"))


@virtual
async def test_a_late_break_without_a_message_is_retried() -> None:
    body = Body(Source())
    bench = Bench(streaming(body), OK, env=virtual_env(), on=["unavailable"])
    task = asyncio.ensure_future(run(bench))
    await settle()
    body.fail(RESET)
    assert (await task)[0] is OK


@virtual
async def test_the_first_message_ends_the_wait_and_is_not_lost() -> None:
    source = Source()
    body = Body(source)
    bench = Bench(streaming(body), OK, env=virtual_env(), on=["unavailable"])
    task = asyncio.ensure_future(run(bench))
    await settle()
    body.feed(frame(b"one"))
    outcome, _ = await task
    assert (outcome.stream, bench.service.calls) == (body, 1)
    body.feed(frame(b"two"))
    body.finish(trailers(14))
    assert body.whole() == frame(b"one") + frame(b"two")
    assert source.said == []


@virtual
async def test_a_quiet_stream_is_not_held_back_for_long() -> None:
    body = Body(Source())
    env = virtual_env()
    bench = Bench(streaming(body), OK, env=env, on=["unavailable"])
    began = env.now()
    outcome, _ = await run(bench)
    assert (outcome.verdict, env.now() - began) == (STATUS_TO_COME, pytest.approx(1.0))
    body.finish(trailers(14))
    assert bench.service.calls == 1


@virtual
async def test_the_wait_lasts_as_long_as_the_attempt_may() -> None:
    body = Body(Source())
    env = virtual_env()
    bench = Bench(streaming(body), OK, env=env, on=["unavailable"])
    began = env.now()
    await run(bench, attempt_timeout=0.2)
    assert env.now() - began == pytest.approx(0.2)


@pytest.mark.parametrize("on", [["unavailable"], ["connect_failure"]])
@virtual
async def test_nothing_waits_where_nothing_could_be_repeated(on: list[str]) -> None:
    env = virtual_env()
    upload = Body(Source())
    if on == ["connect_failure"]:
        upload.finish()
    bench = Bench(streaming(Body(Source())), OK, env=env, on=on)
    began = env.now()
    outcome, _ = await run(bench, stream=upload)
    assert (outcome.verdict, env.now()) == (STATUS_TO_COME, began)


@virtual
async def test_a_caller_that_leaves_while_a_later_attempt_is_seen_frees_it() -> None:
    source = Source()
    bench = Bench(trailers_only(14), after(0, streaming(Body(source))), env=virtual_env(), on=["unavailable"])
    task = asyncio.ensure_future(run(bench))
    await asyncio.sleep(0.5)
    assert bench.service.calls == 2
    task.cancel()
    await settle()
    assert source.said == ["cancel"]
