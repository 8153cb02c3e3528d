"""Tests of a service: its capacity, and faults in its answers and its process."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.chaos.linked_service import LinkedService, play


def test_workers_and_queue_are_finite() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(workers=2, queue=3, time=1.0)
        answers = await asyncio.gather(*(linked.ask() for _ in range(7)))
        assert sorted(answer.status for answer, _ in answers) == [200] * 5 + [503] * 2
        assert sorted(round(seconds) for answer, seconds in answers if answer.status == 200) == [1, 1, 2, 2, 3]
        await linked.close()

    play(scene)


def test_work_goes_on_for_clients_that_have_left() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(workers=1, queue=5, time=1.0)
        assert (await linked.ask(timeout=0.5))[0].reason == "timeout"
        assert linked.service.busy == 1
        await asyncio.sleep(1.0)
        assert linked.service.busy == 0
        await linked.close()

    play(scene)


def test_a_slow_service_stays_slow_until_it_is_undone() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=0.1)
        await linked.service.do("slow", times=5.0, by=0.25)
        assert (await linked.ask())[1] == pytest.approx(0.75)
        await linked.service.do("slow")
        assert (await linked.ask())[1] == pytest.approx(0.1)
        await linked.close()

    play(scene)


def test_a_service_is_cold_after_a_start() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=0.1, warm_up=1.0)
        assert (await linked.ask())[1] == pytest.approx(0.4)
        await asyncio.sleep(1.0)
        assert (await linked.ask())[1] == pytest.approx(0.1)
        await linked.close()

    play(scene)


@pytest.mark.parametrize(
    ("how", "statuses"),
    [
        ({}, [503] * 6),
        ({"first": 2}, [503, 503, 200, 200, 200, 200]),
        ({"pattern": "FF."}, [503, 503, 200, 503, 503, 200]),
        ({"status": 429, "pattern": ".F"}, [200, 429, 200, 429, 200, 429]),
        ({"path": "/other"}, [200] * 6),
    ],
)
def test_statuses_by_a_pattern(how: dict[str, object], statuses: list[int]) -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("status", **how)
        assert [(await linked.ask())[0].status for _ in range(6)] == statuses
        await linked.service.do("undo", id="fault")
        assert (await linked.ask())[0].status == 200
        await linked.close()

    play(scene)


def test_the_first_attempts_of_each_request_fail() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("status", first=1, per_request=True)
        fields = [{"x-request-id": name} for name in ("a", "b", "a", "b")]
        assert [(await linked.ask(**each))[0].status for each in fields] == [503, 503, 200, 200]
        await linked.close()

    play(scene)


def test_a_share_of_the_answers_is_struck() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("status", share=0.2)
        failed = sum([(await linked.ask())[0].status == 503 for _ in range(500)])
        assert 70 < failed < 130
        await linked.close()

    play(scene)


def test_delay_and_dribble_take_their_time() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("delay", by=0.5)
        answer, seconds = await linked.ask()
        assert (answer.status, round(seconds, 2)) == (200, 0.51)
        await linked.strike("dribble", by=0.01)
        answer, seconds = await linked.ask()
        assert answer.status == 200
        assert seconds > 1.0
        await linked.close()

    play(scene)


@pytest.mark.parametrize(("kind", "reason"), [("wrong_length", "reset"), ("malformed", "malformed")])
def test_answers_that_are_not_valid_http(kind: str, reason: str) -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike(kind)
        assert (await linked.ask())[0].reason == reason
        await linked.close()

    play(scene)


def test_a_burn_takes_turns_with_the_work() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=0.0)
        await linked.service.do("inside", id="x", kind="cpu", share=0.8)
        times = [(await linked.ask())[1] for _ in range(50)]
        assert 0.02 < max(times) <= 0.05
        await linked.service.do("undo", id="x")
        assert (await linked.ask())[1] == 0.0
        await linked.close()

    play(scene)


def test_a_process_without_descriptors_accepts_nobody() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.service.do("inside", id="x", kind="files")
        await asyncio.sleep(0)
        assert (await linked.ask(timeout=1.0))[0].reason == "timeout"
        await linked.service.do("undo", id="x")
        await asyncio.sleep(0.1)
        assert (await linked.ask())[0].status == 200
        await linked.close()

    play(scene)


def test_a_frozen_service_answers_once_it_continues() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        linked.service.freeze(True)
        asking = asyncio.ensure_future(linked.ask())
        await asyncio.sleep(1.0)
        assert not asking.done()
        linked.service.freeze(False)
        assert (await asking)[0].status == 200
        await linked.close()

    play(scene)


def test_an_unknown_command_is_refused() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        with pytest.raises(ValueError, match="no command dance"):
            await linked.service.do("dance")
        with pytest.raises(ValueError, match="no fault inside called ghosts"):
            await linked.service.do("inside", id="x", kind="ghosts")
        await linked.close()

    play(scene)
