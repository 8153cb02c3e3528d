from __future__ import annotations

import re
from itertools import product

import pytest

from sidecar.core.uri import LONG_QUERY, MAX_BYTES, canonical, literal, parameter, readings, text
from tests.support.work import calls, grows_with


def test_a_parameter_of_a_long_query_is_that_of_a_short_one() -> None:
    short = b"a=1&b=%41&%61=2&c&a+b=3+4&a%20b=%35&=x&&b"
    long = short + b"&" + b"z" * LONG_QUERY
    for name, values in (
        (b"a", [b"1", b"2"]),
        (b"b", [b"A", b""]),
        (b"c", [b""]),
        (b"a b", [b"3 4", b"5"]),
        (b"d", []),
    ):
        assert parameter(short, name) == parameter(long, name) == values


def test_many_conditions_on_a_long_query_take_it_apart_once() -> None:
    query = b"%61=%62&" * 1024
    once = calls(lambda: parameter(query[:-8] + b"x", b"c")).total()
    assert calls(lambda: [parameter(query, b"%d" % number) for number in range(1000)]).total() <= once + 5000


def test_every_escape_has_one_canonical_form() -> None:
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for octet in range(256):
        canon = bytes((octet,)) if octet in unreserved else b"%%%02X" % octet
        for high, low in product(*({digit.lower(), digit.upper()} for digit in f"{octet:02x}")):
            assert canonical(f"/a%{high}{low}%".encode()) == b"/a" + canon + b"%"


@pytest.mark.parametrize(
    ("came", "canon"),
    [
        (b"/%61dmin", b"/admin"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/%7Euser/%5F%2d%2e", b"/~user/_-."),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
        (b"/%zz", b"/%zz"),
        (b"*", b"*"),
    ],
)
def test_unreserved_escapes_are_decoded_and_others_spelled_one_way(came: bytes, canon: bytes) -> None:
    assert canonical(came) == canon


def test_a_plain_path_has_one_reading() -> None:
    assert readings(b"/orders/17.json") == [b"/orders/17.json"]
    assert readings(b"/caf%C3%A9/.well-known/..b") == [b"/caf%C3%A9/.well-known/..b"]


@pytest.mark.parametrize(
    ("path", "others"),
    [
        (b"/a%2Fb", {b"/a/b"}),
        (b"/a%5cb", {b"/a/b"}),
        (b"/a\\b", {b"/a/b"}),
        (b"/a//b", {b"/a/b"}),
        (b"/a;v=1/b", {b"/a/b"}),
        (b"/a%3Bv=1/b", {b"/a/b"}),
        (b"/a%252Fb", {b"/a%2Fb", b"/a/b"}),
        (b"//a%2Fb", {b"//a/b", b"/a%2Fb", b"/a/b"}),
    ],
)
def test_every_way_in_which_servers_read_a_path(path: bytes, others: set[bytes]) -> None:
    first, *more = readings(path)
    assert first == canonical(path)
    assert set(more) == others


@pytest.mark.parametrize(
    "path",
    [
        b"/a/../b", b"/a/.", b"/..", b"/%2e%2e/b", b"/a/%2E./b", b"/a/..%2Fb", b"/a/..;/b", b"/a/..;x=1/b", b"/a/.;/b",
        b"/a/%252e%252e/b", b"/a/..%5Cb", b"/a\\..\\b", b"/a%2F..%2F..%2Fb", b"/a/..%3B/b", b"/a%00", b"/a/..%252Fb",
    ],
)  # fmt: skip
def test_a_dot_segment_in_any_disguise_is_not_matched(path: bytes) -> None:
    assert readings(path) == []


def test_a_long_path_with_many_readings_is_not_matched() -> None:
    assert readings(b"/" + b"%41" * 10_000) == []


@pytest.mark.parametrize("piece", [b"%252F;//", b"%2F", b"%25", b"//", b";", b"%41", b"\\"])
def test_hostile_paths_take_work_in_proportion(piece: bytes) -> None:
    def path(size: int) -> bytes:
        return (b"/" + piece * size)[:size]

    assert len(readings(path(MAX_BYTES))) <= 16
    assert not grows_with(lambda size: lambda: readings(path(size)), MAX_BYTES // 8)


@pytest.mark.parametrize(
    ("written", "path"),
    [("/orders", b"/orders"), ("/a b/é", b"/a%20b/%C3%A9"), ("/%41", b"/A"), ("/", b"/"), ("/x/", b"/x/")],
)
def test_a_path_of_a_file_is_compared_in_canonical_form(written: str, path: bytes) -> None:
    assert literal(written) == path


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("orders", 'write "/orders"'),
        ("/a?b=1", "under `query`"),
        ("/a#b", "under `query`"),
        ("/a/*", "write `path_prefix`"),
        ("/100%", "write it as %25"),
        ("/a/../b", "leave out dot segments"),
        ("/a//b", "empty segments"),
        ("/a%2Fb", "%2F"),
        ("/a;b", "`;`"),
    ],
)
def test_a_path_of_a_file_that_is_read_in_several_ways_is_refused(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        literal(written)


def test_captures_are_text() -> None:
    assert text(b"a%20b") == "a b"
    assert text(b"caf%C3%A9") == "café"
    assert text(b"\xff") == "\N{REPLACEMENT CHARACTER}"
