"""Tests of the cache key: RFC 9111 2, RFC 3986 6.2.2, RFC 9110 4.2.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.key import KeyRule, uri_of
from sidecar.downstream.request_head import Peer, read_request
from tests.support.service import exchange

RULE = KeyRule("route:order")


def uri(path: bytes, query: bytes | None = None, authority: bytes = b"orders", rule: KeyRule = RULE) -> bytes:
    return rule.uri(b"http", authority, path, query)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"/a", None, b"Orders"), (b"/a", None, b"orders")),
        ((b"/a", None, b"orders:80"), (b"/a", None, b"orders")),
        ((b"/a", None, b"orders:"), (b"/a", None, b"orders")),
        ((b"/%7Ea%41", None), (b"/~aA", None)),
        ((b"/%e4", None), (b"/%E4", None)),
        ((b"/a", b"q=%7e"), (b"/a", b"q=~")),
    ],
)
def test_the_same(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    assert uri(*one) == uri(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"/a", None), (b"/A", None)),
        ((b"/a", None), (b"/a/", None)),
        ((b"/a", None), (b"/a", b"")),
        ((b"/a", b"x=1&y=2"), (b"/a", b"y=2&x=1")),
        ((b"/a%2Fb", None), (b"/a/b", None)),
        ((b"/a%3Fb", None), (b"/a", b"b")),
        ((b"/a", None, b"orders:8080"), (b"/a", None, b"orders")),
        ((b"/a", None, b"one"), (b"/a", None, b"other")),
    ],
)
def test_not_the_same(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    assert uri(*one) != uri(*other)


def test_ignored_parameters_by_name_and_by_beginning() -> None:
    rule = KeyRule("r", ignore_query=("utm_*", "sid"))
    assert uri(b"/a", b"x=1&utm_source=y&sid=3", rule=rule) == uri(b"/a", b"x=1", rule=rule)
    assert uri(b"/a", b"utm%5Fmedium=y", rule=rule) == uri(b"/a", None, rule=rule)
    assert uri(b"/a", b"utm=1", rule=rule) == b"http://orders/a?utm=1"
    assert uri(b"/a", b"side=1", rule=rule) == b"http://orders/a?side=1"


def test_fields_of_the_policy_belong_to_the_key() -> None:
    rule = KeyRule("r", headers=("Accept-Language",))
    keys = {rule.key(exchange(headers={"accept-language": value})) for value in ("en", "EN", "de")}
    assert len(keys) == 2
    assert rule.key(exchange()) not in keys


def test_the_rule_is_part_of_the_key() -> None:
    rules = [KeyRule("a"), KeyRule("b"), KeyRule("a", ("x",)), KeyRule("a", (), ("x",))]
    assert len({rule.key(exchange()) for rule in rules}) == len({rule.digest for rule in rules}) == 4
    assert KeyRule("a", ("X", "y")).digest == KeyRule("a", ("y", "x")).digest


def test_the_uri_can_be_had_from_the_key() -> None:
    for rule in (RULE, KeyRule("r", headers=("x-tenant",))):
        x = exchange(path="/a", query=b"b=%7e", authority=b"Orders:80", headers={"x-tenant": "a b"})
        assert uri_of(rule.key(x)) == uri_of(rule.key(x) + b"\x01a b") == b"http://orders/a?b=~"


def test_a_uri_as_text() -> None:
    assert RULE.of_text("HTTP://Orders:80/%7ea?b#c") == b"http://orders/~a?b"
    assert RULE.of_text("https://orders:443") == b"https://orders/"
    for text in ("/a", "orders/a", "ftp://orders/a", "http:///a", "http://örders/"):
        assert RULE.of_text(text) is None


@given(st.from_regex(rb"/[!-~]{0,20}", fullmatch=True))
def test_normalising_twice_changes_nothing(path: bytes) -> None:
    once = uri(path)
    assert uri(once.removeprefix(b"http://orders")) == once


@given(st.binary(max_size=12).map(lambda tail: b"/" + bytes(octet for octet in tail if 0x20 < octet < 0x7F)))
def test_what_the_edge_has_seen_of_a_target_changes_no_key(target: bytes) -> None:
    peer = Peer("127.0.0.1", b"http")
    x, _, _ = read_request(b"GET", target, 11, b"", [(b"host", b"orders")], False, peer, 0.0)
    key = RULE.key(x)
    assert x.has_escapes == (b"%" in target)
    x.has_escapes = True
    assert RULE.key(x) == key
