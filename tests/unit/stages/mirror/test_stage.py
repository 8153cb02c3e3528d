"""Tests of the mirror: what is copied, what a copy can never do, and what is found by comparison."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core import events, metrics
from sidecar.core.body import Body
from sidecar.core.exchange import SHEDDABLE, Exchange
from sidecar.core.outcome import ABANDONED, CONNECT_FAILURE, RESET, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.mirror.differences import Comparison
from sidecar.stages.mirror.spec import Spec
from sidecar.stages.mirror.stage import OTHERS, RESULTS, SLICE, MirrorStage, build
from tests.support.clock import FakeEnv
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, Store, after, context, exchange, response


def document(**members: Any) -> Outcome:
    return response(200, json.dumps(members).encode(), {"content-type": "application/json"})


class Bench:
    """Route with a mirror: its own upstream, and that of the copies."""

    def __init__(self, own: ScriptedService, other: ScriptedService, **spec: Any) -> None:
        self.env: FakeEnv = virtual_env()
        self.own, self.other = own, other
        resources = {("upstream", "next"): Pipeline([], other), ("upstream", "app"): Pipeline([], own)}
        self.store = Store()
        ctx = context(self.env, scope="route", store=self.store, resources=resources)
        stage = build(Spec.model_validate({"upstream": "next", **spec}), ctx)
        assert isinstance(stage, MirrorStage)
        self.stage = stage
        self.pipeline = Pipeline([stage], own)

    async def ask(self, **facts: Any) -> Outcome:
        return await self.pipeline(exchange(**facts))

    def counts(self) -> dict[str, int]:
        found = {name: self.stage._counters[name].value for name in RESULTS}
        return {name: value for name, value in found.items() if value}

    @property
    def state(self) -> dict[str, Any]:
        return self.stage.state.describe()


@virtual
async def test_a_copy_is_the_same_request_and_its_response_is_dropped() -> None:
    bench = Bench(ScriptedService(document(a=1)), ScriptedService(document(a=2)))
    outcome = await bench.ask(path=b"/orders", query=b"x=1", headers=[(b"x-a", b"b")])
    await settle()
    assert outcome.body == b'{"a": 1}'
    (copied,), (original,) = bench.other.exchanges, bench.own.exchanges
    assert (copied.method, copied.path, copied.query, copied.header(b"x-a")) == (b"GET", b"/orders", b"x=1", b"b")
    assert copied.criticality == SHEDDABLE
    assert copied.attempts is not original.attempts
    assert bench.counts() == {"sent": 1}


@pytest.mark.parametrize("other", [CONNECT_FAILURE, 500, HANG, after(1.0, 200), RuntimeError("bug")])
@virtual
async def test_nothing_of_a_copy_reaches_the_request(other: Any) -> None:
    bench = Bench(ScriptedService(document(a=1)), ScriptedService(other), compare={})
    began = bench.env.now()
    assert (await bench.ask()).status == 200
    assert bench.env.now() == began
    await bench.env.sleep(2)


@virtual
async def test_a_bug_behind_a_copy_is_reported() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(RuntimeError("bug")))
    await bench.ask()
    await settle()
    (event,) = bench.env.emitted(events.BUG)
    assert "bug" in repr(event["error"])
    assert bench.counts() == {"failed": 1}


@virtual
async def test_a_share_of_the_requests_is_copied() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), share="10%")
    for _ in range(500):
        await bench.ask()
        await settle(5)
    assert 25 < bench.other.calls < 80


@virtual
async def test_writes_are_copied_only_if_the_policy_says_so() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200))
    await bench.ask(method=b"POST", body=b"x")
    assert bench.other.calls == 0
    bench = Bench(ScriptedService(200), ScriptedService(200), writes=True)
    await bench.ask(method=b"POST", body=b"x")
    assert bench.other.exchanges[0].body == b"x"


@virtual
async def test_bodies_that_are_long_or_still_arriving_are_not_copied() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), writes=True, max_body="4B")
    await bench.ask(method=b"POST", body=b"12345")
    await bench.ask(method=b"POST", stream=Body())
    assert bench.other.calls == 0
    assert bench.counts() == {"skipped": 2}


@virtual
async def test_copies_in_flight_are_bounded_and_given_up() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(HANG), max_in_flight=3, timeout="2s")
    for _ in range(5):
        await bench.ask()
    assert bench.other.calls == 3
    assert bench.counts() == {"dropped": 2}
    assert bench.state["in_flight"] == 3
    assert all(copy.deadline == bench.env.now() + 2 for copy in bench.other.exchanges)


@virtual
async def test_observed_copies_are_only_counted() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), mode="observe")
    await bench.ask()
    assert bench.other.calls == 0
    assert bench.env.meter.counter(metrics.WOULD_REFUSE, policy="mirror", route="test").value in (0, 1)
    assert bench.stage._observed.value == 1


# ----- comparison


@virtual
async def test_equal_responses() -> None:
    bench = Bench(ScriptedService(document(a=1)), ScriptedService(document(a=1)), compare={})
    await bench.ask()
    await settle()
    assert bench.counts() == {"same": 1}


@virtual
async def test_a_difference_is_counted_and_logged_once() -> None:
    bench = Bench(ScriptedService(document(a=1, t=1)), ScriptedService(document(a=2, t=2)), compare={"ignore": ["/t"]})
    for _ in range(3):
        await bench.ask()
        await settle()
    assert bench.counts() == {"different": 3}
    (event,) = bench.env.emitted(events.MIRROR_DIFFERENT)
    assert event["differences"] == ["/a"]
    assert bench.state["differences"] == {"/a": 3}


@pytest.mark.parametrize(("own", "other"), [(0.0, 0.5), (0.5, 0.0)])
@virtual
async def test_whichever_response_comes_first(own: float, other: float) -> None:
    bench = Bench(ScriptedService(after(own, document(a=1))), ScriptedService(after(other, document(a=2))), compare={})
    await bench.ask()
    await bench.env.sleep(1)
    assert bench.counts() == {"different": 1}


@virtual
async def test_noise_is_learnt_and_counts_no_more() -> None:
    own = ScriptedService(*(document(a=1, at=n) for n in range(20)))
    bench = Bench(own, ScriptedService(*(document(a=1, at=-n) for n in range(20))), compare={"noise": True})
    for _ in range(5):
        await bench.ask()
        await settle()
    assert own.calls == 10
    assert bench.counts() == {"same": 5}
    assert bench.state["noise"] == ["/at"]
    assert bench.state["differences"] == {}
    assert not bench.env.emitted(events.MIRROR_DIFFERENT)


@virtual
async def test_failures_are_not_compared() -> None:
    for own, other in ((CONNECT_FAILURE, 200), (200, CONNECT_FAILURE)):
        bench = Bench(ScriptedService(own), ScriptedService(other), compare={})
        await bench.ask()
        await settle()
        assert bench.counts() == ({} if own is CONNECT_FAILURE else {"failed": 1})
        assert bench.state["compared"] == 0


@virtual
async def test_a_response_that_is_too_long_is_not_compared() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(response(200, b"x" * 100)), compare={"max_body": "10B"})
    await bench.ask()
    await settle()
    assert bench.counts() == {"skipped": 1}


@virtual
async def test_a_request_that_its_client_has_left_is_not_compared() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(after(1.0, 200)), compare={})
    x = exchange()
    ticket = bench.stage.admit(x)
    bench.stage.settle(x, ticket, ABANDONED)
    await bench.env.sleep(2)
    assert bench.state["compared"] == 0
    assert bench.state["in_flight"] == 0


def arriving(*pieces: bytes, broken: bool = False) -> Any:
    """Return a script of a response whose body arrives in pieces, after its head."""

    def answer(x: Exchange) -> Outcome:
        loop, body = asyncio.get_running_loop(), Body()
        for number, piece in enumerate(pieces, 1):
            loop.call_later(0.1 * number, body.feed, piece)
        loop.call_later(0.1 * len(pieces) + 0.1, *((body.fail, RESET) if broken else (body.finish,)))
        return Outcome(200, [(b"content-type", b"application/json")], stream=body)

    return answer


async def read(bench: Bench) -> bytes:
    """Ask, and read the response to its end as a client does."""
    outcome, received = await bench.ask(), bytearray()
    assert outcome.stream is not None
    outcome.stream.attach(SimpleNamespace(write=received.extend, finish=lambda _: None, fail=lambda _: None))
    await bench.env.sleep(1)
    return bytes(received)


@pytest.mark.parametrize(
    ("other", "result", "names"),
    [
        (arriving(b'{"a": 2, ', b'"b": 1}'), "different", {"/a": 1}),
        (arriving(b'{"b":1,', b'"a":1}'), "same", {}),
        (document(a=2, b=1), "different", {"/a": 1}),
    ],
    ids=["another", "the same", "whole"],
)
@virtual
async def test_a_body_that_still_arrives_is_compared_at_its_end(other: Any, result: str, names: dict[str, int]) -> None:
    bench = Bench(ScriptedService(arriving(b'{"a": 1,', b' "b": 1}')), ScriptedService(other), compare={})
    assert await read(bench) == b'{"a": 1, "b": 1}'
    assert (bench.counts(), bench.state["differences"]) == ({result: 1}, names)


@virtual
async def test_a_copy_takes_its_place_until_it_is_compared_or_given_up() -> None:
    """Responses that end late, or never, as those of slow clients and of event streams, are not held without end."""
    late = arriving(*[b" "] * 20, b"[1]")
    bench = Bench(ScriptedService(late), ScriptedService(document()), compare={}, max_in_flight=2, timeout="1s")
    outcomes = [await bench.ask() for _ in range(3)]
    await bench.env.sleep(0.5)
    assert (bench.state["in_flight"], bench.counts()) == (2, {"dropped": 1})
    await bench.env.sleep(1)
    assert (bench.state["in_flight"], bench.counts()) == (0, {"dropped": 1, "skipped": 2})
    for outcome in outcomes:
        assert outcome.stream is not None
        assert outcome.stream._record is None
        outcome.stream.attach(SimpleNamespace(write=lambda _: None, finish=lambda _: None, fail=lambda _: None))
    await bench.env.sleep(3)
    assert (bench.state["in_flight"], bench.state["compared"]) == (0, 0)


@virtual
async def test_a_body_that_breaks_off_is_not_compared() -> None:
    for own, other in ((True, False), (False, True)):
        scripts = [ScriptedService(arriving(b"[1]", broken=broken)) for broken in (own, other)]
        bench = Bench(*scripts, compare={})
        await read(bench)
        assert bench.state["compared"] == bench.state["in_flight"] == 0


@virtual
async def test_nothing_is_recorded_for_a_copy_that_has_failed() -> None:
    bench = Bench(ScriptedService(after(0.1, arriving(b"[1]"))), ScriptedService(CONNECT_FAILURE), compare={})
    outcome = await bench.ask()
    assert outcome.stream is not None
    assert outcome.stream._record is None
    assert (bench.state["in_flight"], bench.counts()) == (0, {"failed": 1})


@virtual
async def test_a_body_that_arrives_and_is_too_long_is_compared_without_it() -> None:
    own, other = arriving(b"[" + b"1," * 30, b"1]"), document()
    bench = Bench(ScriptedService(own), ScriptedService(other), compare={"max_body": "40B"})
    assert len(await read(bench)) == 63
    assert bench.counts() == {"same": 1}


def long(number: int, **members: Any) -> Outcome:
    """Return a document of about 300 KiB whose values differ with the number."""
    return document(values=[number] * 30_000, more=[{"id": number, "at": number}] * 8_000, **members)


class Turns:
    """Work of comparisons in each turn of the loop in which there is some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._turn = 0
        self._steps: dict[int, list[int]] = {}
        self._counting = asyncio.ensure_future(self._count())
        steps = Comparison.steps

        def counted(own: Comparison, old: Outcome, new: Outcome, found: list[str]) -> Iterator[int]:
            self._steps.setdefault(self._turn, [])
            for step in steps(own, old, new, found):
                self._steps.setdefault(self._turn, []).append(step)
                yield step

        monkeypatch.setattr(Comparison, "steps", counted)

    async def _count(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)

    @property
    def work(self) -> list[list[int]]:
        return list(self._steps.values())


