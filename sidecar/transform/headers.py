"""Operations on header fields, compiled to work on raw field lines (`sidecar.core.message`).

One regular expression finds the lines to cut out in one pass; all other lines keep their bytes.  The operations apply
in this order, whatever the order in the file: remove, rename, set, add.

- *remove* removes every line of a field; `x-internal-*` all fields with that prefix.
- *rename* changes the name of lines in their place.  Lines that had the new name before are removed, so that a client
  cannot add its own.  If the field to rename is absent, they stay.
- *set* replaces all lines of a field by one at the end, *add* adds one.  An empty text leaves the field out.

A name includes its twins, which servers take for the same field (`sidecar.core.message.fold`).  A `set` or renamed
`x-user` leaves no `X_User` of a client beside it, and *remove* removes both.  A name in *remove* that has an underscore
means this spelling alone, so that a policy can remove only the twin.  The fields that rules cut out or write are also
removed from trailers, since some receivers merge trailers into the head.  Values from a request lose their control
characters (`header_safe`), so that none can end a field and begin another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import SEPARATORS, Message, fold
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.template import Template, header_safe
from sidecar.transform.values import NO_REQUEST, is_constant

NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Matches the name of a field (RFC 9110 5.6.2)."""


ANY_SEPARATOR: Final = b"[%b]" % re.escape(SEPARATORS)


class HeaderEdit:
    """Compiled operations on the header fields of a message."""

    __slots__ = ("_constant", "_guarded", "_new_names", "_split", "_templates")

    def __init__(
        self,
        set_: Mapping[str, Template],
        add: Mapping[str, Template],
        remove: Sequence[str],
        rename: Mapping[str, str],
    ) -> None:
        """Compile the operations, with names as in the policy file."""
        values = [(name.lower().encode(), value) for name, value in (*set_.items(), *add.items())]
        is_fixed = all(map(is_constant, (value for _, value in values)))
        self._constant = b"".join(_line(name, value, NO_REQUEST, None) for name, value in values) if is_fixed else b""
        """Lines to add that are the same for every request."""
        self._templates = () if is_fixed else tuple(values)
        """Names and texts of the lines to add, if one of them is not constant; otherwise empty."""
        self._new_names = {old.lower().encode(): b"\n" + new.lower().encode() for old, new in rename.items()}
        """New names, after a line feed, by the old ones."""
        self._split = splitter(remove, (*rename, *rename.values()), set_) if remove or set_ or rename else None
        self._guarded = (
            splitter((*remove, *rename), (), (*set_, *add, *rename.values())) if values or self._split else None
        )

    def apply(self, message: Message, x: Exchange, outcome: Outcome | None = None) -> None:
        """Rewrite the message's fields.  Templates read the request `x` and its outcome."""
        stream = x.stream if outcome is None else outcome.stream
        if stream is not None and stream.length is None and self._guarded is not None:  # only chunks have trailers
            stream.on_close(partial(self._strip_trailers, stream))
        lines = message.raw if message.parsed is None else message.lines  # the property costs more
        added = self._constant
        for name, value in self._templates:
            added += _line(name, value, x, outcome)
        if self._split is not None and len(pieces := self._split(b"\n" + lines)) > 1:
            if self._new_names:
                self._rename(pieces)
            pieces.append(added)
            message.raw = b"".join(pieces)[1:]
        else:
            message.raw = lines + added
        message.parsed = None

    def is_free(self, name: bytes) -> bool:
        """True if no rule cuts out or writes the field with this name, given in lower case."""
        return self._guarded is None or len(self._guarded(b"\n" + name + b":")) == 1

    def _strip_trailers(self, stream: Body, failure: Failure | None) -> None:
        """Remove the trailers that the rules cut out or write, once the body has ended."""
        if stream.trailers:
            stream.trailers = [field for field in stream.trailers if self.is_free(field[0])]

    def _rename(self, pieces: list[Any]) -> None:
        """Rename lines in `pieces` (see `splitter`), and remove lines that had one of the new names before."""
        rivals: list[int] = []
        for at in range(1, len(pieces), 2):
            name = pieces[at]
            if name is None:
                pieces[at] = b""
            elif (new := self._new_names.get(name.lower())) is not None:
                pieces[at] = new
            else:
                rivals.append(at)
        if rivals:
            found = {fold(piece[1:]) for piece in pieces[1::2]}
            for at in rivals:
                if fold(pieces[at]) in found:
                    pieces[at], pieces[at + 1] = b"", _first_value(pieces[at + 1])[1]
                else:
                    pieces[at] = b"\n" + pieces[at]


