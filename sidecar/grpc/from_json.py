"""JSON as messages: from text to the wire format, by the JSON mapping of proto3.

Rules:

1. Names are those of JSON or those of the proto file.  An unknown name, a name given twice, two members of a oneof and
   a value that does not fit its type are errors, which name their place: `items[3].price`.
2. null means "not set", except for `google.protobuf.Value` and `NullValue`.  It is no item of a list and no value of a
   map.
3. Numbers are exact: an integer may have a point or an exponent, or be a string, and keeps all of its digits.
4. Texts are JSON as in RFC 8259: no NaN without quotes, no byte order mark, nothing after the value.
5. Depth is bounded.  The message is at most some ten times as long as its text.

The text is parsed with members in order as pairs, so that duplicates are seen.
"""

from __future__ import annotations

import binascii
import json
import re
import struct
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn, cast

from sidecar.grpc.descriptors import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    ENUM,
    FIELD_MASK,
    FIX32,
    FIX64,
    FLOAT,
    INT32,
    INT64,
    LIST_VALUE,
    MAP,
    MESSAGES,
    ONE_MESSAGE,
    SFIX32,
    SFIX64,
    SINGLE,
    SINT32,
    SINT64,
    STRING,
    STRUCT,
    TIMESTAMP,
    UINT32,
    UINT64,
    VALUE,
    WRAPPER,
    DescriptorSet,
    EnumType,
    Field,
    MessageType,
)
from sidecar.grpc.wellknown import duration_of, mask_of, timestamp_of
from sidecar.grpc.wire import MASK, MAX_DEPTH, varint

