"""Requests over HTTP/2 whose parts would be more than one request over HTTP/1.1 (RFC 9113 8.2, 8.3 and 10.3).

A server behind the proxy reads what arrives as strictly as the proxy does.  Each stream must become one request or
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import product

from sidecar.core.body import Body, BodyReader
from sidecar.core.http1 import CHUNKED, body_length, parse_request
from sidecar.core.message import Headers, parse_fields
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.support.proxy import Proxy, Service, ServiceConnection
from tests.unit.downstream.http2.talk import end_of_frames
from tests.unit.http2.peer import data, headers, split

POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"]}}
routes: [{name: r, match: {path_prefix: /}, upstream: u}]
"""
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
CUTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\x0b",
    b"\x7f",
    b"\xc2\x85",
    b"\xe5\x98\x8a\xe5\x98\x8d",
)
"""Octets that end a line somewhere, or a part of one."""
TAILS = (b"x: y", b"transfer-encoding: chunked", SMUGGLED, b"")

Pairs = list[tuple[bytes, bytes]]
REQUEST: Pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/first")]


class Reading(Service):
    """Server that notes each request, its method, path, fields and body."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[bytes, bytes, Headers, bytes]] = []
        self.left = b""
        """Bytes that are no whole request."""
        self.trailers: Headers = []
        """Trailers of the last request with a body."""

    async def accept(self, address: tuple[str, int | None]) -> asyncio.BaseProtocol:
        return Reader(self)


class Reader(ServiceConnection):
    service: Reading

    def __init__(self, service: Reading) -> None:
        super().__init__(service)
        self.service = service
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while self.data and (size := self.take()):
            self.data = self.data[size:]
            self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        self.service.left = self.data

    def take(self) -> int:
        """Note the first request, and return its size; 0 if it is not whole."""
        parsed = parse_request(self.data, 1 << 20)
        if parsed is None:
            return 0
        method, path, version, start, end = parsed
        fields = parse_fields(self.data[start : end - 2])
        length = body_length(fields, version) or 0
        body = Body(None, None)
        reader = BodyReader(body, length)
        rest = self.data[end:]
        if length and not reader.feed(rest):
            return 0
        self.service.trailers = reader.trailers
        self.service.read.append((method, path, fields, body.whole()))
        return len(self.data) - len(reader.rest if length else rest)


class Line:
    """Proxy, and a client of HTTP/2 for each request."""

    def __init__(self) -> None:
        self.service = Reading()
        self.proxy = Proxy(POLICIES, self.service)

    async def send(self, fields: Pairs, content: bytes | None = None, trailers: Pairs | None = None) -> list[int]:
        """Send a request, and return the codes of the resets and GOAWAYs that came back, or [0] for an answer."""
        client = self.proxy.connect()
        sent = headers(1, fields, content is None and trailers is None)
        if content is not None:
            sent += data(1, content, trailers is None)
        if trailers is not None:
            sent += headers(1, trailers)
        client.write(f.PREFACE + f.settings([]) + f.SETTINGS_ACK + sent)
        await settle(12)
        received = bytes(client.received)
        frames = split(received[: end_of_frames(received)])
        client.transport.close()
        await settle(4)
        codes = [frame.code for frame in frames if frame.kind in (f.RST_STREAM, f.GOAWAY)]
        return codes or [0 for frame in frames if frame.kind == f.HEADERS]


def spoiled() -> Iterator[tuple[str, Pairs]]:
    """Yield requests of which one part has something in it that ends a line, and more behind that."""
    for cut, tail in product(CUTS, TAILS):
        text = cut + tail
        for at, (name, value) in enumerate(REQUEST):
            yield f"{name.decode()} {text!r}", [*REQUEST[:at], (name, value + text), *REQUEST[at + 1 :]]
        yield f"name {text!r}", [*REQUEST, (b"x" + text, b"v")]
        yield f"value {text!r}", [*REQUEST, (b"x", b"v" + text + b"v")]
        yield f"cookie {text!r}", [*REQUEST, (b"cookie", b"a=b"), (b"cookie", b"c" + text + b"d")]
        yield f"host {text!r}", [*[pair for pair in REQUEST if pair[0] != b":authority"], (b"host", b"a.test" + text)]
        yield f"length {text!r}", [*REQUEST, (b"content-length", b"0" + text)]


@virtual
async def test_what_ends_a_line_never_makes_a_second_request() -> None:
    line = Line()
    passed = 0
    for name, fields in spoiled():
        line.service.read.clear()
        codes = await line.send(fields)
        assert line.service.left == b"", name
        assert len(line.service.read) <= 1, name
        for method, path, found, body in line.service.read:
            passed += 1
            assert (method, body) == (b"POST", b""), name
            assert path == b"/first", name
            assert b"transfer-encoding" not in dict(found), name
        assert bool(line.service.read) == (codes == [0]), (name, codes)
    assert passed < 40, "only tabs, spaces and bytes of other alphabets within values pass"


FRAMING: dict[str, tuple[Pairs, bytes | None, int]] = {
    "a chunked body": ([(b"transfer-encoding", b"chunked")], b"0\r\n\r\n" + SMUGGLED, 0),
    "a chunked body by a twin": ([(b"transfer_encoding", b"chunked")], b"0\r\n\r\n" + SMUGGLED, 1),
    "a length that is too short": ([(b"content-length", b"5")], b"hello" + SMUGGLED, 0),
    "a length of nothing": ([(b"content-length", b"0")], SMUGGLED, 0),
    "a length that is too long": ([(b"content-length", b"500")], SMUGGLED, 0),
    "two lengths": ([(b"content-length", b"0"), (b"content-length", b"%d" % len(SMUGGLED))], SMUGGLED, 0),
    "a list of lengths": ([(b"content-length", b"%d, %d" % (len(SMUGGLED), len(SMUGGLED)))], SMUGGLED, 0),
    "a signed length": ([(b"content-length", b"+%d" % len(SMUGGLED))], SMUGGLED, 0),
    "a length by a twin": ([(b"content_length", b"0")], SMUGGLED, 1),
    "no length": ([], SMUGGLED, 1),
    "the right length": ([(b"content-length", b"%d" % len(SMUGGLED))], SMUGGLED, 1),
    "a length and no body": ([(b"content-length", b"5")], None, 0),
    "an upgrade": ([(b"upgrade", b"websocket"), (b"connection", b"upgrade")], SMUGGLED, 0),
    "an upgrade to h2c": ([(b"upgrade", b"h2c"), (b"http2-settings", b"AAA")], SMUGGLED, 0),
    "a connection": ([(b"connection", b"content-length")], SMUGGLED, 0),
    "te: chunked": ([(b"te", b"chunked")], SMUGGLED, 0),
    "te: trailers": ([(b"te", b"trailers")], SMUGGLED, 1),
    "an expectation": ([(b"expect", b"200-ok")], SMUGGLED, 0),
    "another Host": ([(b"host", b"b.test")], None, 0),
    "two Hosts": ([(b"host", b"a.test"), (b"host", b"a.test")], None, 0),
    "the same Host": ([(b"host", b"a.test")], None, 1),
    "capitals": ([(b"Transfer-Encoding", b"chunked")], b"0\r\n\r\n" + SMUGGLED, 0),
}


@each(list(FRAMING))
@virtual
async def test_the_framing_of_http1_is_the_proxys_own(name: str) -> None:
    fields, content, requests = FRAMING[name]
    line = Line()
    codes = await line.send([*REQUEST, *fields], content)
    assert len(line.service.read) == requests, line.service.read
    assert line.service.left == b""
    for method, path, found, body in line.service.read:
        assert (method, path, body) == (b"POST", b"/first", content or b"")
        assert body_length(found, 11) in (len(content or b""), CHUNKED)
    assert (codes == [0]) == bool(requests or name == "an expectation"), codes


TARGETS: dict[str, tuple[bytes, bytes, bytes | None]] = {
    "/a//b": (b"GET", b"/a//b", b"/a//b"),
    "//b.test/a": (b"GET", b"//b.test/a", b"//b.test/a"),
    "/../a": (b"GET", b"/x/../a", b"/a"),
    "/%2e%2e/a": (b"GET", b"/x/%2E%2e/a", b"/a"),
    "an absolute target": (b"GET", b"http://b.test/a", None),
    "a path without a slash": (b"GET", b"a", None),
    "a fragment": (b"GET", b"/a#b", None),
    "* of GET": (b"GET", b"*", None),
    "an authority": (b"GET", b"b.test:80", None),
    "a query alone": (b"GET", b"?a", None),
    "nothing": (b"GET", b"", None),
    "CONNECT": (b"CONNECT", b"/a", None),
    "a method in lower case": (b"get", b"/a", b"/a"),
    "a method of its own": (b"FROB", b"/a", b"/a"),
    "PRI": (b"PRI", b"/a", b"/a"),
}


@each(list(TARGETS))
@virtual
async def test_targets(name: str) -> None:
    method, path, expected = TARGETS[name]
    line = Line()
    await line.send([(b":method", method), *REQUEST[1:3], (b":path", path)])
    assert [(found[0], found[1]) for found in line.service.read] == ([(method, expected)] if expected else [])


@each([b"a\r\nb", b"a\nb", b"a\0b", b" a", b"A", b"a b", b":path", b"transfer-encoding", b"connection"])
@virtual
async def test_trailers_that_are_malformed_break_the_request(name: bytes) -> None:
    line = Line()
    codes = await line.send(REQUEST, b"hello", [(name, b"v")])
    assert codes == [e.PROTOCOL_ERROR]
    assert line.service.read == []


@virtual
async def test_trailers_pass_in_chunks_without_those_that_matter() -> None:
    line = Line()
    trailers = [(b"x-sum", b"1"), (b"content-length", b"9"), (b"host", b"b.test"), (b"x-forwarded-for", b"1.1.1.1")]
    assert await line.send(REQUEST, b"hello", trailers) == [0]
    ((_, _, found, body),) = line.service.read
    assert body == b"hello"
    assert (b"transfer-encoding", b"chunked") in found
    assert line.service.trailers == [(b"x-sum", b"1")]
