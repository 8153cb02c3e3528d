"""Descriptor sets as tables: what `protoc --descriptor_set_out` and `buf build` write, read without protobuf.

Rules:

1. A type that a field or a method names must be in the set (`protoc --include_imports`); otherwise the set is refused.
2. Presence, packing, closed enums and groups follow `syntax` or, from edition 2023, the features of file, message and
   field (`google.protobuf.FeatureSet`).
3. The tables hold what the two directions of the JSON mapping need for each field, made once: tags, keys, names.
4. HTTP rules are those of the option `google.api.http`; a set with none is valid.

Extensions and custom options other than that are not read.
"""

from __future__ import annotations

from json.encoder import encode_basestring
from typing import Final

from sidecar.grpc.wire import FIXED32, FIXED64, GROUP, LENGTH, VARINT, MessageError, fields, varint

DOUBLE: Final = 1
FLOAT: Final = 2
INT64: Final = 3
UINT64: Final = 4
INT32: Final = 5
FIX64: Final = 6
FIX32: Final = 7
BOOL: Final = 8
STRING: Final = 9
DELIMITED: Final = 10
"""Group; a message between two tags."""
MESSAGE: Final = 11
BYTES: Final = 12
UINT32: Final = 13
ENUM: Final = 14
SFIX32: Final = 15
SFIX64: Final = 16
SINT32: Final = 17
SINT64: Final = 18
NAMES: Final = (
    "", "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "group", "message",
    "bytes", "uint32", "enum", "sfixed32", "sfixed64", "sint32", "sint64",
)  # fmt: skip
"""Names of the types, by number."""
WIRE_TYPES: Final = {
    DOUBLE: FIXED64, FIX64: FIXED64, SFIX64: FIXED64, FLOAT: FIXED32, FIX32: FIXED32, SFIX32: FIXED32,
    STRING: LENGTH, BYTES: LENGTH, MESSAGE: LENGTH, DELIMITED: GROUP,
}  # fmt: skip
"""Wire types by type; VARINT for the others."""
ZEROS: Final = {DOUBLE: "0.0", FLOAT: "0.0", BOOL: "false", STRING: '""', BYTES: '""'} | dict.fromkeys(
    (INT64, UINT64, FIX64, SFIX64, SINT64), '"0"'
)
"""JSON texts of zero values by type; `0` for the others."""

SINGLE: Final = 0
LIST: Final = 1
ONE_MESSAGE: Final = 2
MESSAGES: Final = 3
MAP: Final = 4
"""Shapes of a field: scalar or message, one or many."""

ORDINARY: Final = 0
TIMESTAMP: Final = 1
DURATION: Final = 2
FIELD_MASK: Final = 3
STRUCT: Final = 4
VALUE: Final = 5
LIST_VALUE: Final = 6
WRAPPER: Final = 7
ANY: Final = 8
"""Kinds of messages: those with a JSON form of their own."""
SPECIAL: Final = {
    "google.protobuf.Timestamp": TIMESTAMP,
    "google.protobuf.Duration": DURATION,
    "google.protobuf.FieldMask": FIELD_MASK,
    "google.protobuf.Struct": STRUCT,
    "google.protobuf.Value": VALUE,
    "google.protobuf.ListValue": LIST_VALUE,
    "google.protobuf.Any": ANY,
    **{
        f"google.protobuf.{name}Value": WRAPPER
        for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
    },
}
"""Kinds by the name of the message."""
SHAPES: Final = {
    TIMESTAMP: {1: INT64, 2: INT32},
    DURATION: {1: INT64, 2: INT32},
    FIELD_MASK: {1: STRING},
    STRUCT: {1: MESSAGE},
    VALUE: {1: ENUM, 2: DOUBLE, 3: STRING, 4: BOOL, 5: MESSAGE, 6: MESSAGE},
    LIST_VALUE: {1: MESSAGE},
    WRAPPER: {1: 0},
    ANY: {1: STRING, 2: BYTES},
}
"""Numbers and types of the fields that a message of a kind must have; 0 for any type."""
HTTP_BODY: Final = "google.api.HttpBody"
NULL_VALUE: Final = "google.protobuf.NullValue"
HTTP: Final = 72295728
"""Number of the option `google.api.http`."""
HTTP_METHODS: Final = {2: "GET", 3: "PUT", 4: "POST", 5: "DELETE", 6: "PATCH"}
"""Methods by the numbers of the fields of `google.api.HttpRule`."""
MAX_BINDINGS: Final = 100
"""Most bindings of one method."""
EDITION_2023: Final = 1000


