"""Tests of faults on the wire, each measured by a client behind the link, in virtual time."""

from __future__ import annotations

import asyncio
import random
from statistics import mean

import pytest

from chaos.faults.tcp import Toxic
from tests.unit.chaos.linked_service import LinkedService, play


async def asks(linked: LinkedService, count: int, **how: float) -> list[tuple[int, str, float]]:
    found = []
    for _ in range(count):
        answer, seconds = await linked.ask(**how)  # type: ignore[arg-type]
        found.append((answer.status, answer.reason, seconds))
    return found


def test_a_link_without_faults_adds_no_time() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(body=50_000)
        answer, seconds = await linked.ask()
        assert (answer.status, len(answer.body), round(seconds, 4)) == (200, 50_000, 0.01)
        await linked.close()

    play(scene)


def test_latency_delays_every_answer_and_ends_with_its_fault() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.toxic("latency", by=0.2)
        assert [round(s, 3) for *_, s in await asks(linked, 3)] == [0.21] * 3
        await linked.undo()
        assert [round(s, 3) for *_, s in await asks(linked, 2)] == [0.01] * 2
        await linked.close()

    play(scene)


@pytest.mark.parametrize(("direction", "delays"), [("up", 1), ("down", 1), ("both", 2)])
def test_latency_has_a_direction(direction: str, delays: int) -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.toxic("latency", by=0.1, direction=direction)
        _, seconds = await linked.ask()
        assert round(seconds, 3) == round(0.01 + 0.1 * delays, 3)
        await linked.close()

    play(scene)


@pytest.mark.parametrize(
    ("distribution", "low", "high", "average"),
    [("uniform", 0.1, 0.3, 0.2), ("normal", 0.0, 0.7, 0.2), ("pareto", 0.2, 9.9, 0.3)],
)
def test_jitter_follows_its_distribution(distribution: str, low: float, high: float, average: float) -> None:
    toxic = Toxic("latency", random.Random(1), by=0.2, jitter=0.1, distribution=distribution)  # type: ignore[arg-type]
    delays = [toxic.delay() for _ in range(5000)]
    assert min(delays) >= low
    assert max(delays) <= high
    assert mean(delays) == pytest.approx(average, rel=0.05)


def test_bandwidth_is_limited() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(body=100_000)
        await linked.toxic("bandwidth", rate=50_000)
        _, seconds = await linked.ask()
        assert seconds == pytest.approx(2.0, rel=0.02)
        await linked.close()

    play(scene)


def test_slices_arrive_one_by_one() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(body=100)
        await linked.toxic("slice", size=10, by=0.05)
        answer, seconds = await linked.ask()
        assert answer.status == 200
        assert 0.5 < seconds < 0.9
        await linked.close()

    play(scene)


def test_a_blackhole_holds_bytes_back_until_it_ends() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.ask()
        await linked.toxic("blackhole")
        assert (await linked.ask(timeout=1.0))[0].reason == "timeout"
        late = asyncio.ensure_future(linked.ask(timeout=5.0))
        await asyncio.sleep(1.0)
        await linked.undo()
        answer, seconds = await late
        assert (answer.status, round(seconds, 2)) == (200, 1.0)
        await linked.close()

    play(scene)


def test_corruption_strikes_its_share() -> None:
    toxic = Toxic("corrupt", random.Random(1), share=0.1)
    data = bytes(100)
    changed = [toxic.corrupt(data) for _ in range(2000)]
    struck = [piece for piece in changed if piece != data]
    assert 150 < len(struck) < 250
    assert all(sum(a != b for a, b in zip(piece, data, strict=True)) == 1 for piece in struck)


def test_truncation_ends_the_connection_after_so_many_bytes() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(body=1000)
        await linked.toxic("truncate", after=300)
        answer, _ = await linked.ask()
        assert (answer.status, answer.reason) == (0, "reset")
        await linked.close()

    play(scene)


def test_a_reset_breaks_the_answer_of_work_that_was_done() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.ask()
        await linked.toxic("reset")
        answer, _ = await linked.ask(method="POST")
        assert answer.reason == "reset"
        assert [row[10] for row in linked.rows if row[0] == "call"] == [200, 200]
        await linked.undo()
        assert (await linked.ask())[0].status == 200
        await linked.close()

    play(scene)


def test_half_open_tells_nothing_until_it_is_undone() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.ask()
        await linked.toxic("half_open")
        assert (await linked.ask(timeout=2.0))[0].reason == "timeout"
        await linked.undo()
        assert (await linked.ask())[0].status == 200
        await linked.close()

    play(scene)


def test_a_slow_close_delays_the_end() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.toxic("slow_close", by=0.5)
        loop = asyncio.get_running_loop()
        host, _, port = linked.address.partition(":")
        ended: asyncio.Future[float] = loop.create_future()

        class Client(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                ended.set_result(loop.time())

        await loop.create_connection(Client, host, int(port))
        await asyncio.sleep(0.1)
        began = loop.time()
        for connection in list(linked.service.connections):
            connection.transport.close()
        assert await ended - began == pytest.approx(0.5, abs=0.01)
        await linked.close()

    play(scene)


def test_refuse_and_backlog_act_on_connecting() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.ask()
        await linked.toxic("refuse")
        assert (await linked.ask())[0].reason in ("refused", "reset")
        assert (await linked.ask())[0].reason == "refused"
        await linked.undo()
        assert (await linked.ask())[0].status == 200
        await linked.toxic("backlog")
        assert (await linked.ask(timeout=1.0))[0].reason == "timeout"
        await linked.undo()
        assert (await linked.ask())[0].status == 200
        await linked.close()

    play(scene)


def test_a_share_counts_connections() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.toxic("latency", by=1.0, share=0.3)
        slow = 0
        for _ in range(200):
            linked.client.close()  # each on a connection of its own
            slow += (await linked.ask())[1] > 0.5
        assert 35 < slow < 85
        await linked.close()

    play(scene)
