"""Types of the tests: one proto file with every kind of field, as our tables and as protobuf's."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory

from sidecar.grpc.descriptors import read_descriptors
from tests.support.protos import compile_proto, pool_of

PROTO = """
syntax = "proto3";
package test;

enum Color { NONE = 0; RED = 1; GREEN = 2; DARK = -1; }
enum Aliased { option allow_alias = true; ZERO = 0; FIRST = 1; ALSO_FIRST = 1; }

message Inner { string name = 1; int32 count = 2; Inner inner = 3; repeated Inner more = 4; optional bool flag = 5; }

message Scalars {
  double a_double = 1; float a_float = 2; int32 an_int32 = 3; int64 an_int64 = 4; uint32 a_uint32 = 5;
  uint64 a_uint64 = 6; sint32 a_sint32 = 7; sint64 a_sint64 = 8; fixed32 a_fixed32 = 9; fixed64 a_fixed64 = 10;
  sfixed32 a_sfixed32 = 11; sfixed64 a_sfixed64 = 12; bool a_bool = 13; string a_string = 14; bytes a_bytes = 15;
  Color a_color = 16; Aliased an_aliased = 17; string named = 18 [json_name = "other-name"];
  optional int32 maybe_int = 2000; optional string maybe_string = 21; optional Color maybe_color = 22;
  google.protobuf.NullValue a_null = 23; optional bytes maybe_bytes = 24; optional double maybe_double = 25;
}

message Lists {
  repeated double doubles = 1; repeated float floats = 2; repeated int32 int32s = 3; repeated int64 int64s = 4;
  repeated uint64 uint64s = 5; repeated sint32 sint32s = 6; repeated fixed64 fixed64s = 7;
  repeated sfixed32 sfixed32s = 8; repeated bool bools = 9; repeated string strings = 10; repeated bytes octets = 11;
  repeated Color colors = 12; repeated Inner inners = 13; repeated int32 unpacked = 14 [packed = false];
}

message Maps {
  map<string, string> texts = 1; map<int32, int64> numbers = 2; map<bool, Color> colors = 3;
  map<string, Inner> inners = 4; map<uint64, double> doubles = 5; map<sfixed32, bytes> octets = 6;
  map<string, google.protobuf.Value> values = 7; map<string, google.protobuf.Timestamp> times = 8;
}

message Choice {
  oneof kind { string text = 1; int32 number = 2; Inner inner = 3; Color color = 4; google.protobuf.NullValue nil = 5;
               google.protobuf.Value value = 6; }
  string other = 7;
  oneof second { bool yes = 8; bytes raw = 9; }
}

message Known {
  google.protobuf.Timestamp time = 1; google.protobuf.Duration span = 2; google.protobuf.FieldMask mask = 3;
  google.protobuf.Struct struct = 4; google.protobuf.Value value = 5; google.protobuf.ListValue list = 6;
  google.protobuf.Empty empty = 7; google.protobuf.Any any = 8;
  google.protobuf.DoubleValue a_double = 9; google.protobuf.FloatValue a_float = 10;
  google.protobuf.Int64Value an_int64 = 11; google.protobuf.UInt64Value a_uint64 = 12;
  google.protobuf.Int32Value an_int32 = 13; google.protobuf.UInt32Value a_uint32 = 14;
  google.protobuf.BoolValue a_bool = 15; google.protobuf.StringValue a_string = 16;
  google.protobuf.BytesValue a_bytes = 17;
  repeated google.protobuf.Timestamp times = 18; repeated google.protobuf.Value values = 19;
  repeated google.protobuf.Int64Value int64s = 20; repeated google.protobuf.Any anys = 21;
}

message All { Scalars scalars = 1; Lists lists = 2; Maps maps = 3; Choice choice = 4; Known known = 5; All all = 6; }
"""
DATA = compile_proto(PROTO)
"""Descriptor set."""
TYPES = read_descriptors(DATA)
"""Our tables."""
POOL = pool_of(DATA)
"""Protobuf's tables."""
CLASSES = {
    name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
    for name in TYPES.messages
    if name.startswith(("test.", "google.protobuf.")) and not TYPES.messages[name].is_map_entry
}


def oracle(name: str) -> Any:
    """Return an empty message of protobuf's."""
    return CLASSES[name]()
