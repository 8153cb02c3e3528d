"""Tests of a part that streams: the head of the whole, the body in little memory, and failures before and after it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.body import HIGH_WATER
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from tests.support.backends import HANG, RESET, Answer, answer
from tests.support.loop import settle, virtual
from tests.support.proxy import Client
from tests.unit.http2.peer import Recorder
from tests.unit.stages.aggregate.test_stage import USER, Page, policies

PARTS = """
        user: {upstream: users, path: "/users/7", required: true}
        report: {upstream: orders, path: "/report", stream: true, otherwise: {json: []}}
        score: {upstream: credit, path: "/score"}"""
REPORT = "orders/report"
LENGTH = 8 * 2**20
LONG = b"[%b1]" % (b'"0123456789", ' * (LENGTH // 14))
"""Body of eight MiB."""
REST = b" " * HIGH_WATER
"""White space that makes a body too long to be complete with its head."""
NAME = json.loads(USER.data.partition(b"\r\n\r\n")[2])["name"]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*pieces: tuple[float, bytes], **fields: str) -> Answer:
    """Return an answer whose pieces come one after another; one that is empty resets the connection."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    kind = "" if "content_type" in fields else "Content-Type: application/json\r\n"
    head = f"HTTP/1.1 200 X\r\n{kind}Transfer-Encoding: chunked\r\n{lines}\r\n".encode()
    then = tuple((seconds, chunk(piece) if piece else b"") for seconds, piece in pieces)
    return Answer(head, then=then)


def page(report: Answer, more: str = "", parts: str = PARTS, route: str = "", **others: Answer) -> Page:
    answers = {"users/users/7": USER, "credit/score": answer(b"9"), REPORT: report}
    return split(
        Page(policies(parts, more, route=route), answers | {k.replace("__", "/"): v for k, v in others.items()})
    )


def split(found: Page) -> Page:
    """Return a page whose services send long answers in pieces."""
    found.services.split = HIGH_WATER
    return found


def finished(*pieces: tuple[float, bytes], **fields: str) -> Answer:
    """Return a chunked answer that ends with its last piece."""
    found = chunked(*pieces, **fields)
    seconds, last = found.then[-1]
    return found._replace(then=(*found.then[:-1], (seconds, last + b"0\r\n\r\n")))


def unread(found: Page) -> int:
    """Return the bytes of the report that the sidecar has not read yet."""
    size: int = found.services.hosts["orders"].transport.get_write_buffer_size()
    return size


async def reads_nothing(found: Page) -> Client:
    """Ask for the page with a client that reads nothing once it is connected."""
    client = found.proxy.connect()
    client.transport.pause_reading()
    client.write(b"GET /profile/7 HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0.1)
    return client


@virtual
async def test_the_answer_begins_before_the_part_has_ended() -> None:
    found = page(finished((0.1, b"[1,"), (0.3, b"2.50,"), (0.5, b"3]"), cache_control="max-age=9"))
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(0.2)
    head, _, body = bytes(client.received).partition(b"\r\n\r\n")
    assert b"HTTP/1.1 200" in head
    assert b"server-timing: user;dur=" in head
    assert b"cache-control: max-age=9" in head
    assert b'"report":\r\n' in body
    assert body.endswith(chunk(b"[1,"))
    whole = await client.answer()
    assert b'"report":[1,2.50,3],"score":9}' in whole.body
    assert found.results() == {"user": "ok", "report": "ok", "score": "ok"}
    record = found.proxy.records[-1]
    assert record[2] == ""
    part = record[0].parts[1]  # type: ignore[index]
    assert part.ended - part.started == pytest.approx(0.5), "its time is that of the whole body"
    assert found.counted("report", "ok") == 1


@virtual
async def test_a_long_part_arrives_whole_and_with_its_length() -> None:
    found = page(answer(LONG))
    whole = await found.get()
    assert int(whole.get("content-length")) == len(whole.body)
    assert json.loads(whole.body)["report"][-1] == 1
    assert found.results()["report"] == "ok", "neither max_body nor max_size counts it"


@virtual
async def test_a_client_that_does_not_read_stops_the_part() -> None:
    found = page(answer(LONG))
    client = await reads_nothing(found)
    assert len(LONG) - unread(found) < 8 * HIGH_WATER, "all other bytes are still the service's"
    client.transport.resume_reading()
    assert json.loads((await client.answer()).body)["report"][-1] == 1


@virtual
async def test_a_body_waits_in_little_memory_for_the_other_parts() -> None:
    found = page(answer(LONG), users__users__7=USER._replace(after=0.5))
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(0.4)
    assert not client.received
    assert len(LONG) - unread(found) < 4 * HIGH_WATER
    whole = await client.answer()
    assert json.loads(whole.body)["user"]["name"] == NAME
    assert "user;dur=500.0, report;dur=0.0" in whole.get("server-timing"), "the wait is not the time of the part"


@virtual
async def test_the_head_says_what_is_missing() -> None:
    found = page(answer(LONG), "      partial: {status: 203, member: missing}\n", credit__score=RESET)
    whole = await found.get()
    assert (whole.status, whole.get("x-sidecar-partial"), whole.get("cache-control")) == (203, "score", "no-store")
    document = json.loads(whole.body)
    assert (document["score"], document["missing"], len(document["report"])) == (None, ["score"], LENGTH // 14 + 1)


@virtual
async def test_a_template_has_the_part_anywhere() -> None:
    form = '      answer: {json: {all: [{of: "{parts.report}"}], score: "{parts.score}"}}\n'
    assert json.loads((await page(answer(LONG), form).get()).body)["all"][0]["of"][-1] == 1


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (RESET, "reset"), (answer(b"[]", 500), "500"), (HANG, "timeout"),
        (chunked((0.1, b"[1, "), (0.2, b"")), "reset"),
    ],
)  # fmt: skip
@virtual
async def test_a_failure_before_the_head_of_the_whole_is_replaced(report: Answer, reason: str) -> None:
    slow = {} if report is HANG else {"credit__score": answer(b"9", after=0.4)}
    found = page(report, parts=PARTS.replace("stream: true", "stream: true, timeout: 300ms"), **slow)
    assert json.loads((whole := await found.get()).body)["report"] == []
    assert whole.get("x-sidecar-partial") == "report"
    assert found.results()["report"] == reason