class DescriptorError(ValueError):
    """Raised for a file that is no usable descriptor set; the text completes "the file ..."."""


class Features:
    """Features of a file, a message or a field, as far as they matter."""

    __slots__ = ("closed", "expanded", "groups", "presence")

    def __init__(self, presence: bool, closed: bool, expanded: bool, groups: bool) -> None:
        self.presence = presence
        """True if a scalar field tells "not set" from its zero value."""
        self.closed = closed
        """True if an enum has no other values than those that are declared."""
        self.expanded = expanded
        """True if the items of a repeated scalar field are written one by one."""
        self.groups = groups
        """True if messages stand between two tags."""

    def overridden(self, options: bytes, number: int) -> Features:
        """Return the features that the options of an inner element give it; `number` is that of their `features`."""
        found = Features(self.presence, self.closed, self.expanded, self.groups)
        for field, value in fields(options):
            if field == number and isinstance(value, bytes):
                for feature, chosen in fields(value):
                    if feature == 1:
                        found.presence = chosen != 2
                    elif feature == 2:
                        found.closed = chosen == 2
                    elif feature == 3:
                        found.expanded = chosen == 2
                    elif feature == 5:
                        found.groups = chosen == 2
        return found


class EnumType:
    """Enum of a descriptor set."""

    __slots__ = ("by_name", "closed", "is_null", "name", "texts")

    def __init__(self, name: str, closed: bool) -> None:
        self.name = name
        """Full name."""
        self.closed = closed
        """True if undeclared numbers are no values of it."""
        self.is_null = name == NULL_VALUE
        """True for the type of JSON's null."""
        self.by_name: dict[str, int] = {}
        """Numbers by name, aliases included."""
        self.texts: dict[int, str] = {}
        """JSON texts by number; of several names the first declared."""

    def add(self, name: str, number: int) -> None:
        """Add a declared value."""
        self.by_name[name] = number
        self.texts.setdefault(number, "null" if self.is_null else f'"{name}"')


class Field:
    """Field of a message."""

    __slots__ = (
        "closing", "enum", "has_presence", "index", "is_packed", "is_repeated", "json_name", "key", "kind", "message",
        "name", "next_key", "number", "omitted", "oneof", "shape", "tag", "type_name", "zero",
    )  # fmt: skip

    def __init__(self, name: str, number: int, kind: int) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        """Type: one of the numbers above."""
        self.json_name = ""
        self.type_name = ""
        """Full name of the message or enum; empty for a scalar."""
        self.message: MessageType | None = None
        """Type of a message field, for a map the type of its entries; else None."""
        self.enum: EnumType | None = None
        """Type of an enum field; else None."""
        self.index = 0
        """Place among the fields of its message."""
        self.oneof = -1
        """Place of its oneof in `MessageType.oneofs`; -1 without one, and for that of an `optional`."""
        self.is_repeated = False
        """True for lists and maps."""
        self.has_presence = False
        """True if "not set" differs from the zero value."""
        self.is_packed = False
        """True if a list is written as one value."""
        self.shape = SINGLE
        self.key = ""
        """JSON key with its colon."""
        self.next_key = ""
        """JSON key with a comma before it and its colon."""
        self.tag = b""
        """Tag that is written before a value."""
        self.closing = b""
        """Tag behind a group; empty for the others."""
        self.zero = ""
        """JSON text of the zero value; for a list that of an item's."""
        self.omitted = ""
        """JSON text that is left out: that of the zero value, if the field has no presence; else empty."""

    def finish(self) -> None:
        """Make what depends on the type."""
        wire_type = LENGTH if self.is_packed else WIRE_TYPES.get(self.kind, VARINT)
        self.tag = varint(self.number << 3 | wire_type)
        if wire_type == GROUP:
            self.closing = varint(self.number << 3 | 4)
        self.key = f"{encode_basestring(self.json_name)}:"
        self.next_key = f",{self.key}"
        self.zero = ZEROS.get(self.kind, "0")
        if self.enum is not None:
            texts = self.enum.texts
            self.zero = next(iter(texts.values()), "0") if self.enum.closed else texts.get(0, "0")
        self.omitted = "" if self.has_presence or self.is_repeated else self.zero
        if self.message is None:
            self.shape = LIST if self.is_repeated else SINGLE
        elif self.message.is_map_entry and self.is_repeated:
            self.shape = MAP
        else:
            self.shape = MESSAGES if self.is_repeated else ONE_MESSAGE

    @property
    def type_text(self) -> str:
        """Type as it stands in a proto file."""
        return self.type_name or NAMES[self.kind]

    def __repr__(self) -> str:
        return f"<Field {self.name} = {self.number}: {self.type_text}>"


