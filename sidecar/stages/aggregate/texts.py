"""Texts with values from the answers of other parts, such as `/score/{parts.user./creditId}`.

Rules:

1. `{parts.NAME}` is the whole answer of a part, and `{parts.NAME./POINTER}` one of its values.  In a part with `each`,
   `{item}` and `{item./POINTER}` are of its item, and `{items}` has all items of a batch.
2. All other names are those of `sidecar.core.template`.  `{{parts.user}}` is the plain text `{parts.user}`.
3. A text in JSON that is one reference alone is replaced by the value, with its spelling.  In any other place only
   texts, numbers and truth values can be written.
4. In a path each value is one segment, and in a query one value; both are percent-encoded.  A value that is missing
   there is an error.  Elsewhere it is empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.core.template import Escape, Read, Template, header_safe, plain
from sidecar.transform.jsonbody import Document, InvalidBody, known
from sidecar.transform.path_rewrite import literal, segment
from sidecar.transform.pointer import Steps, parse_pointer
from sidecar.transform.query import written
from sidecar.transform.selection import scalar, text_at
from sidecar.transform.values import RewriteError

PART_NAME: Final = r"[A-Za-z_][A-Za-z0-9_-]{0,62}"
"""Pattern of the name of a part; it has no dot, since a pointer follows one."""
_TOKEN: Final = re.compile(r"\{(\{(?:parts|items?)\b[^{}]*\})\}|\{((?:parts|items?)\b[^{}]*)\}")
_NAMES: Final = re.compile(rf"parts\.({PART_NAME})(?:\.(/.*))?|item(?:\.(/.*))?|items", re.DOTALL)
_BRACES: Final = re.compile(r"\{[^{}]*\}")
CAPTURED: Final = "path."
"""Beginning of the name of a capture."""
NULL: Final = b"null"
LONGEST_PATH: Final = uri.MAX_BYTES
"""Most bytes of the path of a part."""
LONGEST_TARGET: Final = 2 * uri.MAX_BYTES
"""Most bytes of path and query of a part."""
LONGEST_FIELDS: Final = 16 * 1024
"""Most bytes of the fields of a part's own."""


class Reference(NamedTuple):
    """Reference to a value of another part, or to an item."""

    part: str
    """Name of the part; empty for an item."""
    steps: Steps
    """Steps of the pointer; empty for the whole value."""
    is_batch: bool
    """True for all items of a batch."""
    text: str
    """Spelling in the file, without braces."""


class ValueMissing(ValueError):  # noqa: N818 - of a request, not of the program
    """Raised if a value that a part needs is missing or cannot be written; the text says which."""


class Value:
    """Answer of a part, or an item of a list, as JSON."""

    __slots__ = ("is_substitute", "opened", "text")

    def __init__(self, text: bytes, is_substitute: bool = False) -> None:
        self.text = text
        """Text of the whole value, which was checked to be valid JSON."""
        self.is_substitute = is_substitute
        """True for a fixed substitute; it stands for every value of the part that it does not have."""
        self.opened: Document | None = None
        """The value as a document; None before the first access to `document`."""

    @property
    def document(self) -> Document:
        """The value as a document; made at the first access."""
        found = self.opened
        if found is None:
            found = self.opened = known(self.text)
        return found

    def at(self, steps: Steps) -> bytes | None:
        """Return the text of the value at a pointer; None if there is none."""
        if not steps:
            return self.text
        found = text_at(self.document, steps)
        return self.text if found is None and self.is_substitute else found

    def __repr__(self) -> str:
        return f"<Value {self.text[:40]!r}>"


class Scope:
    """Values that a text may refer to."""

    __slots__ = ("items", "parts", "separator", "x")

    def __init__(self, x: Exchange, parts: dict[str, Value], items: Sequence[Value] = (), separator: str = ",") -> None:
        self.x = x
        """Request of the client."""
        self.parts = parts
        """Answers of the parts that have ended, by name."""
        self.items = items
        """Items of a list for which the request is made; empty without a list."""
        self.separator = separator
        """Text between the items of a batch."""


def split(text: str) -> list[str | Reference]:
    """Return the pieces of a text: references, and texts that are templates.  Raises `ValueError`."""
    pieces: list[str | Reference] = []
    end = 0
    before = ""
    for match in _TOKEN.finditer(text):
        before += text[end : match.start()]
        end = match.end()
        if match[1]:
            before += _escaped(match[1])
            continue
        if before:
            pieces.append(before)
        before = ""
        pieces.append(_reference(match[2]))
    before += text[end:]
    if before or not pieces:
        pieces.append(before)
    for piece in pieces:
        if isinstance(piece, str):
            Template(piece, {})
    return pieces