@virtual
async def test_a_required_part_that_breaks_off_while_it_waits_fails_the_whole_at_once() -> None:
    parts = PARTS.replace("stream: true, otherwise: {json: []}", "stream: true, required: true")
    found = page(chunked((0.1, b"[1, "), (0.2, b"")), parts=parts, credit__score=answer(b"9", after=0.7))
    before = found.proxy.loop.time()
    assert (await found.get()).status == 502
    assert found.proxy.loop.time() - before == pytest.approx(0.2, abs=0.05)


@virtual
async def test_a_required_part_that_fails_cancels_a_body_that_waits() -> None:
    found = page(answer(LONG), users__users__7=answer(b"{}", 500, after=0.3))
    assert (await found.get()).status == 502
    await settle()
    assert found.services.hosts["orders"].is_lost
    assert found.results()["report"] == "cancelled"
    assert found.proxy.state("endpoints")["orders"]["endpoints"][0]["in_flight"] == 0


LATE = [
    (chunked((0.1, b"[1, "), (0.2, b"")), "reset"),
    (finished((0.1, b"[1, "), (0.2, b"}")), "invalid"),
    (finished((0.1, b"[1]"), (0.2, b', "admin": true')), "invalid"),
    (finished((0.1, b"[1, "), (0.2, b"2")), "invalid"),
    (chunked((0.1, b"[1, ")), "timeout"),
]


@pytest.mark.parametrize(("report", "reason"), LATE)
@virtual
async def test_a_failure_after_the_head_breaks_the_answer_off(report: Answer, reason: str) -> None:
    found = page(report)
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(1.0)
    await settle()
    assert client.is_lost or client.is_eof
    assert bytes(client.received).startswith(b"HTTP/1.1 200")
    assert not bytes(client.received).endswith(b"0\r\n\r\n"), "the client sees that it is not whole"
    assert b"admin" not in client.received
    assert found.results()["report"] == reason
    assert found.proxy.records[-1][2] == "part_failed"
    assert found.proxy.bugs == []
    assert found.proxy.state("endpoints")["orders"]["endpoints"][0]["in_flight"] == 0


@pytest.mark.parametrize(("report", "reason"), LATE)
@virtual
async def test_over_http2_the_stream_is_reset_and_the_others_go_on(report: Answer, reason: str) -> None:
    found = page(report)
    client = found.proxy.connect()
    session = Session(handler := Recorder(), Limits(frame_burst=1e9), True)
    first, second = (session.open(b"GET", b"http", b"a", path, b"", True) for path in (b"/profile/7", b"/profile/8"))
    read = 0
    for seconds in (0.15, 0.85):
        client.write(session.take_output())
        await asyncio.sleep(seconds)
        session.receive(bytes(client.received[read:]), 0.0)
        read = len(client.received)
    kinds = [event[0] for event in handler.events if event[1] == first.id]
    assert kinds[:2] == ["head", "data"]
    assert kinds[-1] in ("reset", "failed"), kinds
    assert not client.is_lost
    assert second.id != first.id
    assert found.proxy.bugs == []


@virtual
async def test_a_client_that_leaves_cancels_the_part_midway() -> None:
    found = page(finished((0.1, b"[1,"), (0.7, b"2]")))
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(0.2)
    assert client.received
    client.transport.abort()
    await settle()
    assert found.services.hosts["orders"].is_lost
    assert found.results() == {"user": "ok", "report": "client_closed", "score": "ok"}
    assert found.proxy.records[-1][2] == "client_closed"
    assert found.proxy.state("endpoints")["orders"]["endpoints"][0]["in_flight"] == 0
    assert found.proxy.bugs == []


