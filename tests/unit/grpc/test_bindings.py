"""Tests of bindings: messages from paths, queries and bodies, and the rules that are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf import json_format, message_factory

from sidecar.core.uri import canonical
from sidecar.grpc.bindings import Bindings, RequestError
from sidecar.grpc.descriptors import DescriptorError, read_descriptors
from tests.support.cases import each
from tests.support.protos import compile_proto, pool_of

TYPES = """
syntax = "proto3";
package shop;
enum State { NEW = 0; PAID = 1; }
message Address { string city = 1; Address next = 2; }
message Order {
  string id = 1; int64 total = 2; State state = 3; Address to = 4; repeated string tags = 5;
  map<string, string> notes = 6;
  google.protobuf.Timestamp placed = 7; google.protobuf.Int32Value size = 8; bool urgent = 9;
  google.protobuf.FieldMask mask = 10; oneof pay { string card = 11; string cash = 12; } repeated Address all = 13;
  google.api.HttpBody picture = 14; repeated State states = 15; google.protobuf.Struct extra = 16;
}
message Put { string name = 1; Order order = 2; google.protobuf.FieldMask mask = 3; }
"""
RULES = {
    "Get": ("Order", 'get: "/v1/orders/{id}"'),
    "ByCity": ("Order", 'get: "/v1/{to.city=cities/*}/orders"'),
    "Create": ("Order", 'post: "/v1/orders" body: "*"'),
    "Update": ("Put", 'patch: "/v1/{order.id=orders/*}" body: "order"'),
    "Replace": ("Order", 'put: "/v1/orders/{id}/{total}/{urgent}" body: "*"'),
    "Sized": ("Order", 'put: "/v1/sizes/{size}/{placed}" body: "*"'),
    "Upload": ("Order", 'post: "/v1/pictures/{id}" body: "picture"'),
    "Raw": ("google.api.HttpBody", 'post: "/v1/raw" body: "*"'),
    "Pay": ("Order", 'get: "/v1/pay/{card}"'),
}


def data_of(rules: dict[str, tuple[str, str]], more: str = "") -> bytes:
    methods = "".join(
        f"rpc {name}({kind}) returns (Order) {{ option (google.api.http) = {{ {rule} }}; }}"
        for name, (kind, rule) in rules.items()
    )
    return compile_proto(f"{TYPES} service Orders {{ {methods} {more} }}")


DATA = data_of(RULES)
BINDINGS = Bindings(read_descriptors(DATA), ["shop.Orders"], frozenset(("utm_source",)))
POOL = pool_of(DATA)


def made(method: str, target: str, body: bytes = b"", kind: bytes = b"application/json") -> Any:
    """Return the message that a request becomes, as protobuf reads it."""
    path, _, query = target.partition("?")
    match = BINDINGS.table.find(method, canonical(path.encode()))
    assert match.target is not None
    wire = match.target.message(match.segments, query.encode() or None, body, kind)
    name = match.target.method.input.name
    message = message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))()
    message.MergeFromString(wire)
    return json_format.MessageToDict(message)


MADE: list[tuple[str, str, bytes, Any]] = [
    ("GET", "/v1/orders/7", b"", {"id": "7"}),
    ("GET", "/v1/orders/a%2Fb%C3%A9", b"", {"id": "a/bé"}),
    ("GET", "/v1/orders/7?total=5&state=PAID&urgent=true", b"",
     {"id": "7", "total": "5", "state": "PAID", "urgent": True}),
    ("GET", "/v1/orders/7?total=9007199254740993", b"", {"id": "7", "total": "9007199254740993"}),
    ("GET", "/v1/orders/7?tags=a&tags=b+c&tags=%26&states=1&states=NEW", b"",
     {"id": "7", "tags": ["a", "b c", "&"], "states": ["PAID", "NEW"]}),
    ("GET", "/v1/orders/7?to.city=x&to.next.city=y", b"", {"id": "7", "to": {"city": "x", "next": {"city": "y"}}}),
    ("GET", "/v1/orders/7?placed=2026-05-17T10:20:30Z&size=0&mask=to.city,id", b"",
     {"id": "7", "placed": "2026-05-17T10:20:30Z", "size": 0, "mask": "to.city,id"}),
    ("GET", "/v1/orders/7?utm_source=x&&card=c", b"", {"id": "7", "card": "c"}),
    ("GET", "/v1/cities/rome/orders?to.next.city=x", b"", {"to": {"city": "cities/rome", "next": {"city": "x"}}}),
    ("POST", "/v1/orders", b'{"id": "1", "to": {"city": "x"}}', {"id": "1", "to": {"city": "x"}}),
    ("POST", "/v1/orders", b"", {}),
    ("PATCH", "/v1/orders/7?mask=id", b'{"id": "no", "total": 3}',
     {"order": {"id": "orders/7", "total": "3"}, "mask": "id"}),
    ("PATCH", "/v1/orders/7", b"", {"order": {"id": "orders/7"}}),
    ("PUT", "/v1/orders/x/0/false", b'{"id": "y", "total": 5, "urgent": true}', {"id": "x"}),
    ("PUT", "/v1/sizes/0/1970-01-01T00:00:00Z", b'{"size": 5, "placed": "2026-05-17T10:20:30.5Z"}',
     {"size": 0, "placed": "1970-01-01T00:00:00Z"}),
]  # fmt: skip


@each(MADE)
def test_requests_become_messages(case: tuple[str, str, bytes, Any]) -> None:
    method, target, body, message = case
    assert made(method, target, body) == message


def test_raw_bodies_keep_their_type_and_their_bytes() -> None:
    assert made("POST", "/v1/raw", b"\xff\x00", b"image/png") == {"contentType": "image/png", "data": "/wA="}
    assert made("POST", "/v1/pictures/3", b"x", b"text/plain") == {
        "id": "3",
        "picture": {"contentType": "text/plain", "data": "eA=="},
    }


WRONG: list[tuple[str, str, bytes, str]] = [
    ("GET", "/v1/orders/%FF", b"", "The path's id is not UTF-8."),
    ("GET", "/v1/orders/7", b"{}", "The request has a body, which GET /v1/orders/{id} does not take."),
    ("GET", "/v1/orders/7?nope=1", b"",
     "The query parameter nope is not a field that GET /v1/orders/{id} takes from the query."),
    ("GET", "/v1/orders/7?to.nope=1", b"",
     "The query parameter to.nope is not a field that GET /v1/orders/{id} takes from the query."),
    ("GET", "/v1/orders/7?placed.seconds=1", b"",
     "The query parameter placed.seconds is not a field that GET /v1/orders/{id} takes from the query."),
    ("GET", f"/v1/orders/7?{'to.' * 40}city=1", b"", "The query parameter to.to."),
    ("GET", "/v1/orders/7?total=x", b"", "The query parameter total is a string, not an integer."),
    ("GET", "/v1/orders/7?total=1&total=1", b"", "The query parameter total is given twice."),
    ("GET", "/v1/orders/7?placed=1&placed=2", b"", "The query parameter placed is no timestamp"),
    ("GET", "/v1/orders/7?urgent=1", b"", "The query parameter urgent is a string, not true or false."),
    ("GET", "/v1/orders/7?to=x", b"", "The query parameter to is a message, which no parameter can be."),
    ("GET", "/v1/orders/7?notes=x", b"", "The query parameter notes is a message, which no parameter can be."),
    ("GET", "/v1/orders/7?all=x", b"", "The query parameter all is a message, which no parameter can be."),
    ("GET", "/v1/orders/7?extra={}", b"", "The query parameter extra is a message, which no parameter can be."),
    ("GET", "/v1/orders/7?id=8", b"", "The query parameter id is a field that the path has."),
    ("GET", "/v1/orders/7?card=a&cash=b", b"", "The query parameter cash is a second member of a oneof"),
    ("GET", "/v1/pay/1?cash=b", b"", "The query parameter cash is a second member of a oneof"),
    ("GET", "/v1/orders/7?tags=%FF", b"", "The query parameter tags is not UTF-8."),
    ("POST", "/v1/orders?total=1", b"{}",
     "The query parameter total is not a field that POST /v1/orders takes from the query."),
    ("PATCH", "/v1/orders/7?order.total=1", b"{}", "The query parameter order.total is a field of the body."),
    ("POST", "/v1/orders", b'{"to": {"city": 5}}', "The body's to.city is a number, not a string."),
    ("POST", "/v1/orders", b"[", "The body is no JSON: Expecting value at line 1 column 2."),
    ("PATCH", "/v1/orders/7", b'{"to": {"city": 5}}', "The body's to.city is a number, not a string."),
    ("PATCH", "/v1/orders/7", b"5", "The body is a number, not an object."),
    ("PUT", "/v1/orders/x/y/true", b"", "The path's total is a string, not an integer."),
]  # fmt: skip


@each(WRONG)
def test_what_does_not_fit_has_its_place(case: tuple[str, str, bytes, str]) -> None:
    method, target, body, error = case
    with pytest.raises(RequestError, match=re.escape(error)):
        made(method, target, body)


REFUSED: list[tuple[dict[str, tuple[str, str]], str, str]] = [
    ({"A": ("Order", 'get: "/v1/{nope}"')}, "", "the variable nope in /v1/{nope}, which no field of shop.Order is"),
    ({"A": ("Order", 'get: "/v1/{to}"')}, "", "the variable to in /v1/{to}, which is a shop.Address"),
    ({"A": ("Order", 'get: "/v1/{tags}"')}, "", "the variable tags"),
    ({"A": ("Order", 'get: "/v1/{mask}"')}, "", "the variable mask"),
    ({"A": ("Order", 'get: "v1"')}, "", "the template v1 of shop.Orders/A, which does not begin with a slash"),
    ({"A": ("Order", 'post: "/v1" body: "nope"')}, "", "has `body: nope` for shop.Orders/A"),
    ({"A": ("Order", 'get: "/v1" response_body: "nope"')}, "", "has `response_body: nope` for shop.Orders/A"),
    ({"A": ("Order", 'get: "/v1/{id}"'), "B": ("Order", 'get: "/v1/{card}"')}, "",
     "binds both shop.Orders/A and shop.Orders/B to GET /v1/{card}"),
    ({"A": ("Order", 'get: "/v1" additional_bindings { get: "/v1" }')}, "", "binds shop.Orders/A twice to GET /v1"),
    ({}, 'rpc S(stream Order) returns (Order) { option (google.api.http) = { post: "/v1" }; }',
     "binds shop.Orders/S to /v1, but its requests are a stream, which only `streams: websocket` has a form for"),
]  # fmt: skip


@each(REFUSED)
def test_rules_that_cannot_hold_are_refused(case: tuple[dict[str, tuple[str, str]], str, str]) -> None:
    rules, more, error = case
    with pytest.raises(DescriptorError, match=re.escape(error)):
        Bindings(read_descriptors(data_of(rules, more)), ["shop.Orders"])


def test_services_and_methods_without_rules_are_known() -> None:
    types = read_descriptors(data_of({}, "rpc Free(Order) returns (Order);"))
    assert [method.full_name for method in Bindings(types, ["shop.Orders"]).unbound] == ["shop.Orders/Free"]
    with pytest.raises(DescriptorError, match=r"has no service shop.Nope; its services are shop.Orders"):
        Bindings(types, ["shop.Nope"])


def test_a_binding_tells_what_is_raw() -> None:
    raw = {binding.method.name for binding in BINDINGS.all if binding.is_raw_request}
    assert raw == {"Upload", "Raw"}
    assert repr(BINDINGS.all[0]) == "<Binding shop.Orders/Get GET /v1/orders/{id}>"


STREAMS = """
rpc Talk(stream Order) returns (stream Order) { option (google.api.http) = { post: "/v1/talk/{id}" body: "*" }; }
rpc Hear(Order) returns (stream Order) { option (google.api.http) = { get: "/v1/hear/{id}" }; }
"""


def test_streams_are_found_by_the_path_of_a_handshake() -> None:
    bindings = Bindings(read_descriptors(data_of(RULES, STREAMS)), ["shop.Orders"], has_sockets=True)
    texts = {each.method.name: each.text for each in bindings.all}
    assert (texts["Talk"], texts["Hear"]) == ("WebSocket /v1/talk/{id}", "GET /v1/hear/{id}")
    found = {path: bindings.match_socket(path).target for path in (b"/v1/talk/%37", b"/v1/hear/7", b"/v1/orders/7")}
    assert [each and each.method.name for each in found.values()] == ["Talk", "Hear", None]
    assert bindings.match(b"POST", b"/v1/talk/7").target is None
    assert bindings.match(b"GET", b"/v1/hear/7").target is not None
    assert Bindings(read_descriptors(DATA), ["shop.Orders"]).match_socket(b"/v1/hear/7").target is None


def test_two_streams_on_one_path_are_refused() -> None:
    more = STREAMS + 'rpc B(stream Order) returns (Order) { option (google.api.http) = { put: "/v1/hear/{card}" }; }'
    with pytest.raises(DescriptorError, match=r"binds both shop.Orders/Hear and shop.Orders/B to WebSocket /v1/hear/"):
        Bindings(read_descriptors(data_of({}, more)), ["shop.Orders"], has_sockets=True)


def test_parameters_are_in_each_message_of_a_stream() -> None:
    bindings = Bindings(read_descriptors(data_of({}, STREAMS)), ["shop.Orders"], has_sockets=True)
    match = bindings.match_socket(b"/v1/hear/a%2Fb")
    assert match.target is not None
    assert match.target.parameters(match.segments, b"total=5") == b"\x10\x05\x0a\x03a/b"
    with pytest.raises(RequestError, match=r"The query parameter nope is not a field"):
        match.target.parameters(match.segments, b"nope=5")
    assert match.target.piece(b'{"id": "x"}') == b"\x0a\x01x"
    with pytest.raises(RequestError, match=r"The body's id is a number"):
        match.target.piece(b'{"id": 5}')
