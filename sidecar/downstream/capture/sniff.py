"""Sniffing: the protocol of a connection by the first bytes of its client.

Rules:

1. HTTP/1 is a request line that ends with `HTTP/1.0` or `HTTP/1.1` (RFC 9112 3), HTTP/2 its whole preface (RFC 9113
   3.4), TLS a ClientHello (RFC 8446 4.1.2), in one record or several.  Nothing is decrypted or changed.
2. Bytes that can become none of these are TCP at once.  Otherwise at most `MOST_BYTES` are waited for.
3. The server name is that of the extension `server_name` (RFC 6066 3) in lower case; a hello without one has none.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HTTP1: Final = "http1"
HTTP2: Final = "http2"
TLS: Final = "tls"
TCP: Final = "tcp"
PROTOCOLS: Final = (HTTP1, HTTP2, TLS, TCP)
MOST_BYTES: Final = 18 * 1024
"""Most bytes that are read to find the protocol."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,19}(?: |\Z)")
"""Method and the space behind it, or the beginning of a method.  Methods in lower case are left to TCP."""
REQUEST_LINE: Final = re.compile(rb"[A-Z][A-Z-]{0,19} [!-~\x80-\xff]+ HTTP/1\.[01]\r?\Z")
BEGINNING: Final = re.compile(
    rb"(?:(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE) (?:/|https?://)|OPTIONS \*|CONNECT )"
    rb"[!-~\x80-\xff]*(?: [HTP/1.]*)?\Z"
)
"""Beginning of a request line that no other protocol has."""
LEAST_PREFACE: Final = 14
"""Bytes of the preface that no other protocol begins with."""
HANDSHAKE: Final = 22
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0
"""Number of the extension, and of the type of name in it."""
HOST_NAME: Final = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
LONGEST_NAME: Final = 253


class Sniffed(NamedTuple):
    """Protocol of a connection."""

    protocol: str
    """Name of the protocol, among `PROTOCOLS`."""
    server_name: str = ""
    """Name in the ClientHello in lower case; empty without one."""


PLAIN: Final = Sniffed(TCP)


def sniff(data: bytes) -> Sniffed | None:
    """Return the protocol of a connection that begins with these bytes; None if more bytes are needed."""
    if not data:
        return None
    found = _sniff_tls(data) if data[0] == HANDSHAKE else _sniff_http(data)
    return PLAIN if found is None and len(data) >= MOST_BYTES else found


def guess(data: bytes) -> Sniffed:
    """Return the protocol of a connection whose client has sent no more than these bytes in time.

    The beginning of a request line with a common method counts as HTTP/1, so that slow clients do not evade routes.
    """
    found = sniff(data)
    if found is not None:
        return found
    if BEGINNING.match(data) is not None:
        return Sniffed(HTTP1)
    return Sniffed(HTTP2) if len(data) >= LEAST_PREFACE and PREFACE.startswith(data) else PLAIN


def _sniff_http(data: bytes) -> Sniffed | None:
    if data.startswith(PREFACE):
        return Sniffed(HTTP2)
    if PREFACE.startswith(data):
        return None
    if METHOD.match(data) is None:
        return PLAIN
    line, end, _ = data.partition(b"\n")
    if not end:
        return None
    return PLAIN if REQUEST_LINE.match(line) is None else Sniffed(HTTP1)


def _sniff_tls(data: bytes) -> Sniffed | None:
    """Return the protocol of bytes that begin as a record of a handshake."""
    hello = bytearray()
    at = 0
    while at < len(data):
        if data[at] != HANDSHAKE or (at + 1 < len(data) and data[at + 1] != 3):
            return PLAIN
        if at + 5 > len(data):
            break
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < size <= 1 << 14:
            return PLAIN
        hello += data[at + 5 : at + 5 + size]
        if hello[:1] and hello[0] != CLIENT_HELLO:
            return PLAIN
        if len(hello) >= 4 and len(hello) >= 4 + int.from_bytes(hello[1:4], "big"):
            return _read_hello(bytes(hello[4 : 4 + int.from_bytes(hello[1:4], "big")]))
        at += 5 + size
    return None


def _read_hello(hello: bytes) -> Sniffed:
    """Return the protocol of a whole ClientHello; one that cannot be parsed is TCP."""
    try:
        reader = _Reader(hello)
        reader.take(34)  # version and random
        reader.vector(1)  # session
        reader.vector(2)  # cipher suites
        reader.vector(1)  # compression
        if reader.is_empty:
            return Sniffed(TLS)
        extensions = _Reader(reader.vector(2))
        while not extensions.is_empty:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == SERVER_NAME:
                return Sniffed(TLS, _read_name(_Reader(_Reader(content).vector(2))))
    except ValueError:
        return PLAIN
    return Sniffed(TLS)


def _read_name(names: _Reader) -> str:
    """Return the host name of the extension; empty without a valid one.  Raises `ValueError`."""
    while not names.is_empty:
        kind, name = names.number(1), names.vector(2)
        if kind == SERVER_NAME and len(name) <= LONGEST_NAME and HOST_NAME.fullmatch(name):
            return name.decode("ascii").lower().rstrip(".")
    return ""


class _Reader:
    """Reader of the numbers and vectors of TLS; raises `ValueError` at an early end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """True if everything was read."""
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        end = self._at + size
        if end > len(self._data):
            raise ValueError("the hello ends early")
        found = self._data[self._at : end]
        self._at = end
        return found

    def number(self, size: int) -> int:
        """Return the next number of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return the next vector, whose length has so many bytes."""
        return self.take(self.number(size))
