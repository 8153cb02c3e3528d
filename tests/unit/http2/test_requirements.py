"""RFC 9113, section by section: what each requirement makes of a server's or a client's connection."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from tests.support.cases import each
from tests.unit.http2.peer import GET, OK, POST, Peer, Recorder, data, headers, literal, setting

OPENED = headers(1, POST, end=False)
COMPLETE = headers(1, GET)
SOME = [(b"x", b"y")]


class Case(NamedTuple):
    section: str
    what: str
    sent: bytes
    verdict: tuple[str, int] | str
    """`("connection", code)`, `("stream", code)`, or the names of the events that follow."""


def connection(code: int) -> tuple[str, int]:
    return ("connection", code)


def stream(code: int) -> tuple[str, int]:
    return ("stream", code)


def without(name: bytes) -> bytes:
    return headers(1, [pair for pair in GET if pair[0] != name])


def plus(*fields: tuple[bytes, bytes]) -> bytes:
    return headers(1, [*GET, *fields])


def raw(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return f.frame(kind, flags, number, payload)


BLOCK = literal(GET)
SERVER = [
    Case("4.1", "unknown types are ignored", raw(0x20, 0xFF, 7, b"x") + COMPLETE, "head"),
    Case("4.1", "undefined flags are ignored", raw(f.HEADERS, 0x05 | 0x52, 1, BLOCK), "head"),
    Case("4.1", "the reserved bit is ignored", raw(f.HEADERS, 0x05, 0x80000001, BLOCK), "head"),
    Case("4.2", "a frame of 2^14 is taken", OPENED + data(1, b"x" * 16384), "head data"),
    Case("4.2", "a frame that is longer", OPENED + data(1, b"x" * 16385), connection(e.FRAME_SIZE_ERROR)),
    Case("4.3", "a block that is no HPACK", raw(f.HEADERS, 5, 1, b"\x80"), connection(e.COMPRESSION_ERROR)),
    Case("4.3", "blocks of one stream are whole before another's frame",
         raw(f.HEADERS, 1, 1, BLOCK[:5]) + headers(3, GET), connection(e.PROTOCOL_ERROR)),
    Case("4.3", "blocks are not interrupted by unknown types",
         raw(f.HEADERS, 1, 1, BLOCK[:5]) + raw(0x20, 0, 1, b""), connection(e.PROTOCOL_ERROR)),
    Case("5.1", "idle: DATA", data(1, b"x"), connection(e.PROTOCOL_ERROR)),
    Case("5.1", "idle: RST_STREAM", f.rst_stream(1, e.CANCEL), connection(e.PROTOCOL_ERROR)),
    Case("5.1", "idle: WINDOW_UPDATE", f.window_update(1, 1), connection(e.PROTOCOL_ERROR)),
    Case("5.1", "idle: PRIORITY is allowed", raw(f.PRIORITY, 0, 1, bytes(5)) + COMPLETE, "head"),
    Case("5.1", "half-closed: DATA", COMPLETE + data(1, b"x"), stream(e.STREAM_CLOSED)),
    Case("5.1", "half-closed: HEADERS", COMPLETE + COMPLETE, stream(e.STREAM_CLOSED)),
    Case("5.1", "half-closed: WINDOW_UPDATE and PRIORITY are allowed",
         COMPLETE + f.window_update(1, 9) + raw(f.PRIORITY, 0, 1, bytes(5)), "head"),
    Case("5.1", "closed by the peer: DATA",
         OPENED + f.rst_stream(1, e.CANCEL) + data(1, b"x"), connection(e.STREAM_CLOSED)),
    Case("5.1", "closed by the peer: WINDOW_UPDATE and RST_STREAM are let pass",
         OPENED + f.rst_stream(1, e.CANCEL) + f.window_update(1, 1) + f.rst_stream(1, e.CANCEL), "head reset"),
    Case("5.1.1", "even numbers are the server's", headers(2, GET), connection(e.PROTOCOL_ERROR)),
    Case("5.1.1", "numbers go up", headers(5, GET) + headers(3, GET), connection(e.STREAM_CLOSED)),
    Case("5.3.2", "priority is ignored", raw(f.HEADERS, 0x25, 1, bytes(4) + b"\x10" + BLOCK), "head"),
    Case("5.4.1", "nothing is read after a connection error", data(0, b"") + COMPLETE, connection(e.PROTOCOL_ERROR)),
    Case("5.5", "unknown settings are ignored", setting(0x77, 1) + COMPLETE, "head"),
    Case("6.1", "DATA on stream 0", data(0, b"x"), connection(e.PROTOCOL_ERROR)),
    Case("6.1", "padding is taken off", OPENED + raw(f.DATA, 9, 1, b"\x02hello\0\0"), "head data"),
    Case("6.1", "padding as long as the payload",
         OPENED + raw(f.DATA, 8, 1, b"\x05hello"), "head"),
    Case("6.1", "padding longer than the payload", OPENED + raw(f.DATA, 8, 1, b"\x06hello"),
         connection(e.PROTOCOL_ERROR)),
    Case("6.1", "no length of the padding", OPENED + raw(f.DATA, 8, 1, b""), connection(e.FRAME_SIZE_ERROR)),
    Case("6.2", "HEADERS on stream 0", raw(f.HEADERS, 5, 0, BLOCK), connection(e.PROTOCOL_ERROR)),
    Case("6.2", "padded HEADERS", raw(f.HEADERS, 0x0D, 1, b"\x03" + BLOCK + bytes(3)), "head"),
    Case("6.2", "padding too long", raw(f.HEADERS, 0x0D, 1, b"\xff" + BLOCK[:20]), connection(e.PROTOCOL_ERROR)),
    Case("6.2", "cut off within its priority", raw(f.HEADERS, 0x25, 1, bytes(4)), connection(e.FRAME_SIZE_ERROR)),
    Case("6.3", "PRIORITY on stream 0", raw(f.PRIORITY, 0, 0, bytes(5)), connection(e.PROTOCOL_ERROR)),
    Case("6.3", "PRIORITY of another length", OPENED + raw(f.PRIORITY, 0, 1, bytes(4)), stream(e.FRAME_SIZE_ERROR)),
    Case("6.4", "RST_STREAM on stream 0", f.rst_stream(0, 8), connection(e.PROTOCOL_ERROR)),
    Case("6.4", "RST_STREAM of another length", OPENED + raw(f.RST_STREAM, 0, 1, bytes(5)),
         connection(e.FRAME_SIZE_ERROR)),
    Case("6.4", "RST_STREAM closes", OPENED + f.rst_stream(1, e.CANCEL), "head reset"),
    Case("6.4", "an unknown code is no special case", OPENED + f.rst_stream(1, 0xFFFF), "head reset"),
    Case("6.5", "SETTINGS on a stream", raw(f.SETTINGS, 0, 1, b""), connection(e.PROTOCOL_ERROR)),
    Case("6.5", "an ACK with a payload", raw(f.SETTINGS, 1, 0, bytes(6)), connection(e.FRAME_SIZE_ERROR)),
    Case("6.5", "another length than sixes", raw(f.SETTINGS, 0, 0, bytes(5)), connection(e.FRAME_SIZE_ERROR)),
    Case("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), connection(e.PROTOCOL_ERROR)),
    Case("6.5.2", "a window of 2^31", setting(4, 1 << 31), connection(e.FLOW_CONTROL_ERROR)),
    Case("6.5.2", "frames below 2^14", setting(5, 16383), connection(e.PROTOCOL_ERROR)),
    Case("6.5.2", "frames of 2^24", setting(5, 1 << 24), connection(e.PROTOCOL_ERROR)),
    Case("6.6", "a client pushes", OPENED + raw(f.PUSH_PROMISE, 4, 1, bytes(4) + BLOCK), connection(e.PROTOCOL_ERROR)),
    Case("6.7", "PING on a stream", raw(f.PING, 0, 1, bytes(8)), connection(e.PROTOCOL_ERROR)),
    Case("6.7", "PING of another length", raw(f.PING, 0, 0, bytes(7)), connection(e.FRAME_SIZE_ERROR)),
    Case("6.7", "the answer to a PING", f.ping(b"12345678", is_ack=True), "pong"),
    Case("6.8", "GOAWAY on a stream", raw(f.GOAWAY, 0, 1, bytes(8)), connection(e.PROTOCOL_ERROR)),
    Case("6.8", "GOAWAY that is too short", raw(f.GOAWAY, 0, 0, bytes(7)), connection(e.FRAME_SIZE_ERROR)),
    Case("6.8", "GOAWAY with text", f.goaway(0, 0, b"bye") + COMPLETE, "goaway head"),
    Case("6.8", "a last stream that goes up", f.goaway(0, 0) + f.goaway(2, 0), connection(e.PROTOCOL_ERROR)),
    Case("6.9", "a stream's window by nothing", OPENED + f.window_update(1, 0), stream(e.PROTOCOL_ERROR)),
    Case("6.9", "the connection's window by nothing", f.window_update(0, 0), connection(e.PROTOCOL_ERROR)),
    Case("6.9", "WINDOW_UPDATE of another length", raw(f.WINDOW_UPDATE, 0, 0, bytes(3)),
         connection(e.FRAME_SIZE_ERROR)),
    Case("6.9.1", "a stream's window above 2^31-1",
         OPENED + f.window_update(1, 2**31 - 1), stream(e.FLOW_CONTROL_ERROR)),
    Case("6.9.1", "the connection's window above 2^31-1", f.window_update(0, 2**31 - 1),
         connection(e.FLOW_CONTROL_ERROR)),
    Case("6.9.2", "a new initial window makes one too large",
         OPENED + f.window_update(1, 2**31 - 65536) + setting(4, 65536), connection(e.FLOW_CONTROL_ERROR)),
    Case("6.10", "CONTINUATION of nothing", raw(f.CONTINUATION, 4, 1, BLOCK), connection(e.PROTOCOL_ERROR)),
    Case("6.10", "CONTINUATION after a whole block", OPENED + raw(f.CONTINUATION, 4, 1, b""),
         connection(e.PROTOCOL_ERROR)),
    Case("6.10", "CONTINUATION on stream 0", raw(f.HEADERS, 1, 1, BLOCK) + raw(f.CONTINUATION, 4, 0, b""),
         connection(e.PROTOCOL_ERROR)),
    Case("6.10", "a block in three frames",
         raw(f.HEADERS, 1, 1, BLOCK[:5]) + raw(f.CONTINUATION, 0, 1, BLOCK[5:9])
         + raw(f.CONTINUATION, 4, 1, BLOCK[9:]), "head"),
    Case("8.1", "trailers end the stream", OPENED + headers(1, SOME), "head trailers"),
    Case("8.1", "a second head", OPENED + headers(1, SOME, end=False), stream(e.PROTOCOL_ERROR)),
    Case("8.1", "trailers with a pseudo-header", OPENED + headers(1, [(b":path", b"/")]), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "less content than was said",
         headers(1, [*POST, (b"content-length", b"5")], end=False) + data(1, b"four", True), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "more content than was said, before its end",
         headers(1, [*POST, (b"content-length", b"3")], end=False) + data(1, b"four"), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "no content where some was said", plus((b"content-length", b"1")), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "trailers before the end of the content",
         headers(1, [*POST, (b"content-length", b"3")], end=False) + headers(1, SOME), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "as much as was said",
         headers(1, [*POST, (b"content-length", b"600")], end=False) + data(1, b"f" * 300) + data(1, b"u" * 300, True),
         "head data data"),
    Case("8.1.1", "two lengths", plus((b"content-length", b"0"), (b"content-length", b"0")), stream(e.PROTOCOL_ERROR)),
    *(Case("8.1.1", f"the length {value!r}", plus((b"content-length", value)), stream(e.PROTOCOL_ERROR))
      for value in (b"+0", b"0,0", b"-1", b"", b"0x0", b"1" * 19)),
    *(Case("8.2", f"the name {name!r}", plus((name, b"v")), stream(e.PROTOCOL_ERROR))
      for name in (b"X-Upper", b"", b"a b", b"a:", b"a\0", b"a\r\nb", b"\x7f", b"\xe4", b"a\t")),
    *(Case("8.2.1", f"the value {value!r}", plus((b"x", value)), stream(e.PROTOCOL_ERROR))
      for value in (b"a\rb", b"a\nb", b"a\0b", b" a", b"a ", b"\ta", b"a\t", b"\x7f", b"\x01", b" ")),
    Case("8.2.1", "obs-text, tabs and spaces within", plus((b"x", b"\xe4 \tb")), "head"),
    *(Case("8.2.2", f"{name.decode()} of HTTP/1.1", plus((name, value)), stream(e.PROTOCOL_ERROR))
      for name, value in ((b"connection", b"close"), (b"proxy-connection", b"close"), (b"keep-alive", b"1"),
                          (b"transfer-encoding", b"chunked"), (b"upgrade", b"h2c"), (b"te", b"gzip"),
                          (b"te", b"trailers, gzip"))),
    Case("8.2.2", "te: trailers", plus((b"te", b"trailers")), "head"),
    Case("8.3", "an unknown pseudo-header", plus((b":x", b"y")), stream(e.PROTOCOL_ERROR)),
    Case("8.3", "a response's pseudo-header", headers(1, [*GET, (b":status", b"200")]), stream(e.PROTOCOL_ERROR)),
    Case("8.3", "a pseudo-header after a field", headers(1, [*GET[:3], (b"x", b"y"), GET[3]]),
         stream(e.PROTOCOL_ERROR)),
    *(Case("8.3.1", f"no {name.decode()}", without(name), stream(e.PROTOCOL_ERROR))
      for name in (b":method", b":scheme", b":path", b":authority")),
    *(Case("8.3.1", f"{pair[0].decode()} twice", headers(1, [*GET, pair]), stream(e.PROTOCOL_ERROR)) for pair in GET),
    *(Case("8.3.1", f"the path {path!r}", headers(1, [*GET[:3], (b":path", path)]), stream(e.PROTOCOL_ERROR))
      for path in (b"", b"*", b"a", b"/a b", b"/#", b"/\xe4", b"http://a.test/", b"/\x7f", b"/a\r\n")),
    *(Case("8.3.1", f"the method {name!r}", headers(1, [(b":method", name), *GET[1:]]), stream(e.PROTOCOL_ERROR))
      for name in (b"", b"G T", b"GET\r\n", b"G/T")),
    *(Case("8.3.1", f"the authority {name!r}", headers(1, [*GET[:2], (b":authority", name), GET[3]]),
           stream(e.PROTOCOL_ERROR))
      for name in (b"", b"u@a.test", b"a.test/x", b"a b", b"a.test:x", b"a.test#")),
    *(Case("8.3.1", f"the scheme {name!r}", headers(1, [GET[0], (b":scheme", name), *GET[2:]]),
           stream(e.PROTOCOL_ERROR)) for name in (b"", b"ftp", b"ht tp")),
    Case("8.3.1", "Host in place of :authority",
         headers(1, [GET[0], GET[1], GET[3], (b"host", b"a.test")]), "head"),
    Case("8.3.1", "Host that is :authority", plus((b"host", b"a.test")), "head"),
    Case("8.3.1", "Host that is not :authority", plus((b"host", b"b.test")), stream(e.PROTOCOL_ERROR)),
    Case("8.3.1", "two Hosts", plus((b"host", b"a.test"), (b"host", b"a.test")), stream(e.PROTOCOL_ERROR)),
    Case("8.3.1", "OPTIONS *", headers(1, [(b":method", b"OPTIONS"), *GET[1:3], (b":path", b"*")]), "head"),
    Case("8.5", "CONNECT with a path", headers(1, [(b":method", b"CONNECT"), *GET[1:]]), stream(e.PROTOCOL_ERROR)),
    Case("8.5", "CONNECT is answered 501", headers(1, [(b":method", b"CONNECT"), GET[2]]), "head"),
    Case("8441 3", "an extended CONNECT that was not offered",
         headers(1, [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")]), stream(e.PROTOCOL_ERROR)),
]  # fmt: skip

INTERIM = headers(1, [(b":status", b"103")], end=False)
ANSWER = headers(1, OK, end=False)
CLIENT = [
    Case("5.1", "an answer", headers(1, OK), "head"),
    Case("5.1", "a stream that was not opened", headers(3, OK), connection(e.PROTOCOL_ERROR)),
    Case("5.1", "DATA after the end", headers(1, OK) + data(1, b"x"), connection(e.STREAM_CLOSED)),
    Case("6.5.2", "ENABLE_PUSH from a server", setting(2, 1), connection(e.PROTOCOL_ERROR)),
    Case("6.6", "a push", raw(f.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + BLOCK), connection(e.PROTOCOL_ERROR)),
    Case("6.8", "streams above the last were not processed", f.goaway(0, 0), "reset goaway"),
    Case("6.8", "streams up to the last go on", f.goaway(1, 0) + headers(1, OK), "goaway head"),
    Case("8.1", "interim responses come before", INTERIM + INTERIM + headers(1, OK), "interim interim head"),
    Case("8.1", "an interim response ends nothing", headers(1, [(b":status", b"100")]), stream(e.PROTOCOL_ERROR)),
    Case("8.1", "DATA before a head", data(1, b"x"), stream(e.PROTOCOL_ERROR)),
    Case("8.1", "DATA after an interim response", INTERIM + data(1, b"x"), stream(e.PROTOCOL_ERROR)),
    Case("8.1", "trailers", ANSWER + data(1, b"x") + headers(1, SOME), "head data trailers"),
    Case("8.1.1", "less content than was said",
         headers(1, [*OK, (b"content-length", b"2")], end=False) + data(1, b"x", True), stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "204 with content", headers(1, [(b":status", b"204")], end=False) + data(1, b"x"),
         stream(e.PROTOCOL_ERROR)),
    Case("8.1.1", "304 with a length and no content",
         headers(1, [(b":status", b"304"), (b"content-length", b"9")]), "head"),
    *(Case("8.3.2", f"the status {status!r}", headers(1, [(b":status", status)]), stream(e.PROTOCOL_ERROR))
      for status in (b"", b"99", b"600", b"2000", b"20x", b"+20", b" 200", b"101")),
    Case("8.3.2", "no status", headers(1, SOME), stream(e.PROTOCOL_ERROR)),
    Case("8.3.2", "two", headers(1, [*OK, *OK]), stream(e.PROTOCOL_ERROR)),
    Case("8.3.2", "a request's pseudo-header", headers(1, [*OK, (b":path", b"/")]), stream(e.PROTOCOL_ERROR)),
    Case("8.2.2", "connection-specific fields", headers(1, [*OK, (b"connection", b"close")]),
         stream(e.PROTOCOL_ERROR)),
]  # fmt: skip


def judge(peer: Peer, case: Case, pieces: list[bytes]) -> None:
    sent = []
    for piece in pieces:
        sent += peer.feed(piece)
    ended = [frame.code for frame in sent if frame.kind == f.GOAWAY]
    resets = [frame.code for frame in sent if frame.kind == f.RST_STREAM]
    if isinstance(case.verdict, str):
        assert (ended, resets) == ([], []), peer.session.fault
        assert " ".join(peer.handler.kinds()) == case.verdict
        return
    scope, code = case.verdict
    assert (ended, resets) == (([code], []) if scope == "connection" else ([], [code])), peer.session.fault
    assert (peer.session.fault is not None) == (scope == "connection")
    if scope == "stream":
        assert 1 not in peer.session.streams
        assert "reset" in peer.handler.kinds() or peer.events == []


@each([(case, size) for case in SERVER for size in (0, 1, 7)])
def test_servers(what: tuple[Case, int]) -> None:
    case, size = what
    pieces = [case.sent[at : at + size] for at in range(0, len(case.sent), size)] if size else [case.sent]
    judge(Peer(), case, pieces)


@each([(case, size) for case in CLIENT for size in (0, 1, 7)])
def test_clients(what: tuple[Case, int]) -> None:
    case, size = what
    peer = Peer(is_client=True)
    peer.open()
    peer.sent()
    pieces = [case.sent[at : at + size] for at in range(0, len(case.sent), size)] if size else [case.sent]
    judge(peer, case, pieces)


@each([b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"\x16\x03\x01"])
def test_the_preface_is_checked_at_its_first_wrong_byte(data: bytes) -> None:
    """3.4"""
    session = Session(Recorder(), Limits(), False)
    for octet in data:
        session.receive(bytes((octet,)), 0.0)
    assert session.fault is not None
    assert session.fault.code == e.PROTOCOL_ERROR


@each([COMPLETE, f.ping(bytes(8)), f.SETTINGS_ACK])
def test_the_first_frame_is_settings(first: bytes) -> None:
    """3.4"""
    session = Session(Recorder(), Limits(), False)
    session.receive(f.PREFACE + first, 0.0)
    assert session.fault is not None
    assert session.fault.code == e.PROTOCOL_ERROR
