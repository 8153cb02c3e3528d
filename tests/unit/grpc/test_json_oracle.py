"""Differential tests of the JSON mapping: messages that hypothesis makes, against protobuf's `json_format`."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as D
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidecar.grpc.descriptors import BYTES, DOUBLE, ENUM, FLOAT, MESSAGE, Field
from sidecar.grpc.from_json import JsonError, from_json
from sidecar.grpc.to_json import to_json
from sidecar.grpc.wire import MessageError
from tests.support.cases import each
from tests.unit.grpc.types import CLASSES, POOL, TYPES, oracle

ROUNDS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
INTEGERS = {
    D.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    D.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    D.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    D.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TIMES = st.builds(
    lambda seconds, nanos: {"seconds": seconds, "nanos": nanos},
    st.integers(-62135596800, 253402300799),
    st.one_of(st.just(0), st.integers(0, 999).map(lambda n: n * 1000000), st.integers(0, 999999999)),
)
SPANS = st.builds(
    lambda seconds, nanos, sign: {"seconds": sign * seconds, "nanos": sign * nanos},
    st.integers(0, 315576000000),
    st.integers(0, 999999999),
    st.sampled_from((1, -1)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def fill(draw: Any, message: Any, depth: int) -> Any:
    """Set some fields of a message of protobuf's."""
    name = message.DESCRIPTOR.full_name
    if name.startswith("google.protobuf."):
        fill_known(draw, message, name.removeprefix("google.protobuf."), depth)
        return message
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            keys, values = field.message_type.fields
            for _ in range(draw(st.integers(0, 2))):
                key = draw(scalars(keys))
                if values.message_type is not None:
                    fill(draw, getattr(message, field.name)[key], depth + 1)
                else:
                    getattr(message, field.name)[key] = draw(scalars(values))
        elif field.message_type is not None:
            if depth > 2:
                continue
            target = getattr(message, field.name)
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 2))):
                    fill(draw, target.add(), depth + 1)
            else:
                target.SetInParent()
                fill(draw, target, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalars(field), max_size=3)))
        else:
            setattr(message, field.name, draw(scalars(field)))
    return message


def fill_known(draw: Any, message: Any, name: str, depth: int) -> None:
    if name in ("Timestamp", "Duration"):
        values = draw(TIMES if name == "Timestamp" else SPANS)
        message.seconds, message.nanos = values["seconds"], values["nanos"]
    elif name == "FieldMask":
        message.paths.extend(
            draw(
                st.lists(st.from_regex(r"\A(_?[a-z]|[0-9])[a-z0-9]{0,2}(_[a-z]{1,3})?(\._?[a-z]{1,3})?\Z"), max_size=3)
            )
        )
    elif name in ("Struct", "Value", "ListValue"):
        value = draw(JSON)
        if name == "Struct":
            value = {"a": value}
        elif name == "ListValue":
            value = [value]
        json_format.ParseDict(value, message)
    elif name == "Any":
        if draw(st.booleans()) and depth < 3:
            inner = fill(draw, oracle(draw(st.sampled_from(ANYS))), depth + 1)
            message.Pack(inner)
    elif name.endswith("Value"):
        message.value = draw(scalars(message.DESCRIPTOR.fields[0]))


ANYS = ["test.Inner", "test.Scalars", "google.protobuf.Timestamp", "google.protobuf.Int64Value", "google.protobuf.Any"]


