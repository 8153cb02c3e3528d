"""Header operations, compiled to work on a message's raw field lines (`sidecar.core.message`).

One regular expression finds in one pass whatever is to go; the lines between pass as they came.  What is set or renamed
is put at the end, where every proxy puts what it adds.  The operations see the message in this order, whatever the
order in the file: remove, rename, set, add.

- *remove* takes every line of a field; `x-internal-*` all fields that begin so.
- *rename* gives its lines another name, bytes unchanged; where the field is there, lines that already bear the new name
  are dropped: a client cannot put its own beside it.
- *set* replaces all lines of a field by one, *add* adds a line.  A template that comes out empty leaves the field out.

Values from a request lose their control characters (`header_safe`), so that none can end a field and begin another.

Measured on the ten fields of a browser, one set, one removed and one renamed: 1.2 us; by a search for each name in the
lines in lower case 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.message import Message
from sidecar.core.outcome import Outcome
from sidecar.core.template import Template, header_safe
from sidecar.transform.values import NOBODY, fixed

NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 5.6.2."""


class HeaderEdit:
    """All operations on the header fields of one message.  Names are given as in the file."""

    __slots__ = ("_constant", "_marks", "_split", "_step", "_templates")

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
        renamed: dict[str, list[str]] = {}
        for old, new in rename.items():
            renamed.setdefault(new.lower(), []).append(old)
        self._marks = tuple(b"%b:" % new.encode() for new in renamed)
        """How the lines begin that have got a new name."""
        gone = (*remove, *set_)
        self._split = splitter(gone, renamed.values(), renamed) if gone or renamed else None
        self._step = 1 + 2 * len(renamed)

    def apply(self, message: Message, x: Exchange, outcome: Outcome | None = None) -> None:
        """Rewrite the message's fields; templates read the request, and the outcome that is being answered."""
        lines = message._lines if message._headers is None else message.lines  # the property costs a tenth of all
        added = self._constant
        for name, value in self._templates:
            added += _line(name, value, x, outcome)
        if self._split is not None and len(pieces := self._split(b"\n" + lines)) > 1:
            if self._marks:
                added = self._renamed(pieces) + added
            lines = b"".join(pieces[:: self._step])[1:]
        message._headers = None
        message._lines = lines + added

    def _renamed(self, pieces: list[bytes | None]) -> bytes:
        """The lines that get a new name.  Where there are none, those that have that name already go back."""
        step, marks = self._step, self._marks
        renamed = b""
        for place, mark in enumerate(marks, 1):
            before = renamed
            for value in pieces[place::step]:
                if value is not None:
                    renamed += mark + value + b"\n"
            if renamed is before:
                rival = place + len(marks)
                for at in range(rival, len(pieces), step):
                    if (line := pieces[at]) is not None:
                        pieces[at - rival] += b"\n" + line  # type: ignore[operator]
        return renamed


class Cutter:
    """Takes lines off a message: those of the fields in `gone`, and those in `taken`, whose values it returns."""

    __slots__ = ("_split", "_step")

    def __init__(self, gone: Sequence[str], taken: Sequence[str] = ()) -> None:
        self._split = splitter(gone, [taken] if taken else [])
        self._step = 2 if taken else 1

    def __call__(self, message: Message) -> list[bytes]:
        pieces = self._split(b"\n" + message.lines)
        if len(pieces) == 1:
            return []
        message.lines = b"".join(pieces[:: self._step])[1:]
        return [value.strip() for value in pieces[1::2] if value is not None] if self._step == 2 else []


@lru_cache(maxsize=64)
def _cutter(name: bytes) -> Cutter:
    return Cutter([name.decode()])


def put(message: Message, name: bytes, value: bytes) -> None:
    """Make this line the only one of its field."""
    _cutter(name)(message)
    message.add(name, value)


def splitter(
    gone: Sequence[str], values: Iterable[Iterable[str]] = (), lines: Iterable[str] = ()
) -> Callable[[bytes], list[Any]]:
    """A function that splits field lines, with a line feed before the first, where lines are to be cut out.

    `gone` names the fields that are cut out, or their beginnings with a star.  Between the pieces that stay there is,
    for each group of fields in `values`, what follows the colon, and for each field in `lines` the whole line; None
    where the line is another's.  The pieces that stay begin with the line feed that was put first.
    """
    cut = [_any(name + ":" for name in gone if not name.endswith("*")) + rb"[^\n]*"]
    cut += [_any(name[:-1] for name in gone if name.endswith("*")) + rb"[^\n]*"]
    cut += [_any(name + ":" for name in group) + rb"([^\n]*)" for group in values]
    cut += [b"(%b[^\n]*)" % _any([name + ":"]) for name in lines]
    return re.compile(b"(?i)\n(?:%b)" % b"|".join(each for each in cut if not each.startswith(b"(?:)"))).split


def _any(texts: Iterable[str]) -> bytes:
    return b"(?:%b)" % b"|".join(re.escape(text.encode()) for text in dict.fromkeys(texts))


def _line(name: bytes, value: Template, x: Exchange, outcome: Outcome | None) -> bytes:
    text = value.render(x, outcome, header_safe)
    return b"%b: %b\r\n" % (name, text.encode()) if text else b""
