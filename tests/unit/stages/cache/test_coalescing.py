"""Tests of coalescing: requests that wait for a fetch, for how long, and their answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import RESET, Failure, Outcome
from sidecar.core.promise import Promise, Run
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, after
from tests.unit.stages.cache.world import World, is_hit, reply, said

FRESH = reply(Cache_Control="max-age=60")


def world(*script: Any, **block: Any) -> World:
    return World(*script, env=virtual_env(), **block)


async def crowd(w: World, size: int, **headers: str) -> list[Outcome]:
    return await asyncio.gather(*(w.get(**headers) for _ in range(size)))


class Client:
    """Sink that collects a body."""

    def __init__(self, outcome: Outcome) -> None:
        self.data = b""
        self.end: object = None
        assert outcome.stream is not None
        outcome.stream.attach(self)

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.end = trailers

    def fail(self, failure: Failure) -> None:
        self.end = failure


@virtual
async def test_a_thousand_requests_make_one_fetch() -> None:
    w = world(after(1, FRESH))
    waiting = asyncio.ensure_future(crowd(w, 1000))
    await settle()
    assert w.env.meter.value(metrics.CACHE_WAITERS, cache="default") == 999
    answers = await waiting
    assert w.calls == w.env.meter.value(metrics.CACHE_FILLS, cache="default") == 1
    assert {answer.body for answer in answers} == {b"body"}
    assert said(answers[0]) == b"sidecar; fwd=uri-miss; ttl=59; stored"
    assert {said(answer) for answer in answers[1:]} == {b"sidecar; fwd=uri-miss; ttl=59; collapsed"}
    assert len(w.store.fetches) == 0


@virtual
async def test_a_thousand_requests_for_an_expired_key() -> None:
    w = world(reply(Cache_Control="max-age=60", ETag='"a"'), after(1, reply(304, b"", ETag='"a"')))
    await w.get()
    await asyncio.sleep(61)
    answers = await crowd(w, 1000)
    assert w.calls == 2
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"body")}
    assert said(answers[1]) == b"sidecar; fwd=stale; fwd-status=304; ttl=59; collapsed"


@virtual
async def test_waiters_are_answered_by_their_own_conditions() -> None:
    w = world(after(1, reply(Cache_Control="max-age=60", ETag='"a"')))
    answers = await asyncio.gather(w.get(), w.get(If_None_Match='"a"'), w.get(If_None_Match='"b"'))
    assert ([answer.status for answer in answers], w.calls) == ([200, 304, 200], 1)


@virtual
async def test_a_request_for_a_newer_answer_does_not_wait() -> None:
    w = world(after(1, FRESH))
    answers = await asyncio.gather(w.get(), w.get(Cache_Control="no-cache"), w.get(Cache_Control="max-age=9"), w.get())
    assert w.calls == 3
    assert said(answers[3]).endswith(b"collapsed")


@virtual
async def test_an_unshareable_answer_releases_all_waiters() -> None:
    w = world(after(1, reply(Cache_Control="private")))
    started = w.env.now()
    await crowd(w, 10)
    assert (w.calls, w.env.now() - started) == (10, 2)
    await crowd(w, 10)
    assert w.env.now() - started == 3, "now it is known that waiting is in vain"


@virtual
async def test_an_uncacheable_key_can_be_stored_later() -> None:
    w = world(reply(Cache_Control="no-store"), FRESH)
    await w.get()
    assert w.store.fetches.uncacheable
    assert said(await w.get()).endswith(b"stored")
    assert not w.store.fetches.uncacheable
    assert is_hit(await w.get())


@virtual
async def test_every_waiter_validates_a_no_cache_answer() -> None:
    w = world(after(1, reply(Cache_Control="no-cache", ETag='"a"')), after(1, reply(304, b"", ETag='"a"')))
    await crowd(w, 5)
    assert w.calls == 5


@virtual
async def test_waiters_for_another_variant_fetch_their_own() -> None:
    def by_foo(x: Exchange) -> Outcome:
        return reply(200, x.header(b"foo") or b"", Cache_Control="max-age=60", Vary="Foo")(x)

    w = world(after(1, by_foo))
    answers = await asyncio.gather(*(w.get(Foo=str(number % 4)) for number in range(100)))
    assert [answer.body for answer in answers] == [b"%d" % (number % 4) for number in range(100)]
    assert w.calls == 4


@virtual
async def test_a_failure_releases_all_waiters() -> None:
    w = world(after(1, RESET), after(1, FRESH))
    answers = await crowd(w, 5)
    assert w.calls == 5
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 502]


@virtual
async def test_an_exception_reaches_only_the_request_that_started_the_fetch() -> None:
    w = world(after(1, ZeroDivisionError), after(1, FRESH))
    results = await asyncio.gather(*(w.get() for _ in range(3)), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert [result.status for result in results[1:] if isinstance(result, Outcome)] == [200, 200]
    assert len(w.store.fetches) == 0


@virtual
async def test_waiting_is_bounded_in_time() -> None:
    w = world(after(10, FRESH), after(1, FRESH), coalesce={"timeout": "3s"})
    started = w.env.now()
    first = asyncio.ensure_future(w.get())
    await settle()
    assert said(await w.get()).endswith(b"stored")
    assert w.env.now() - started == 4
    await first


@virtual
async def test_waiting_is_bounded_by_the_deadline() -> None:
    w = world(after(10, FRESH), after(1, FRESH))
    first = asyncio.ensure_future(w.get())
    await settle()
    x = w.request()
    x.deadline = w.env.now() + 2
    started = w.env.now()
    await w.service(x)
    assert w.env.now() - started == 3
    await first


@virtual
async def test_waiting_is_bounded_in_number() -> None:
    w = world(after(1, FRESH), coalesce={"max_waiters": 3})
    await crowd(w, 10)
    assert w.calls == 7
    w = world(after(1, FRESH), coalesce={"max_waiters": 0})
    await crowd(w, 3)
    assert w.calls == 3


@virtual
async def test_a_fetch_outlives_the_client_that_started_it() -> None:
    w = world(after(1, FRESH))
    x = w.request()
    ends: list[Run[Outcome]] = []
    first = Run(w.service(x), ends.append)
    second = asyncio.ensure_future(w.get())
    await settle()
    assert not x.abandon(first)
    assert (await second).body == b"body"
    assert (w.calls, w.upstream.cancelled) == (1, 0)
    assert isinstance(ends[0].error, asyncio.CancelledError), "its answer is for nobody"
    assert is_hit(await w.get())


@virtual
async def test_a_fetch_ends_once_no_client_is_left() -> None:
    w = world(HANG)
    x = w.request()
    ends: list[Run[Outcome]] = []
    first = Run(w.service(x), ends.append)
    others = [asyncio.ensure_future(w.get()) for _ in range(2)]
    await settle()
    assert not x.abandon(first)
    for other in others:
        assert not ends
        other.cancel()
        await settle()
    assert (w.upstream.cancelled, len(w.store.fetches)) == (1, 0)
    assert isinstance(ends[0].error, asyncio.CancelledError)


@virtual
async def test_a_lone_client_that_leaves_ends_its_fetch() -> None:
    w = world(HANG)
    x = w.request()
    first = Run(w.service(x), lambda run: None)
    assert x.abandon(first)
    await settle()
    assert (w.upstream.cancelled, len(w.store.fetches)) == (1, 0)


@virtual
async def test_the_reader_of_a_client_that_left_does_not_pace_the_body() -> None:
    up = Streaming()
    answer = up.world.upstream.script[0]
    up.world.upstream.script[0] = after(1, answer)
    x = up.world.request()
    first = Run(up.world.service(x), lambda run: None)
    other = asyncio.ensure_future(up.world.get())
    await settle()
    assert not x.abandon(first)
    client = Client(await other)
    for _ in range(40):
        up.body.feed(b"x" * 10_000)
    up.body.finish()
    assert (len(client.data), client.end, up.paused) == (400_000, [], 0)


@virtual
async def test_a_fetch_ends_when_all_tasks_are_cancelled() -> None:
    w = world(HANG)
    clients = [asyncio.ensure_future(w.get()) for _ in range(3)]
    await settle()
    for client in reversed(clients):  # waiting requests would fetch alone
        client.cancel()
    await settle()
    assert (w.upstream.cancelled, len(w.store.fetches)) == (1, 0)
    assert all(client.cancelled() for client in clients)


@virtual
async def test_a_waiter_that_leaves_does_not_disturb_the_others() -> None:
    w = world(after(1, FRESH))
    clients = [asyncio.ensure_future(w.get()) for _ in range(3)]
    await settle()
    clients[1].cancel()
    await asyncio.wait(clients)
    assert ([client.cancelled() for client in clients], w.calls) == ([False, True, False], 1)


class Streaming:
    """Upstream whose answer arrives piece by piece."""

    def __init__(self, length: int | None = None, **block: Any) -> None:
        self.paused = 0
        self.cancelled = 0
        self.body = Body(self, length)
        self.world = world(
            lambda x: Outcome(200, stream=self.body, lines=b'cache-control: max-age=60\r\netag: "a"\r\n'),
            FRESH,
            **block,
        )

    def pause_body(self) -> None:
        self.paused += 1

    def resume_body(self) -> None:
        self.paused -= 1

    def cancel_body(self) -> None:
        self.cancelled += 1


@virtual
async def test_a_body_streams_to_all_waiters() -> None:
    up = Streaming()
    first = Client(await up.world.get())
    up.body.feed(b"ab")
    second = Client(await up.world.get())
    up.body.feed(b"cd")
    assert (first.data, second.data, up.world.calls) == (b"abcd", b"abcd", 1)
    assert (await up.world.get(If_None_Match='"a"')).status == 304
    up.body.finish()
    assert (first.end, second.end) == ([], [])
    answer = await up.world.get()
    assert (is_hit(answer), answer.body) == (True, b"abcd")
    assert len(up.world.store.fetches) == 0


@virtual
async def test_a_body_that_breaks_off_is_not_stored() -> None:
    up = Streaming()
    first, second = Client(await up.world.get()), Client(await up.world.get())
    up.body.feed(b"ab")
    up.body.fail(RESET)
    assert (first.end, second.end) == (RESET, RESET)
    assert len(up.world.store.memory) == 0
    assert not is_hit(await up.world.get())


@virtual
async def test_a_body_shorter_than_announced_is_not_stored() -> None:
    up = Streaming(length=9)
    client = Client(await up.world.get())
    up.body.feed(b"ab")
    up.body.finish()
    assert client.data == b"ab"
    assert len(up.world.store.memory) == 0


@virtual
async def test_a_body_beyond_the_limit_is_passed_on_and_not_stored() -> None:
    up = Streaming(max_body="1KiB")
    first = Client(await up.world.get())
    up.body.feed(b"x" * 1000)
    second = Client(await up.world.get())
    up.body.feed(b"y" * 100)
    assert len(up.world.store.fetches) == 0
    assert len(first.data) == len(second.data) == 1100
    assert said(await up.world.get()).endswith(b"stored"), "a call of its own"
    up = Streaming(length=2000, max_body="1KiB")
    assert said(await up.world.get()) == b"sidecar; fwd=uri-miss; detail=too-large"


@virtual
async def test_a_fetch_goes_on_when_its_reader_leaves() -> None:
    up = Streaming()
    answer = await up.world.get()
    up.body.feed(b"ab")
    assert answer.stream is not None
    answer.stream.cancel()
    up.body.feed(b"cd")
    up.body.finish()
    assert up.cancelled == 0
    assert (await up.world.get()).body == b"abcd"


@virtual
async def test_a_purge_outdates_a_fetch_in_flight() -> None:
    up = Streaming()
    Client(await up.world.get())
    up.body.feed(b"ab")
    up.world.store.purge_uri("http://orders/a")
    up.body.finish()
    assert not is_hit(await up.world.get())
    w = world(after(1, FRESH), 204)
    slow = asyncio.ensure_future(w.get())
    await settle()
    await w.ask("PUT")
    assert said(await slow).endswith(b"detail=outdated")
    assert len(w.store.memory) == 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_runs_without_tasks_share_a_fetch(leaves: bool) -> None:
    """Requests are `Run`s, as in production: resolving the promise answers all of them before `resolve` returns."""
    promise: Promise[Outcome] = Promise()

    async def upstream(x: Exchange) -> Outcome:
        return await promise

    w = World(upstream)
    answers: list[Run[Outcome]] = []
    requests = [w.request() for _ in range(3)]
    runs = [Run(w.service(x), answers.append) for x in requests]
    if leaves:
        assert not requests[0].abandon(runs[0])
    promise.resolve(FRESH(w.request()))
    assert [run.value.body for run in answers if run.value] == [b"body"] * (2 if leaves else 3)
    assert len(w.store.memory) == 1
