"""Tests of JSON as messages: exact numbers, errors with their place, bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.grpc.from_json import JsonError, from_json, parameter_from_text
from tests.support.cases import each
from tests.unit.grpc.types import TYPES, oracle

WRONG: list[tuple[str, str, str]] = [
    ("Scalars", '{"anInt32": 2147483648}', "anInt32 is out of the range -2147483648 to 2147483647"),
    ("Scalars", '{"aUint64": -1}', "aUint64 is out of the range 0 to 18446744073709551615"),
    ("Scalars", '{"aUint64": "18446744073709551616"}', "aUint64 is out of the range 0 to 18446744073709551615"),
    ("Scalars", '{"anInt64": 9223372036854775807.5}', "anInt64 is not an integer"),
    ("Scalars", '{"anInt64": 1e-1}', "anInt64 is not an integer"),
    ("Scalars", '{"anInt64": 1e999999999}', "anInt64 is out of the range of integers"),
    ("Scalars", '{"anInt64": 1e99999999999999999999999}', "anInt64 is out of the range of integers"),
    ("Scalars", '{"anInt64": "1_0"}', "anInt64 is a string, not an integer"),
    ("Scalars", '{"anInt64": " 1"}', "anInt64 is a string, not an integer"),
    ("Scalars", '{"anInt64": "٣"}', "anInt64 is a string, not an integer"),
    ("Scalars", '{"aFloat": 3.5e38}', "aFloat is out of the range of a float"),
    ("Scalars", '{"aDouble": 1e400}', "aDouble is out of the range of a double"),
    ("Scalars", '{"aDouble": "nan"}', "aDouble is a string, not a number"),
    ("Scalars", '{"aBool": "true"}', "aBool is a string, not true or false"),
    ("Scalars", '{"aString": 1}', "aString is a number, not a string"),
    ("Scalars", '{"aString": "\\ud800"}', "aString has half of a surrogate pair, which is no character"),
    ("Scalars", '{"aBytes": "A"}', "aBytes is not base64"),
    ("Scalars", '{"aBytes": "A=A="}', "aBytes is not base64"),
    ("Scalars", '{"aBytes": "é"}', "aBytes is not base64"),
    ("Scalars", '{"aColor": "BLUE"}', "aColor is not a value of test.Color"),
    ("Scalars", '{"aBool": true, "aBool": true}', "aBool is given twice"),
    ("Scalars", '{"aBool": true, "a_bool": true}', "a_bool is given twice"),
    ("Scalars", '{"aBool": null, "a_bool": null}', "a_bool is given twice"),
    ("Scalars", '{"nothing": 1}', "nothing is not a field"),
    ("Scalars", "[]", "the whole is an array, not an object"),
    ("Scalars", "null", "the whole is null, not an object"),
    ("Scalars", "", "the whole is no JSON: Expecting value at line 1 column 1"),
    ("Scalars", '{"aBool": true} x', "the whole is no JSON: Extra data at line 1 column 17"),
    ("Scalars", "{'a': 1}", "the whole is no JSON: Expecting property name enclosed in double quotes at line 1 column 2"),  # noqa: E501
    ("Scalars", '{"aDouble": NaN}', "the whole has NaN, which is no JSON; write it as a string"),
    ("Lists", '{"inners": [{}, {"more": [{"count": "x"}]}]}', "inners[1].more[0].count is a string, not an integer"),
    ("Lists", '{"int32s": [1, null]}', "int32s[1] is null, not an integer"),
    ("Lists", '{"inners": [null]}', "inners[0] is null, which no item of a list can be"),
    ("Lists", '{"int32s": 1}', "int32s is a number, not an array"),
    ("Maps", '{"numbers": {"1": "x"}}', 'numbers["1"] is a string, not an integer'),
    ("Maps", '{"numbers": {"x": 1}}', 'numbers["x"] is not an integer'),
    ("Maps", '{"numbers": {"1": 1, "1": 2}}', 'numbers["1"] is given twice'),
    ("Maps", '{"inners": {"a": {"count": []}}}', 'inners["a"].count is an array, not an integer'),
    ("Maps", '{"inners": {"a": null}}', 'inners["a"] is null, which no value of a map can be'),
    ("Maps", '{"colors": {"yes": 1}}', 'colors["yes"] is not true or false'),
    ("Choice", '{"text": "a", "number": 1}', "number is a second member of the oneof kind"),
    ("Choice", '{"text": "a", "nil": null}', "nil is a second member of the oneof kind"),
    ("Known", '{"time": "2026-02-30T00:00:00Z"}', "time is a timestamp that no calendar has"),
    ("Known", '{"time": "2026-05-17t00:00:00Z"}', "time is no timestamp, such as 2026-05-17T10:20:30.5Z"),
    ("Known", '{"time": "0001-01-01T00:00:00+00:01"}', "time is a timestamp outside of the years 1 to 9999"),
    ("Known", '{"time": 5}', "time is a number, not a string"),
    ("Known", '{"span": "1"}', "span is no duration, such as 1.5s"),
    ("Known", '{"span": "315576000001s"}', "span is a duration of more than 315576000000 seconds"),
    ("Known", '{"mask": "a_b"}', "mask is no field mask, such as title,author.lastName"),
    ("Known", '{"any": {"a": 1}}', "any.@type is missing; it names the type of the object"),
    ("Known", '{"any": {"@type": "x/test.None"}}',
     "any.@type names no type of the descriptors; write such as type.googleapis.com/shop.Order"),
    ("Known", '{"any": {"@type": "x/test.Inner", "count": "x"}}', "any.count is a string, not an integer"),
    ("Known", '{"any": {"@type": "x/google.protobuf.Int64Value", "value": "x"}}',
     "any.value is a string, not an integer"),
    ("Known", '{"struct": {"a": {"b": 1e400}}}', 'struct["a"]["b"] is out of the range of a double'),
]  # fmt: skip


@each(WRONG)
def test_what_is_wrong_has_its_place(case: tuple[str, str, str]) -> None:
    name, text, error = case
    with pytest.raises(JsonError) as caught:
        from_json(TYPES.messages[f"test.{name}"], text.encode(), TYPES)
    assert str(caught.value) == error


TAKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("Scalars", '{"aUint64": 18446744073709551615}', {"a_uint64": 2**64 - 1}),
    ("Scalars", '{"aUint64": "1.8446744073709551615e19"}', {"a_uint64": 2**64 - 1}),
    ("Scalars", '{"anInt64": 9007199254740993.0}', {"an_int64": 2**53 + 1}),
    ("Scalars", '{"anInt64": -9223372036854775808}', {"an_int64": -(2**63)}),
    ("Scalars", '{"anInt64": 0e999999999}', {}),
    ("Scalars", '{"aBytes": "-_8"}', {"a_bytes": b"\xfb\xff"}),
    ("Scalars", '{"aBytes": "+/8="}', {"a_bytes": b"\xfb\xff"}),
    ("Scalars", '{"aColor": "2"}', {"a_color": 2}),
    ("Scalars", '{"anAliased": "ALSO_FIRST"}', {"an_aliased": 1}),
    ("Scalars", '{"other-name": "x"}', {"named": "x"}),
    ("Scalars", '{"named": "x"}', {"named": "x"}),
    ("Scalars", '{"maybeInt": 0}', {"maybe_int": 0}),
    ("Scalars", '{"aBool": null, "maybeInt": null}', {}),
    ("Choice", '{"text": null, "number": 1}', {"number": 1}),
    ("Choice", '{"text": ""}', {"text": ""}),
]


@each(TAKEN)
def test_what_is_taken(case: tuple[str, str, dict[str, Any]]) -> None:
    name, text, values = case
    message = oracle(f"test.{name}")
    message.MergeFromString(from_json(TYPES.messages[f"test.{name}"], text.encode(), TYPES))
    assert message == type(message)(**values)


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(JsonError, match="is not UTF-8 at byte 13"):
        from_json(TYPES.messages["test.Scalars"], b'{"aString": "\xff"}', TYPES)
    with pytest.raises(JsonError, match="is no JSON"):
        from_json(TYPES.messages["test.Scalars"], b"\xef\xbb\xbf{}", TYPES)


@pytest.mark.parametrize("levels", [101, 5000, 200_000])
def test_depth_is_bounded(levels: int) -> None:
    for opening, closing in (('{"inner":', "}"), ('{"inner":{"more":[', "]}}")):
        text = opening * levels + "{}" + closing * levels
        with pytest.raises(JsonError, match=r"nested too deeply|more than 100 messages"):
            from_json(TYPES.messages["test.Inner"], text.encode(), TYPES)
    with pytest.raises(JsonError, match=r"nested too deeply|more than 100 messages"):
        from_json(TYPES.messages["google.protobuf.Value"], b"[" * levels + b"]" * levels, TYPES)


def test_a_number_of_many_digits_is_no_work() -> None:
    with pytest.raises(JsonError, match="too many digits"):
        from_json(TYPES.messages["test.Scalars"], b'{"anInt64": %b}' % (b"9" * 100_000), TYPES)
    with pytest.raises(JsonError, match="out of the range"):
        from_json(TYPES.messages["test.Scalars"], b'{"anInt64": "%b"}' % (b"9" * 100_000), TYPES)


PARAMETERS: list[tuple[str, str, str, Any]] = [
    ("Scalars", "a_bool", "true", True),
    ("Scalars", "an_int64", "-5", -5),
    ("Scalars", "a_double", "1.5", 1.5),
    ("Scalars", "a_color", "RED", 1),
    ("Scalars", "a_string", "true", "true"),
    ("Scalars", "a_bytes", "AQ", b"\x01"),
    ("Lists", "bools", "false", [False]),
    ("Lists", "strings", "x", ["x"]),
    ("Known", "a_bool", "true", {"value": True}),
    ("Known", "an_int64", "7", {"value": 7}),
    ("Known", "span", "1.5s", {"seconds": 1, "nanos": 500_000_000}),
    ("Known", "mask", "a,bC", {"paths": ["a", "b_c"]}),
    ("Known", "mask", "V1,1.D", {"paths": ["_v1", "1._d"]}),
]


@each(PARAMETERS)
def test_parameters_are_texts(case: tuple[str, str, str, Any]) -> None:
    name, field, text, value = case
    message = oracle(f"test.{name}")
    message.MergeFromString(parameter_from_text(TYPES.messages[f"test.{name}"].by_json[field], text))
    assert message == type(message)(**{field: value})


@each([("Scalars", "a_bool", "1"), ("Known", "struct", "{}"), ("Maps", "texts", "{}"), ("All", "all", "{}")])
def test_what_no_parameter_is(case: tuple[str, str, str]) -> None:
    with pytest.raises(JsonError):
        parameter_from_text(TYPES.messages[f"test.{case[0]}"].by_json[case[1]], case[2])


def test_a_value_that_is_zero_takes_no_bytes() -> None:
    zeros = {"aDouble": 0, "anInt32": 0, "aBool": False, "aString": "", "aBytes": "", "aColor": "NONE", "aFixed32": 0}
    assert from_json(TYPES.messages["test.Scalars"], json.dumps(zeros).encode(), TYPES) == b""
    message = oracle("test.Scalars")
    message.MergeFromString(from_json(TYPES.messages["test.Scalars"], b'{"aDouble": -0.0}', TYPES))
    assert str(message.a_double) == "-0.0"