def _escaped(plain_text: str) -> str:
    """Return text in doubled braces as `Template` reads it: it knows only names without a pointer."""
    return plain_text if "/" in plain_text else "{" + plain_text + "}"


def _reference(name: str) -> Reference:
    match = _NAMES.fullmatch(name)
    if match is None:
        known = "{parts.NAME}, {parts.NAME./POINTER}, {item}, {item./POINTER} and {items}"
        raise ValueError(f"names {{{name}}}, which is unknown; known are {known}")
    pointer = match[2] or match[3] or ""
    try:
        steps = parse_pointer(pointer)
    except ValueError as error:
        raise ValueError(f"has the pointer `{pointer}`, which {error}") from None
    return Reference(match[1] or "", steps, name == "items", name)


def references(text: str) -> list[Reference]:
    """Return the references in a text.  Raises `ValueError`."""
    return [piece for piece in split(text) if isinstance(piece, Reference)]


def references_in(value: Any) -> Iterator[Reference]:
    """Yield the references in all texts of a JSON value."""
    if isinstance(value, str):
        yield from references(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from references_in(inner)


class Capture:
    """Value of a capture in the path of the client's request."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Source = Read | Reference | Capture
"""Value of a request within a text."""


class Text:
    """Compiled text."""

    __slots__ = ("_first", "_values", "fixed")

    def __init__(self, text: str, constants: Mapping[str, str], *, is_target: bool = False) -> None:
        """`is_target`: True for a piece of a path or a query, whose plain text is percent-encoded."""
        self._first = ""
        """Plain text before the first value."""
        self._values: list[tuple[Source, str]] = []
        """Values, each with the plain text after it."""
        for piece in split(text):
            if isinstance(piece, Reference):
                self._add(piece)
                continue
            template = Template(literal(piece).decode() if is_target else piece, constants)
            for part, name in zip(template.parts, template.names, strict=True):
                self._add(Capture(name.removeprefix(CAPTURED)) if name.startswith(CAPTURED) else part)
        self.fixed = self._first if not self._values else None
        """The text, if no request changes it; None if one may."""

    def _add(self, piece: str | Source) -> None:
        """Add a piece of plain text, or a value."""
        if not isinstance(piece, str):
            self._values.append((piece, ""))
        elif self._values:
            source, after = self._values[-1]
            self._values[-1] = source, after + piece
        else:
            self._first += piece

    def render(self, scope: Scope, escape: Escape = plain, is_strict: bool = False) -> str:
        """Return the text with its values.  Raises `ValueMissing` for a missing value if `is_strict`."""
        if self.fixed is not None:
            return self.fixed
        text = self._first
        for source, after in self._values:
            if isinstance(source, Capture):
                value = scope.x.captures.get(source.name, "")
            elif isinstance(source, Reference):
                text += _written(source, scope, escape, is_strict) + after
                continue
            else:
                value = source(scope.x, None)
            # Every escape leaves letters and digits as they are.
            text += (value if value.isalnum() and value.isascii() else escape(value)) + after
        return text


def _written(reference: Reference, scope: Scope, escape: Escape, is_strict: bool) -> str:
    """Return the text of the value that a reference names."""
    if reference.is_batch:
        return scope.separator.join([escape(_scalar(reference, item.text, is_strict)) for item in scope.items])
    return escape(_scalar(reference, value_of(reference, scope), is_strict))


def _scalar(reference: Reference, text: bytes | None, is_strict: bool) -> str:
    try:
        return scalar(text or b"")
    except InvalidBody:
        if is_strict:
            what = "no value" if text in (None, NULL) else "an object or a list"
            raise ValueMissing(f"{{{reference.text}}} has {what}") from None
        return ""


def value_of(reference: Reference, scope: Scope) -> bytes | None:
    """Return the JSON text that a reference names; None if there is none."""
    value = scope.parts.get(reference.part) if reference.part else scope.items[0] if scope.items else None
    return None if value is None else value.at(reference.steps)


class Target:
    """Compiled path and query of a part."""

    __slots__ = ("_path", "_query", "fixed_path", "fixed_query")

    def __init__(self, text: str, constants: Mapping[str, str]) -> None:
        """Compile a target.  Raises `ValueError` with a remedy."""
        path, query = split_target(text)
        if not path.startswith("/"):
            raise ValueError(f'must start with a slash: write "/{text}"')
        if "#" in _BRACES.sub("x", text):
            raise ValueError("has a fragment, which is never sent; leave it out")
        uri.literal(sample(path))
        self._path = Text(path, constants, is_target=True)
        self._query = None if query is None else Text(query.replace("?", "%3F"), constants, is_target=True)
        self.fixed_path = None if self._path.fixed is None else self._path.fixed.encode()
        """The path, if no request changes it; None if one may."""
        self.fixed_query = None if self._query is None or self._query.fixed is None else self._query.fixed.encode()
        """The query, if there is one that no request changes; else None."""

    def may_equal(self, other: Target) -> bool:
        """True if a request of each may have the same path and query."""
        return _may_equal(self._path, other._path) and _may_equal(self._query, other._query)

    def render(self, scope: Scope) -> tuple[bytes, bytes | None]:
        """Return path and query.  Raises `ValueMissing`."""
        path, query = self.fixed_path, self.fixed_query
        if path is None:
            try:
                path = self._path.render(scope, segment, True).encode()
            except RewriteError as error:
                raise ValueMissing(f"the request {error}") from None
        if query is None and self._query is not None:
            query = self._query.render(scope, written, True).encode()
        if len(path) > LONGEST_PATH or (query is not None and len(path) + len(query) > LONGEST_TARGET):
            raise ValueMissing(f"path and query are longer than {LONGEST_PATH} and {LONGEST_TARGET} bytes")
        return path, query


def _may_equal(one: Text | None, two: Text | None) -> bool:
    """True if both texts may be the same for some requests."""
    if one is None or two is None:
        return one is two
    return one.fixed is None or two.fixed is None or one.fixed == two.fixed


def split_target(text: str) -> tuple[str, str | None]:
    """Return the path and the query of a target, whose pointers may contain a question mark; None without a query."""
    for at, character in enumerate(_BRACES.sub(lambda found: "x" * len(found[0]), text)):
        if character == "?":
            return text[:at], text[at + 1 :]
    return text, None


def sample(text: str) -> str:
    """Return a text with `x` in place of each value."""
    return _BRACES.sub("x", text)


class Fields:
    """Compiled header fields of a part."""

    __slots__ = ("_fields", "names")

    def __init__(self, fields: Mapping[str, str], constants: Mapping[str, str]) -> None:
        self.names = tuple(name.lower() for name in fields)
        """Names of the fields in lower case."""
        self._fields = [(name.lower().encode(), Text(text, constants)) for name, text in fields.items()]

    def render(self, scope: Scope) -> bytes:
        """Return the lines; a field whose text is empty is left out.  Raises `ValueMissing` if they are too long."""
        found = b""
        for name, text in self._fields:
            if value := text.render(scope, header_safe):
                found += b"%b: %b\r\n" % (name, value.encode())
        if len(found) > LONGEST_FIELDS:
            raise ValueMissing(f"the fields of the part are longer than {LONGEST_FIELDS} bytes")
        return found


class JsonTemplate:
    """Compiled JSON value: pieces of its text, with holes for values."""

    __slots__ = ("_pieces",)

    def __init__(self, value: Any, constants: Mapping[str, str]) -> None:
        self._pieces: list[bytes | Reference | Text] = []
        self._add(value, constants)

    def _add(self, value: Any, constants: Mapping[str, str]) -> None:
        if isinstance(value, dict):
            before = b"{"
            for key, inner in value.items():
                self._put(before + json.dumps(key, ensure_ascii=False).encode() + b":")
                self._add(inner, constants)
                before = b","
            self._put(b"}" if value else b"{}")
        elif isinstance(value, list):
            before = b"["
            for inner in value:
                self._put(before)
                self._add(inner, constants)
                before = b","
            self._put(b"]" if value else b"[]")
        elif isinstance(value, str):
            pieces = split(value)
            if len(pieces) == 1 and isinstance(pieces[0], Reference):
                self._pieces.append(pieces[0])
            elif "{" in value:
                self._pieces.append(Text(value, constants))
            else:
                self._put(json.dumps(value, ensure_ascii=False).encode())
        else:
            self._put(json.dumps(value, allow_nan=False).encode())

    def _put(self, text: bytes) -> None:
        """Add a piece of fixed text; adjoining pieces are one."""
        if self._pieces and isinstance(last := self._pieces[-1], bytes):
            self._pieces[-1] = last + text
        else:
            self._pieces.append(text)

    def render(self, scope: Scope) -> bytes:
        """Return the JSON text; a missing value is null."""
        found = []
        for piece in self._pieces:
            if isinstance(piece, bytes):
                found.append(piece)
            elif isinstance(piece, Text):
                found.append(json.dumps(piece.render(scope), ensure_ascii=False).encode())
            elif piece.is_batch:
                found.append(b"[" + b",".join([item.text for item in scope.items]) + b"]")
            else:
                found.append(value_of(piece, scope) or NULL)
        return b"".join(found)