@virtual
async def test_a_long_comparison_holds_the_loop_for_one_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = {"max_body": "512KiB", "noise": True}
    own = ScriptedService(long(1), long(3, extra=1))
    bench = Bench(own, ScriptedService(long(2, other=1)), compare=compare, max_in_flight=5)
    size = len(long(1).body)
    assert 250_000 < size < 500_000
    turns = Turns(monkeypatch)
    await bench.ask()
    while not turns.work:
        await asyncio.sleep(0)
    assert bench.state["in_flight"] == 1, "it takes a place, as it holds the bodies"
    assert bench.counts() == {}
    await settle(200)
    assert bench.counts() == {"different": 1}
    assert set(bench.state["differences"]) == {"/other"}
    assert bench.state["in_flight"] == 0
    assert set(bench.state["noise"]) == {"/values/*", "/more/*/id", "/more/*/at", "/extra"}
    assert len(turns.work) > 20
    most = 2 * (size + 20)
    assert all(step <= most for turn in turns.work for step in turn), "a step opens one value of each body"
    assert all(sum(turn[:-1]) < SLICE for turn in turns.work), "a turn has one slice, and the step that ends it"


@virtual
async def test_a_short_comparison_takes_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(ScriptedService(document(a=1)), ScriptedService(document(a=2)), compare={})
    turns = Turns(monkeypatch)
    await bench.ask()
    await settle()
    assert (len(turns.work), bench.counts()) == (1, {"different": 1})


