"""Tests of facts from an answer's fields: kept lines give the same facts as lines that are read again."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.facts import LINE, LINES, Facts, FactsReader, reader
from sidecar.cache.rfc.freshness import FreshnessRules, RequestFacts, assess
from tests.support.cases import each

NOW = 1_750_000_000.0
"""Instant in June 2025, as Unix time."""
DAY = 86400.0
TARGETS = (b"cdn-cache-control",)
KNOWN = (
    "control", "age", "date", "etag", "last_modified", "expires", "vary", "tags", "set_cookie", "pragma",
    "has_unstorable",
)  # fmt: skip

FIELDS = [
    b"Cache-Control: max-age=60", b"cache-control: no-cache", b"Cache-Control: s-maxage=5, stale-if-error=9",
    b"Cache-Control: private", b"CDN-Cache-Control: max-age=7", b"CDN-Cache-Control: ?", b'ETag: "a"', b'ETag: W/"B"',
    b"ETag: a", b"Date: Sun, 15 Jun 2025 15:06:40 GMT", b"Date: never", b"Expires: Sun, 15 Jun 2025 16:06:40 GMT",
    b"Expires: 0", b"Last-Modified: Sun, 15 Jun 2025 10:00:00 GMT", b"Vary: Accept", b"vary: *", b"Vary: accept, X",
    b"Set-Cookie: a=b", b"Pragma: no-cache", b"Cache-Tag: a, b", b"Surrogate-Key: c d", b"Age: 3", b"Age: x, 4",
    b"Proxy-Authenticate: Basic", b"X-Request-Id: 1", b"Content-Type: text/plain",
]  # fmt: skip
HEADS = st.lists(st.sampled_from(FIELDS), max_size=6).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
PLAIN = RequestFacts()
RULES = (
    FreshnessRules(),
    FreshnessRules(ttl=30.0),
    FreshnessRules(heuristic=0.1, stale_if_error=60.0),
    FreshnessRules(set_cookie=True),
)


def said(facts: Facts) -> dict[str, Any]:
    """Return all facts by name; directives as their values."""
    return {name: getattr(facts, name) for name in KNOWN if name != "control"} | {"control": repr(facts.control)}


def judged(facts: Facts, rules: FreshnessRules) -> tuple[Any, ...]:
    plan, age, refusal = assess(200, facts, PLAIN, rules, 1.0, NOW)
    windows = (plan.lifetime, plan.stale_while_revalidate, plan.stale_if_error)
    return windows, plan.must_validate, plan.no_cache, plan.immutable, plan.dropped, age, refusal


@given(st.lists(st.tuples(HEADS, st.sampled_from(RULES)), min_size=1, max_size=8))
def test_cached_facts_equal_facts_read_anew(heads: list[tuple[bytes, FreshnessRules]]) -> None:
    one = FactsReader(TARGETS)
    for head, rules in heads:
        remembered, anew = one.read(head, NOW), FactsReader(TARGETS).read(head, NOW)
        assert said(remembered) == said(anew)
        assert judged(remembered, rules) == judged(anew, rules)


@each(product(FIELDS, RULES))
def test_a_line_more_or_less_is_judged_for_itself(case: tuple[bytes, FreshnessRules]) -> None:
    line, rules = case
    for base in (b"", b"Cache-Control: max-age=60\r\n", b'ETag: "b"\r\n', b"Date: Sun, 15 Jun 2025 15:06:40 GMT\r\n"):
        longer = base + line + b"\r\n"
        for heads in ((base, longer), (longer, base)):
            one = FactsReader(TARGETS)
            for head in heads:
                assert judged(one.read(head, NOW), rules) == judged(FactsReader(TARGETS).read(head, NOW), rules)


def test_answers_that_differ_in_their_names_only_are_judged_once() -> None:
    one = FactsReader(TARGETS)
    asked, rules = PLAIN, RULES[0]
    first, second, third = (
        one.read(b'Cache-Control: max-age=60\r\nETag: "%d"\r\nX-Request-Id: %d\r\n' % (n, n), NOW) for n in range(3)
    )
    plan, _, _ = assess(200, first, asked, rules, 0.0, NOW)
    second.follow(first)
    assert assess(200, second, asked, rules, 0.0, NOW)[0] is plan
    assert assess(404, second, asked, rules, 0.0, NOW)[0] is not plan
    assert assess(200, third, RequestFacts(no_store=True), rules, 0.0, NOW)[2] == b"request-no-store"


def test_a_year_of_two_digits_is_read_anew_each_day() -> None:
    """RFC 9110 5.6.7: the date is at most fifty years ahead, so its century may change from one day to the next."""
    head = b"Expires: x\r\nLast-Modified: Thursday, 31-Dec-76 00:00:00 GMT\r\n"
    one = FactsReader(())
    in_2025, in_2027 = NOW, NOW + 2 * 365 * DAY
    before, after = one.read(head, in_2025).last_modified, one.read(head, in_2027).last_modified
    assert (before, after) == (
        FactsReader(()).read(head, in_2025).last_modified,
        FactsReader(()).read(head, in_2027).last_modified,
    )
    assert before != after


def test_memory_is_bounded_in_number_and_size() -> None:
    one = FactsReader(TARGETS)
    for number in range(3 * LINES):
        one.read(b"X-Request-Id: %d\r\nX-Long: %b\r\n" % (number, b"x" * LINE), NOW)
    assert len(one._lines) <= LINES
    assert max(map(len, one._lines)) <= LINE


@pytest.mark.parametrize("line", [b"Set-Cookie: session=1", b"set-cookie: session=1", b"X-API-Key: session=1"])
def test_secrets_are_not_remembered(line: bytes) -> None:
    one = FactsReader(TARGETS)
    one.read(line + b"\r\n", NOW)
    assert not any(b"session" in known for known in one._lines)
    if b"ookie" in line:
        assert b"session" not in one._head


def test_targeted_fields_count_only_for_policies_that_name_them() -> None:
    head = b"Cache-Control: max-age=1\r\nOwn-Cache-Control: max-age=2\r\n"
    assert reader((b"own-cache-control",)).read(head, NOW).control.max_age == 2
    assert reader(TARGETS).read(head, NOW).control.max_age == 1
    assert reader(TARGETS) is reader(TARGETS)
