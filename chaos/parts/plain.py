"""Plain TCP of services and clients: a line for each request and a line for its answer, which is no HTTP.

    /entry x-class=book x-request-id=book-7
    200 OK

Where the server speaks first, `220 ready` is its greeting on each connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chaos.parts.http import MalformedError, Message

GREETING: Final = b"220 ready\n"
LONGEST_LINE: Final = 4096
"""Bytes of the longest line; a longer one is malformed."""


def request(path: str, fields: Mapping[str, str]) -> bytes:
    """Return a request as bytes.  Values of fields have no spaces."""
    return " ".join((path, *(f"{name}={value}" for name, value in fields.items()))).encode() + b"\n"


def answer(status: int) -> bytes:
    """Return an answer as bytes."""
    return b"%d %b\n" % (status, b"OK" if status < 400 else b"failed")


def take_request(buffer: bytearray) -> Message | None:
    """Take the first request off a buffer; None while it is incomplete.  Raises `MalformedError`."""
    line = _take_line(buffer)
    if line is None:
        return None
    path, *fields = line.split(" ")
    return Message(f"GET {path} TCP", [(name, value) for name, _, value in (each.partition("=") for each in fields)])


def take_answer(buffer: bytearray) -> Message | None:
    """Take the first answer or greeting off a buffer; None while it is incomplete.  Raises `MalformedError`."""
    line = _take_line(buffer)
    if line is None:
        return None
    if not line[:3].isdigit():
        raise MalformedError(f"{line!r} has no status")
    return Message(f"TCP {line}", [])


def _take_line(buffer: bytearray) -> str | None:
    line, end, rest = buffer.partition(b"\n")
    if len(line) > LONGEST_LINE:
        raise MalformedError("the line is too long")
    if not end:
        return None
    buffer[:] = rest
    return line.decode("latin-1")
