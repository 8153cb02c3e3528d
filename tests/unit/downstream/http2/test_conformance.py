"""Conformance of a listener to RFC 9113 and RFC 7541, with the cases that the test suite h2spec has.

Each case is what a client sends after the exchange of settings, and what it must get: answers, the reset of a stream,
or a GOAWAY after which the connection closes.  The same for a session alone is in `unit/http2/test_requirements`.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.http2.connection import Http2Connection
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.hpack import Decoder, encode_huffman, encode_integer
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.unit.downstream.http2.talk import Frames
from tests.unit.http2.peer import GET, POST, data, headers, literal, setting
from tests.unit.http2.test_requirements import SERVER, Case

OPENED = headers(1, POST, end=False)
COMPLETE = headers(1, GET)
BLOCK = literal(GET)
HEAD = [(b":method", b"HEAD"), *GET[1:]]
OPTIONS = [(b":method", b"OPTIONS"), *GET[1:]]


class Verdict(NamedTuple):
    """Frames that a client must get."""

    answers: tuple[int, ...] = ()
    """Streams that are answered 200."""
    reset: int | None = None
    """Code of the RST_STREAM."""
    goaway: int | None = None
    """Code of the GOAWAY, after which the connection closes."""


def answered(*streams: int) -> Verdict:
    return Verdict(streams or (1,))


def reset(code: int, *answers: int) -> Verdict:
    return Verdict(answers, reset=code)


def closed(code: int, *answers: int) -> Verdict:
    return Verdict(answers, goaway=code)


def raw(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return f.frame(kind, flags, number, payload)


def block(number: int, payload: bytes, end: bool = True) -> bytes:
    return f.header_frames(number, payload, end)


def priority(number: int, parent: int, weight: int = 15, exclusive: bool = False) -> bytes:
    return raw(f.PRIORITY, 0, number, (parent | (1 << 31 if exclusive else 0)).to_bytes(4, "big") + bytes((weight,)))


def without(name: bytes) -> bytes:
    return headers(1, [pair for pair in GET if pair[0] != name])


def plus(*fields: tuple[bytes, bytes]) -> bytes:
    return headers(1, [*GET, *fields])


def string(text: bytes) -> bytes:
    return encode_integer(0, 0x7F, len(text)) + text


PARTS = (raw(f.HEADERS, 1, 1, BLOCK[:5]), raw(f.CONTINUATION, 0, 1, BLOCK[5:9]), raw(f.CONTINUATION, 4, 1, BLOCK[9:]))
STATIC = b"\x82\x86\x84"
"""Block of `GET http /` without an authority."""
AUTHORITY = b"\x41" + string(b"a.test")
END_TRAILERS = headers(1, [(b"x-sum", b"1")])
RESET = f.rst_stream(1, e.CANCEL)
EXTENSION = raw(0xFE, 0, 0, bytes(8))

CASES: dict[str, tuple[bytes, Verdict]] = {
    # generic: what servers must take
    "generic 1: the preface": (COMPLETE, answered()),
    "generic 2: PRIORITY on an idle stream": (priority(1, 0) + COMPLETE, answered()),
    "generic 2: WINDOW_UPDATE on a half-closed stream": (COMPLETE + f.window_update(1, 1), answered()),
    "generic 2: PRIORITY on a half-closed stream": (COMPLETE + priority(1, 0), answered()),
    "generic 2: RST_STREAM on a half-closed stream": (COMPLETE + RESET + headers(3, GET), answered(1, 3)),
    "generic 2: PRIORITY on a closed stream": (OPENED + RESET + priority(1, 0) + headers(3, GET), answered(3)),
    "generic 3.1: DATA": (OPENED + data(1, b"test", True), answered()),
    "generic 3.1: several DATA": (OPENED + data(1, b"te") + data(1, b"st", True), answered()),
    "generic 3.1: padded DATA": (OPENED + raw(f.DATA, 9, 1, b"\x06test" + bytes(6)), answered()),
    "generic 3.2: HEADERS": (COMPLETE, answered()),
    "generic 3.2: padded HEADERS": (raw(f.HEADERS, 0x0D, 1, b"\x08" + BLOCK + bytes(8)), answered()),
    "generic 3.2: HEADERS with a priority": (raw(f.HEADERS, 0x25, 1, bytes(4) + b"\xff" + BLOCK), answered()),
    "generic 3.2: padded HEADERS with a priority": (
        raw(f.HEADERS, 0x2D, 1, b"\x03" + bytes(4) + b"\x10" + BLOCK + bytes(3)), answered()),
    "generic 3.3: the least priority": (priority(1, 0, 0) + COMPLETE, answered()),
    "generic 3.3: the greatest priority": (priority(1, 0, 255) + COMPLETE, answered()),
    "generic 3.3: a dependency": (priority(3, 1) + COMPLETE, answered()),
    "generic 3.3: an exclusive dependency": (priority(3, 1, exclusive=True) + COMPLETE, answered()),
    "generic 3.3: PRIORITY of an idle stream, then one below": (priority(7, 5) + headers(5, GET), answered(5)),
    "generic 3.4: RST_STREAM": (OPENED + RESET + headers(3, GET), answered(3)),
    "generic 3.5: SETTINGS": (f.settings([(3, 100), (4, 70000)]) + COMPLETE, answered()),
    "generic 3.5: empty SETTINGS": (f.settings([]) + COMPLETE, answered()),
    "generic 3.7: PING": (f.ping(b"h2spec\0\0") + COMPLETE, answered()),
    "generic 3.7: an answer to a PING": (f.ping(b"h2spec\0\0", is_ack=True) + COMPLETE, answered()),
    "generic 3.8: GOAWAY": (COMPLETE + f.goaway(0, 0, b"h2spec"), answered()),
    "generic 3.9: WINDOW_UPDATE of the connection": (f.window_update(0, 1) + COMPLETE, answered()),
    "generic 3.9: WINDOW_UPDATE of a stream": (
        OPENED + f.window_update(1, 1) + data(1, b"", True), answered()),
    "generic 3.10: CONTINUATION": (PARTS[0] + raw(f.CONTINUATION, 4, 1, BLOCK[5:]), answered()),
    "generic 3.10: several CONTINUATION": (b"".join(PARTS), answered()),
    "generic 3.10: an empty CONTINUATION": (PARTS[0] + raw(f.CONTINUATION, 0, 1) + raw(f.CONTINUATION, 4, 1, BLOCK[5:]),
        answered()),
    "generic 4: GET": (COMPLETE, answered()),
    "generic 4: HEAD": (headers(1, HEAD), answered()),
    "generic 4: POST": (OPENED + data(1, b"test", True), answered()),
    "generic 4: OPTIONS": (headers(1, OPTIONS), answered()),
    "generic 4: POST with trailers": (OPENED + data(1, b"test") + END_TRAILERS, answered()),
    "generic 5: indexed fields": (block(1, STATIC + AUTHORITY), answered()),
    "generic 5: inserted, with an indexed name": (block(1, STATIC + AUTHORITY + b"\x53" + string(b"a")), answered()),
    "generic 5: inserted, with a name": (
        block(1, STATIC + AUTHORITY + b"\x40" + string(b"x-a") + string(b"b")), answered()),
    "generic 5: not inserted, with an indexed name": (
        block(1, STATIC + AUTHORITY + b"\x0f\x04" + string(b"a")), answered()),
    "generic 5: not inserted, with a name": (
        block(1, STATIC + AUTHORITY + b"\x00" + string(b"x-a") + string(b"b")), answered()),
    "generic 5: never indexed, with an indexed name": (
        block(1, STATIC + AUTHORITY + b"\x1f\x04" + string(b"a")), answered()),
    "generic 5: never indexed, with a name": (
        block(1, STATIC + AUTHORITY + b"\x10" + string(b"x-a") + string(b"b")), answered()),
    "generic 5: an index of the dynamic table": (
        block(1, STATIC + AUTHORITY) + block(3, STATIC + b"\xbe"), answered(1, 3)),
    "generic 5: Huffman's code": (
        block(1, STATIC + b"\x41" + encode_huffman(b"a.test") + b"\x40" + encode_huffman(b"x-user-agent")
              + encode_huffman(b"mozilla")), answered()),
    "generic 5: a change of the table's size": (block(1, b"\x20" + STATIC + AUTHORITY), answered()),
    "generic 5: two changes of the table's size": (block(1, b"\x20\x3f\xe1\x1f" + STATIC + AUTHORITY), answered()),
    # http2: what the RFC says, section by section
    "3.4: a preface of another kind is HTTP/1.1": (b"", answered()),
    "4.1: an unknown type": (EXTENSION + f.ping(bytes(8)) + COMPLETE, answered()),
    "4.1: an undefined flag": (raw(f.PING, 0x16, 0, bytes(8)) + COMPLETE, answered()),
    "4.1: the reserved bit": (raw(f.PING, 0, 1 << 31, bytes(8)) + COMPLETE, answered()),
    "4.2: DATA of 2^14": (OPENED + data(1, b"x" * 16384, True), answered()),
    "4.2: DATA that is longer": (OPENED + data(1, b"x" * 16385), closed(e.FRAME_SIZE_ERROR)),
    "4.2: HEADERS that are longer": (raw(f.HEADERS, 5, 1, bytes(16385)), closed(e.FRAME_SIZE_ERROR)),
    "4.3: a block that is none": (block(1, b"\x40"), closed(e.COMPRESSION_ERROR)),
    "4.3: PRIORITY within a block": (PARTS[0] + priority(1, 0), closed(e.PROTOCOL_ERROR)),
    "4.3: HEADERS of another stream within a block": (PARTS[0] + headers(3, GET), closed(e.PROTOCOL_ERROR)),
    "5.1: idle: DATA": (data(1, b"x"), closed(e.PROTOCOL_ERROR)),
    "5.1: idle: RST_STREAM": (RESET, closed(e.PROTOCOL_ERROR)),
    "5.1: idle: WINDOW_UPDATE": (f.window_update(1, 100), closed(e.PROTOCOL_ERROR)),
    "5.1: idle: CONTINUATION": (raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR)),
    "5.1: half-closed: DATA": (headers(1, [*GET[:3], (b":path", b"/hang")]) + data(1, b"x"), reset(e.STREAM_CLOSED)),
    "5.1: half-closed: HEADERS": (headers(1, [*GET[:3], (b":path", b"/hang")]) + COMPLETE, reset(e.STREAM_CLOSED)),
    "5.1: half-closed: CONTINUATION": (COMPLETE + raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR, 1)),
    "5.1: closed by RST_STREAM: DATA": (OPENED + RESET + data(1, b"x"), closed(e.STREAM_CLOSED)),
    "5.1: closed by RST_STREAM: HEADERS": (OPENED + RESET + COMPLETE, closed(e.STREAM_CLOSED)),
    "5.1: closed by RST_STREAM: CONTINUATION": (
        OPENED + RESET + raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR)),
    "5.1.1: an even number": (headers(2, GET), closed(e.PROTOCOL_ERROR)),
    "5.1.1: a number below": (headers(5, GET) + headers(3, GET), closed(e.STREAM_CLOSED, 5)),
    "5.3.1: HEADERS that depend on themselves": (
        raw(f.HEADERS, 0x25, 1, b"\0\0\0\1\xff" + BLOCK), closed(e.PROTOCOL_ERROR)),
    "5.3.1: PRIORITY that depends on itself": (OPENED + priority(1, 1), reset(e.PROTOCOL_ERROR)),
    "5.4.1: after an error the connection closes": (raw(f.PING, 0, 3, bytes(8)), closed(e.PROTOCOL_ERROR)),
    "5.5: an extension": (EXTENSION + COMPLETE, answered()),
    "5.5: an extension within a block": (PARTS[0] + EXTENSION, closed(e.PROTOCOL_ERROR)),
    "6.1: DATA on stream 0": (data(0, b"x"), closed(e.PROTOCOL_ERROR)),
    "6.1: a padding that is too long": (OPENED + raw(f.DATA, 9, 1, b"\x06test"), closed(e.PROTOCOL_ERROR)),
    "6.2: HEADERS on stream 0": (block(0, BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.2: a padding that is too long": (raw(f.HEADERS, 0x0D, 1, b"\xff" + BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.3: PRIORITY on stream 0": (priority(0, 0), closed(e.PROTOCOL_ERROR)),
    "6.3: PRIORITY of another length": (OPENED + raw(f.PRIORITY, 0, 1, bytes(4)), reset(e.FRAME_SIZE_ERROR)),
    "6.4: RST_STREAM on stream 0": (f.rst_stream(0, 8), closed(e.PROTOCOL_ERROR)),
    "6.4: RST_STREAM of another length": (OPENED + raw(f.RST_STREAM, 0, 1, bytes(3)), closed(e.FRAME_SIZE_ERROR)),
    "6.5: an acknowledgement with a payload": (raw(f.SETTINGS, 1, 0, bytes(6)), closed(e.FRAME_SIZE_ERROR)),
    "6.5: SETTINGS on a stream": (raw(f.SETTINGS, 0, 1), closed(e.PROTOCOL_ERROR)),
    "6.5: SETTINGS of another length": (raw(f.SETTINGS, 0, 0, bytes(3)), closed(e.FRAME_SIZE_ERROR)),
    "6.5.2: ENABLE_PUSH of 2": (setting(2, 2), closed(e.PROTOCOL_ERROR)),
    "6.5.2: INITIAL_WINDOW_SIZE of 2^31": (setting(4, 1 << 31), closed(e.FLOW_CONTROL_ERROR)),
    "6.5.2: MAX_FRAME_SIZE below 2^14": (setting(5, 16383), closed(e.PROTOCOL_ERROR)),
    "6.5.2: MAX_FRAME_SIZE of 2^24": (setting(5, 1 << 24), closed(e.PROTOCOL_ERROR)),
    "6.5.2: an unknown setting": (setting(0xFF, 1) + COMPLETE, answered()),
    "6.5.3: one key several times": (f.settings([(4, 100), (4, 1)]) + COMPLETE, answered()),
    "6.7: PING on a stream": (raw(f.PING, 0, 1, bytes(8)), closed(e.PROTOCOL_ERROR)),
    "6.7: PING of another length": (raw(f.PING, 0, 0, bytes(6)), closed(e.FRAME_SIZE_ERROR)),
    "6.8: GOAWAY on a stream": (raw(f.GOAWAY, 0, 1, bytes(8)), closed(e.PROTOCOL_ERROR)),
    "6.9: the connection's window by nothing": (f.window_update(0, 0), closed(e.PROTOCOL_ERROR)),
    "6.9: a stream's window by nothing": (OPENED + f.window_update(1, 0), reset(e.PROTOCOL_ERROR)),
    "6.9: WINDOW_UPDATE of another length": (raw(f.WINDOW_UPDATE, 0, 0, bytes(3)), closed(e.FRAME_SIZE_ERROR)),
    "6.9.1: the connection's window above 2^31-1": (
        f.window_update(0, 2**31 - 1) * 2, closed(e.FLOW_CONTROL_ERROR)),
    "6.9.1: a stream's window above 2^31-1": (
        OPENED + f.window_update(1, 2**31 - 1) * 2, reset(e.FLOW_CONTROL_ERROR)),
    "6.9.2: a window above 2^31-1 by a setting": (
        OPENED + f.window_update(1, 2**31 - 65536) + setting(4, 2**31 - 1), closed(e.FLOW_CONTROL_ERROR)),
    "6.10: CONTINUATION of another stream": (PARTS[0] + raw(f.CONTINUATION, 4, 3, BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.10: CONTINUATION on stream 0": (PARTS[0] + raw(f.CONTINUATION, 4, 0, BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.10: CONTINUATION after a whole block": (OPENED + raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.10: CONTINUATION after DATA": (
        OPENED + data(1, b"x") + raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR)),
    "6.10: CONTINUATION after the end of a block": (
        b"".join(PARTS) + raw(f.CONTINUATION, 4, 1, BLOCK), closed(e.PROTOCOL_ERROR, 1)),
    "7: GOAWAY with an unknown code": (COMPLETE + f.goaway(0, 0xFF), answered()),
    "7: RST_STREAM with an unknown code": (OPENED + f.rst_stream(1, 0xFF) + headers(3, GET), answered(3)),
    "8.1: a second head that does not end the stream": (OPENED + OPENED, reset(e.PROTOCOL_ERROR)),
    "8.2.1: a name with a capital": (plus((b"X-Test", b"ok")), reset(e.PROTOCOL_ERROR)),
    "8.2.2: connection": (plus((b"connection", b"keep-alive")), reset(e.PROTOCOL_ERROR)),
    "8.2.2: te of another value": (plus((b"te", b"trailers, deflate")), reset(e.PROTOCOL_ERROR)),
    "8.3: an unknown pseudo-header": (plus((b":test", b"ok")), reset(e.PROTOCOL_ERROR)),
    "8.3: the pseudo-header of a response": (plus((b":status", b"200")), reset(e.PROTOCOL_ERROR)),
    "8.3: a pseudo-header in trailers": (
        OPENED + data(1, b"x") + headers(1, [(b":method", b"GET")]), reset(e.PROTOCOL_ERROR)),
    "8.3: a pseudo-header after a field": (
        headers(1, [*GET[:3], (b"x-test", b"ok"), GET[3]]), reset(e.PROTOCOL_ERROR)),
    "8.3.1: an empty path": (headers(1, [*GET[:3], (b":path", b"")]), reset(e.PROTOCOL_ERROR)),
    "8.3.1: no method": (without(b":method"), reset(e.PROTOCOL_ERROR)),
    "8.3.1: no scheme": (without(b":scheme"), reset(e.PROTOCOL_ERROR)),
    "8.3.1: no path": (without(b":path"), reset(e.PROTOCOL_ERROR)),
    "8.3.1: two methods": (plus(GET[0]), reset(e.PROTOCOL_ERROR)),
    "8.3.1: two schemes": (plus(GET[1]), reset(e.PROTOCOL_ERROR)),
    "8.3.1: two paths": (plus(GET[3]), reset(e.PROTOCOL_ERROR)),
    "8.1.1: a length that is not that of DATA": (
        headers(1, [*POST, (b"content-length", b"1")], False) + data(1, b"test", True), reset(e.PROTOCOL_ERROR)),
    "8.1.1: a length that is not that of several DATA": (
        headers(1, [*POST, (b"content-length", b"1")], False) + data(1, b"te") + data(1, b"st", True),
        reset(e.PROTOCOL_ERROR)),
    "8.4: PUSH_PROMISE": (
        OPENED + raw(f.PUSH_PROMISE, 4, 1, (3).to_bytes(4, "big") + BLOCK), closed(e.PROTOCOL_ERROR)),
    # hpack
    "hpack 2.3.3: an index beyond the tables": (block(1, STATIC + b"\xff\x01"), closed(e.COMPRESSION_ERROR)),
    "hpack 2.3.3: a name's index beyond the tables": (
        block(1, STATIC + b"\x7f\x01" + string(b"x")), closed(e.COMPRESSION_ERROR)),
    "hpack 4.2: a change of the table's size at the end": (block(1, BLOCK + b"\x20"), closed(e.COMPRESSION_ERROR)),
    "hpack 5.2: a padding longer than 7 bits": (
        block(1, STATIC + b"\x00\x81\xff\x84\xa7\xff\xff\xff"), closed(e.COMPRESSION_ERROR)),
    "hpack 5.2: a padding of zeros": (
        block(1, STATIC + b"\x00\x01x\x81\x18"), closed(e.COMPRESSION_ERROR)),
    "hpack 5.2: the end of strings": (
        block(1, STATIC + b"\x00\x01x\x84\xff\xff\xff\xff"), closed(e.COMPRESSION_ERROR)),
    "hpack 6.1: index 0": (block(1, STATIC + b"\x80"), closed(e.COMPRESSION_ERROR)),
    "hpack 6.3: a table that is too large": (block(1, b"\x3f\xe2\x1f" + BLOCK), closed(e.COMPRESSION_ERROR)),
}  # fmt: skip


async def serve(x: Exchange) -> Outcome:
    if x.path == b"/hang":
        await asyncio.Event().wait()
    if x.stream is not None:
        x.stream.attach(Sink())
    return Outcome(200, [], b"ok")


class Sink:
    """Sink of a request's body that drops it."""

    def write(self, data: bytes) -> None: ...

    def finish(self, trailers: object) -> None: ...

    def fail(self, failure: object) -> None: ...


