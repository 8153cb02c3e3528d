from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.exchange import Exchange
from sidecar.core.template import Template
from sidecar.core.uri import readings, text
from sidecar.transform.path_rewrite import PathPattern, PathTemplate, PrefixMap, literal, segment
from sidecar.transform.values import RewriteError


def rendered(template: str, captures: dict[str, str], query: bytes | None = None) -> bytes:
    x = Exchange(b"GET", b"/")
    x.captures, x.query = captures, query
    return PathTemplate(Template(literal(template).decode(), {})).apply(b"/", x)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("7", b"/orders/7"),
        ("a b", b"/orders/a%20b"),
        ("a/b", b"/orders/a%2Fb"),
        ("é", b"/orders/%C3%A9"),
        ("%41", b"/orders/%2541"),
        ("a?b#c;d", b"/orders/a%3Fb%23c%3Bd"),
        ("..a", b"/orders/..a"),
        ("a\r\nb", b"/orders/a%0D%0Ab"),
        ("{x}", b"/orders/%7Bx%7D"),
    ],
)
def test_a_value_is_one_segment_and_encoded_once(value: str, path: bytes) -> None:
    assert rendered("/orders/{path.id}", {"id": value}) == path


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../x",
        "x/..",
        "..\\x",
        "x;/../",
        "..;x",
        "%2e%2e",
        "%2E.",
        "%252e%252e",
        "a/%2e%2e/b",
        "\0",
        "%00",
        "\ufffd",
    ],
)
def test_a_value_that_could_climb_or_is_not_there_is_refused(value: str) -> None:
    with pytest.raises(RewriteError):
        rendered("/orders/{path.id}", {"id": value})


def test_a_parameter_cannot_climb_either() -> None:
    assert rendered("/o/{query.id}", {}, b"id=a%2Fb") == b"/o/a%2Fb"
    for query in (b"id=%2e%2e%2fadmin", b"id=..%2Fadmin", b"id=%252e%252e%252fadmin", b"other=1", b"id=", None):
        with pytest.raises(RewriteError):
            rendered("/o/{query.id}", {}, query)


@given(st.text(max_size=12))
def test_what_is_built_has_the_structure_of_the_template(value: str) -> None:
    try:
        path = rendered("/a/{path.id}/z", {"id": value})
    except RewriteError:
        return
    assert re.fullmatch(rb"/a/[^/;\\?#\x00-\x20]+/z", path)
    assert text(path.split(b"/")[2]) == value
    assert all(reading.startswith(b"/a/") and reading.endswith(b"/z") for reading in readings(path))


def test_texts_of_a_policy_are_encoded_where_they_have_to_be() -> None:
    assert rendered("/bücher/a b/%41", {}) == b"/b%C3%BCcher/a%20b/%41"


@pytest.mark.parametrize(
    ("came", "became"),
    [
        (b"/v1/orders/7", b"/v2/orders/7"),
        (b"/v1", b"/v2"),
        (b"/v1/", b"/v2/"),
        (b"/v10/x", b"/v10/x"),
        (b"/V1/x", b"/V1/x"),
        (b"/v1/a%2Fb//c", b"/v2/a%2Fb//c"),
        (b"/%761/a%2fb", b"/v2/a%2Fb"),
        (b"/v1/orders/internal/x", b"/v2/orders/internal/x"),
        (b"/v1/old/x", b"/x"),
        (b"/v1/old", b"/"),
        (b"/x/v1/y", b"/x/v1/y"),
    ],
)
def test_prefixes_go_by_whole_segments_and_the_longest_wins(came: bytes, became: bytes) -> None:
    assert PrefixMap({"/v1": "/v2", "/v1/old/": "/"}).apply(came, Exchange(b"GET", came)) == became


def test_the_root_is_a_prefix_of_everything() -> None:
    assert PrefixMap({"/": "/api"}).apply(b"/orders", Exchange(b"GET", b"/")) == b"/api/orders"


@pytest.mark.parametrize(
    ("pattern", "to", "came", "became"),
    [
        (r"/v1/([^/]+)/(?P<id>\d+)", r"/v2/\g<id>/\1", b"/v1/a%2Fb/7", b"/v2/7/a%2Fb"),
        (r"/v1/([^/]+)", r"/v2\0", b"/v1/x", b"/v2/v1/x"),
        (r"/v1/(\d+)", r"/v2/\1", b"/v1/x", b"/v1/x"),
        (r"/v1/(a)?b", r"/v2/\1c", b"/v1/b", b"/v2/c"),
        (r"/v1/.*", r"/v2", b"/v1/" + b"x" * 2000, b"/v1/" + b"x" * 2000),
    ],
)
def test_patterns_match_the_whole_path_and_groups_keep_their_spelling(
    pattern: str, to: str, came: bytes, became: bytes
) -> None:
    assert PathPattern(pattern, to).apply(came, Exchange(b"GET", came)) == became


def test_a_pattern_cannot_build_a_path_that_climbs() -> None:
    with pytest.raises(RewriteError):
        PathPattern(r"/v1/([^/]+)", r"/files/\1/x").apply(b"/v1/..%2F..", Exchange(b"GET", b"/"))


@pytest.mark.parametrize("to", [r"/\2", r"/\g<x>", r"/\q"])
def test_groups_that_are_not_there_are_refused_at_load(to: str) -> None:
    with pytest.raises(ValueError, match="no group of the pattern"):
        PathPattern(r"/(a)", to)


def test_segment_is_plain_text_back() -> None:
    assert segment("a.b-c_d~e") == "a.b-c_d~e"