@pytest.mark.parametrize(
    ("report", "value"),
    [
        (answer(b"[1, 2}"), []),  # complete with its head, so it is checked as a whole
        (answer(b"null"), None),
        (Answer(answer(b"[1, 2}").data[:-6], then=((0.1, b"[1, "), (0.2, b"2}"))), []),  # known to be short
        (chunked((0.1, b"[1]"), content_type="text/plain"), []),
        (finished((0.1, b"[1]"), (0.2, b" "), content_type="text/plain"), [1]),
        (finished((0.1, b"[1]"), (0.2, b" "), content_encoding="gzip"), []),
        (finished((0.1, b"[1]"), (0.2, b"[2]"), content_type="application/x-ndjson"), []),
    ],
)
@virtual
async def test_other_answers_are_held_and_checked_as_a_whole(report: Answer, value: Any) -> None:
    whole = await page(report).get()
    assert json.loads(whole.body)["report"] == value
    assert whole.get("content-length")


@virtual
async def test_an_empty_body_is_null() -> None:
    assert json.loads((await page(finished((0.1, b" "), (0.2, b"\n"))).get()).body)["report"] is None


@virtual
async def test_a_limit_that_is_written_holds() -> None:
    parts = PARTS.replace("stream: true", "stream: true, max_body: 100KiB")
    found = page(answer(LONG), parts=parts)
    assert json.loads((await found.get()).body)["report"] == []
    assert found.results()["report"] == "answer_too_large"
    found = page(finished((0.1, b"[1, " + REST), (0.2, REST), (0.3, b"1]")), parts=parts)
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(0.5)
    assert client.is_lost or client.is_eof
    assert found.results()["report"] == "answer_too_large"


@virtual
async def test_head_gets_the_head() -> None:
    found = page(answer(LONG))
    client = found.proxy.send(method="HEAD", path="/profile/7")
    assert (await client.answer("HEAD")).status == 200
    await settle()
    assert found.results()["report"] == "ok"
    assert found.services.hosts["orders"].is_lost, "the rest of the body is not read"
    assert found.proxy.bugs == []


CACHED = (
    "  - {name: report, listener: none, match: {path: /report}, upstream: orders, "
    "cache: {ttl: 10s, keep: 10m, max_body: 16MiB}}\n"
)
ALL = {"users/users/7": USER, "credit/score": answer(b"9"), REPORT: answer(LONG)}
THROUGH = PARTS.replace("upstream: orders", "route: report")


@virtual
async def test_a_long_answer_of_a_cache_streams_too() -> None:
    found = split(Page(policies(THROUGH) + CACHED, ALL))
    first, second = await found.get(), await found.get()
    assert first.body == second.body
    assert len(found.services.of("orders")) == 1
    await asyncio.sleep(11)
    found.services.answers[REPORT] = RESET
    assert json.loads((await found.get()).body)["report"] == []
    parts = THROUGH.replace("otherwise: {json: []}", "otherwise: [stale, {json: []}]")
    found = split(Page(policies(parts) + CACHED, ALL))
    await found.get()
    await asyncio.sleep(11)
    found.services.answers[REPORT] = RESET
    third = await found.get()
    assert (third.body, third.get("x-sidecar-partial")) == (first.body, "report")
    value = found.proxy.env.meter.value(metrics.AGGREGATE_PARTS, part="report", result="stale")
    assert value == 1


@pytest.mark.parametrize("outer", ["", ", stream: true"], ids=["held", "streams too"])
@virtual
async def test_a_part_may_be_an_aggregate_whose_part_streams(outer: str) -> None:
    parts = PARTS.replace('upstream: orders, path: "/report", stream: true', "route: inner, path: /inner" + outer)
    inner = """  - name: inner
    listener: none
    match: {path: /inner}
    aggregate:
      parts:
        small: {upstream: users, path: /gone}
        report: {upstream: orders, path: /report, stream: true}
"""
    said = finished((0.1, b'[{"a": 1},'), (0.2, b'{"b": 2}]'))
    found = Page(policies(parts) + inner, {**ALL, REPORT: said})
    whole = await found.get()
    assert json.loads(whole.body)["report"] == {"small": None, "report": [{"a": 1}, {"b": 2}]}
    assert whole.get("x-sidecar-partial") == "report.small"
    assert bool(whole.get("content-length")) is not bool(outer)
    found.services.answers[REPORT] = chunked((0.1, b"[1, "), (0.2, b""))
    if outer:
        client = found.proxy.send(path="/profile/7")
        await asyncio.sleep(0.5)
        assert client.is_lost or client.is_eof
    else:
        assert json.loads((await found.get()).body)["report"] == []
    assert found.proxy.bugs == []


@virtual
async def test_the_whole_is_stored_if_it_is_whole() -> None:
    found = page(answer(LONG), route="    cache: {ttl: 10s, max_body: 16MiB}\n")
    first, second = await found.get(), await found.get()
    assert (first.body, len(found.services.seen)) == (second.body, 3)
    found = page(chunked((0.1, b"[1, "), (0.2, b"")), route="    cache: {ttl: 10s, max_body: 16MiB}\n")
    client = found.proxy.send(path="/profile/7")
    await asyncio.sleep(0.5)
    assert client.is_lost or client.is_eof
    found.services.answers[REPORT] = answer(b"[2]")
    assert json.loads((await found.get()).body)["report"] == [2]
