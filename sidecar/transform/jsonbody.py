"""A JSON body that is opened only where it is touched, and written again as it came everywhere else.

Decoding all of a body and encoding it again costs most of what a transformation may cost, and loses what a document
holds beyond its meaning: the spelling of numbers (`1.10`, `1e2`, integers of any length), escapes, white space.  Here a
container is opened one level at a time, its members staying raw text (`msgspec.Raw`) until somebody asks for them;
encoding copies raw text.  So every number keeps its exact value, keys keep their order, and a subtree that no operation
touches keeps its bytes.

What is read is checked as a whole, once: it is one JSON text (RFC 8259) in UTF-8, nested no deeper than the
interpreter takes (about a thousand levels), and no object has a key twice.  Which of two equal keys counts is where a
gateway and a service disagree (RFC 8259 4), so such a body is `Invalid`; what becomes of it is the policy's to say, but
it is never rewritten.  Keys are hashed with the interpreter's secret seed (SipHash): chosen ones collide no more than
others.

Measured on a 2.8 KiB order with 24 items: json 15 us to read and 30 to write, msgspec 8 and 5; opened as here, with the
check, 14 (17 if it has white space) and 0.3.
"""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any, Final

from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder, Encoder

_decode: Final = Decoder().decode
_decode_wide: Final = Decoder(float_hook=float).decode
"""Takes numbers beyond a double too, as infinite."""
_open_object: Final = Decoder(dict[str, Raw]).decode
_open_list: Final = Decoder(list[Raw]).decode
encode: Final = Encoder().encode

MAX_SEARCH: Final = 16 * 1024
"""Bytes in which a key that is there twice is looked for, to tell which it is."""
SPACE: Final = b" \t\r\n"
_BEGIN: Final[dict[type, bytes]] = {dict: b"{" + SPACE, list: b"[" + SPACE}


class Invalid(ValueError):  # noqa: N818 - a document, not an error of ours
    """Not a JSON text that can be rewritten; the message completes "The body ..."."""


class Document:
    """A JSON text.  Its root is `box[0]`, so that the root is a member like any other."""

    __slots__ = ("box",)

    def __init__(self, root: Any) -> None:
        """A root of plain values, `Raw` texts or a mixture."""
        self.box: list[Any] = [root]

    def at(self, steps: tuple[str | int, ...]) -> Any:
        """The plain value at these steps, floats as floats.  Raises `LookupError` where there is none."""
        container: Any = self.box
        key: str | int = 0
        for step in steps:
            value = container[key]
            kind = dict if step.__class__ is str else list
            if value.__class__ is Raw and memoryview(value)[0] not in _BEGIN[kind]:
                raise LookupError(step)  # a long list is not opened to learn that it has no keys
            container = opened(container, key)
            if container.__class__ is not kind:
                raise LookupError(step)
            key = step
        return plain(container[key])

    def encoded(self) -> bytes:
        """The text, as bytes."""
        return encode(self.box[0])


def parse(data: bytes) -> Document:
    """A document, checked as a whole.  Raises `Invalid`."""
    try:
        try:
            value = _decode(data)
        except ValidationError:
            value = _decode_wide(data)
    except UnicodeDecodeError as error:
        raise Invalid(f"is not UTF-8 (octet {error.start} of a text)") from None
    except RecursionError:
        raise Invalid("is nested too deep") from None
    except (DecodeError, ValueError) as error:
        raise _diagnosed(data, error) from None
    if value.__class__ in (dict, list):
        repeats = _repeats_keys(data, value)
        if repeats is None or (repeats and len(data) <= MAX_SEARCH):
            _check_keys(data)
        if repeats:
            raise Invalid("has a key twice in one object")
    return Document(Raw(data))


def opened(container: Any, key: Any) -> Any:
    """The member under a key, opened if it is an object or list.  Raises `LookupError` where there is none."""
    value = container[key]
    if value.__class__ is Raw:
        first = memoryview(value)[0]
        if first == 0x7B:
            container[key] = value = _open_object(value)
        elif first == 0x5B:
            container[key] = value = _open_list(value)
        elif first in SPACE:
            container[key] = Raw(bytes(value).lstrip(SPACE))
            return opened(container, key)
    return value


def plain(value: Any) -> Any:
    """A value of a document as Python has it."""
    if value.__class__ is Raw:
        return _decode_wide(value)
    return _decode_wide(encode(value)) if value.__class__ in (dict, list) else value


def closed(value: Any) -> Raw:
    """A value as text: what may stand in several places at once."""
    return value if value.__class__ is Raw else Raw(encode(value))


def _repeats_keys(data: bytes, value: Any) -> bool | None:
    """Has an object of the text a key twice?  None where this is no way to tell.

    Equal keys are one key in `value`, so written out again it has fewer quotes.  Without escapes nothing else makes the
    counts differ.
    """
    again = encode(value)
    if again == data:
        return False
    if b"\\" in data:
        if b"\\u" in data:
            return None
        data, again = (text.replace(b"\\\\", b"").replace(b'\\"', b"") for text in (data, again))
    return data.count(b'"') != again.count(b'"')


def _check_keys(data: bytes) -> None:
    """Look at every object.  Raises `Invalid` for one that has a key twice."""

    def hook(pairs: list[tuple[str, Any]]) -> None:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key, new in zip_longest(keys, unique) if key != new)
            raise Invalid(f"has the key {json.dumps(twice)[:80]} twice in one object")

    try:
        json.loads(data, object_pairs_hook=hook, parse_int=len, parse_float=len)
    except RecursionError:
        raise Invalid("is nested too deep") from None


def _diagnosed(data: bytes, error: Exception) -> Invalid:
    if not data.strip(SPACE):
        return Invalid("is empty")
    return Invalid(f"is not JSON: {str(error).removeprefix('JSON is malformed: ')}")
