"""Tests of plain TCP: its lines, and services and clients that speak it."""

from __future__ import annotations

import asyncio

import pytest

from chaos.parts import plain
from chaos.parts.http import MalformedError
from chaos.parts.part import split
from tests.unit.chaos.linked_service import LinkedService, play

SIDES = pytest.mark.parametrize("tcp", ["client_first", "server_first"])


def test_a_line_is_taken_once_it_is_whole() -> None:
    buffer = bytearray(plain.request("/entry", {"x-class": "book", "x-request-id": "book-7"}))
    last = buffer.pop()
    assert plain.take_request(buffer) is None
    buffer += bytes((last,)) + b"/next"
    message = plain.take_request(buffer)
    assert message is not None
    assert (message.target, message.get("x-class"), message.get("x-request-id")) == ("/entry", "book", "book-7")
    assert buffer == b"/next"
    answers = bytearray(plain.GREETING + plain.answer(503))
    taken = [plain.take_answer(answers), plain.take_answer(answers), plain.take_answer(answers)]
    assert [each and each.status for each in taken] == [220, 503, None]


@pytest.mark.parametrize("line", [b"OK\n", b"x" * 5000, b"x" * 5000 + b"\n"])
def test_other_lines_are_malformed(line: bytes) -> None:
    with pytest.raises(MalformedError):
        plain.take_answer(bytearray(line))


@SIDES
def test_a_service_answers_lines_over_kept_connections_and_refuses_beyond_its_queue(tcp: str) -> None:
    async def scene() -> None:
        linked = await LinkedService().set(workers=1, queue=1, time=1.0, tcp=tcp)
        answers = await asyncio.gather(*(linked.ask(x_class="book") for _ in range(3)))
        assert sorted(answer.status for answer, _ in answers) == [200, 200, 503]
        assert (await linked.ask())[0].status == 200
        assert len(linked.service.connections) == 3
        calls = [row for row in linked.rows if row[0] == "call"]
        assert [row[2] for row in calls] == ["/"] * 4
        await linked.close()

    play(scene)


@SIDES
def test_a_service_that_hangs_and_a_reset_are_told_apart(tcp: str) -> None:
    async def scene() -> None:
        linked = await LinkedService().set(tcp=tcp)
        await linked.toxic("blackhole", direction="both")
        assert (await linked.ask(timeout=1.0))[0].reason == "timeout"
        await linked.undo()
        await linked.toxic("reset")
        assert (await linked.ask(timeout=1.0))[0].reason == "reset"
        await linked.undo()
        assert (await linked.ask(timeout=1.0))[0].status == 200
        await linked.close()

    play(scene)


def test_a_line_without_an_end_is_cut_off() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(tcp="client_first")
        reader, writer = await asyncio.open_connection(*split(linked.address))
        writer.write(b"x" * 5000)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await linked.close()

    play(scene)