def statuses(talk: Frames) -> dict[int, bytes]:
    """Return the status of each stream that was answered."""
    decoder = Decoder(1 << 16, 100)
    found: dict[int, bytes] = {}
    for frame in talk.got:
        if frame.kind == f.HEADERS:
            fields = decoder.decode(frame.payload).fields
            found[frame.stream] = fields[0].value
    return found


@each([(name, size) for name in CASES for size in (0, 1)])
@virtual
async def test_a_listener_conforms(case: tuple[str, int]) -> None:
    name, size = case
    sent, verdict = CASES[name]
    if name.startswith("3.4"):
        sent = COMPLETE
    talk = Frames(serve)
    await talk.feed(*([sent[at : at + size] for at in range(0, len(sent), size)] if size else [sent]))
    await talk.feed()
    assert statuses(talk) == dict.fromkeys(verdict.answers, b"200")
    resets = [code for code in talk.codes(f.RST_STREAM) if code != e.NO_ERROR]
    assert resets == ([] if verdict.reset is None else [verdict.reset])
    ends = [code for code in talk.codes(f.GOAWAY) if code != e.NO_ERROR]
    assert ends == ([] if verdict.goaway is None else [verdict.goaway])
    assert talk.front.bugs == []
    if verdict.goaway is not None:
        assert talk.client.is_eof, "the connection closes after its GOAWAY"
        await asyncio.sleep(6)
        assert talk.front.is_empty
    elif not talk.codes(f.GOAWAY):
        await talk.feed(headers(99, GET))
        assert statuses(talk)[99] == b"200", "the connection goes on"


