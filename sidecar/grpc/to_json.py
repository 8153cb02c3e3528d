"""Messages as JSON: from the wire format to text, by the JSON mapping of proto3.

Rules:

1. 64-bit integers are strings, bytes are base64, enums are names, numbers that JSON lacks are the strings `NaN`,
   `Infinity` and `-Infinity`.  A field without presence that has its zero value is left out.
2. Of a scalar given twice the last counts; messages given twice are merged; of a oneof the last member counts.
3. Fields stand in the order of their numbers.  Unknown fields are left out.
4. Depth and length of the text are bounded, because a message of a few bytes can have a long text.

Messages are parsed to places in the input, and written in one pass over their fields.
"""

from __future__ import annotations

import binascii
import struct
from json.encoder import encode_basestring
from typing import Any, Final, cast

from sidecar.grpc.descriptors import (
    ANY,
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
    LIST,
    MAP,
    MESSAGE,
    MESSAGES,
    ONE_MESSAGE,
    ORDINARY,
    SFIX32,
    SFIX64,
    SINGLE,
    SINT32,
    STRING,
    STRUCT,
    TIMESTAMP,
    UINT32,
    UINT64,
    VALUE,
    DescriptorSet,
    EnumType,
    Field,
    MessageType,
)
from sidecar.grpc.wellknown import duration_text, mask_text, timestamp_text
from sidecar.grpc.wire import MAX_DEPTH, MessageError, group_end, read_tag, read_varint, skip

_DOUBLE: Final = struct.Struct("<d")
_FLOAT: Final = struct.Struct("<f")
LARGEST: Final = 16 * 1024 * 1024
"""Longest text of a message, in characters, unless another limit is given."""


def to_json(kind: MessageType, data: bytes, types: DescriptorSet, limit: int = LARGEST) -> bytes:
    """Return the JSON text of a message.  `types` has those of `Any`; `limit` is in characters.

    Raises `MessageError`.
    """
    return _written(_Writer(types, limit, False), kind, data)


def to_lenient_json(kind: MessageType, data: bytes, types: DescriptorSet, limit: int = LARGEST) -> bytes:
    """Return the JSON text of a message, in which an `Any` of an unknown type has its bytes as base64."""
    return _written(_Writer(types, limit, True), kind, data)


def field_to_json(kind: MessageType, field: Field, data: bytes, types: DescriptorSet, limit: int = LARGEST) -> bytes:
    """Return the JSON text of one field of a message; of its zero value if it is not set.  Raises `MessageError`."""
    return _written(_Writer(types, limit, False), kind, data, field)


def _written(writer: _Writer, kind: MessageType, data: bytes, field: Field | None = None) -> bytes:
    try:
        if field is None:
            writer.message(kind, data, 0, len(data), 0)
        else:
            slots = writer.parse(kind, data, 0, len(data), 0)
            writer.value(field, slots[field.index], data, 0)
    except IndexError:
        raise MessageError("is cut off") from None
    except UnicodeDecodeError:
        raise MessageError("has text that is not UTF-8") from None
    return "".join(writer.out).encode()


