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

    __slots__ = ("_known", "_names")

    def __init__(self, names: frozenset[bytes]) -> None:
        """The names are lower case."""
        self._names = names
        self._known: dict[bytes, tuple[bytes, bytes] | None] = {}

    def take(self, data: bytes, start: int, end: int) -> tuple[bytes, Headers]:
        """Split a head whose field lines are `data[start:end]`: the lines that pass, and the fields taken."""
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for line in data[start:end].split(b"\r\n"):
            field = known[line] if line in known else self._read(line)
            if field is None:
                kept.append(line)
            else:
                taken.append(field)
        return b"\r\n".join(kept), taken

    def _read(self, line: bytes) -> tuple[bytes, bytes] | None:
        name = line[: line.find(b":")].lower()
        field = (name, line[len(name) + 1 :].strip(b" \t")) if name in self._names else None
        if len(line) <= LINE and name not in SECRETS:
            if len(self._known) >= LINES:
                self._known.clear()
            self._known[line] = field
        return field
