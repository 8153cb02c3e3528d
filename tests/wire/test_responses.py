"""Tests of responses: the end of each, the parts that are passed on, and malformed ones, which are not."""

from __future__ import annotations

import pytest

from sidecar.core.exchange import Exchange
from tests.support.malformed import MALFORMED, MALFORMED_BODIES
from tests.wire.answers import answer
from tests.wire.reader import dribble, halves

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\nto the end"

COMPLETE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "length 0": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", b"hello"),
    "chunked, no chunk": (CHUNKED + b"0\r\n\r\n", b""),
    "chunked, trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"hello"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
    "an empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b""),
    "a reason of obs-text": (b"HTTP/1.1 200 \xe4\tb\r\nContent-Length: 0\r\n\r\n", b""),
    "an unknown status": (b"HTTP/1.1 599 Whatever\r\nContent-Length: 0\r\n\r\n", b""),
    "another minor version": (b"HTTP/1.3 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    "304 chunked": (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    "after a hint": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", b"hi"),
}

BODIES_TO_COME = ("204 with a length", "304 with a length", "304 chunked")
"""Answers that announce a body where none is allowed: a body would be read as the next answer."""


@pytest.mark.parametrize("name", COMPLETE)
def test_a_whole_answer_however_it_arrives(name: str) -> None:
    data, body = COMPLETE[name]
    whole = answer(data)
    is_reused = name not in BODIES_TO_COME
    assert (whole.reason, whole.is_whole, whole.is_reused) == ("", True, is_reused)
    assert bytes(whole.body) == body
    for pieces in (*halves(data), dribble(data)):
        cut = answer(pieces)
        assert cut.facts == whole.facts, pieces
        assert cut.is_reused == is_reused, pieces


def test_delimited_by_the_close() -> None:
    whole = answer(TO_THE_END, closes=True)
    assert (whole.is_whole, bytes(whole.body), whole.is_reused) == (True, b"to the end", False)
    for pieces in (*halves(TO_THE_END), dribble(TO_THE_END)):
        assert answer(pieces, closes=True).facts == whole.facts


@pytest.mark.parametrize("name", [name for name in COMPLETE if not name.startswith(("204", "304"))])
def test_what_ends_too_early_is_never_whole(name: str) -> None:
    data, _ = COMPLETE[name]
    for index in range(len(data)):
        cut = answer(data[:index], closes=True)
        assert not cut.is_whole
        assert cut.reason == "reset" or (cut.broken is not None and cut.broken.code == "reset")