class MessageType:
    """Message type of a descriptor set."""

    __slots__ = ("by_json", "by_tag", "fields", "is_map_entry", "members", "name", "oneofs", "special")

    def __init__(self, name: str) -> None:
        self.name = name
        """Full name, without a dot at its start."""
        self.fields: list[Field] = []
        """Fields in the order of their numbers."""
        self.by_json: dict[str, Field] = {}
        """Fields by both names, that in JSON and that in the proto file."""
        self.by_tag: dict[int, Field] = {}
        """Fields by the tags that they may have on the wire."""
        self.oneofs: list[str] = []
        """Names of the oneofs."""
        self.members: list[list[int]] = []
        """Places of the fields of each oneof."""
        self.is_map_entry = False
        self.special = SPECIAL.get(name, ORDINARY)
        """Kind of the message."""

    def finish(self) -> None:
        """Make the tables, once the fields are known.  Raises `DescriptorError`."""
        self.fields.sort(key=lambda field: field.number)
        self.members = [[] for _ in self.oneofs]
        for index, field in enumerate(self.fields):
            field.index = index
            field.finish()
            wire_type = WIRE_TYPES.get(field.kind, VARINT)
            self.by_tag[field.number << 3 | wire_type] = field
            if field.is_repeated and wire_type not in (LENGTH, GROUP):
                self.by_tag[field.number << 3 | LENGTH] = field  # parsers take both forms
            if field.oneof >= 0:
                self.members[field.oneof].append(index)
        for field in self.fields:
            self.by_json.setdefault(field.name, field)
        for field in self.fields:
            self.by_json[field.json_name] = field
        if self.special:
            found = {field.number: field.kind for field in self.fields}
            wanted = SHAPES[self.special]
            if found.keys() != wanted.keys() or any(kind and found[number] != kind for number, kind in wanted.items()):
                raise DescriptorError(f"has a {self.name} that is not Google's; leave it out, or take the original")

    def by_number(self, number: int) -> Field | None:
        """Return the field with a number; None if there is none."""
        return next((field for field in self.fields if field.number == number), None)

    def __repr__(self) -> str:
        return f"<MessageType {self.name}>"


class HttpRule:
    """Binding of a method to HTTP: one rule of its option `google.api.http`."""

    __slots__ = ("body", "method", "path", "response_body")

    def __init__(self, method: str, path: str, body: str, response_body: str) -> None:
        self.method = method
        """HTTP method; `*` for any."""
        self.path = path
        """Path template."""
        self.body = body
        """Field that the body is; `*` for the whole message, empty for no body."""
        self.response_body = response_body
        """Field that is the body of the answer; empty for the whole message."""


class Method:
    """Method of a service."""

    __slots__ = ("client_streaming", "idempotency", "input", "name", "output", "rules", "server_streaming", "service")

    def __init__(self, service: str, name: str, input_: MessageType, output: MessageType) -> None:
        self.service = service
        """Full name of the service."""
        self.name = name
        self.input = input_
        self.output = output
        self.client_streaming = False
        self.server_streaming = False
        self.idempotency = 0
        """0 if unknown, 1 for no side effects, 2 for idempotent."""
        self.rules: list[HttpRule] = []
        """Bindings to HTTP, the additional ones last."""

    @property
    def full_name(self) -> str:
        """Name with that of the service: `shop.Orders/Get`."""
        return f"{self.service}/{self.name}"


