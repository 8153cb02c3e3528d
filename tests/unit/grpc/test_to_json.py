"""Tests of messages as JSON: odd but valid wire formats, damaged ones, bounds."""

from __future__ import annotations

import json
import struct

import pytest

from sidecar.grpc.to_json import field_to_json, float_text, to_json, to_lenient_json
from sidecar.grpc.wire import MessageError, varint
from tests.support.cases import each
from tests.unit.grpc.types import TYPES, oracle

INNER = TYPES.messages["test.Inner"]


def delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


ODD: list[tuple[str, bytes, str]] = [
    ("Inner", b"\x10\x01\x10\x02", '{"count":2}'),
    ("Inner", b"\x10\x80\x00", "{}"),
    ("Inner", b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", '{"count":-1}'),
    ("Inner", b"\x10\xff\xff\xff\xff\x0f", '{"count":-1}'),
    ("Inner", delimited(3, b"\x10\x01") + delimited(3, b"\x0a\x01x"), '{"inner":{"name":"x","count":1}}'),
    ("Inner", b"\x28\x00", '{"flag":false}'),
    ("Inner", b"\xf8\x07\x01\x10\x05", '{"count":5}'),
    ("Inner", b"\xfb\x07\x08\x01\xfc\x07\x10\x05", '{"count":5}'),
    ("Lists", b"\x18\x01" + delimited(3, b"\x02\x03") + b"\x18\x04", '{"int32s":[1,2,3,4]}'),
    ("Lists", delimited(14, b"\x01\x02"), '{"unpacked":[1,2]}'),
    ("Lists", delimited(3, b""), "{}"),
    ("Maps", delimited(1, b""), '{"texts":{"":""}}'),
    ("Maps", delimited(4, b"\x0a\x01a"), '{"inners":{"a":{}}}'),
    ("Maps", delimited(1, b"\x12\x01x\x0a\x01k") + delimited(1, b"\x0a\x01k\x12\x01y"), '{"texts":{"k":"y"}}'),
    ("Choice", b"\x0a\x01a\x10\x00", '{"number":0}'),
    ("Choice", delimited(3, b"\x10\x01") + b"\x10\x00" + delimited(3, b"\x0a\x01x"), '{"inner":{"name":"x"}}'),
    ("Scalars", b"\x80\x01\x07", '{"aColor":7}'),
    ("Scalars", b"\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", '{"aColor":"DARK"}'),
    ("Scalars", b"\x88\x01\x01", '{"anAliased":"FIRST"}'),
    ("Scalars", b"\x15\xcd\xcc\xcc\x3d", '{"aFloat":0.1}'),
    ("Scalars", b"\x72\x03\xe2\x80\xa8", '{"aString":"\u2028"}'),
    ("Scalars", b'\x72\x02"\x00', '{"aString":"\\"\\u0000"}'),
    ("Known", delimited(3, delimited(1, b"_a_b._c")), '{"mask":"AB.C"}'),
    ("Known", delimited(5, b""), '{"value":null}'),
    ("Known", delimited(8, b""), '{"any":{}}'),
    ("Known", delimited(11, b""), '{"anInt64":"0"}'),
]


@each(ODD)
def test_odd_messages_are_read_as_protobuf_reads_them(case: tuple[str, bytes, str]) -> None:
    name, data, text = case
    assert to_json(TYPES.messages[f"test.{name}"], data, TYPES).decode() == text
    oracle(f"test.{name}").MergeFromString(data)


DAMAGED: list[tuple[str, bytes, str]] = [
    ("Inner", b"\x0a\x05abc", "cut off"),
    ("Inner", b"\x10", "cut off"),
    ("Inner", b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than ten bytes"),
    ("Inner", b"\x0a\x01\xff", "not UTF-8"),
    ("Inner", b"\x07", "number 0"),
    ("Inner", b"\x17", "wire type 7"),
    ("Inner", b"\x14", "wire type 4"),
    ("Inner", b"\xfb\x07\x08\x01", "without its end"),
    ("Inner", delimited(3, b"\x0a\x02a"), "cut off"),
    ("Inner", delimited(3, b"\x10") + b"\x10\x01", "cut off"),
    ("Lists", delimited(3, b"\x80"), "cut off"),
    ("Lists", delimited(1, b"\0\0\0"), "cut off"),
    ("Scalars", b"\x09\0\0\0", "cut off"),
    ("Known", delimited(1, b"\x08\xff\xff\xff\xff\xff\xff\xff\x7f"), "outside of the years"),
    ("Known", delimited(2, b"\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "two signs"),
    ("Known", delimited(3, delimited(1, b"aB")), "cannot name"),
    ("Known", delimited(5, b"\x11\0\0\0\0\0\0\xf8\x7f"), "no finite number"),
    ("Known", delimited(8, delimited(1, b"x/y.Z")), "a type that is not in the descriptors"),
    ("Known", delimited(8, delimited(2, b"x")), "without its type"),
]


@each(DAMAGED)
def test_damaged_messages_are_errors(case: tuple[str, bytes, str]) -> None:
    name, data, error = case
    with pytest.raises(MessageError, match=error):
        to_json(TYPES.messages[f"test.{name}"], data, TYPES)


def test_depth_is_bounded() -> None:
    data = b""
    for _ in range(101):
        data = delimited(3, data)
    with pytest.raises(MessageError, match="more than 100 messages"):
        to_json(INNER, data, TYPES)
    with pytest.raises(MessageError, match="more than 100 groups"):
        to_json(INNER, b"\xfb\x07" * 5000, TYPES)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("Lists", delimited(12, b"\x02" * 1000)),
        ("Lists", b"\x6a\x00" * 1000),
        ("Inner", delimited(4, delimited(1, b"x")) * 200),
        ("Maps", b"".join(delimited(1, delimited(1, b"%d" % n)) for n in range(200))),
        ("Known", delimited(19, b"\x08\x00") * 1000),
        ("Scalars", delimited(14, b"\x01" * 900)),
    ],
)
def test_the_text_is_bounded(name: str, data: bytes) -> None:
    kind = TYPES.messages[f"test.{name}"]
    assert len(to_json(kind, data, TYPES)) > 1500
    with pytest.raises(MessageError, match="longer than the limit"):
        to_json(kind, data, TYPES, 1500)


def test_one_field_has_its_zero_value() -> None:
    kind = TYPES.messages["test.Lists"]
    assert field_to_json(kind, kind.by_json["int32s"], b"", TYPES) == b"[]"
    assert field_to_json(kind, kind.by_json["int32s"], b"\x18\x01", TYPES) == b"[1]"
    kind = TYPES.messages["test.Inner"]
    assert [field_to_json(kind, field, b"", TYPES) for field in kind.fields] == [b'""', b"0", b"null", b"[]", b"false"]
    kind = TYPES.messages["test.Maps"]
    assert field_to_json(kind, kind.by_json["texts"], b"", TYPES) == b"{}"


def test_details_of_unknown_types_are_shown_as_bytes() -> None:
    data = delimited(8, delimited(1, b"x/y.Z") + delimited(2, b"\x01"))
    text = to_lenient_json(TYPES.messages["test.Known"], data, TYPES)
    assert json.loads(text) == {"any": {"@type": "x/y.Z", "value": "AQ=="}}


def test_floats_are_as_short_as_can_be() -> None:
    for text in ("0.1", "1.4013e-45", "3.4028235e+38", "16777216.0", "123456.79", "-0.0", "1.1754944e-38"):
        number = struct.unpack("<f", struct.pack("<f", float(text)))[0]
        assert float_text(number) == text
