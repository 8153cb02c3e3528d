"""Header fields of a request or response: the lines as they came, and a list of pairs once somebody asks for one.

A proxy passes most fields on untouched, so it does not take them apart: lines that the grammar has accepted
(`core/http1.py`) go out as they came in, with their own spelling.  Taking apart and putting together again costs 0.4 us
a field, half of all that a request with a browser's fields costs here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

Headers = list[tuple[bytes, bytes]]
"""Header fields in order: lower-case name and value as bytes (RFC 9110 5.1: names are case-insensitive)."""

FIELD: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")


def parse_fields(lines: bytes) -> Headers:
    """Field lines that match the grammar, as pairs."""
    if lines.find(b" \r\n") >= 0 or lines.find(b"\t\r\n") >= 0:
        return [(name.lower(), value.rstrip(b" \t")) for name, value in FIELD.findall(lines)]
    return [(name.lower(), value) for name, value in FIELD.findall(lines)]


class Message:
    """What has header fields.  The list, once made, is what counts: it may be changed in place."""

    __slots__ = ("_headers", "_lines")

    _headers: Headers | None
    _lines: bytes

    @property
    def is_raw(self) -> bool:
        """Are the fields still the lines that came?"""
        return self._headers is None

    @property
    def headers(self) -> Headers:
        """All fields as pairs."""
        if self._headers is None:
            self._headers = parse_fields(self._lines)
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    @property
    def lines(self) -> bytes:
        """All fields as they go on the wire, each line with its CRLF."""
        if self._headers is None:
            return self._lines
        return b"".join([b"%b: %b\r\n" % field for field in self._headers])

    @lines.setter
    def lines(self, lines: bytes) -> None:
        self._headers = None
        self._lines = lines

    def take(self, names: Collection[bytes]) -> Headers:
        """Take fields off, all of each name (in lower case), in order."""
        headers = self.headers
        self._headers = [pair for pair in headers if pair[0] not in names]
        return [pair for pair in headers if pair[0] in names]

    def add(self, name: bytes, value: bytes) -> None:
        """One more field at the end."""
        if self._headers is None:
            self._lines += b"%b: %b\r\n" % (name, value)
        else:
            self._headers.append((name, value))

    def add_lines(self, lines: bytes) -> None:
        """More fields at the end, as lines."""
        if self._headers is None:
            self._lines = self._lines + lines
        else:
            self._headers += parse_fields(lines)

    def joined(self, name: bytes) -> bytes | None:
        """All values of a field, joined as one list (RFC 9110 5.3); None where there is none.  `name` is lower case."""
        if self._headers is None:
            lines = self._lines
            lower, mark = b"\n" + lines.lower(), b"\n%b:" % name
            at = lower.find(mark)
            if at < 0:
                return None
            if lower.find(mark, at + 1) < 0:
                return lines[at + len(name) + 1 : lines.index(b"\r\n", at)].strip(b" \t")
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, None where there is none.  `name` is lower case."""
        if self._headers is None:
            lines = self._lines
            at = (b"\n" + lines.lower()).find(b"\n%b:" % name)
            return None if at < 0 else lines[at + len(name) + 1 : lines.index(b"\r\n", at)].strip(b" \t")
        for key, value in self._headers:
            if key == name:
                return value
        return None
