from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.core.pattern import MAX_INPUT, compile_pattern, compile_search, literal_prefix
from tests.support.steps import steps

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
def test_what_is_accepted_takes_steps_in_proportion_on_anything(pattern: str) -> None:
    compiled = compile_pattern(pattern)
    for piece in ("a", "a/", "/", "/a", "1", "x.json", "ab", "aaaa-1111-"):
        for skipped in (0, 1):
            short, long = (
                steps(compiled, ("/" + piece * size)[skipped : size - 1].encode() + b"!")
                for size in (MAX_INPUT // 8, MAX_INPUT)
            )
            assert long <= 10 * short, (piece, short, long)


PARTS = [
    "a",
    "b",
    "/",
    ".",
    "[ab]",
    "[^/]",
    "a*",
    "[ab]+",
    "[^/]+",
    ".*",
    "a?",
    "(ab)+",
    "(a|b)",
    "(?:a*)",
    "(a+)*",
    "b{2,}",
]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join), st.sampled_from(["a", "b", "ab", "a/"]))
def test_whatever_is_accepted_takes_steps_in_proportion(pattern: str, piece: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except ValueError:
        assume(False)
    short, long = (steps(compiled, (piece * size)[:size].encode() + b"!") for size in (16, 128))
    assert long <= 12 * short + 500, (short, long)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [(r"/v1/\d+", b"/v1/"), (r"/ab?c", b"/a"), (r"/a|/b", b""), (r"/(x)", b"/"), (r"/a\.b", b"/a.b"), (r".*", b"")],
)
def test_what_every_match_begins_with(pattern: str, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("b.d", "abcde", True),
        ("^b", "ab", False),
        ("^/v[0-9]+/", "/v12/x", True),
        ("b$", "ab", True),
        ("b$", "ab\n", False),
        ("^[a-z]+$", "abc", True),
        ("^[a-z]+$", "abc1", False),
        ("v[0-9]+", "xv12", True),
        (r"\$$", "a$", True),
        (r"a\\$", "a\\", True),
        ("^(?:a|b)$", "b", True),
        (r"\d", "\N{ARABIC-INDIC DIGIT ONE}", False),
        (".", "\n", False),
        ("", "x", True),
    ],
)
def test_a_search_is_anywhere_unless_it_is_anchored(pattern: str, text: str, matches: bool) -> None:
    assert compile_search(pattern)(text) is matches


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a+b", "let it begin with `^`"),
        ("[0-9]+$", "let it begin with `^`"),
        ("^(a+)+$", "exponential"),
        ("^.*a.*b", "quadratic"),
        ("^a|b$", "put them into a group"),
        ("a^b", "`^` stands at the beginning"),
        ("a$b", "`$` at the end"),
        ("é", "beyond ASCII"),
        ("(a", "is not a regular expression"),
    ],
)
def test_searches_that_can_take_long_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_search(pattern)


@pytest.mark.parametrize("pattern", ["v[0-9]+", "^[a-z]+$", "aab", "^a.*b", "a[ab]c{3}", "(?:a|b)a?a?a?x", "a{1,100}"])
def test_a_search_takes_steps_in_proportion_on_anything(pattern: str) -> None:
    search = compile_search(pattern)
    compiled = inspect.getclosurevars(search).nonlocals["compiled"]
    how = "match" if pattern.startswith("^") else "search"
    for piece in ("a", "ab", "v1", "aab", "1"):
        short, long = (steps(compiled, (piece * size)[:size].encode(), how) for size in (MAX_INPUT // 8, MAX_INPUT))
        assert long <= 10 * short + 1000, (piece, short, long)
