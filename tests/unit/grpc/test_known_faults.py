"""Faults of other transcoders: each test names the report that it stands for."""

from __future__ import annotations

import pytest

from sidecar.grpc.descriptors import read_descriptors
from sidecar.grpc.from_json import JsonError, from_json
from sidecar.grpc.to_json import to_json
from tests.support.protos import compile_proto

TYPES = read_descriptors(
    compile_proto("""
syntax = "proto3";
package t;
message M {
  uint64 count = 1; int64 signed = 2; fixed64 fixed = 3; repeated uint64 many = 4;
  google.protobuf.Int32Value size = 5; google.protobuf.StringValue name = 6; google.protobuf.UInt64Value big = 7;
  google.protobuf.BoolValue flag = 8;
  oneof pay { string card = 9; int32 cash = 10; google.protobuf.StringValue voucher = 11; }
}
service S { rpc Get(M) returns (M); }
""")
)
M = TYPES.services["t.S"].methods[0].input
LIMIT = 1 << 20


def there_and_back(text: str) -> str:
    return to_json(M, from_json(M, text.encode(), TYPES), TYPES, LIMIT).decode()


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, 2**53 + 1, 10**19 + 1])
def test_integers_of_64_bits_keep_all_digits(number: int) -> None:
    """apisix#7438."""
    for text in (f"{number}", f'"{number}"'):
        found = there_and_back(f'{{"count": {text}, "fixed": {text}, "many": [{text}], "big": {text}}}')
        assert found == f'{{"count":"{number}","fixed":"{number}","many":["{number}"],"big":"{number}"}}'
    low = -(2**63)
    assert there_and_back(f'{{"signed": {low}}}') == f'{{"signed":"{low}"}}'
    with pytest.raises(JsonError):
        from_json(M, b'{"count": 18446744073709551616}', TYPES)


def test_wrappers_are_their_values_and_zero_is_not_absent() -> None:
    """Kong#14736."""
    text = '{"size":0,"name":"","big":"0","flag":false}'
    assert from_json(M, text.encode(), TYPES) == b"\x2a\x00\x32\x00\x3a\x00\x42\x00"
    assert there_and_back(text) == text
    assert there_and_back('{"size": null, "name": "a", "flag": null}') == '{"name":"a"}'
    with pytest.raises(JsonError):
        from_json(M, b'{"size": {"value": 5}}', TYPES)


def test_members_of_a_oneof_exclude_each_other_and_zero_is_a_choice() -> None:
    """Kong#14736."""
    assert there_and_back('{"card": ""}') == '{"card":""}'
    assert there_and_back('{"cash": 0}') == '{"cash":0}'
    assert there_and_back('{"voucher": ""}') == '{"voucher":""}'
    with pytest.raises(JsonError):
        from_json(M, b'{"card": "a", "cash": 5}', TYPES)
    later = from_json(M, b'{"card": "a"}', TYPES) + from_json(M, b'{"cash": 5}', TYPES)
    assert to_json(M, later, TYPES, LIMIT) == b'{"cash":5}', "the last one wins, as in the wire format"
