"""Header operations, compiled to work on a message's raw field lines (`sidecar.core.message`).

One search over the lines in lower case finds whatever is to go; the lines between pass as they came.  What is set or
renamed is put at the end, where every proxy puts what it adds.  The operations see the message in this order, whatever
the order in the file: remove, rename, set, add.

- *remove* takes every line of a field; `x-internal-*` all fields that begin so.
- *rename* gives its lines another name, bytes unchanged; where the field is there, lines that already bear the new name
  are dropped: a client cannot put its own beside it.
- *set* replaces all lines of a field by one, *add* adds a line.  A template that comes out empty leaves the field out.

Values from a request lose their control characters (`header_safe`), so that none can end a field and begin another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.message import Message
from sidecar.core.outcome import Outcome
from sidecar.core.template import Template, header_safe
from sidecar.transform.values import NOBODY, fixed

NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 5.6.2."""


class HeaderEdit:
    """All operations on the header fields of one message.  Names are given as in the file."""

    __slots__ = ("_beginnings", "_constant", "_gone", "_renames", "_templates")

    def __init__(
        self,
        set_: Mapping[str, Template],
        add: Mapping[str, Template],
        remove: Sequence[str],
        rename: Mapping[str, str],
    ) -> None:
        values = [(name.lower().encode(), value) for name, value in (*set_.items(), *add.items())]
        is_fixed = all(map(fixed, (value for _, value in values)))
        self._constant = b"".join(_line(name, value, NOBODY, None) for name, value in values) if is_fixed else b""
        self._templates = () if is_fixed else tuple(values)
        whole = [name for name in (*remove, *set_) if not name.endswith("*")]
        self._gone = tuple(dict.fromkeys(map(_mark, whole)))
        self._renames = tuple((_mark(old), len(old), new.lower().encode(), _mark(new)) for old, new in rename.items())
        families = b"|".join(re.escape(name[:-1].lower().encode()) for name in remove if name.endswith("*"))
        self._beginnings = re.compile(rb"\n(?:" + families + rb")") if families else None

    def apply(self, message: Message, x: Exchange, outcome: Outcome | None = None) -> None:
        """Rewrite the message's fields; templates read the request, and the outcome that is being answered."""
        lines = message._lines if message._headers is None else message.lines  # the property costs a tenth of all
        lower = b"\n" + lines.lower()  # the line feed before a line stands where the line itself does in `lines`
        spans: list[tuple[int, int]] = []
        added = self._constant
        find, find_end = lower.find, lines.find
        for mark in self._gone:
            at = find(mark)
            while at >= 0:
                end = find_end(b"\n", at) + 1
                spans.append((at, end))
                at = find(mark, end)
        for mark, size, new, rival in self._renames:
            at = find(mark)
            if at >= 0:
                end = find_end(b"\n", at) + 1
                if find(mark, end) < 0:
                    spans.append((at, end))
                    added = new + lines[at + size : end] + added
                else:
                    found = _spans(lines, lower, mark)
                    spans += found
                    added = b"".join([new + lines[at + size : end] for at, end in found]) + added
                if find(rival) >= 0:
                    spans += _spans(lines, lower, rival)
        if self._beginnings is not None:
            places = [found.start() for found in self._beginnings.finditer(lower)]
            spans += [(at, lines.find(b"\n", at) + 1) for at in places]
        for name, value in self._templates:
            added += _line(name, value, x, outcome)
        message._headers = None
        message._lines = _without(lines, spans, added) if spans else lines + added


def beginnings(*names: str) -> re.Pattern[bytes]:
    """What `cut` looks for: the beginning of a line with one of these names."""
    return re.compile(rb"\n(" + b"|".join(re.escape(name.encode()) for name in names) + rb"):")


def cut(message: Message, pattern: re.Pattern[bytes]) -> list[bytes]:
    """Take lines off; returns them whole, in order."""
    lines = message.lines
    places = [found.start() for found in pattern.finditer(b"\n" + lines.lower())]
    if not places:
        return []
    spans = [(at, lines.find(b"\n", at) + 1) for at in places]
    message.lines = _without(lines, spans, b"")
    return [lines[at:end] for at, end in spans]


def put(message: Message, name: bytes, value: bytes) -> None:
    """Make this line the only one of its field."""
    lines = message.lines
    message.lines = _without(
        lines, _spans(lines, b"\n" + lines.lower(), b"\n%b:" % name), b"%b: %b\r\n" % (name, value)
    )


def _mark(name: str) -> bytes:
    """What a field's line begins with, where everything is in lower case and a line feed stands before it."""
    return b"\n%b:" % name.lower().encode()


def _spans(lines: bytes, lower: bytes, mark: bytes) -> list[tuple[int, int]]:
    """Where the lines with that beginning are."""
    found = []
    at = lower.find(mark)
    while at >= 0:
        end = lines.find(b"\n", at) + 1
        found.append((at, end))
        at = lower.find(mark, end)
    return found


def _without(lines: bytes, spans: list[tuple[int, int]], added: bytes) -> bytes:
    """The lines outside of the spans, and what is added at their end."""
    if len(spans) == 1:  # as it mostly is, at a third of the cost
        at, end = spans[0]
        return lines[:at] + lines[end:] + added
    spans.sort()
    kept = []
    begin = 0
    for at, end in spans:
        if at >= begin:  # else the same line by two of its names
            kept.append(lines[begin:at])
            begin = end
    kept.append(lines[begin:])
    kept.append(added)
    return b"".join(kept)


def _line(name: bytes, value: Template, x: Exchange, outcome: Outcome | None) -> bytes:
    text = value.render(x, outcome, header_safe)
    return b"%b: %b\r\n" % (name, text.encode()) if text else b""
