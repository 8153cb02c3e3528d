"""JSON bodies that are parsed only where an operation reads or writes, and keep their bytes everywhere else.

1. A container is parsed one level at a time; its members stay raw text (`msgspec.Raw`) until they are read.  Thus
   unread numbers keep their spelling (`1.10`, integers of any length), keys their order, subtrees their bytes.  A
   full decode and encode would lose these, and cost more than the rest of a transformation.
2. A body is checked once as a whole: one JSON text (RFC 8259) in UTF-8, nested as deep as the interpreter allows (about
   a thousand levels), no key twice in an object.
3. A byte order mark at the start is ignored (RFC 8259 8.1).  An escaped half of a surrogate pair is read as U+FFFD:
   no UTF-8 can express it, and 8.2 leaves its meaning open.  A body that is not changed keeps both (`Document.text`).
4. Gateways and services disagree about which of two equal keys counts (RFC 8259 4).  Such a body is an `InvalidBody`:
   the policy decides if it passes, and it is never rewritten.

A sender cannot choose keys with equal hashes, since the interpreter hashes them with a secret seed (SipHash).
"""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from typing import Any, Final

from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder, Encoder

_decode: Final = Decoder().decode
_decode_wide: Final = Decoder(float_hook=float).decode
"""Decodes numbers beyond a double too, as infinite."""
_open_object: Final = Decoder(dict[str, Raw]).decode
_open_list: Final = Decoder(list[Raw]).decode
_skip: Final = Decoder(Raw).decode
encode: Final = Encoder().encode

MAX_SEARCH: Final = 16 * 1024
"""Bytes of the longest body in which a repeated key is searched for, so that the error names it."""
SPACE: Final = b" \t\r\n"
_BEGIN: Final[dict[type, bytes]] = {dict: b"{" + SPACE, list: b"[" + SPACE}


BOM: Final = b"\xef\xbb\xbf"
ESCAPED: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Matches an escape; the group matches one of half a surrogate pair."""
REPLACEMENT: Final = rb"\ufffd"
"""Escape of U+FFFD."""


class InvalidBody(ValueError):  # noqa: N818 - of a document, not of the program
    """Body that cannot be rewritten; the message completes "The body ..."."""


class Document:
    """JSON text.  Its root is `box[0]`, so that the root is a member like any other."""

    __slots__ = ("box", "text")

    def __init__(self, root: Any, text: bytes | None = None) -> None:
        """Make a document of a root of plain values, `Raw` texts or a mixture."""
        self.box: list[Any] = [root]
        self.text = text
        """Text that was parsed, to which an unchanged document is encoded; None if there was none."""

    def at(self, steps: tuple[str | int, ...]) -> Any:
        """Return the plain value at these steps.  Raises `LookupError` if there is none."""
        container: Any = self.box
        key: str | int = 0
        for step in steps:
            value = container[key]
            kind = dict if step.__class__ is str else list
            if value.__class__ is Raw and memoryview(value)[0] not in _BEGIN[kind]:
                raise LookupError(step)  # do not open a long list only to learn that it has no keys
            container = parse_member(container, key)
            if container.__class__ is not kind:
                raise LookupError(step)
            key = step
        return plain(container[key])

    def encoded(self) -> bytes:
        """Return the text as bytes."""
        return encode(self.box[0])


def parse(data: bytes) -> Document:
    """Return a document after a check of the whole text.  Raises `InvalidBody`."""
    return known(checked(data))


def known(text: bytes) -> Document:
    """Return the document of a text that was checked before."""
    return Document(Raw(text), text)


def checked(data: bytes) -> bytes:
    """Check a whole text and return it, without a byte order mark and with U+FFFD for halves of surrogate pairs.

    Raises `InvalidBody`.
    """
    if data and data[0] == BOM[0]:
        data = data.removeprefix(BOM)
    try:
        try:
            value = _decode(data)
        except ValidationError:
            value = _decode_wide(data)
        except DecodeError:
            if (again := _mended(data)) == data:
                raise
            return checked(again)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"is not UTF-8 (octet {error.start} of a text)") from None
    except RecursionError:
        raise InvalidBody("is nested too deep") from None
    except (DecodeError, ValueError) as invalid:
        raise _diagnosed(data, invalid) from None
    if type(value) is dict or type(value) is list:
        repeats = _repeats_keys(data, value)
        if repeats and len(data) <= MAX_SEARCH:
            _check_keys(data)
        if repeats:
            raise InvalidBody("has a key twice in one object")
    return data


def well_formed(data: bytes) -> bytes:
    """Return a whole text after a check of its grammar alone, mended as by `checked`.

    Repeated keys pass, of which the last one counts.  Raises `InvalidBody`.
    """
    try:
        return bytes(_skip(_mended(data.removeprefix(BOM))))
    except RecursionError:
        raise InvalidBody("is nested too deep") from None
    except (DecodeError, ValueError) as invalid:
        raise _diagnosed(data, invalid) from None


def _mended(data: bytes) -> bytes:
    """Return the text with U+FFFD for each half of a surrogate pair that stands alone."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return ESCAPED.sub(lambda escape: escape[0] if escape[1] is None else REPLACEMENT, data)


def parse_member(container: Any, key: Any) -> Any:
    """Return a member, parsed by one level if it is an object or list.  Raises `LookupError` if there is none."""
    value = container[key]
    if value.__class__ is Raw:
        first = memoryview(value)[0]
        if first == 0x7B:
            container[key] = value = _open_object(value)
        elif first == 0x5B:
            container[key] = value = _open_list(value)
        elif first in SPACE:
            container[key] = Raw(bytes(value).lstrip(SPACE))
            return parse_member(container, key)
    return value


def plain(value: Any) -> Any:
    """Return a value of a document as a Python value."""
    if value.__class__ is Raw:
        return _decode_wide(value)
    return _decode_wide(encode(value)) if value.__class__ in (dict, list) else value


def to_raw(value: Any) -> Raw:
    """Return a value as raw text, which several places of a document can share."""
    return value if value.__class__ is Raw else Raw(encode(value))


def _repeats_keys(data: bytes, value: Any) -> bool:
    """True if an object of the text has a key twice.

    `value` has equal keys once, so its text has fewer quotes.  Nothing else changes the number of quotes: an escaped
    quote does not count, however it is spelled.
    """
    again = encode(value)
    if again == data:
        return False
    if data.find(b"\\") >= 0:
        data, again = (text.replace(b"\\\\", b"").replace(b'\\"', b"") for text in (data, again))
    return data.count(b'"') != again.count(b'"')


def _check_keys(data: bytes) -> None:
    """Check the keys of every object.  Raises `InvalidBody` with the first repeated key."""

    def hook(pairs: list[tuple[str, Any]]) -> None:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key, new in zip_longest(keys, unique) if key != new)
            raise InvalidBody(f"has the key {json.dumps(twice)[:80]} twice in one object")

    try:
        json.loads(data, object_pairs_hook=hook, parse_int=len, parse_float=len)
    except RecursionError:
        raise InvalidBody("is nested too deep") from None


def _diagnosed(data: bytes, error: Exception) -> InvalidBody:
    if not data.strip(SPACE):
        return InvalidBody("is empty")
    return InvalidBody(f"is not JSON: {str(error).removeprefix('JSON is malformed: ')}")