@virtual
async def test_a_bug_in_a_comparison_is_reported_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(ScriptedService(document(a=1)), ScriptedService(document(a=2)), compare={})
    monkeypatch.setattr(Comparison, "steps", lambda *_: (1 // 0 for _ in "x"))
    assert (await bench.ask()).status == 200
    await settle()
    assert bench.state["in_flight"] == 0
    assert [type(each["error"]) for each in bench.env.emitted(events.BUG)] == [ZeroDivisionError]


def test_bodies_that_are_compared_are_bounded() -> None:
    with pytest.raises(ValueError, match="max_body"):
        Spec.model_validate({"upstream": "next", "compare": {"max_body": "2MiB"}})


@virtual
async def test_the_names_of_differences_are_bounded() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), compare={})
    for number in range(1000):
        bench.stage.state.note([f"/{number}"])
    assert len(bench.state["differences"]) == 201
    assert bench.state["differences"][OTHERS] == 800


@virtual
async def test_noise_takes_no_place_of_a_difference() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), compare={})
    names = [f"/{number}" for number in range(200)]
    bench.stage.state.noise.update(names)
    assert bench.stage.state.note([*names, "/a"]) == ["/a"]
    assert bench.state["differences"] == {"/a": 1}


@virtual
async def test_new_settings_count_anew() -> None:
    bench = Bench(ScriptedService(200), ScriptedService(200), compare={})
    bench.stage.state.note(["/a"])
    bench.stage.state.retune(Spec.model_validate({"upstream": "next"}))
    assert bench.state["differences"] == {}
    assert isinstance(exchange(), Exchange)