class Service:
    """Service of a descriptor set."""

    __slots__ = ("methods", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        """Full name."""
        self.methods: list[Method] = []


class DescriptorSet:
    """Types and services of a descriptor set, by their full names."""

    __slots__ = ("enums", "messages", "services")

    def __init__(self) -> None:
        self.messages: dict[str, MessageType] = {}
        self.enums: dict[str, EnumType] = {}
        self.services: dict[str, Service] = {}

    def __repr__(self) -> str:
        return f"<DescriptorSet {len(self.messages)} messages {len(self.services)} services>"


def read_descriptors(data: bytes) -> DescriptorSet:
    """Return the tables of a serialized `google.protobuf.FileDescriptorSet`.  Raises `DescriptorError`."""
    reader = _Reader()
    try:
        files = [value for number, value in fields(data) if number == 1 and isinstance(value, bytes)]
        for each in files:
            reader.file(each)
        if not files:
            raise DescriptorError("has no descriptors; write it with protoc --include_imports --descriptor_set_out")
        reader.link()
    except (MessageError, UnicodeDecodeError, TypeError) as error:
        raise DescriptorError(
            f"is no descriptor set ({error}); write it with protoc --include_imports --descriptor_set_out"
        ) from None
    return reader.found


class _Raw:
    """Descriptor as a table of values by field number."""

    __slots__ = ("_values",)

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, list[int | bytes]] = {}
        for number, value in fields(data):
            self._values.setdefault(number, []).append(value)

    def has(self, number: int) -> bool:
        return number in self._values

    def integer(self, number: int) -> int:
        value = self._values.get(number, [0])[-1]
        if not isinstance(value, int):
            raise MessageError(f"has bytes for the number of field {number}")
        return value

    def all(self, number: int) -> list[bytes]:
        found = []
        for value in self._values.get(number, ()):
            if not isinstance(value, bytes):
                raise MessageError(f"has a number for the bytes of field {number}")
            found.append(value)
        return found

    def octets(self, number: int) -> bytes:
        """Return an embedded message: the concatenation merges all its parts."""
        return b"".join(self.all(number))

    def text(self, number: int) -> str:
        found = self.all(number)
        return found[-1].decode() if found else ""