RANGES: Final = {
    **dict.fromkeys((INT32, SINT32, SFIX32, ENUM), (-(1 << 31), (1 << 31) - 1)),
    **dict.fromkeys((INT64, SINT64, SFIX64), (-(1 << 63), (1 << 63) - 1)),
    **dict.fromkeys((UINT32, FIX32), (0, (1 << 32) - 1)),
    **dict.fromkeys((UINT64, FIX64), (0, (1 << 64) - 1)),
}
"""Least and greatest value by type."""
_DOUBLE: Final = struct.Struct("<d")
_FLOAT: Final = struct.Struct("<f")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
MOST_DIGITS: Final = 20
"""Digits of the greatest integer."""
_URL_SAFE: Final = str.maketrans("-_", "+/")
_ZEROS: Final = frozenset((b"\0", b"\0" * 4, b"\0" * 8))
"""Wire formats of zero numbers."""
_CONSTANTS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class JsonError(ValueError):
    """Raised for a text that is not the JSON of a message; `place` is where, `reason` completes "the value ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = ""
        """JSON path such as `items[3].price`; empty for the whole text."""

    def within(self, name: str) -> None:
        """Put the name of the object around the place, as the error passes it."""
        rest = self.place
        self.place = f"{name}{'' if not rest or rest[0] == '[' else '.'}{rest}"

    def __str__(self) -> str:
        return f"{self.place or 'the whole'} {self.reason}"


def _no_constant(text: str) -> NoReturn:
    raise JsonError(f"has {text}, which is no JSON; write it as a string")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=cast("Any", tuple), parse_float=cast("Any", str.encode), parse_constant=cast("Any", _no_constant)
)
"""Decoder of texts: an object is a tuple of pairs, an array a list, a number that is no integer its text as bytes."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text: objects as tuples of pairs.  Raises `JsonError`."""
    try:
        return _DECODER.decode(str(text, "utf-8"))
    except UnicodeDecodeError as error:
        raise JsonError(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as invalid:
        raise JsonError(f"is no JSON: {invalid.msg} at line {invalid.lineno} column {invalid.colno}") from None
    except RecursionError:
        raise JsonError("is nested too deeply") from None
    except JsonError:
        raise
    except ValueError:  # an integer of thousands of digits
        raise JsonError("has a number of too many digits") from None


def from_json(kind: MessageType, text: bytes, types: DescriptorSet) -> bytes:
    """Return the wire format of a message from its JSON text.  `types` has those of `Any`.  Raises `JsonError`."""
    return _Reader(types).message(kind, parse_json(text), 0)


def field_from_json(field: Field, text: bytes, types: DescriptorSet) -> bytes:
    """Return the wire format of a message whose only field has the value of a JSON text.  Raises `JsonError`."""
    return _Reader(types).member(field, parse_json(text), 0)


def parameter_from_text(field: Field, text: str) -> bytes:
    """Return the wire format of one value of a field from the text of a path or a query.  Raises `JsonError`.

    Zero values are written too, so that they win over other values of the field.  Messages have a text if their JSON
    is a string, a number or a boolean.
    """
    message = field.message
    if message is None:
        return _explicit(field, text)
    special = message.special
    if special == WRAPPER:
        wire = _explicit(message.fields[0], text)
    elif special == FIELD_MASK:
        wire = _mask(text)
    elif special in (TIMESTAMP, DURATION):
        seconds, nanos = _time(special, text)
        wire = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
    else:
        raise JsonError("is a message, which no parameter can be")
    return field.tag + varint(len(wire)) + wire


def _explicit(field: Field, text: str) -> bytes:
    """Return the wire format of a scalar from its text, zero or not."""
    value: Any = text
    if field.kind == BOOL and text in ("true", "false"):
        value = text == "true"
    wire = scalar(field, value)
    if field.kind in (STRING, BYTES) or field.is_packed:
        return field.tag + varint(len(wire)) + wire
    return field.tag + wire


class _Reader:
    """Reader of values."""

    __slots__ = ("_types",)

    def __init__(self, types: DescriptorSet) -> None:
        self._types = types

    def message(self, kind: MessageType, value: Any, depth: int) -> bytes:
        """Return the wire format of a message."""
        if depth >= MAX_DEPTH:
            raise JsonError(f"has more than {MAX_DEPTH} messages within each other")
        if kind.special:
            return self._special(kind, value, depth)
        if not isinstance(value, tuple):
            raise JsonError(f"is {_named(value)}, not an object")
        return self._members(kind, value, depth)

    def _members(self, kind: MessageType, pairs: tuple[Any, ...], depth: int) -> bytes:
        """Return the wire format of the members of an object."""
        parts: list[bytes] = []
        by_json = kind.by_json
        seen = 0
        oneofs = 0
        pair: tuple[Any, ...]
        for pair in pairs:
            name: str = pair[0]
            value = pair[1]
            field = by_json.get(name)
            if field is None:
                raise _at(name, "is not a field" if len(name) < 200 else "has a name that is not a field")
            bit = 1 << field.index
            if seen & bit:
                raise _at(name, "is given twice")
            seen |= bit
            if value is None and not _takes_null(field):
                continue
            if field.oneof >= 0:
                bit = 1 << field.oneof
                if oneofs & bit:
                    raise _at(name, f"is a second member of the oneof {kind.oneofs[field.oneof]}")
                oneofs |= bit
            try:
                parts.append(self.member(field, value, depth))
            except JsonError as error:
                error.within(name)
                raise
        return b"".join(parts)

    def member(self, field: Field, value: Any, depth: int) -> bytes:
        """Return the wire format of a field with its tag."""
        shape = field.shape
        if shape == SINGLE:
            wire = scalar(field, value)
            if field.kind == STRING or field.kind == BYTES:
                if not wire and not field.has_presence:
                    return b""
                return field.tag + varint(len(wire)) + wire
            if not field.has_presence and wire in _ZEROS:
                return b""
            return field.tag + wire
        if shape == ONE_MESSAGE:
            return self._tagged(field, self.message(cast("MessageType", field.message), value, depth + 1))
        if value is None:
            return b""
        if shape == MAP:
            return self._map(field, value, depth)
        if not isinstance(value, list):
            raise JsonError(f"is {_named(value)}, not an array")
        return self._list(field, value, depth)

    def _tagged(self, field: Field, wire: bytes) -> bytes:
        if field.closing:
            return field.tag + wire + field.closing
        return field.tag + varint(len(wire)) + wire

    def _list(self, field: Field, values: list[Any], depth: int) -> bytes:
        """Return the wire format of a list."""
        parts: list[bytes] = []
        has_length = field.kind in (STRING, BYTES)
        kind = field.message if field.shape == MESSAGES else None
        for index, value in enumerate(values):
            try:
                if kind is not None:
                    if value is None and kind.special != VALUE:
                        raise JsonError("is null, which no item of a list can be")
                    parts.append(self._tagged(field, self.message(kind, value, depth + 1)))
                    continue
                wire = scalar(field, value)
            except JsonError as error:
                error.within(f"[{index}]")
                raise
            if has_length:
                parts.append(field.tag + varint(len(wire)) + wire)
            else:
                parts.append(wire if field.is_packed else field.tag + wire)
        whole = b"".join(parts)
        return field.tag + varint(len(whole)) + whole if field.is_packed and parts else whole

    def _map(self, field: Field, value: Any, depth: int) -> bytes:
        """Return the wire format of a map: an entry for each member of an object."""
        if not isinstance(value, tuple):
            raise JsonError(f"is {_named(value)}, not an object")
        kind = cast("MessageType", field.message)
        keys, values = kind.fields[0], kind.fields[1]
        parts: list[bytes] = []
        seen: set[bytes] = set()
        for pair in value:
            name: str = pair[0]
            inner = pair[1]
            try:
                key = self.member(keys, _key(keys, name), depth)
                if key in seen:
                    raise JsonError("is given twice")
                seen.add(key)
                if inner is None and not _takes_null(values):
                    raise JsonError("is null, which no value of a map can be")
                entry = key + self.member(values, inner, depth + 1)
            except JsonError as error:
                error.within(f"[{json.dumps(name[:200], ensure_ascii=False)}]")
                raise
            parts.append(field.tag + varint(len(entry)) + entry)
        return b"".join(parts)

    def _special(self, kind: MessageType, value: Any, depth: int) -> bytes:
        """Return the wire format of a message with a JSON form of its own."""
        special = kind.special
        if special == WRAPPER:
            return self.member(kind.fields[0], value, depth)
        if special in (TIMESTAMP, DURATION, FIELD_MASK):
            if not isinstance(value, str):
                raise JsonError(f"is {_named(value)}, not a string")
            if special == FIELD_MASK:
                return _mask(value)
            seconds, nanos = _time(special, value)
            return (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(nanos) if nanos else b"")
        if special == STRUCT:
            return self._map(kind.fields[0], value, depth)
        if special == LIST_VALUE:
            if not isinstance(value, list):
                raise JsonError(f"is {_named(value)}, not an array")
            return self._list(kind.fields[0], value, depth)
        if special == VALUE:
            return self._dynamic(kind, value, depth)
        return self._any(value, depth)

    def _dynamic(self, kind: MessageType, value: Any, depth: int) -> bytes:
        """Return the wire format of a `google.protobuf.Value`."""
        number = 2
        if value is None:
            number = 1
        elif isinstance(value, bool):
            number = 4
        elif isinstance(value, tuple):
            number = 5
        elif isinstance(value, list):
            number = 6
        elif isinstance(value, str):
            number = 3
        return self.member(kind.fields[number - 1], value, depth)

    def _any(self, value: Any, depth: int) -> bytes:
        """Return the wire format of a `google.protobuf.Any`."""
        if not isinstance(value, tuple):
            raise JsonError(f"is {_named(value)}, not an object")
        if not value:
            return b""
        urls = [pair[1] for pair in value if pair[0] == "@type"]
        if len(urls) != 1:
            raise _at("@type", "is given twice" if urls else "is missing; it names the type of the object")
        url = urls[0]
        if not isinstance(url, str):
            raise _at("@type", f"is {_named(url)}, not a string")
        kind = self._types.messages.get(url.rpartition("/")[2]) if "/" in url else None
        if kind is None:
            raise _at("@type", "names no type of the descriptors; write such as type.googleapis.com/shop.Order")
        members = tuple([pair for pair in value if pair[0] != "@type"])
        if kind.special:
            if [pair[0] for pair in members] != ["value"]:
                raise JsonError(f"has other members than @type and value, which are those of {kind.name}")
            try:
                wire = self.message(kind, members[0][1], depth + 1)
            except JsonError as error:
                error.within("value")
                raise
        else:
            wire = self.message(kind, members, depth + 1)
        octets = _utf8(url)
        return b"".join((b"\x0a", varint(len(octets)), octets, b"\x12" + varint(len(wire)) + wire if wire else b""))


def _mask(text: str) -> bytes:
    """Return the wire format of a field mask."""
    try:
        paths = [path.encode() for path in mask_of(text)]
    except ValueError as error:
        raise JsonError(str(error)) from None
    return b"".join([b"\x0a" + varint(len(path)) + path for path in paths])


def _time(special: int, text: str) -> tuple[int, int]:
    """Return the seconds and nanoseconds of a timestamp or a duration."""
    try:
        return timestamp_of(text) if special == TIMESTAMP else duration_of(text)
    except ValueError as error:
        raise JsonError(str(error)) from None


def scalar(field: Field, value: Any) -> bytes:
    """Return the wire format of a scalar, without its tag and its length."""
    kind = field.kind
    if kind == STRING:
        if not isinstance(value, str):
            raise JsonError(f"is {_named(value)}, not a string")
        return _utf8(value)
    if kind == BOOL:
        if not isinstance(value, bool):
            raise JsonError(f"is {_named(value)}, not true or false")
        return b"\x01" if value else b"\x00"
    if kind == ENUM:
        return varint(_enum(cast("EnumType", field.enum), value))
    if kind == BYTES:
        return _octets(value)
    if kind == DOUBLE:
        return _DOUBLE.pack(_float(value))
    if kind == FLOAT:
        number = _float(value)
        try:
            return _FLOAT.pack(number)
        except OverflowError:
            raise JsonError("is out of the range of a float") from None
    whole = _integer(value)
    if whole < 0 or whole > 0x7FFFFFFF:  # in the range of each type
        least, greatest = RANGES[kind]
        if not least <= whole <= greatest:
            raise JsonError(f"is out of the range {least} to {greatest}")
    if kind in (INT32, INT64, UINT32, UINT64):
        return varint(whole)
    if kind in (SINT32, SINT64):
        return varint((whole << 1) ^ (whole >> 63))
    if kind in (FIX32, SFIX32):
        return (whole & 0xFFFFFFFF).to_bytes(4, "little")
    return (whole & MASK).to_bytes(8, "little")


def _integer(value: Any) -> int:
    """Return an integer, exactly."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS and value[0] != "0":
        return int(value)
    if not isinstance(value, str | bytes):
        raise JsonError(f"is {_named(value)}, not an integer")
    text = value if isinstance(value, str) else value.decode()
    if _INTEGER.fullmatch(text) is not None:
        return int(text)
    if _NUMBER.fullmatch(text) is None:
        raise JsonError("is a string, not an integer")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise JsonError("is out of the range of integers") from None
    if not number:
        return 0
    if not number.is_finite() or number.adjusted() > 20:
        raise JsonError("is out of the range of integers")
    if number.adjusted() < 0 or number != number.to_integral_value():
        raise JsonError("is not an integer")
    return int(number)


def _float(value: Any) -> float:
    """Return a floating-point number."""
    if isinstance(value, bool) or not isinstance(value, int | str | bytes):
        raise JsonError(f"is {_named(value)}, not a number")
    if isinstance(value, str):
        constant = _CONSTANTS.get(value)
        if constant is not None:
            return constant
        if _NUMBER.fullmatch(value) is None:
            raise JsonError("is a string, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number - number != 0.0:
        raise JsonError("is out of the range of a double")
    return number


def _octets(value: Any) -> bytes:
    """Return the bytes of base64 in either alphabet, with or without padding."""
    if not isinstance(value, str):
        raise JsonError(f"is {_named(value)}, not a string")
    text = value.translate(_URL_SAFE) if "-" in value or "_" in value else value
    if len(text) % 4:
        text = text.rstrip("=")
        text += "=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        raise JsonError("is not base64") from None


def _enum(enum: EnumType, value: Any) -> int:
    """Return the number of an enum."""
    if isinstance(value, str):
        number = enum.by_name.get(value)
        if number is not None:
            return number
        if _INTEGER.fullmatch(value) is None:
            raise JsonError(f"is not a value of {enum.name}")
    elif value is None and enum.is_null:
        return 0
    whole = _integer(value)
    if not -(1 << 31) <= whole < 1 << 31 or (enum.closed and whole not in enum.texts):
        raise JsonError(f"is not a value of {enum.name}")
    return whole


def _key(field: Field, name: str) -> Any:
    """Return the value of a map's key, which JSON has as a string."""
    if field.kind == BOOL:
        if name not in ("true", "false"):
            raise JsonError("is not true or false")
        return name == "true"
    if field.kind != STRING and _INTEGER.fullmatch(name) is None:
        raise JsonError("is not an integer")
    return name


def _takes_null(field: Field) -> bool:
    """True if null is a value of the field."""
    if field.is_repeated:
        return False
    if field.message is not None:
        return field.message.special == VALUE
    return field.enum is not None and field.enum.is_null


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise JsonError("has half of a surrogate pair, which is no character") from None


def _at(name: str, reason: str) -> JsonError:
    """Return the error of a member."""
    error = JsonError(reason)
    error.place = name[:200]
    return error


def _named(value: Any) -> str:
    """Return the kind of a JSON value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "a number" if isinstance(value, int | bytes) else "a string"
