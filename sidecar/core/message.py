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


# ----- field lines of a head

LINES: Final = 1024
"""How many lines a `Selection` remembers."""
LINE: Final = 64
"""Bytes of the longest of them: what is longer mostly differs from message to message."""
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
"""Never remembered."""


class Line:
    """What is to be done with one."""

    __slots__ = ("field", "is_noted", "is_taken")

    def __init__(self, field: tuple[bytes, bytes], is_taken: bool = False, is_noted: bool = False) -> None:
        self.field = field
        """Its name, in lower case, and its value, where it is taken."""
        self.is_taken = is_taken
        self.is_noted = is_noted


PASSING: Final = Line((b"", b""))
NOTED: Final = Line((b"", b""), is_noted=True)


class Selection:
    """Names of fields, and what the lines of late were."""

    __slots__ = ("_known", "_names", "_noted")

    def __init__(self, names: frozenset[bytes], noted: frozenset[bytes] = frozenset()) -> None:
        """Fields to take, and fields that pass but are to be noticed; lower case."""
        self._names = names
        self._noted = noted
        self._known: dict[bytes, Line] = {}

    def take(self, data: bytes, start: int, end: int) -> tuple[bytes, Headers, bool]:
        """Split a head whose field lines are `data[start:end]`: the lines that pass, the fields taken, and whether one
        was noticed."""
        noticed = False
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for text in data[start:end].split(b"\r\n"):
            line = known.get(text)
            if line is None:
                line = self._read(text)
            if line.is_taken:
                taken.append(line.field)
            else:
                kept.append(text)
                if line.is_noted:
                    noticed = True
        return b"\r\n".join(kept), taken, noticed

    def _read(self, text: bytes) -> Line:
        name = text[: text.find(b":")].lower()
        if name in self._names:
            line = Line((name, text[len(name) + 1 :].strip(b" \t")), is_taken=True)
        else:
            line = NOTED if name in self._noted else PASSING
        if len(text) <= LINE and name not in SECRETS:
            if len(self._known) >= LINES:
                self._known.clear()
            self._known[text] = line
        return line
