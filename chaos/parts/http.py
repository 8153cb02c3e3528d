"""As much HTTP/1.1 as the services and clients of a scenario speak: bodies by Content-Length or chunked, keep-alive.

Written on its own, without the sidecar's grammar: what puts a proxy to the test must not share its mistakes.
"""

from __future__ import annotations

from typing import NamedTuple

Fields = dict[str, str]
PHRASES = {200: "OK", 201: "Created", 429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
           503: "Service Unavailable", 504: "Gateway Timeout"}  # fmt: skip
LONGEST_HEAD = 64 * 1024


class MalformedError(ValueError):
    """What came is not a message."""


class Message(NamedTuple):
    """A request (`first` is method, target, version) or a response (version, status, phrase), whole."""

    first: tuple[str, str, str]
    fields: Fields
    body: bytes

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def closes(self) -> bool:
        """Does the connection end with it?"""
        return self.fields.get("connection", "").lower() == "close"


def take(buffer: bytearray, *, is_response: bool = False) -> Message | None:
    """Take the first whole message off the buffer; None while it is incomplete.  Raises `MalformedError`."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > LONGEST_HEAD:
            raise MalformedError("the head is too long")
        return None
    lines = buffer[:end].decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not (words[0] if is_response else words[-1]).startswith("HTTP/1."):
        raise MalformedError(f"{lines[0]!r} is not the first line of a message")
    fields: Fields = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise MalformedError(f"{line!r} is not a field")
        fields[name.lower()] = value.strip()
    if is_response and not (words[1].isdigit() and len(words[1]) == 3):
        raise MalformedError(f"{words[1]!r} is not a status")
    first = (words[0], words[1], words[2] if len(words) > 2 else "")
    if "chunked" in fields.get("transfer-encoding", ""):
        return _take_chunked(buffer, end + 4, first, fields)
    length = fields.get("content-length", "0")
    if not length.isdigit():
        raise MalformedError(f"{length!r} is not a length")
    until = end + 4 + int(length)
    if len(buffer) < until:
        return None
    body = bytes(buffer[end + 4 : until])
    del buffer[:until]
    return Message(first, fields, body)


def _take_chunked(buffer: bytearray, at: int, first: tuple[str, str, str], fields: Fields) -> Message | None:
    body = b""
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(buffer[at:line].partition(b";")[0], 16)
        except ValueError:
            raise MalformedError("a chunk's size is not a number") from None
        at = line + 2
        if len(buffer) < at + size + 2:
            return None
        body += buffer[at : at + size]
        at += size + 2
        if size == 0:
            del buffer[:at]
            return Message(first, fields, body)


def response(status: int, body: bytes, **fields: str) -> bytes:
    """A response as bytes."""
    head = f"HTTP/1.1 {status} {PHRASES.get(status, 'Unknown')}\r\ncontent-length: {len(body)}\r\n"
    return (head + "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in fields.items()) + "\r\n").encode() + body


def request(method: str, path: str, host: str, fields: Fields, body: bytes = b"") -> bytes:
    """A request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n"
    if body or method in ("POST", "PUT", "PATCH"):
        head += f"content-length: {len(body)}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode() + body
