"""Messages of HTTP/2 that readers may understand in different ways, or that lie once they are HTTP/1.1.

A vector is a function of the stream that returns frames.  The target of a request must be `/vector-NUMBER`, or the
number must be in a field: what arrives is told by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.parts.floods import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, frame, literal
from tests.neighbours.vectors import POISON, SMUGGLED

Pairs = list[tuple[bytes, bytes]]
Vector = Callable[[int, bytes], bytes]
"""Function that returns the frames on a stream; those of a request have the target that it is given."""
CHUNKED: Final = b"0\r\n\r\n" + SMUGGLED
SIZE: Final = b"%d" % len(SMUGGLED)
MARKS: Final = [(b"x-mark", b"forged"), (b"x-sidecar-attempt", b"1")]


def block(pairs: Pairs) -> bytes:
    """Return a header block that uses no table, whatever it says."""
    return b"".join([literal(name, value) for name, value in pairs])


def head(stream: int, pairs: Pairs, is_end: bool) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if is_end else 0), stream, block(pairs))


def data(stream: int, content: bytes, is_end: bool = True) -> bytes:
    return frame(DATA, END_STREAM if is_end else 0, stream, content)


def pseudo(target: bytes, **changed: bytes | None) -> Pairs:
    """Return the pseudo-headers of a request; None leaves one out."""
    values = {"method": b"POST", "scheme": b"http", "authority": b"test", "path": target, **changed}
    return [(b":" + name.encode(), value) for name, value in values.items() if value is not None]


def ordinary(stream: int, target: bytes, fields: Pairs) -> bytes:
    """Return the frames of a GET."""
    return head(stream, [*pseudo(target, method=b"GET"), *fields], True)


def bare(*fields: tuple[bytes, bytes], **changed: bytes | None) -> Vector:
    """Return a request without content."""
    return lambda stream, target: head(stream, [*pseudo(target, **changed), *fields], True)


def upload(content: bytes, *fields: tuple[bytes, bytes], trailers: Pairs | None = None, **changed: bytes) -> Vector:
    """Return a request with content, and with trailers if there are any."""

    def frames(stream: int, target: bytes) -> bytes:
        out = head(stream, [*pseudo(target, **changed), *fields], False) + data(stream, content, trailers is None)
        return out if trailers is None else out + head(stream, trailers, True)

    return frames


def ahead(*fields: tuple[bytes, bytes]) -> Vector:
    """Return a request with these fields before its pseudo-headers."""
    return lambda stream, target: head(stream, [*fields, *pseudo(target)], True)


def path(text: bytes, **changed: bytes) -> Vector:
    """Return a request with a target in which TARGET stands for the right one."""
    return lambda stream, target: head(stream, pseudo(text.replace(b"TARGET", target), **changed), True)


def in_two_frames(stream: int, target: bytes) -> bytes:
    """Return a head that is cut within `content-length`."""
    whole = block([*pseudo(target), (b"content-length", SIZE)])
    start = frame(HEADERS, 0, stream, whole[:-3]) + frame(CONTINUATION, END_HEADERS, stream, whole[-3:])
    return start + data(stream, SMUGGLED)


def padded(stream: int, target: bytes) -> bytes:
    """Return content whose padding would be a request."""
    payload = bytes((len(SMUGGLED),)) + b"hello" + SMUGGLED
    start = head(stream, [*pseudo(target), (b"content-length", b"5")], False)
    return start + frame(DATA, PADDED | END_STREAM, stream, payload)


def after_the_end(stream: int, target: bytes) -> bytes:
    return head(stream, pseudo(target), True) + data(stream, SMUGGLED)


OCTETS: Final = {
    "CR LF": b"\r\n", "LF": b"\n", "CR": b"\r", "NUL": b"\0", "DEL": b"\x7f", "vertical tab": b"\x0b", "ESC": b"\x1b",
}  # fmt: skip
WORST: Final = {name: OCTETS[name] for name in ("CR LF", "LF", "NUL")}
REQUESTS: Final[dict[str, Vector]] = {
    **{f"{name} in a value": bare((b"x-a", b"b" + text + b"x-injected: 1")) for name, text in OCTETS.items()},
    **{f"{name} at the end of a value": bare((b"x-a", b"b" + text)) for name, text in WORST.items()},
    **{f"{name} before a value": bare((b"x-a", text + b"b")) for name, text in WORST.items()},
    **{f"{name} in a name": bare((b"x-a" + text + b"x-injected", b"1")) for name, text in WORST.items()},
    **{f"{name} in the target": path(b"TARGET" + text + b"x") for name, text in WORST.items()},
    **{f"{name} in the authority": bare(authority=b"te" + text + b"st") for name, text in WORST.items()},
    **{f"{name} in the method": bare(method=b"GE" + text + b"T") for name, text in WORST.items()},
    **{f"{name} in the scheme": bare(scheme=b"ht" + text + b"tp") for name, text in WORST.items()},
    **{f"{name} in a cookie": bare((b"cookie", b"a=b" + text), (b"cookie", b"c=d")) for name, text in WORST.items()},
    # fields and pseudo-headers that would be more than one in HTTP/1.1
    "request in a value": bare((b"x-a", b"b\r\n\r\n" + SMUGGLED)),
    "request in a name": bare((b"x-a: b\r\n\r\n" + SMUGGLED, b"")),
    "request in the target": path(b"TARGET HTTP/1.1\r\nHost: test\r\n\r\n" + SMUGGLED),
    "request in the method": bare(method=b"GET / HTTP/1.1\r\nHost: test\r\n\r\nGET"),
    "request in the authority": bare(authority=b"test\r\n\r\n" + SMUGGLED),
    "coding in a value": upload(CHUNKED, (b"x-a", b"b\r\ntransfer-encoding: chunked")),
    "coding in a name": upload(CHUNKED, (b"x-a: b\r\ntransfer-encoding", b"chunked")),
    "length in a value": upload(SMUGGLED, (b"x-a", b"b\r\ncontent-length: 0")),
    # names
    "upper case": bare((b"X-A", b"b")),
    "upper case of the coding": upload(CHUNKED, (b"Transfer-Encoding", b"chunked")),
    "upper case of the length": upload(SMUGGLED, (b"Content-Length", b"0")),
    "empty name": bare((b"", b"x")),
    "colon in a name": upload(CHUNKED, (b"transfer-encoding:chunked", b"x")),
    "colon at the end of a name": upload(CHUNKED, (b"transfer-encoding:", b"chunked")),
    "space in a name": bare((b"x a", b"b")),
    "space after a name": upload(CHUNKED, (b"transfer-encoding ", b"chunked")),
    "tab after a name": upload(SMUGGLED, (b"content-length\t", b"0")),
    "space before a name": upload(SMUGGLED, (b" content-length", b"0")),
    "name beyond ASCII": bare((b"x-\xe4", b"b")),
    "underscore: length": upload(SMUGGLED, (b"content_length", b"0")),
    "underscore: coding": upload(CHUNKED, (b"transfer_encoding", b"chunked")),
    # pseudo-headers
    "unknown pseudo-header": bare((b":x", b"y")),
    "upper case of a pseudo-header": ahead((b":Path", b"/vector")),
    "pseudo-header of answers": bare((b":status", b"200")),
    "pseudo-header after a field": lambda s, t: head(s, [*pseudo(t)[:3], (b"x-a", b"b"), *pseudo(t)[3:]], True),
    "two methods": ahead((b":method", b"GET")),
    "two schemes": ahead((b":scheme", b"https")),
    "two authorities": ahead((b":authority", b"other")),
    "two targets": ahead((b":path", b"/smuggled")),
    "no method": bare(method=None),
    "no scheme": bare(scheme=None),
    "no target": lambda s, _: head(s, pseudo(b"", path=None), True),
    "no authority": bare(authority=None),
    "empty method": bare(method=b""),
    "empty scheme": bare(scheme=b""),
    "empty target": path(b""),
    "empty authority": bare(authority=b""),
    "empty authority and a host": bare((b"host", b"test"), authority=b""),
    "target without a slash": path(b"vector"),
    "target *": path(b"*"),
    "target * of OPTIONS": path(b"*", method=b"OPTIONS"),
    "absolute target": path(b"http://otherTARGET"),
    "target with a space": path(b"TARGET HTTP/1.1"),
    "target with a tab": path(b"TARGET\tHTTP/1.1"),
    "target with a fragment": path(b"TARGET#x"),
    "target with dots": path(b"/a/..TARGET"),
    "target with a backslash": path(b"/a\\..TARGET"),
    "target beyond ASCII": path(b"/\xe4TARGET"),
    "target with two slashes": path(b"//otherTARGET"),
    "target is a query": path(b"?TARGET"),
    "scheme with a target": lambda s, t: head(s, pseudo(t, scheme=b"http://other/smuggled?"), True),
    "scheme of another kind": bare(scheme=b"file"),
    "scheme in upper case": bare(scheme=b"HTTP"),
    "https in clear": bare(scheme=b"https"),
    "lower case method": bare(method=b"post"),
    "method with a space": bare(method=b"GET /smuggled"),
    "own method": bare(method=b"FROB"),
    "CONNECT": lambda s, _: (
        head(s, [(b":method", b"CONNECT"), (b":authority", b"test:80")], False) + data(s, SMUGGLED)
    ),
    "CONNECT with a target": bare(method=b"CONNECT"),
    "CONNECT with a protocol": lambda s, t: (
        head(s, [*pseudo(t, method=b"CONNECT"), (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")], False)
        + data(s, SMUGGLED)
    ),
    "CONNECT with another protocol": lambda s, t: (
        head(s, [*pseudo(t, method=b"CONNECT"), (b":protocol", b"a b")], False) + data(s, SMUGGLED)
    ),
    "protocol of a GET": bare((b":protocol", b"websocket"), method=b"GET"),
    "TRACE with content": upload(SMUGGLED, method=b"TRACE"),
    # hosts
    "host of the same name": bare((b"host", b"test")),
    "host of another name": bare((b"host", b"other")),
    "host in upper case": bare((b"host", b"TEST")),
    "two hosts": bare((b"host", b"test"), (b"host", b"other")),
    "two hosts, the same": bare((b"host", b"test"), (b"host", b"test")),
    "two hosts alone": bare((b"host", b"test"), (b"host", b"other"), authority=None),
    "list of hosts": bare((b"host", b"test, other"), authority=None),
    "host alone": bare((b"host", b"test"), authority=None),
    "empty host": bare((b"host", b"")),
    "user in the authority": bare(authority=b"test@other"),
    "target in the authority": bare(authority=b"test/smuggled?"),
    "space in the authority": bare(authority=b"test other"),
    "list of authorities": bare(authority=b"test,other"),
    "port that is none": bare(authority=b"test:80x"),
    # lengths
    "length of all": upload(SMUGGLED, (b"content-length", SIZE)),
    "length that is too small": upload(SMUGGLED, (b"content-length", b"5")),
    "length of nothing": upload(SMUGGLED, (b"content-length", b"0")),
    "length that is too large": upload(SMUGGLED, (b"content-length", b"1000")),
    "length without content": bare((b"content-length", b"10")),
    "length with trailers alone": lambda s, t: (
        head(s, [*pseudo(t), (b"content-length", b"10")], False) + head(s, [(b"x-t", b"1")], True)
    ),
    "length that is too large, with trailers": upload(
        SMUGGLED, (b"content-length", b"1000"), trailers=[(b"x-t", b"1")]
    ),
    "two lengths, the same": upload(SMUGGLED, (b"content-length", SIZE), (b"content-length", SIZE)),
    "two lengths": upload(SMUGGLED, (b"content-length", SIZE), (b"content-length", b"0")),
    "two lengths, the wrong one first": upload(SMUGGLED, (b"content-length", b"0"), (b"content-length", SIZE)),
    "list of lengths": upload(SMUGGLED, (b"content-length", SIZE + b", " + SIZE)),
    "length with a plus": upload(SMUGGLED, (b"content-length", b"+" + SIZE)),
    "length below zero": upload(SMUGGLED, (b"content-length", b"-1")),
    "length with zeros": upload(SMUGGLED, (b"content-length", b"000" + SIZE)),
    "length with a space": upload(SMUGGLED, (b"content-length", b"0 " + SIZE)),
    "length with a tab": upload(SMUGGLED, (b"content-length", SIZE + b"\t")),
    "hexadecimal length": upload(SMUGGLED, (b"content-length", b"0x%x" % len(SMUGGLED))),
    "overflow of 64 bits": upload(SMUGGLED, (b"content-length", b"1844674407370955" + SIZE)),
    "overflow of 32 bits": upload(SMUGGLED, (b"content-length", b"%d" % (2**32 + len(SMUGGLED)))),
    "empty length": upload(SMUGGLED, (b"content-length", b"")),
    "no length": upload(SMUGGLED),
    "no length, GET": upload(SMUGGLED, method=b"GET"),
    "no length, HEAD": upload(SMUGGLED, method=b"HEAD"),
    "length of all, GET": upload(SMUGGLED, (b"content-length", SIZE), method=b"GET"),
    "length in two frames": in_two_frames,
    "padding": padded,
    "content after the end": after_the_end,
    "content in pieces": lambda s, t: (
        head(s, [*pseudo(t), (b"content-length", SIZE)], False)
        + b"".join([data(s, SMUGGLED[at : at + 1], False) for at in range(len(SMUGGLED))])
        + data(s, b"")
    ),
    # fields of a connection
    "coding": upload(CHUNKED, (b"transfer-encoding", b"chunked")),
    "coding and length": upload(CHUNKED, (b"transfer-encoding", b"chunked"), (b"content-length", b"%d" % len(CHUNKED))),
    "coding without content": bare((b"transfer-encoding", b"chunked")),
    "coding of another name": upload(CHUNKED, (b"transfer-encoding", b"identity")),
    "coding in an empty value": upload(CHUNKED, (b"transfer-encoding", b"")),
    "te: chunked": upload(CHUNKED, (b"te", b"chunked")),
    "te: trailers, chunked": upload(CHUNKED, (b"te", b"trailers, chunked")),
    "connection: close": bare((b"connection", b"close")),
    "connection: keep-alive": bare((b"connection", b"keep-alive")),
    "connection names a mark": bare((b"connection", b"x-mark, x-sidecar-attempt")),
    "connection names the length": upload(SMUGGLED, (b"connection", b"content-length"), (b"content-length", SIZE)),
    "connection names the host": bare((b"connection", b"host")),
    "keep-alive": bare((b"keep-alive", b"timeout=5")),
    "proxy-connection": bare((b"proxy-connection", b"keep-alive")),
    "upgrade: websocket": bare((b"connection", b"upgrade"), (b"upgrade", b"websocket")),
    "upgrade: h2c": bare((b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABkAAQAAP__")),
    "expectation": upload(SMUGGLED, (b"expect", b"100-continue"), (b"content-length", SIZE)),
    "another expectation": upload(SMUGGLED, (b"expect", b"x"), (b"content-length", SIZE)),
    "forged marks": bare(*MARKS),
    # trailers
    "trailers": upload(b"hello", trailers=[(b"x-t", b"1")]),
    "trailers with a length": upload(SMUGGLED, trailers=[(b"content-length", b"0")]),
    "trailers with a coding": upload(CHUNKED, trailers=[(b"transfer-encoding", b"chunked")]),
    "trailers with a host": upload(b"hello", trailers=[(b"host", b"other")]),
    "trailers with a target": upload(b"hello", trailers=[(b":path", b"/smuggled")]),
    "trailers with marks": upload(b"hello", trailers=MARKS),
    "trailers with CR LF": upload(b"hello", trailers=[(b"x-t", b"1\r\n\r\n" + SMUGGLED)]),
    "trailers without an end": lambda s, t: (
        head(s, pseudo(t), False) + head(s, [(b"x-t", b"1")], False) + data(s, SMUGGLED)
    ),
    "cookies in crumbs": bare((b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"cookie", b"e=f")),
}  # fmt: skip


def response(status: bytes | None, *fields: tuple[bytes, bytes], content: bytes | None = None) -> Vector:
    """Return an answer; its content is None where its head is its end."""

    def frames(stream: int, _: bytes) -> bytes:
        pairs = [*([(b":status", status)] if status is not None else []), *fields]
        return head(stream, pairs, content is None) + (b"" if content is None else data(stream, content))

    return frames


LENGTH: Final = (b"content-length", b"5")
ANSWERS: Final[dict[str, Vector]] = {
    **{
        f"{name} in a value": response(b"200", (b"x-a", b"b" + text + b"x-injected: 1"), content=b"hello")
        for name, text in OCTETS.items()
    },
    **{f"{name} in a name": response(b"200", (b"x-a" + text, b"b"), content=b"hello") for name, text in WORST.items()},
    **{f"{name} in the status": response(b"200" + text, content=b"hello") for name, text in OCTETS.items()},
    "answer in a value": response(b"200", (b"x-a", b"b\r\ncontent-length: 0\r\n\r\n" + POISON), content=b"hello"),
    "answer in a name": response(b"200", (b"x-a: b\r\ncontent-length: 0\r\n\r\n" + POISON, b""), content=b"hello"),
    "answer in the status": response(b"200 OK\r\ncontent-length: 0\r\n\r\n" + POISON, content=b"hello"),
    "coding in a value": response(b"200", (b"x-a", b"b\r\ntransfer-encoding: chunked"), content=b"0\r\n\r\n" + POISON),
    "coding": response(b"200", (b"transfer-encoding", b"chunked"), content=b"0\r\n\r\n" + POISON),
    "upper case of the coding": response(b"200", (b"Transfer-Encoding", b"chunked"), content=b"0\r\n\r\n" + POISON),
    "upper case of the length": response(b"200", (b"Content-Length", b"0"), content=POISON),
    "connection": response(b"200", (b"connection", b"keep-alive"), content=b"hello"),
    "upgrade": response(b"200", (b"connection", b"upgrade"), (b"upgrade", b"websocket"), content=POISON),
    "status 101": response(b"101", (b"upgrade", b"websocket"), content=POISON),
    "status 99": response(b"99", content=b"hello"),
    "status 600": response(b"600", content=b"hello"),
    "status 20": response(b"20", content=b"hello"),
    "status 2000": response(b"2000", content=b"hello"),
    "status with a phrase": response(b"200 OK", content=b"hello"),
    "status +20": response(b"+20", content=b"hello"),
    "no status": response(None, content=b"hello"),
    "two statuses": response(b"200", (b":status", b"404"), content=b"hello"),
    "status after a field": response(None, (b"x-a", b"b"), (b":status", b"200"), content=b"hello"),
    "pseudo-header of requests": response(b"200", (b":path", b"/"), content=b"hello"),
    "length that is too small": response(b"200", LENGTH, content=b"hello" + POISON),
    "length of nothing": response(b"200", (b"content-length", b"0"), content=POISON),
    "length that is too large": response(b"200", (b"content-length", b"1000"), content=POISON),
    "length without content": response(b"200", LENGTH),
    "two lengths": response(b"200", LENGTH, (b"content-length", b"0"), content=b"hello"),
    "two lengths, the same": response(b"200", LENGTH, LENGTH, content=b"hello"),
    "list of lengths": response(b"200", (b"content-length", b"5, 5"), content=b"hello"),
    "length with a plus": response(b"200", (b"content-length", b"+5"), content=b"hello"),
    "hexadecimal length": response(b"200", (b"content-length", b"0x5"), content=b"hello"),
    "no length": response(b"200", content=POISON),
    "204 with content": response(b"204", content=POISON),
    "304 with content": response(b"304", content=POISON),
    "304 with a length": response(b"304", (b"content-length", b"%d" % len(POISON))),
    "205 with content": response(b"205", content=POISON),
    "interim answer that ends": response(b"103"),
    "interim answer with a length": lambda s, _: (
        head(s, [(b":status", b"103"), (b"content-length", b"%d" % len(POISON))], False)
        + head(s, [(b":status", b"200")], False) + data(s, b"hello")
    ),
    "content before a head": lambda s, _: data(s, POISON),
    "content after an interim answer": lambda s, _: head(s, [(b":status", b"103")], False) + data(s, POISON),
    "two heads": lambda s, _: (
        head(s, [(b":status", b"200")], False) + head(s, [(b":status", b"404")], False) + data(s, POISON)
    ),
    "content after the end": lambda s, _: head(s, [(b":status", b"200"), LENGTH], True) + data(s, POISON),
    "trailers with a status": lambda s, _: (
        head(s, [(b":status", b"200")], False) + data(s, b"hello", False) + head(s, [(b":status", b"404")], True)
    ),
    "trailers with a length": lambda s, _: (
        head(s, [(b":status", b"200")], False) + data(s, POISON, False) + head(s, [(b"content-length", b"0")], True)
    ),
    "trailers with CR LF": lambda s, _: (
        head(s, [(b":status", b"200")], False) + data(s, b"hello", False)
        + head(s, [(b"x", b"\r\n\r\n" + POISON)], True)
    ),
    "reset after the head": lambda s, _: head(s, [(b":status", b"200"), LENGTH], False) + frame(3, 0, s, bytes(4)),
}  # fmt: skip