class _Reader:
    """Reader of a descriptor set, in two passes: declarations, then what they name."""

    def __init__(self) -> None:
        self.found = DescriptorSet()
        self._fields: list[tuple[MessageType, Field]] = []
        self._services: list[tuple[str, list[_Raw]]] = []

    def file(self, data: bytes) -> None:
        raw = _Raw(data)
        package = raw.text(2)
        syntax = raw.text(12)
        is_old = syntax in ("", "proto2") and not raw.integer(14)
        # proto2 has presence, closed enums and expanded lists; proto3 has none of them; editions begin with presence.
        features = Features(is_old or syntax != "proto3", is_old, is_old, False)
        if raw.integer(14) >= EDITION_2023 or syntax == "editions":
            features = Features(True, False, False, False).overridden(raw.octets(8), 50)
        prefix = f"{package}." if package else ""
        for each in raw.all(5):
            self.enum(prefix, _Raw(each), features)
        for each in raw.all(4):
            self.message(prefix, _Raw(each), features, 0)
        for each in raw.all(6):
            service = _Raw(each)
            self._services.append((prefix + service.text(1), [_Raw(method) for method in service.all(2)]))

    def enum(self, prefix: str, raw: _Raw, outer: Features) -> None:
        name = prefix + raw.text(1)
        if name in self.found.enums:
            return  # the same file twice
        enum = EnumType(name, outer.overridden(raw.octets(3), 7).closed)
        for each in raw.all(2):
            value = _Raw(each)
            number = value.integer(2) & 0xFFFFFFFF
            enum.add(value.text(1), number - (1 << 32) if number >> 31 else number)
        self.found.enums[name] = enum

    def message(self, prefix: str, raw: _Raw, outer: Features, depth: int) -> None:
        name = prefix + raw.text(1)
        if name in self.found.messages:
            return
        if depth > 32:
            raise MessageError("has more than 32 messages within each other")
        features = outer.overridden(raw.octets(7), 12)
        message = MessageType(name)
        message.is_map_entry = bool(_Raw(raw.octets(7)).integer(7))
        message.oneofs = [_Raw(each).text(1) for each in raw.all(8)]
        self.found.messages[name] = message
        for each in raw.all(4):
            self.enum(f"{name}.", _Raw(each), features)
        for each in raw.all(3):
            self.message(f"{name}.", _Raw(each), features, depth + 1)
        for each in raw.all(2):
            field = self.field(_Raw(each), features)
            message.fields.append(field)
            self._fields.append((message, field))

    def field(self, raw: _Raw, outer: Features) -> Field:
        field = Field(raw.text(1), raw.integer(3), raw.integer(5))
        if not 0 < field.kind < len(NAMES) or not 0 < field.number < 1 << 29:
            raise MessageError(f"has a field {field.name} of type {field.kind} and number {field.number}")
        options = _Raw(raw.octets(8))
        features = outer.overridden(raw.octets(8), 21)
        field.json_name = raw.text(10) or json_name(field.name)
        field.type_name = raw.text(6).lstrip(".")
        field.is_repeated = raw.integer(4) == 3
        is_optional = bool(raw.integer(17))
        if raw.has(9) and not is_optional:
            field.oneof = raw.integer(9)
        if field.kind == MESSAGE and features.groups:
            field.kind = DELIMITED
        field.has_presence = not field.is_repeated and (
            is_optional or field.oneof >= 0 or features.presence or field.kind in (MESSAGE, DELIMITED)
        )
        if field.is_repeated and field.kind not in (STRING, BYTES, MESSAGE, DELIMITED):
            field.is_packed = bool(options.integer(2)) if options.has(2) else not features.expanded
        return field

    def link(self) -> None:
        """Connect fields and methods with the types that they name.  Raises `DescriptorError`."""
        for message, field in self._fields:
            if field.kind in (MESSAGE, DELIMITED):
                field.message = self._type(field.type_name, f"{message.name}.{field.name}")
                if field.message.is_map_entry:
                    field.kind = MESSAGE  # maps are never between two tags
            elif field.kind == ENUM:
                field.enum = self.found.enums.get(field.type_name)
                if field.enum is None:
                    raise DescriptorError(_missing(field.type_name, f"{message.name}.{field.name}"))
            if not -1 <= field.oneof < len(message.oneofs):
                raise DescriptorError(f"has {message.name}.{field.name} in a oneof that does not exist")
        for message in self.found.messages.values():
            if message.is_map_entry and [field.number for field in message.fields] not in ([1, 2], [2, 1]):
                raise DescriptorError(f"has {message.name}, a map without its key and value")
        for message in self.found.messages.values():
            message.finish()
        for name, methods in self._services:
            if name not in self.found.services:
                service = self.found.services[name] = Service(name)
                service.methods = [self._method(name, each) for each in methods]

    def _type(self, name: str, user: str) -> MessageType:
        found = self.found.messages.get(name)
        if found is None:
            raise DescriptorError(_missing(name, user))
        return found

    def _method(self, service: str, raw: _Raw) -> Method:
        user = f"{service}/{raw.text(1)}"
        types = [self._type(raw.text(number).lstrip("."), user) for number in (2, 3)]
        method = Method(service, raw.text(1), types[0], types[1])
        method.client_streaming = bool(raw.integer(5))
        method.server_streaming = bool(raw.integer(6))
        options = _Raw(raw.octets(4))
        method.idempotency = options.integer(34)
        if options.has(HTTP):
            _add_rules(method, _Raw(options.octets(HTTP)), 0)
        return method


def _add_rules(method: Method, raw: _Raw, depth: int) -> None:
    """Add the bindings of a `google.api.HttpRule` to its method.  Raises `DescriptorError`."""
    kinds = [number for number in (*HTTP_METHODS, 8) if raw.has(number)]
    if len(kinds) > 1:
        raise DescriptorError(f"has a google.api.http rule of {method.full_name} with several methods; write one")
    if kinds:
        verb, path = HTTP_METHODS.get(kinds[0], ""), ""
        if verb:
            path = raw.text(kinds[0])
        else:
            custom = _Raw(raw.octets(8))
            verb, path = custom.text(1), custom.text(2)
        method.rules.append(HttpRule(verb, path, raw.text(7), raw.text(12)))
    if len(method.rules) > MAX_BINDINGS:
        raise DescriptorError(f"has more than {MAX_BINDINGS} bindings of {method.full_name}")
    further = raw.all(11)
    if further and depth:
        raise DescriptorError(
            f"has additional_bindings within additional_bindings of {method.full_name}; write them side by side"
        )
    for each in further:
        _add_rules(method, _Raw(each), depth + 1)


def _missing(name: str, user: str) -> str:
    return f"has no {name}, which {user} names; write it with protoc --include_imports"


def json_name(name: str) -> str:
    """Return the name of a field in JSON: `order_id` becomes `orderId`."""
    out = []
    upper = False
    for letter in name:
        if letter == "_":
            upper = True
        else:
            out.append(letter.upper() if upper else letter)
            upper = False
    return "".join(out)