@each([case for case in SERVER if "not offered" not in case.what])
@virtual
async def test_a_listener_does_what_its_session_does(case: Case) -> None:
    talk = Frames(serve)
    await talk.feed(case.sent)
    ends = [code for code in talk.codes(f.GOAWAY) if code != e.NO_ERROR]
    resets = [code for code in talk.codes(f.RST_STREAM) if code != e.NO_ERROR]
    if isinstance(case.verdict, str):
        assert (ends, resets) == ([], [])
    elif case.verdict[0] == "connection":
        assert (ends, resets) == ([case.verdict[1]], [])
    else:
        assert (ends, resets) in (([], [case.verdict[1]]), ([case.verdict[1]], [])), "its answer may have closed it"
    assert talk.front.bugs == []


@virtual
async def test_streams_beyond_the_announced_limit_are_refused() -> None:
    """5.1.2"""
    talk = Frames(serve)
    hang = [*GET[:3], (b":path", b"/hang")]
    await talk.feed(b"".join(headers(number, hang) for number in range(1, 203, 2)))
    assert talk.codes(f.RST_STREAM) == [e.REFUSED_STREAM]
    await talk.feed(RESET + headers(301, GET))
    assert statuses(talk) == {301: b"200"}


@virtual
async def test_windows_are_kept_to() -> None:
    """6.9.1 and 6.9.2"""
    talk = Frames(serve, settings=setting(f.INITIAL_WINDOW_SIZE, 0))
    await talk.feed(COMPLETE)
    assert talk.data(1) == b""
    await talk.feed(setting(f.INITIAL_WINDOW_SIZE, 1))
    assert talk.data(1) == b"o"
    await talk.feed(setting(f.INITIAL_WINDOW_SIZE, 0), f.window_update(1, 1))
    assert talk.data(1) == b"o", "the window was negative"
    await talk.feed(f.window_update(1, 1))
    assert talk.data(1) == b"ok"


@virtual
async def test_settings_and_pings_are_answered_in_their_order() -> None:
    """6.5.3 and 6.7"""
    talk = Frames(serve)
    await talk.feed()
    answers = await talk.feed(f.settings([]) + f.ping(b"12345678") + setting(4, 1))
    assert [(frame.kind, frame.flags) for frame in answers] == [(f.SETTINGS, 1), (f.PING, 1), (f.SETTINGS, 1)]
    assert answers[1].payload == b"12345678"


@each([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"INVALID CONNECTION PREFACE\r\n\r\n", f.PREFACE[:-1] + b"x"])
@virtual
async def test_prefaces_of_another_kind(sent: bytes) -> None:
    """3.4"""
    talk = Frames(serve)
    client = talk.front.connect()
    client.write(sent)
    await settle()
    assert bytes(client.received[:8]) == b"HTTP/1.1" or client.is_eof
    assert not sent.startswith(b"PRI") or e.PROTOCOL_ERROR.to_bytes(4, "big") in bytes(client.received)
    left = [each for each in talk.front.listener.connections if isinstance(each, Http2Connection)]
    assert len(left) == 1, "that of the client of the right kind"
