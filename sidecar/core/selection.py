"""Taking the fields that are read here out of a head, and letting all others pass as the lines that they are.  No I/O.

Peers say the same lines again and again, so what became of a line is remembered: looking it up is a third of the cost
of taking it apart.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.message import Headers

LINES: Final = 1024
"""How many lines a `Selection` remembers."""
LINE: Final = 64
"""Bytes of the longest of them: what is longer mostly differs from message to message."""
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
"""Never remembered."""


class Selection:
    """Names of fields, and what the lines of late were."""

    __slots__ = ("_known", "_names", "_noted")

    def __init__(self, names: frozenset[bytes], noted: frozenset[bytes] = frozenset()) -> None:
        """Fields to take, and fields that pass but are to be noticed; lower case."""
        self._names = names
        self._noted = noted
        self._known: dict[bytes, tuple[bytes, bytes] | None] = {}
        """None for a line that passes, a field without a name for one that is noticed."""

    def take(self, data: bytes, start: int, end: int) -> tuple[bytes, Headers, bool]:
        """Split a head whose field lines are `data[start:end]`: the lines that pass, the fields taken, and whether one
        was noticed."""
        noticed = False
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for line in data[start:end].split(b"\r\n"):
            field = known[line] if line in known else self._read(line)
            if field is None:
                kept.append(line)
            elif field[0]:
                taken.append(field)
            else:
                kept.append(line)
                noticed = True
        return b"\r\n".join(kept), taken, noticed

    def _read(self, line: bytes) -> tuple[bytes, bytes] | None:
        name = line[: line.find(b":")].lower()
        field = None
        if name in self._names:
            field = name, line[len(name) + 1 :].strip(b" \t")
        elif name in self._noted:
            field = b"", b""
        if len(line) <= LINE and name not in SECRETS:
            if len(self._known) >= LINES:
                self._known.clear()
            self._known[line] = field
        return field
