"""Tests of the quick readers of heads: they accept ordinary heads, with the same result as the grammar."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidecar.core.http1 import LONG_HEAD
from sidecar.core.message import BLOCKS, HOP_BY_HOP, LINE, LINES, SECRETS
from sidecar.downstream import request_head
from sidecar.upstream import response_head
from tests.support import heads
from tests.support.cases import each
from tests.support.heads import REQUEST_READERS, RESPONSE_READERS, RequestReader, ResponseReader, wall
from tests.wire.answers import answer
from tests.wire.reader import read
from tests.wire.vectors import VECTORS

COOKIE = b"Cookie: " + b"; ".join(b"name%d=value%d" % (number, number) for number in range(80)) + b"\r\n"

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b?c=%20&d HTTP/1.1\r\nHOST:a\r\nAccept:  */*\t\r\nX-Empty:\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTE: trailers\r\nConnection: te\r\n\r\nabc",
    b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
    b"DELETE * HTTP/1.1\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\nx-forwarded-for: 10.0.0.1\r\nX-Remote-Extra-Scopes: b\r\n\r\n",
    b'GET / HTTP/1.1\r\nHost: a\r\nCookie: b\r\nIf-None-Match: "\xff"\r\nX-Real-IP: 1\r\nPragma: no-cache\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + b"x" * 300 + b"\r\nGrpc-Timeout: 1S\r\n\r\nGET /next HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + COOKIE + b"X-Request-Id: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
]
"""Requests that each reader must accept."""
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\nConnection: keep-alive\r\nServer: n\r\n\r\nab",
    b"HTTP/1.1 404\r\ncontent-length:0\r\nDATE:x \r\nKeep-Alive: 5\r\nX:\r\n\r\n",
    b"HTTP/1.1 503 Out of \xff order \r\nTransfer-Encoding: Chunked\r\nDate: now\r\nConnection: Close\r\n\r\n",
    b"HTTP/1.1 204 \r\nDate: now\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nSet-Cookie: a=b; Path=/\r\nset-cookie: c\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 000000000000000012\r\nTrailer: x\r\nProxy-Connection: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\nLink: " + b"</a>; rel=preload, " * 100 + b"\r\n\r\na",
    b"HTTP/1.1 200 OK\r\nDate: now\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
]
"""Responses that each reader must accept."""
ODD_RESPONSES = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nDate: now\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nDate: then\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: close, x\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: +1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1234567890123456789\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length:\r\n\r\n",
    b"HTTP/1.1 600 OK\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 200OK\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 20\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 200 OK\nDate: now\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate : now\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n Date: now\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nX: y\0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nX: y\n\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\n: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nX\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nLink: " + b"," * 3000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\n" + b"X: a\r\n" * 300 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
]
"""Responses that no reader may accept."""
SPOILING = (b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\x7f", b"\xff", b"_", b",", b"#", b"\r\n", b"\r\n\r\n")


def damaged(data: bytes) -> Iterator[bytes]:
    """Yield `data` cut at each byte, and with bytes inserted or replaced."""
    for at in range(min(len(data), 200)):
        yield data[:at]
        for spoiling in SPOILING:
            yield data[:at] + spoiling + data[at:]
            yield data[:at] + spoiling + data[at + 1 :]


@pytest.fixture(params=REQUEST_READERS)
def take_request(request: pytest.FixtureRequest) -> RequestReader:
    return REQUEST_READERS[request.param]


@pytest.fixture(params=RESPONSE_READERS)
def take_response(request: pytest.FixtureRequest) -> ResponseReader:
    return RESPONSE_READERS[request.param]


def test_an_ordinary_request_is_taken_as_the_grammar_reads_it(take_request: RequestReader) -> None:
    for data in REQUESTS:
        for _ in range(3):  # the second time from the cached lines, the third from the cached block
            assert take_request(data) == heads.request(data) is not None, data


def test_an_ordinary_response_is_taken_as_the_grammar_reads_it(take_response: ResponseReader) -> None:
    for data in RESPONSES:
        for _ in range(2):
            assert take_response(data, wall) == heads.response(data) is not None, data


def test_what_is_not_whole_or_not_valid_is_left_to_the_grammar(take_request: RequestReader) -> None:
    vectors = [vector.data for vector in VECTORS.values()]
    for data in vectors + [one for request in REQUESTS for one in damaged(request)]:
        found = take_request(data)
        assert found is None or found == heads.request(data), data


def test_a_response_that_is_not_ordinary_is_left_to_the_grammar(take_response: ResponseReader) -> None:
    for data in ODD_RESPONSES:
        assert take_response(data, wall) is None, data
    for data in [one for response in RESPONSES + ODD_RESPONSES for one in damaged(response)]:
        found = take_response(data, wall)
        assert found is None or found == heads.response(data), data


def test_what_has_many_parts_is_left_to_the_grammar_which_knows_the_limits(take_request: RequestReader) -> None:
    for target, lines in (
        (b"/" * 600, b"X: " + b"a" * LONG_HEAD),
        (b"/?" + b"&" * 600, b"X: " + b"a" * LONG_HEAD),
        (b"/", b"X: " + b"," * 1025),
        (b"/", b"X: " + b";" * 1025),
        (b"/", b"a:\r\n" * 255 + b"X: " + b"a" * LONG_HEAD),
        (b"/", b"X: " + b"a" * 65536),
    ):
        assert take_request(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (target, lines)) is None


def test_no_name_that_counts_passes_in_another_spelling(take_request: RequestReader) -> None:
    names = request_head.READ | request_head.CLAIMS | request_head.FOR_CACHES | request_head.OTHERS
    prefixed = [prefix + b"x" for prefix in request_head.CLAIM_PREFIXES]
    for name in [*names, *prefixed]:
        for spelt in (
            name,
            name.upper(),
            name.title(),
            name.replace(b"-", b"_"),
            name.replace(b"-", b"."),
            name + b"_",
        ):
            data = b"GET / HTTP/1.1\r\nHost: a\r\n%b: b\r\nX: y\r\n\r\n" % spelt
            found = take_request(data)
            assert found is None or found == heads.request(data), spelt


def test_what_is_remembered_is_bounded_and_no_secret() -> None:
    take = response_head.take_response
    for number in range(2 * LINES):
        take(b"HTTP/1.1 200 %d\r\nDate: now\r\nX: %d\r\n\r\n" % (number, number), wall)
    secrets = b"".join(b"%b: y\r\n" % name for name in SECRETS)
    take(b"HTTP/1.1 200 OK\r\nDate: now\r\n%bX: %b\r\n\r\n" % (secrets, b"x" * LINE), wall)
    assert len(response_head.HEADS) <= BLOCKS
    for memory in (response_head.STATUSES, response_head.MEANINGS):
        assert len(memory) <= LINES
        assert max(map(len, memory)) <= LINE
    assert not [text for text in response_head.MEANINGS if text.partition(b":")[0] in SECRETS]


@pytest.mark.parametrize("take", RESPONSE_READERS.values(), ids=RESPONSE_READERS)
def test_a_response_head_is_cached_by_its_octets_unless_it_is_long_or_has_a_secret_or_no_date(
    take: ResponseReader,
) -> None:
    def repeat(head: bytes, body: bytes = b"") -> bool:
        """Return True if the lines of a head are the object of its last time; its parts are always right."""
        several = [take(head + body, wall) or pytest.fail("not common") for _ in range(4)]
        assert several == [heads.response(head)] * 4
        return several[-1][2] is several[-2][2]

    start = b"HTTP/1.1 200 OK\r\nDate: now\r\nServer: a server with a name\r\nX-Name: here\r\n"
    assert repeat(start + b"Content-Length: 0\r\n\r\n")
    assert repeat(start + b"Content-Length: 5\r\n\r\n", b"HTTP/")
    assert repeat(start + b"Content-Length: 6\r\nConnection: close\r\n\r\n", b"HTTP/1")
    assert not repeat(start.replace(b"Date: now\r\n", b"") + b"\r\n")
    assert not repeat(start + b"X: %b\r\n\r\n" % (b"x" * LONG_HEAD))
    for name in sorted(SECRETS - HOP_BY_HOP):
        assert not repeat(start + b"%b: y\r\n\r\n" % name)
    known = start + b"Content-Length: 0\r\n"
    assert repeat(known + b"\r\n")
    for cut in range(len(known) + 2):
        assert take((known + b"\r\n")[:cut], wall) is None


def test_a_block_is_cached_once_its_lines_are_unless_it_is_long_or_has_a_secret() -> None:
    take, blocks = request_head.take_request, request_head.SPECIAL.blocks
    blocks.clear()
    for number in range(LINES):  # lines that differ from request to request
        take(b"GET / HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % number)
    for name in SECRETS:
        for _ in range(3):
            take(b"GET / HTTP/1.1\r\nHost: a\r\n%b: y\r\n\r\n" % name)
    for _ in range(3):
        take(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * LONG_HEAD))
        take(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsecret=no")
    assert not blocks
    take(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert blocks.keys() == {b"Host: a\r\n\r\n"}
    for number in range(2 * BLOCKS):
        for _ in range(2):
            take(b"GET / HTTP/1.1\r\nHost: a%d\r\n\r\n" % number)
        assert len(blocks) <= BLOCKS


def cuts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the data in two pieces: cut everywhere if it is short, else at a hundred places."""
    for at in range(1, len(data), len(data) // 100 + 1 if len(data) > 400 else 1):
        yield data[:at], data[at:]


@each(REQUESTS)
def test_where_a_request_is_cut_changes_nothing(data: bytes) -> None:
    whole = read(data)
    for pieces in cuts(data):
        assert read(pieces) == whole, pieces


@each([*RESPONSES, *ODD_RESPONSES])
def test_where_a_response_is_cut_changes_nothing(data: bytes) -> None:
    whole = answer(data, closes=True)
    assert whole.outcome is not None
    for pieces in cuts(data):
        told = answer(pieces, closes=True)
        assert told.outcome is not None
        assert told.facts == whole.facts, pieces
        assert told.outcome.failure or told.outcome.lines == whole.outcome.lines, pieces


@pytest.mark.skipif(not heads.IS_COMPILED, reason="the readers in C are not built")
def test_connections_read_with_the_compiled_readers_where_there_are_any() -> None:
    assert request_head.read_ordinary is not request_head.take_request
    assert response_head.read_ordinary is heads.RESPONSE_READERS["compiled"]


@each(REQUEST_READERS)
def test_no_octet_of_a_long_value_goes_unseen(name: str) -> None:
    reader, size = REQUEST_READERS[name], 300
    head = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\nX: y\r\n\r\n"
    for length in (*range(60, 140), size):
        assert reader(head % (b"x" * length)) == heads.request(head % (b"x" * length)) is not None
    for at in range(size):
        for octet in b"\0\x1f\n\r\x7f\t\x80\xff ~":
            value = bytearray(b"x" * size)
            value[at] = octet
            data = head % bytes(value)
            assert reader(data) in (None, heads.request(data)), (at, octet)
            if octet in b"\0\x1f\n\r\x7f":
                assert reader(data) is None