class _Writer:
    """Writer of one text."""

    __slots__ = ("_left", "_lenient", "_types", "out")

    def __init__(self, types: DescriptorSet, limit: int, lenient: bool) -> None:
        self.out: list[str] = []
        """Pieces of the text."""
        self._types = types
        self._left = limit
        self._lenient = lenient

    def message(self, kind: MessageType, data: bytes, at: int, end: int, depth: int) -> None:
        """Write the message at `data[at:end]`."""
        special = kind.special
        if special == ORDINARY:
            slots = self.parse(kind, data, at, end, depth)
            self.members(kind, slots, data, depth, True)
            self.out.append("}")
        elif special == ANY:
            self._any(kind, data, at, end, depth)
        else:
            self._special(kind, special, self.parse(kind, data, at, end, depth), data, depth)

    def parse(self, kind: MessageType, data: bytes, at: int, end: int, depth: int) -> list[Any]:
        """Return the values of the fields of a message by their places; None for those that are not set.

        A scalar is its text, a message a list of the offsets of its parts, and a map has texts as its keys.
        """
        if depth >= MAX_DEPTH:
            raise MessageError(f"has more than {MAX_DEPTH} messages within each other")
        slots: list[Any] = [None] * len(kind.fields)
        by_tag = kind.by_tag
        while at < end:
            tag = data[at]
            at += 1
            if tag >= 128:
                tag, at = read_tag(data, at - 1)
            field = by_tag.get(tag)
            if field is None:
                at = skip(data, at, end, tag)
                continue
            text: str | None
            wire_type = tag & 7
            if wire_type == 2:
                size = data[at]
                at += 1
                if size >= 128:
                    size, at = read_varint(data, at - 1)
                stop = at + size
                if stop > end:
                    raise MessageError("is cut off")
                type_ = field.kind
                if type_ == STRING:
                    text = encode_basestring(str(data[at:stop], "utf-8"))
                elif type_ == MESSAGE:
                    self._place(kind, field, slots, data, at, stop, depth)
                    at = stop
                    continue
                elif type_ == BYTES:
                    text = f'"{binascii.b2a_base64(data[at:stop], newline=False).decode()}"'
                else:
                    found: list[str] | None = slots[field.index]
                    if found is None:
                        found = slots[field.index] = []
                    while at < stop:
                        text, at = _scalar(field, data, at)
                        if text is not None:
                            found.append(text)
                    if at != stop:
                        raise MessageError(f"has a list {field.name} that is cut off")
                    if not found:
                        slots[field.index] = None
                    continue
                at = stop
            elif wire_type == 3:
                before, behind = group_end(data, at, end, tag)
                self._place(kind, field, slots, data, at, before, depth)
                at = behind
                continue
            else:
                text, at = _scalar(field, data, at)
                if text is None:
                    continue  # a number that a closed enum does not have
            if field.is_repeated:
                texts: list[str] | None = slots[field.index]
                if texts is None:
                    slots[field.index] = [text]
                else:
                    texts.append(text)
            else:
                if field.oneof >= 0:
                    for index in kind.members[field.oneof]:
                        slots[index] = None
                slots[field.index] = None if text == field.omitted else text
        if at > end:
            raise MessageError("is cut off")
        return slots

    def _place(
        self, kind: MessageType, field: Field, slots: list[Any], data: bytes, at: int, end: int, depth: int
    ) -> None:
        """Note the place of an embedded message."""
        index = field.index
        if field.shape == MAP:
            entries: dict[str, Any] | None = slots[index]
            if entries is None:
                entries = slots[index] = {}
            self._entry(field, entries, data, at, end, depth)
            return
        if field.oneof >= 0:
            for other in kind.members[field.oneof]:
                if other != index:
                    slots[other] = None
        places: list[int] | None = slots[index]
        if places is None:
            slots[index] = [at, end]
        else:
            places.append(at)
            places.append(end)

    def _entry(self, field: Field, entries: dict[str, Any], data: bytes, at: int, end: int, depth: int) -> None:
        """Note an entry of a map; of several with one key the last counts."""
        kind = cast("MessageType", field.message)
        slots = self.parse(kind, data, at, end, depth + 1)
        key: str | None = slots[0]
        if key is None:
            key = kind.fields[0].zero
        if key[0] != '"':
            key = f'"{key}"'
        value = slots[1]
        if value is None and kind.fields[1].shape != ONE_MESSAGE:
            value = kind.fields[1].zero
        entries[key] = value

    def members(self, kind: MessageType, slots: list[Any], data: bytes, depth: int, is_first: bool) -> None:
        """Write an opening brace and the members of an object, without its closing brace.

        Without `is_first` the brace and a member have been written.
        """
        out = self.out
        left = self._left - 2
        for field in kind.fields:
            value = slots[field.index]
            if value is None:
                continue
            if is_first:
                is_first = False
                out.append("{")
                key = field.key
            else:
                key = field.next_key
            out.append(key)
            left -= len(key)
            if field.shape == SINGLE:
                text: str = value
                out.append(text)
                left -= len(text)
                if left < 0:
                    raise MessageError("has a text that is longer than the limit")
            else:
                self._left = left
                self.value(field, value, data, depth)
                left = self._left
        if is_first:
            out.append("{")
        if left < 0:
            raise MessageError("has a text that is longer than the limit")
        self._left = left

    def value(self, field: Field, value: Any, data: bytes, depth: int) -> None:
        """Write the value of a field; its zero value if that is None."""
        out = self.out
        shape = field.shape
        if shape == SINGLE:
            text: str = field.zero if value is None else value
            self._left -= len(text)
            out.append(text)
        elif shape == LIST:
            texts: list[str] = [] if value is None else value
            for text in texts:
                self._left -= len(text) + 1
            if self._left < 0:
                raise MessageError("has a text that is longer than the limit")
            out.append("[")
            out.append(",".join(texts))
            out.append("]")
        elif shape == ONE_MESSAGE:
            if value is None:
                out.append("null")
            else:
                self._embedded(cast("MessageType", field.message), value, data, depth)
        elif shape == MESSAGES:
            kind = cast("MessageType", field.message)
            places: list[int] = [] if value is None else value
            out.append("[")
            for index in range(0, len(places), 2):
                if index:
                    out.append(",")
                self._left -= 2
                self.message(kind, data, places[index], places[index + 1], depth + 1)
            out.append("]")
        else:
            self._map(cast("MessageType", field.message).fields[1], value or {}, data, depth)
        if self._left < 0:
            raise MessageError("has a text that is longer than the limit")

    def _embedded(self, kind: MessageType, places: list[int], data: bytes, depth: int) -> None:
        """Write a message that came in one part or in several."""
        if len(places) == 2:
            self.message(kind, data, places[0], places[1], depth + 1)
        else:
            parts = [data[places[index] : places[index + 1]] for index in range(0, len(places), 2)]
            whole = b"".join(parts)
            self.message(kind, whole, 0, len(whole), depth + 1)

    def _map(self, field: Field, entries: dict[str, Any], data: bytes, depth: int) -> None:
        """Write the entries of a map, whose values are like those of `field`."""
        out = self.out
        mark = "{"
        for key, value in entries.items():
            out.append(mark)
            out.append(key)
            out.append(":")
            self._left -= len(key) + 2
            if field.shape == SINGLE:
                text: str = value
                out.append(text)
                self._left -= len(text)
            else:  # a value that is not given is an empty message
                self._embedded(cast("MessageType", field.message), [0, 0] if value is None else value, data, depth + 1)
            mark = ","
            if self._left < 0:
                raise MessageError("has a text that is longer than the limit")
        out.append("{}" if mark == "{" else "}")

    def _special(self, kind: MessageType, special: int, slots: list[Any], data: bytes, depth: int) -> None:
        """Write a message with a JSON form of its own."""
        first = slots[0]
        if special in (TIMESTAMP, DURATION):
            seconds = 0 if first is None else int(cast("str", first)[1:-1])
            nanos = 0 if slots[1] is None else int(cast("str", slots[1]))
            try:
                text = timestamp_text(seconds, nanos) if special == TIMESTAMP else duration_text(seconds, nanos)
            except ValueError as error:
                raise MessageError(f"has a value that {error}") from None
            self._text(f'"{text}"')
        elif special == FIELD_MASK:
            try:
                text = mask_text([path[1:-1] for path in cast("list[str]", first or [])])
            except ValueError as error:
                raise MessageError(f"has a value that {error}") from None
            self._text(f'"{text}"')
        elif special == STRUCT:
            self._map(cast("MessageType", kind.fields[0].message).fields[1], first or {}, data, depth)
        elif special == VALUE:
            self._dynamic(kind, slots, data, depth)
        else:  # LIST_VALUE, WRAPPER
            self.value(kind.fields[0], first, data, depth)

    def _dynamic(self, kind: MessageType, slots: list[Any], data: bytes, depth: int) -> None:
        """Write a `google.protobuf.Value`."""
        for field in kind.fields:
            value = slots[field.index]
            if value is not None:
                if field.kind == DOUBLE and cast("str", value)[0] == '"':
                    raise MessageError("has a google.protobuf.Value that is no finite number")
                self.value(field, value, data, depth)
                return
        self._text("null")

    def _any(self, kind: MessageType, data: bytes, at: int, end: int, depth: int) -> None:
        """Write a `google.protobuf.Any`: the members of its message beside `@type`."""
        if depth >= MAX_DEPTH:
            raise MessageError(f"has more than {MAX_DEPTH} messages within each other")
        url, start, stop = "", 0, 0
        while at < end:
            tag, at = read_tag(data, at)
            behind = skip(data, at, end, tag)
            if tag == 10:
                url = str(data[read_varint(data, at)[1] : behind], "utf-8")
            elif tag == 18:
                start, stop = read_varint(data, at)[1], behind
            at = behind
        if not url:
            if start < stop:
                raise MessageError("has a google.protobuf.Any without its type")
            self._text("{}")
            return
        self._text(f'{{"@type":{encode_basestring(url)}')
        inner = self._types.messages.get(url.rpartition("/")[2])
        if inner is None:
            if not self._lenient:
                raise MessageError(f"has a google.protobuf.Any of {url[:200]}, a type that is not in the descriptors")
            self._text(f',"value":"{binascii.b2a_base64(data[start:stop], newline=False).decode()}"')
        elif inner.special:
            self._text(',"value":')
            self.message(inner, data, start, stop, depth + 1)
        else:
            self.members(inner, self.parse(inner, data, start, stop, depth + 1), data, depth + 1, False)
        self.out.append("}")

    def _text(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise MessageError("has a text that is longer than the limit")
        self.out.append(text)


def _scalar(field: Field, data: bytes, at: int) -> tuple[str | None, int]:
    """Return the text of a number, an enum or a boolean, and the offset behind it.

    The text of a number that a closed enum does not have is None.
    """
    kind = field.kind
    if kind == DOUBLE:
        return double_text(_DOUBLE.unpack_from(data, at)[0]) if at + 8 <= len(data) else _cut_off(), at + 8
    if kind == FLOAT:
        return float_text(_FLOAT.unpack_from(data, at)[0]) if at + 4 <= len(data) else _cut_off(), at + 4
    if kind in (FIX32, SFIX32):
        if at + 4 > len(data):
            _cut_off()
        return str(int.from_bytes(data[at : at + 4], "little", signed=kind == SFIX32)), at + 4
    if kind in (FIX64, SFIX64):
        if at + 8 > len(data):
            _cut_off()
        return f'"{int.from_bytes(data[at : at + 8], "little", signed=kind == SFIX64)}"', at + 8
    number = data[at]
    at += 1
    if number >= 128:
        number, at = read_varint(data, at - 1)
    if kind == ENUM:
        return _enum_text(cast("EnumType", field.enum), number), at
    if kind == BOOL:
        return "true" if number else "false", at
    if kind == INT32:
        number &= 0xFFFFFFFF
        return str(number - (1 << 32) if number >> 31 else number), at
    if kind == INT64:
        return f'"{number - (1 << 64) if number >> 63 else number}"', at
    if kind == UINT32:
        return str(number & 0xFFFFFFFF), at
    if kind == UINT64:
        return f'"{number}"', at
    if kind == SINT32:
        number &= 0xFFFFFFFF
        return str((number >> 1) ^ -(number & 1)), at
    return f'"{(number >> 1) ^ -(number & 1)}"', at


def _cut_off() -> str:
    raise MessageError("is cut off")


def _enum_text(enum: EnumType, number: int) -> str | None:
    """Return the text of a number of an enum; None if the enum is closed and does not have it."""
    number &= 0xFFFFFFFF
    if number >> 31:
        number -= 1 << 32
    text = enum.texts.get(number)
    if text is None and not enum.closed:
        return "null" if enum.is_null else str(number)
    return text


def double_text(number: float) -> str:
    """Return the JSON text of a 64-bit number."""
    if number - number == 0.0:
        return repr(number)
    return '"NaN"' if number != number else '"Infinity"' if number > 0 else '"-Infinity"'


def float_text(number: float) -> str:
    """Return the JSON text of a 32-bit number: the shortest of six digits or more that reads as that number."""
    if number - number != 0.0:
        return double_text(number)
    for digits in range(6, 9):
        text = f"{number:.{digits}g}"
        short = float(text)
        try:
            if _FLOAT.unpack(_FLOAT.pack(short))[0] == number:
                return repr(short)
        except OverflowError:
            pass
    return repr(float(f"{number:.9g}"))
