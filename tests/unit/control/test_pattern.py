from __future__ import annotations

import re
import time

import pytest

from sidecar.control.pattern import MAX_INPUT, compile_pattern, literal_prefix

GOOD = [
    r"/v[12]/.*",
    r".*\.json",
    r"/(?:a|b)/(?P<id>[^/]+)/x",
    r"/orders(/\d+)?",
    r"/x[^/]*/[a-z]+",
    r"\d{1,3}/x",
    r"/(?:ab)+/x",
    r"[a-z]+(?:(/)x)y",
    r"/[^/]+/[^/]+/[^/]+/.*",
    r"/\w+-\d{4}-\d{2}",
]


@pytest.mark.parametrize("pattern", GOOD)
def test_patterns_in_use_are_accepted(pattern: str) -> None:
    assert compile_pattern(pattern).pattern == pattern.encode()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(a+)*", "exponential"),
        (r"(?:a*)+", "exponential"),
        (r"((a|b))*", "exponential"),
        (r"(a?){2,9}", "exponential"),
        (r".*a.*b", "quadratic"),
        (r"[a-z]+[a-y]*z", "quadratic"),
        (r"a*a*a*a*b", "quadratic"),
        (r"(\d+)?\d+x", "quadratic"),
        (r"\w+(\w+)x", "quadratic"),
        (r"^/x", "the whole path is matched anyway"),
        (r"/x$", "the whole path is matched anyway"),
        (r"(?=x)", "not supported"),
        (r"(?i)x", "not supported"),
        (r"(a)\1", "not supported"),
        (r"\bx", "not supported"),
        (r"a{,3}", "not supported"),
        (r"[a", "not supported"),
        (r"[[a]", "not supported"),
        (r"[a||b]", "escape its characters"),
        (r"(a", "is not a regular expression"),
        (r"a)", "is not a regular expression"),
        (r"a**", "is not a regular expression"),
        (r"/é", "%C3%A9"),
        ("a?" * 9, "at most 8"),
    ],
)
def test_patterns_that_can_take_long_or_mean_nothing_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [*GOOD, "[a-z]+(/x)?y", "[a-z]+(/|y)", "a?a?a?a?a?a?a?a?b", "(a|a)(a|a)(a|a)[a-z]*/"]
)
@pytest.mark.parametrize("piece", ["a", "a/", "/", "/a", "1", "x.json", "ab", "aaaa-1111-"])
def test_what_is_accepted_is_fast_on_anything(pattern: str, piece: str) -> None:
    compiled = compile_pattern(pattern)
    hostile = ("/" + piece * MAX_INPUT)[: MAX_INPUT - 1].encode() + b"!"
    start = time.perf_counter()
    compiled.fullmatch(hostile)
    compiled.fullmatch(hostile[1:])
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [(r"/v1/\d+", b"/v1/"), (r"/ab?c", b"/a"), (r"/a|/b", b""), (r"/(x)", b"/"), (r"/a\.b", b"/a.b"), (r".*", b"")],
)
def test_what_every_match_begins_with(pattern: str, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix
