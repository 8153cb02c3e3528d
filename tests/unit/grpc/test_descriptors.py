"""Tests of descriptor sets as tables, against protobuf's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2

from sidecar.grpc.descriptors import DescriptorError, Field, read_descriptors
from tests.support.cases import each
from tests.support.protos import compile_proto
from tests.unit.grpc.types import DATA, POOL, TYPES

SHOP = """
syntax = "proto3";
package shop;
message Order { string id = 1; }
service Orders {
  rpc Get(Order) returns (Order) {
    option (google.api.http) = {
      get: "/v1/{id=orders/*}" response_body: "id"
      additional_bindings { post: "/v1/get" body: "*" }
      additional_bindings { custom { kind: "REPORT" path: "/v1/report" } }
    };
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  rpc Watch(Order) returns (stream google.protobuf.Timestamp);
  rpc Send(stream Order) returns (google.protobuf.Empty);
}
"""


@each(TYPES.messages)
def test_fields_are_those_of_protobuf(name: str) -> None:
    theirs = POOL.FindMessageTypeByName(name)
    ours = TYPES.messages[name]
    assert [field.number for field in ours.fields] == sorted(field.number for field in theirs.fields)
    for field in theirs.fields:
        mine = ours.by_json[field.name]
        assert ours.by_json[field.json_name] is mine
        assert (mine.json_name, mine.kind, mine.is_repeated) == (field.json_name, field.type, field.is_repeated)
        assert mine.has_presence == field.has_presence
        assert mine.is_packed == field.is_packed
        named = field.message_type or field.enum_type
        assert mine.type_name == ("" if named is None else named.full_name)
        oneof = field.containing_oneof
        is_real = oneof is not None and not (len(oneof.fields) == 1 and oneof.name == f"_{field.name}")
        assert (ours.oneofs[mine.oneof] if mine.oneof >= 0 else None) == (oneof.name if oneof and is_real else None)


@each(TYPES.enums)
def test_enums_are_those_of_protobuf(name: str) -> None:
    theirs = POOL.FindEnumTypeByName(name)
    ours = TYPES.enums[name]
    assert ours.by_name == {value.name: value.number for value in theirs.values}
    assert ours.closed == theirs.is_closed


def test_services_have_methods_with_their_rules() -> None:
    service = read_descriptors(compile_proto(SHOP)).services["shop.Orders"]
    get, watch, send = service.methods
    assert (get.full_name, get.input.name, get.output.name, get.idempotency) == (
        "shop.Orders/Get", "shop.Order", "shop.Order", 1,
    )  # fmt: skip
    assert [(rule.method, rule.path, rule.body, rule.response_body) for rule in get.rules] == [
        ("GET", "/v1/{id=orders/*}", "", "id"),
        ("POST", "/v1/get", "*", ""),
        ("REPORT", "/v1/report", "", ""),
    ]
    assert (watch.client_streaming, watch.server_streaming, watch.rules) == (False, True, [])
    assert (send.client_streaming, send.server_streaming, send.idempotency) == (True, False, 0)


def test_proto2_and_editions_have_presence_packing_and_closed_enums_of_their_own() -> None:
    text = 'syntax = "proto2"; package old; enum E { A = 1; } message M { optional int32 a = 1; repeated int32 b = 2; }'
    types = read_descriptors(compile_proto(text))
    a, b = types.messages["old.M"].fields
    assert (a.has_presence, b.is_packed, types.enums["old.E"].closed) == (True, False, True)
    found = descriptor_pb2.FileDescriptorSet()
    file = found.file.add(name="new.proto", package="new", syntax="editions", edition=descriptor_pb2.EDITION_2023)
    file.enum_type.add(name="E").value.add(name="A", number=0)
    message = file.message_type.add(name="M")
    F = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("a", "b", "c", "d"), 1):
        message.field.add(name=name, number=number, type=F.TYPE_INT32, label=F.LABEL_REPEATED if name > "b" else 1)
    message.field.add(name="e", number=5, type=F.TYPE_MESSAGE, type_name=".new.M", label=1)
    features = descriptor_pb2.FeatureSet
    message.field[1].options.features.field_presence = features.IMPLICIT
    message.field[3].options.features.repeated_field_encoding = features.EXPANDED
    message.field[4].options.features.message_encoding = features.DELIMITED
    types = read_descriptors(found.SerializeToString())
    fields = types.messages["new.M"].fields
    assert [field.has_presence for field in fields] == [True, False, False, False, True]
    assert [field.is_packed for field in fields] == [False, False, True, False, False]
    assert (fields[4].tag, fields[4].closing, types.enums["new.E"].closed) == (b"\x2b", b"\x2c", False)


def test_google_types_in_their_own_files_are_read() -> None:
    found = descriptor_pb2.FileDescriptorSet()
    for module in (status_pb2, error_details_pb2):
        for file in (*module.DESCRIPTOR.dependencies, module.DESCRIPTOR):
            file.CopyToProto(found.file.add())  # some of them twice
    types = read_descriptors(found.SerializeToString())
    assert types.messages["google.rpc.Status"].by_json["details"].type_name == "google.protobuf.Any"


def altered(change: str) -> bytes:
    found = descriptor_pb2.FileDescriptorSet.FromString(compile_proto(SHOP))
    shop = found.file[-1]
    if change == "import":
        kept = [file for file in found.file if file.name != "google/protobuf/timestamp.proto"]
        del found.file[:]
        found.file.extend(kept)
    elif change == "type":
        shop.message_type[0].field[0].type = 11
        shop.message_type[0].field[0].type_name = ".shop.None"
    elif change == "number":
        shop.message_type[0].field[0].number = 0
    elif change == "known":
        file = next(file for file in found.file if file.name == "google/protobuf/timestamp.proto")
        file.message_type[0].field[0].number = 7
    return found.SerializeToString()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "has no descriptors; write it with protoc --include_imports --descriptor_set_out"),
        (b"{}", "is no descriptor set"),
        (b"\x0a\x03\x08\x01\x00", "is no descriptor set"),
        (DATA[:-3], "is no descriptor set"),
        (altered("import"), "has no google.protobuf.Timestamp, which shop.Orders/Watch names; .*--include_imports"),
        (altered("type"), "has no shop.None, which shop.Order.id names"),
        (altered("number"), "has a field id of type 9 and number 0"),
        (altered("known"), "has a google.protobuf.Timestamp that is not Google's"),
    ],
)
def test_what_is_no_descriptor_set(data: bytes, error: str) -> None:
    with pytest.raises(DescriptorError, match=error):
        read_descriptors(data)


def test_what_a_table_shows_of_itself() -> None:
    assert repr(TYPES.messages["test.Inner"].fields[0]) == "<Field name = 1: string>"
    assert isinstance(TYPES.messages["test.Inner"].fields[0], Field)


@pytest.mark.parametrize("name", ["proto/shop", "shop/prices"])
def test_the_descriptor_sets_of_the_examples_are_those_of_their_proto_files(name: str) -> None:
    path = Path(__file__).parents[3] / "policies" / name
    expected = compile_proto(path.with_suffix(".proto").read_text(), only_imports=True)
    assert path.with_suffix(".binpb").read_bytes() == expected, "run `python -m tests.support.protos`"