def scalars(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        known = st.sampled_from(sorted(field.enum_type.values_by_number))
        return known if field.enum_type.name == "NullValue" else known | st.integers(-(2**31), 2**31 - 1)
    if field.cpp_type in INTEGERS:
        return INTEGERS[field.cpp_type]
    if field.cpp_type == D.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == D.CPPTYPE_STRING:
        return st.binary(max_size=5) if field.type == D.TYPE_BYTES else TEXTS
    return st.floats(width=32 if field.cpp_type == D.CPPTYPE_FLOAT else 64)


@st.composite
def messages(draw: Any) -> Any:
    name = draw(st.sampled_from(sorted(name for name in CLASSES if name.startswith("test."))))
    return fill(draw, oracle(name), 0)


def theirs(message: Any) -> Any:
    return json_format.MessageToDict(message, descriptor_pool=POOL)


def same(ours: Any, other: Any) -> bool:
    """True if two JSON values are equal; numbers of 32 bits may have a few digits more."""
    if isinstance(ours, dict) and isinstance(other, dict):
        return ours.keys() == other.keys() and all(same(ours[key], other[key]) for key in ours)
    if isinstance(ours, list) and isinstance(other, list):
        return len(ours) == len(other) and all(map(same, ours, other))
    return bool(ours == other) and (ours is None) == (other is None)


@ROUNDS
@given(messages())
def test_messages_have_the_same_json(message: Any) -> None:
    kind = TYPES.messages[message.DESCRIPTOR.full_name]
    data = message.SerializeToString()
    text = to_json(kind, data, TYPES)
    assert same(json.loads(text), theirs(message))
    back = oracle(kind.name)
    back.MergeFromString(from_json(kind, text, TYPES))
    assert same(theirs(back), theirs(message))


@ROUNDS
@given(messages(), st.booleans())
def test_json_gives_the_same_messages(message: Any, keeps_names: bool) -> None:
    kind = TYPES.messages[message.DESCRIPTOR.full_name]
    text = json_format.MessageToJson(message, descriptor_pool=POOL, preserving_proto_field_name=keeps_names)
    ours, other = oracle(kind.name), oracle(kind.name)
    ours.MergeFromString(from_json(kind, text.encode(), TYPES))
    try:
        json_format.Parse(text, other, descriptor_pool=POOL)
    except json_format.ParseError:  # it does not take the text that it makes of the greatest float
        other = message
    assert same(theirs(ours), theirs(other))


VALUES = (
    None, True, False, 0, 1, -1, 1.5, 1e3, 1e40, 2**31, 2**32, 2**63, 2**64, "", "1", "-1", "1.5", "x", "NaN", "AQ==",
    "RED", "1s", "-0.5s", "2026-05-17T10:20:30Z", "a,bC", [], {}, [1], [None], {"a": 1}, {"1": None}, {"name": "x"},
)  # fmt: skip
CASES = [
    (kind, field, value)
    for kind in sorted(CLASSES)
    if kind.startswith("test.")
    for field in TYPES.messages[kind].fields
    for value in VALUES
]


@each(CASES)
def test_values_of_any_kind_are_taken_as_by_json_format(case: tuple[str, Field, Any]) -> None:
    """Values that both take are the same; json_format alone takes some that the mapping does not allow."""
    name, field, value = case
    text = json.dumps({field.json_name: value})
    ours, other = oracle(name), oracle(name)
    try:
        json_format.Parse(text, other, descriptor_pool=POOL)
        takes = True
    except json_format.ParseError:
        takes = False
    refused: JsonError | None = None
    try:
        ours.MergeFromString(from_json(TYPES.messages[name], text.encode(), TYPES))
    except JsonError as error:
        refused = error
    if refused is not None:
        assert refused.place.startswith(field.json_name)
        assert not takes or is_careless(field, value), f"json_format takes {text}, and we say {refused}"
    elif takes:
        assert same(theirs(ours), theirs(other))
    else:  # json_format fails on null for a list of values
        assert (value, field.type_name) == (None, "google.protobuf.Value"), f"json_format refuses {text}"


def is_careless(field: Field, value: Any) -> bool:
    """True if json_format takes a value that is none of the type: it does not look at all of it."""
    kind = field.kind if field.message is None or not field.message.special else field.message.fields[0].kind
    if isinstance(value, bool):
        return kind in (DOUBLE, FLOAT, ENUM)
    if value in ("", []):
        return kind == MESSAGE
    if isinstance(value, str):
        return kind == BYTES or field.type_name == "google.protobuf.FieldMask"
    return kind == ENUM and (value == 1.5 or value == 2**32)


@ROUNDS
@given(st.sampled_from(sorted(CLASSES)), st.binary(max_size=40))
@example("google.protobuf.Any", b"\x80\x80\x80\x80\x10\x00")  # a tag of more than 32 bits
@example("google.protobuf.Int32Value", b"\x88\x80\x80\x80\x80\x00\x05")  # a tag of six bytes
@example("google.protobuf.Int32Value", b"\x88\x80\x80\x80\x00\x05")
def test_bytes_of_any_kind_are_read_as_by_protobuf(name: str, data: bytes) -> None:
    message = oracle(name)
    try:
        message.MergeFromString(data)
    except Exception:
        message = None
    try:
        text = to_json(TYPES.messages[name], data, TYPES)
    except MessageError:
        return
    assert message is not None, f"protobuf refuses {data!r}, which is {text!r}"
    assert same(json.loads(text), theirs(message))