@pytest.mark.parametrize("more", [b"x", b"\r\n", OK + b"Content-Length: 0\r\n\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("name", [name for name in COMPLETE if name != "after a hint"])
def test_bytes_behind_it_end_the_connection_and_are_nobodys(name: str, more: bytes) -> None:
    data, body = COMPLETE[name]
    over = answer(data + more)
    assert (over.is_whole, bytes(over.body), over.is_reused) == (True, body, False)
    late = answer((data, more))
    assert (late.is_whole, bytes(late.body), late.is_reused) == (True, body, False)


@pytest.mark.parametrize("name", [*MALFORMED, *MALFORMED_BODIES])
def test_nothing_malformed_goes_on(name: str) -> None:
    data = {**MALFORMED, **MALFORMED_BODIES}[name]
    for pieces in (data, dribble(data[:20_000])):
        bad = answer(pieces)
        if bad.outcome is None and not isinstance(pieces, bytes):
            continue  # its end is missing
        assert bad.reason == "protocol_error" or bad.broken is not None
        assert not bad.is_reused
        assert not bad.is_whole


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        b" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.10 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: +5\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Content-Length:\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: session=mine\r\nContent-Length: 0\r\n\r\n",
        b"\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\n" * 9 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b" \r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\n HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Request Denied\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
        OK + b"X: a\nb\r\n\r\n",
        OK + b"X\x00: a\r\n\r\n",
        OK + b"X: a\x7f\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_heads_that_are_none(head: bytes) -> None:
    for pieces in (head, dribble(head)):
        bad = answer(pieces, closes=True)
        assert (bad.reason, bad.is_reused) == ("protocol_error", False)


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n", b"\r\n" * 8])
def test_empty_lines_before_the_first_answer_are_skipped(empty: bytes) -> None:
    data = empty + OK + b"Content-Length: 5\r\n\r\nhello"
    for pieces in (data, dribble(data), [empty, data[len(empty) :]], [data[:1], data[1:]]):
        good = answer(pieces)
        assert (good.status, good.body, good.is_reused) == (200, b"hello", True)
    assert answer(empty, closes=True).reason == "reset"


@pytest.mark.parametrize("lines", [b"", b"Connection: keep-alive\r\n"])
@pytest.mark.parametrize("body", [b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"])
def test_chunks_of_http_1_0_are_read_and_the_connection_is_closed(lines: bytes, body: bytes) -> None:
    data = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n" + lines + b"\r\n" + body
    for pieces in (data, dribble(data), [data + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]):
        old = answer(pieces)
        assert (old.status, old.body, old.is_whole, old.is_reused) == (200, b"hello", True, False)
    assert answer(data[:-9], closes=True).broken is not None, "the end of the connection does not end it"


def test_the_status_that_is_none_is_named() -> None:
    outcome = answer(b"HTTP/1.1 999 Request Denied\r\nContent-Length: 0\r\n\r\n").outcome
    assert outcome is not None
    assert outcome.cause == "the status 999 is not valid: it must be from 100 to 599"


def test_a_head_has_a_limit() -> None:
    assert answer(OK + b"X: " + b"x" * 70_000).reason == "protocol_error"
    assert answer([OK, *[b"X: y\r\n"] * 12_000]).reason == "protocol_error"


def test_interim_answers_have_a_limit() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    good = answer(hint * 16 + OK + b"Content-Length: 0\r\n\r\n")
    assert (good.status, good.interim) == (200, [103] * 16)
    assert answer(hint * 17 + OK + b"Content-Length: 0\r\n\r\n").reason == "protocol_error"
    assert answer([hint] * 17).reason == "protocol_error"


def test_100_and_102_are_interim_and_101_is_not_without_asking() -> None:
    unasked = answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n")
    assert (unasked.status, unasked.interim) == (200, [])
    assert answer(b"HTTP/1.1 102 Processing\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n").interim == [102]
    assert answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n").reason == "protocol_error"


@pytest.mark.parametrize(
    ("framing", "length"),
    [(b"Content-Length: 5\r\n", b"5"), (b"Transfer-Encoding: chunked\r\n", None), (b"", None)],
)
def test_the_answer_to_head_has_no_body(framing: bytes, length: bytes | None) -> None:
    data = OK + framing + b"\r\n"
    told = answer(data, Exchange(b"HEAD", b"/", []))
    assert (told.status, told.is_whole, told.is_reused) == (200, True, not framing)
    assert told.headers.get(b"content-length") == length
    body = answer(data + b"hello", Exchange(b"HEAD", b"/", []))
    assert (bytes(body.body), body.is_reused) == (b"", False)


@pytest.mark.parametrize(
    ("lines", "version", "is_reused"),
    [
        (b"", b"1", True),
        (b"Connection: keep-alive\r\n", b"1", True),
        (b"Connection: close\r\n", b"1", False),
        (b"Connection: CLOSE\r\n", b"1", False),
        (b"Connection: x, close\r\n", b"1", False),
        (b"Connection: close\r\nConnection: keep-alive\r\n", b"1", False),
        (b"Connection: keep-alive\r\nConnection: close\r\n", b"1", False),
        (b"", b"0", False),
        (b"Connection: keep-alive\r\n", b"0", True),
        (b"Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n", b"0", True),
        (b"Connection: keep-alive, close\r\n", b"0", False),
    ],
)
def test_who_wants_to_keep_the_connection(lines: bytes, version: bytes, is_reused: bool) -> None:
    told = answer(b"HTTP/1." + version + b" 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nhi")
    assert (told.is_whole, told.is_reused) == (True, is_reused)


def test_what_belongs_to_the_connection_goes_no_further() -> None:
    lines = (
        b"Connection: X-Private, close\r\nX-Private: a\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: b\r\n"
        b"Upgrade: h2c\r\nTrailer: X\r\nTE: x\r\nProxy-Connection: close\r\nServer: s\r\nDate: d\r\nX-Public:  p \r\n"
    )
    told = answer(OK + lines + b"Content-Length: 0\r\n\r\n")
    assert told.headers == {b"server": b"s", b"x-public": b"p", b"date": b"d"}


def test_a_missing_date_is_added() -> None:
    told = answer(OK + b"Content-Length: 0\r\n\r\n")
    assert told.headers[b"date"].endswith(b" GMT")