class LineRemover:
    """Removes the lines of the fields `gone` and `taken` from a message, and returns the values of `taken`."""

    __slots__ = ("_split", "_takes")

    def __init__(self, gone: Sequence[str], taken: Sequence[str] = ()) -> None:
        self._split = splitter(gone, taken)
        self._takes = bool(taken)

    def cut(self, lines: bytes) -> bytes:
        """Return field lines without those of the fields `gone`; there must be none to take."""
        pieces = self._split(b"\n" + lines)
        return lines if len(pieces) == 1 else b"".join(pieces)[1:]

    def __call__(self, message: Message) -> list[bytes]:
        """Remove the lines.  Returns the values of the fields in `taken`."""
        pieces = self._split(b"\n" + message.lines)
        if len(pieces) == 1:
            return []
        values = []
        if self._takes:
            for at in range(1, len(pieces), 2):
                if pieces[at] is not None:
                    value, pieces[at + 1] = _first_value(pieces[at + 1])
                    values.append(value)
            pieces = pieces[::2]
        message.lines = b"".join(pieces)[1:]
        return values


def _first_value(piece: bytes) -> tuple[bytes, bytes]:
    """Return the value with which a piece begins, after its colon, and the rest of the piece."""
    value, feed, rest = piece.partition(b"\n")
    return value[1:].strip(), feed + rest


@lru_cache(maxsize=64)
def _remover(name: bytes) -> LineRemover:
    return LineRemover([name.decode()])


def put(message: Message, name: bytes, value: bytes) -> None:
    """Set a field of the message: this line replaces all others of the field."""
    _remover(name)(message)
    message.add(name, value)


def splitter(
    gone: Iterable[str], named: Sequence[str] = (), written: Iterable[str] = ()
) -> Callable[[bytes], list[Any]]:
    """Return a function that cuts the lines of fields out of a block, and returns the pieces that remain.

    The block must have a line feed before its first line.

    - `gone`: fields whose lines are cut out; a star stands for any ending, a dash for every separator.
    - `written`: further such fields, with all their twins.
    - `named`: fields of which only the name is cut out, with all their twins.

    If `named` is not empty, the pieces have even indexes.  At the odd index between two pieces is the name that was cut
    out; the next piece then begins with its colon.  None stands there for a whole line.
    """
    whole = [_pattern(name[:-1] if name.endswith("*") else name + ":", "-") for name in gone]
    whole += [_pattern(name + ":", SEPARATORS.decode()) for name in written]
    cut = [_alternatives(whole) + rb"[^\n]*"] if whole else []
    cut += [b"(%b)(?=:)" % _alternatives([_pattern(name, SEPARATORS.decode()) for name in named])] if named else []
    first = b"".join(re.escape(letter) for name in (*gone, *named, *written) for letter in _cases(name[0]))
    return re.compile(b"\n(?=[%b])(?i:%b)" % (first, b"|".join(cut))).split  # a set beats alternatives


def _pattern(name: str, wild: str) -> bytes:
    """Return a pattern for a name, in which each separator of `wild` matches every separator."""
    return b"".join([ANY_SEPARATOR if octet in wild else re.escape(octet.encode()) for octet in name])


def _cases(letter: str) -> set[bytes]:
    """Return the octets that match the first letter of a name."""
    if letter.encode() in SEPARATORS:
        return {SEPARATORS[at : at + 1] for at in range(len(SEPARATORS))}
    return {letter.lower().encode(), letter.upper().encode()}


def _alternatives(patterns: Iterable[bytes]) -> bytes:
    return b"(?:%b)" % b"|".join(dict.fromkeys(patterns))


def _line(name: bytes, value: Template, x: Exchange, outcome: Outcome | None) -> bytes:
    """Return a field line; empty if its text is empty."""
    text = value.render(x, outcome, header_safe)
    return b"%b: %b\r\n" % (name, text.encode()) if text else b""
