"""Tests of services and clients that speak gRPC, and of the faults that only streams have."""

from __future__ import annotations

import asyncio

import pytest

from chaos.parts.pooled_client import Answer
from tests.unit.chaos.linked_service import LinkedService, play

METHOD = "/shop.Orders/Get"


def calls(linked: LinkedService, number: int, timeout: float = 5.0) -> list[asyncio.Task[tuple[Answer, float]]]:
    loop = asyncio.get_running_loop()
    return [loop.create_task(linked.ask(METHOD, timeout, "CALL")) for _ in range(number)]


def test_calls_share_one_connection_and_end_with_ok() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=1.0)
        answers = await asyncio.gather(*(linked.ask(METHOD, method="CALL") for _ in range(10)))
        assert {(answer.status, answer.reason, seconds) for answer, seconds in answers} == {(200, "", 1.0)}
        assert answers[0][0].body.startswith(b'\0\0\0\0@{"service": "app"}')
        assert len(linked.service.connections) == 1
        assert (await linked.ask())[0].status == 200  # HTTP/1.1 on the same port
        await linked.close()

    play(scene)


def test_a_full_queue_is_unavailable() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(workers=1, queue=1, time=1.0)
        answers = await asyncio.gather(*(linked.ask(METHOD, method="CALL") for _ in range(3)))
        assert sorted((answer.status, answer.reason) for answer, _ in answers) == [
            (200, ""), (200, ""), (503, "unavailable"),
        ]  # fmt: skip
        await linked.close()

    play(scene)


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("grpc_status", {"code": "unavailable", "by": 0.5}, (503, "unavailable", 0.51)),
        ("grpc_status", {"code": "not_found"}, (404, "not_found", 0.01)),
        ("status", {"status": 503}, (503, "unavailable", 0.01)),
        ("delay", {"by": 0.5}, (200, "", 0.51)),
        ("malformed", {}, (0, "reset", 0.01)),
    ],
)
def test_faults_in_the_answers_of_calls(kind: str, how: dict[str, object], expected: tuple[int, str, float]) -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike(kind, **how)
        answer, seconds = await linked.ask(METHOD, method="CALL")
        assert (answer.status, answer.reason, round(seconds, 2)) == expected
        await linked.close()

    play(scene)


def test_a_status_of_grpc_is_one_of_http_for_other_requests() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("grpc_status", code="resource_exhausted")
        assert (await linked.ask())[0].status == 429
        await linked.close()

    play(scene)


def test_a_call_that_is_given_up_resets_its_stream_alone() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=1.0)
        long = calls(linked, 1)
        assert (await linked.ask(METHOD, 0.5, "CALL"))[0].reason == "timeout"
        answer, _ = await long[0]
        assert answer.status == 200
        await linked.close()

    play(scene)


def test_a_goaway_lets_what_has_begun_end_and_loses_what_is_under_way() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(time=1.0)
        assert (await linked.ask(METHOD, method="CALL"))[0].status == 200  # the connection is open
        await linked.toxic("latency", direction="both", by=0.2)
        await linked.service.do("goaway", id="x", every=0.5)
        begun = calls(linked, 2)
        await asyncio.sleep(0.4)
        late = calls(linked, 3)  # these reach the service after its GOAWAY has left
        assert {answer.status for answer, _ in await asyncio.gather(*begun)} == {200}
        assert {answer.reason for answer, _ in await asyncio.gather(*late)} == {"reset"}
        await linked.service.do("undo", id="x")
        assert (await linked.ask(METHOD, method="CALL"))[0].status == 200
        await linked.close()

    play(scene)


def test_a_blackhole_may_strike_open_connections_only() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.ask(METHOD, method="CALL")
        await linked.toxic("blackhole", direction="both", only_open=True)
        assert (await linked.ask(METHOD, 1.0, "CALL"))[0].reason == "timeout"
        linked.client.channels.sides.clear()  # the next call opens a connection
        assert (await linked.ask(METHOD, method="CALL"))[0].status == 200
        await linked.close()

    play(scene)
