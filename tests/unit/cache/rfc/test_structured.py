"""Tests of dictionaries and lists of Structured Fields: RFC 9651 3.1, 3.2, 4.2.1 and 4.2.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.structured import TRUE, parse_dictionary, parse_list

CHARACTERS = ' \t,;=()"\\?:*@%-._/aAzZ019'


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (b"", {}),
        (b"max-age=60, no-store", {b"max-age": ("integer", b"60"), b"no-store": ("boolean", b"?1")}),
        (b"a=?0", {b"a": ("boolean", b"?0")}),
        (b"a=1.5;x=2;y , b=tok/en", {b"a": ("decimal", b"1.5"), b"b": ("token", b"tok/en")}),
        (b'a="x, \\"y\\"",b', {b"a": ("string", b'"x, \\"y\\""'), b"b": ("boolean", b"?1")}),
        (b'a=(1 "b";q  c ), d', {b"a": ("list", b""), b"d": ("boolean", b"?1")}),
        (b"a=(), b=:aGk=:", {b"a": ("list", b""), b"b": ("bytes", b":aGk=:")}),
        (b"a=1, a=2", {b"a": ("integer", b"2")}),
        (b"a=@1659578233", {b"a": ("date", b"@1659578233")}),
    ],
)
def test_members(text: bytes, members: dict[bytes, tuple[str, bytes]]) -> None:
    assert parse_dictionary(text) == members


@pytest.mark.parametrize(
    "text",
    [
        b"max-age=10000, &&&&&", b"MaX-aGe=3600", b"max-age =100", b"max-age= 100", b"a=1,", b",a=1", b"a=1;;b", b"a=",
        b"a=1.2345", b"a=1234567890123456", b'a="\x7f"', b'a="x', b"a=(1", b"a=(1,2)", b"a=?2", b"a b", b"\ta",
        b"a=1.2.3",
    ],
)  # fmt: skip
def test_one_error_and_it_is_no_field(text: bytes) -> None:
    assert parse_dictionary(text) is None


@given(st.text(CHARACTERS, max_size=24).map(str.encode))
def test_it_agrees_with_an_independent_parser(text: bytes) -> None:
    http_sf = pytest.importorskip("http_sf")
    try:
        expected = set(http_sf.parse(text, tltype="dictionary"))
    except ValueError:
        expected = None
    ours = parse_dictionary(text)
    assert (None if ours is None else {name.decode() for name in ours}) == expected


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (b"", []),
        (b'"a;r=1";t=4; r=0', [(("string", b'"a;r=1"'), {b"t": ("integer", b"4"), b"r": ("integer", b"0")})]),
        (b"a;x;x=2 ,\t(1 2);y", [(("token", b"a"), {b"x": ("integer", b"2")}), (("list", b""), {b"y": TRUE})]),
    ],
)
def test_members_of_a_list(text: bytes, members: list[object]) -> None:
    assert parse_list(text) == members


@pytest.mark.parametrize("text", [b"a,", b",a", b"a=1", b"a;", b"a;R=1", b"a ;r=1", b"a;r= 1", b"a b", b'"a'])
def test_one_error_and_it_is_no_list(text: bytes) -> None:
    assert parse_list(text) is None


@given(st.text(CHARACTERS, max_size=24).map(str.encode))
def test_lists_agree_with_an_independent_parser(text: bytes) -> None:
    http_sf = pytest.importorskip("http_sf")
    try:
        expected = [set(parameters) for _, parameters in http_sf.parse(text, tltype="list")]
    except ValueError:
        expected = None
    ours = parse_list(text)
    assert (None if ours is None else [{name.decode() for name in each} for _, each in ours]) == expected
