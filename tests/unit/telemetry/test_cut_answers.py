"""Tests of answers that are cut short after their head: counted as errors everywhere, with the cause in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.outcome import FAILURES
from sidecar.telemetry.metrics.durations import is_error
from tests.support.loop import virtual
from tests.support.watched import Answer, Watched, policy

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LOG = {"telemetry": {"access_log": {}}}


def stalls(after: bytes) -> Answer:
    return lambda transport, _: transport.write(after)


def closes(after: bytes) -> Answer:
    def answer(transport: asyncio.Transport, _: bytes) -> None:
        transport.write(after)
        transport.close()

    return answer


def drips(transport: asyncio.Transport, _: bytes) -> None:
    """Answer with an endless body, a piece a second."""
    transport.write(CHUNKED)
    loop = asyncio.get_running_loop()

    def piece() -> None:
        if not transport.is_closing():
            transport.write(b"3\r\nabc\r\n")
            loop.call_later(1.0, piece)

    piece()


def turns_bad(transport: asyncio.Transport, _: bytes) -> None:
    transport.write(CHUNKED + b"3\r\nabc\r\n")
    asyncio.get_running_loop().call_later(0.1, transport.write, b"ZZ\r\n")


async def cut(answer: Answer, seconds: float, **route: Any) -> tuple[Watched, bytes, dict[str, Any]]:
    """Return the records of one request whose answer is cut short."""
    seen = Watched()
    seen.answer = answer
    await seen.start(policy(**route) | LOG)
    received = await seen.ask(seconds=seconds)
    assert received.startswith(b"HTTP/1.1 200 "), received
    assert seen.second()["r"][0] == 1, "an error of the second"
    (line,) = seen.log()
    assert line["status"] == 200
    assert line["broken_off"] is True
    return seen, received, line


@pytest.mark.parametrize(
    ("answer", "reason", "cause"),
    [
        (closes(HEAD + b"x" * 10), "reset", "closed before the answer was whole"),
        (closes(CHUNKED + b"3\r\nabc\r\n"), "reset", "closed before the answer was whole"),
        (turns_bad, "protocol_error", "chunk"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(answer: Answer, reason: str, cause: str) -> None:
    @virtual
    async def test() -> None:
        _, _, line = await cut(answer, 1.0)
        assert line["reason"] == reason
        assert cause in line["cause"]

    test()


@pytest.mark.parametrize(
    ("timeout", "answer", "seconds", "words", "limit"),
    [
        ({"request": "5s"}, drips, 7.0, "this route allows 5 s in all", "5"),
        ({"attempt": "3s"}, drips, 5.0, "this route allows 3 s for one attempt", "3"),
        ({"idle": "2s"}, stalls(HEAD + b"x" * 10), 4.0, "this route allows 2 s between two pieces of a body", "2"),
        (
            {"attempt": "9s", "idle": "2s"},
            stalls(HEAD + b"x" * 10),
            4.0,
            "this route allows 2 s between two pieces of a body",
            "2",
        ),
    ],
    ids=["request", "attempt", "idle", "idle_before_attempt"],
)
def test_the_log_says_which_timeout_cut_a_stream(
    timeout: dict[str, str], answer: Answer, seconds: float, words: str, limit: str
) -> None:
    @virtual
    async def test() -> None:
        _, _, line = await cut(answer, seconds, timeout=timeout)
        assert (line["reason"], line["refused_by"]) == ("timeout", "timeout")
        assert words in line["detail"]
        assert line["where"].startswith("p.yaml:")
        assert " bytes" in line["cause"]
        assert line["bytes_out"] > 0

    test()


@virtual
async def test_a_callers_deadline_that_cut_a_stream_is_the_callers() -> None:
    seen = Watched()
    seen.answer = drips
    await seen.start(policy(timeout={}) | LOG)
    await seen.ask("/", "x-request-timeout-ms: 2000", seconds=4.0)
    (line,) = seen.log()
    assert "the caller allows 2 s in all" in line["detail"]


@pytest.mark.parametrize("block", [{"cache": {"ttl": "60s"}}, {"retry": {}}, {"hedge": {"after": "9s"}}], ids=str)
def test_the_words_reach_the_log_through_other_stages(block: dict[str, Any]) -> None:
    @virtual
    async def test() -> None:
        _, _, line = await cut(stalls(HEAD + b"x" * 10), 4.0, timeout={"idle": "2s"}, **block)
        assert "between two pieces of a body" in line["detail"]
        assert "stalled for 2 s after 10 bytes" in line["cause"]

    test()


@virtual
async def test_a_client_that_leaves_within_an_answer_is_no_error() -> None:
    seen = Watched()
    seen.answer = stalls(HEAD + b"x")
    await seen.start(policy() | LOG)
    await seen.ask(seconds=1.0)
    assert seen.second()["r"][0] == 0
    (line,) = seen.log()
    assert (line["status"], line["reason"], line["broken_off"]) == (200, "client_closed", True)


@virtual
async def test_a_timeout_before_the_head_broke_nothing_off() -> None:
    seen = Watched()
    seen.answer = stalls(b"")
    await seen.start(policy(timeout={"request": "2s"}) | LOG)
    await seen.ask(seconds=3.0)
    (line,) = seen.log()
    assert (line["status"], line["reason"]) == (504, "timeout")
    assert "broken_off" not in line


def test_what_clients_cause_is_no_error_whatever_the_head_said() -> None:
    for code, failure in FAILURES.items():
        assert is_error(200, code) is (failure.origin != "client"), code
        assert is_error(499, code) is False
