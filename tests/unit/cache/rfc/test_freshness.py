"""Tests of storing and freshness: RFC 9111 3, 3.5, 4.2, 5.1, 5.2.2, 5.3, RFC 5861, RFC 9213."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.rfc.dates import format_date
from sidecar.cache.rfc.facts import FactsReader, parse_age
from sidecar.cache.rfc.freshness import HEURISTICALLY_CACHEABLE, UNDERSTOOD, FreshnessRules, Plan, RequestFacts, assess

NOW = 1_750_000_000.0
RULES = FreshnessRules()
PLAIN = RequestFacts()


class Judged(NamedTuple):
    plan: Plan
    age: float
    refusal: bytes


Pairs = list[tuple[str, str]]


def date(offset: float) -> str:
    return format_date(NOW + offset).decode()


def judge(
    *headers: tuple[str, str],
    status: int = 200,
    asked: RequestFacts = PLAIN,
    rules: FreshnessRules = RULES,
    delay: float = 0.0,
) -> Judged:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    return Judged(*assess(status, FactsReader(rules.targets).read(lines, NOW), asked, rules, delay, NOW))


def control(value: str, *more: tuple[str, str], status: int = 200, rules: FreshnessRules = RULES) -> Judged:
    return judge(("Cache-Control", value), *more, status=status, rules=rules)


class TestStorable:
    """RFC 9111 3: storing responses."""

    @pytest.mark.parametrize("status", [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 503, 599])
    def test_any_final_status_with_explicit_freshness(self, status: int) -> None:
        assert control("max-age=60", status=status).refusal == b""

    @pytest.mark.parametrize(
        ("status", "why"), [(206, b"partial"), (304, b"status"), (426, b"status"), (100, b"status"), (103, b"status")]
    )
    def test_partial_not_modified_and_interim_never(self, status: int, why: bytes) -> None:
        assert control("max-age=60, public", status=status).refusal == why

    @pytest.mark.parametrize("value", ["no-store", "max-age=60, no-store", "no-store, public, s-maxage=60"])
    def test_5_2_2_5_no_store(self, value: str) -> None:
        assert control(value).refusal == b"no-store"

    def test_5_2_2_3_must_understand(self) -> None:
        assert control("max-age=60, no-store, must-understand").refusal == b""
        assert control("max-age=60, no-store, must-understand", status=599).refusal == b"status"
        assert control("max-age=60, must-understand", status=599).refusal == b"status"
        assert {206, 304}.isdisjoint(UNDERSTOOD)

    def test_5_2_2_7_private(self) -> None:
        assert control("private, max-age=60").refusal == b"private"
        qualified = control('private="x-user", max-age=60')
        assert (qualified.refusal, qualified.plan.dropped) == (b"", {b"x-user"})

    def test_5_2_2_4_qualified_no_cache(self) -> None:
        stored = control('no-cache="a, b", max-age=60')
        assert (stored.refusal, stored.plan.no_cache, stored.plan.dropped) == (b"", False, {b"a", b"b"})

    def test_5_2_1_5_request_no_store(self) -> None:
        assert judge(("Cache-Control", "max-age=60"), asked=RequestFacts(no_store=True)).refusal == b"request-no-store"

    @pytest.mark.parametrize("value", ["public, max-age=60", "must-revalidate, max-age=60", "s-maxage=60"])
    def test_3_5_authorization_with_leave(self, value: str) -> None:
        assert judge(("Cache-Control", value), asked=RequestFacts(has_authorization=True)).refusal == b""

    @pytest.mark.parametrize("value", ["max-age=60", "proxy-revalidate, max-age=60", "immutable, max-age=60"])
    def test_3_5_authorization_without(self, value: str) -> None:
        assert judge(("Cache-Control", value), asked=RequestFacts(has_authorization=True)).refusal == b"authorization"

    def test_set_cookie_needs_consent(self) -> None:
        cookie = ("Set-Cookie", "a=b")
        assert control("max-age=60", cookie).refusal == b"set-cookie"
        assert control("public, max-age=60", cookie).refusal == b"set-cookie"
        assert control("max-age=60", cookie, rules=FreshnessRules(set_cookie=True)).refusal == b""
        assert control('max-age=60, no-cache="set-cookie"', cookie).refusal == b""

    @pytest.mark.parametrize("value", ["*", "*, *", ", *", "*, Foo", "Foo, *", ",".join(f"x-{n}" for n in range(17))])
    def test_4_1_vary_that_cannot_match(self, value: str) -> None:
        assert control("max-age=60", ("Vary", value)).refusal == b"vary"
        assert control("max-age=60", ("Vary", ""), ("Vary", value)).refusal == b"vary"

    def test_nothing_said_and_nothing_to_validate_with(self) -> None:
        assert judge().refusal == b"no-freshness"
        assert control("max-age=0").refusal == b"no-freshness"
        assert control("max-age=5", ("Age", "9")).refusal == b"stale"
        assert control("no-cache, max-age=60").refusal == b"no-cache"

    def test_a_validator_makes_it_worth_storing(self) -> None:
        for stored in (
            judge(("ETag", '"a"')),
            control("no-cache", ("ETag", '"a"')),
            judge(("Last-Modified", date(-9))),
        ):
            assert (stored.refusal, stored.plan.lifetime) == (b"", 0)
        assert judge(("ETag", "unquoted")).refusal == b"no-freshness"

    @pytest.mark.parametrize("status", [201, 202, 302, 403, 502, 503, 504, 599])
    def test_4_2_2_other_statuses_need_explicit_freshness_or_public(self, status: int) -> None:
        assert judge(("ETag", '"a"'), status=status).refusal == b"status"
        assert control("public", ("ETag", '"a"'), status=status).refusal == b""


class TestLifetime:
    """RFC 9111 4.2.1: freshness lifetime."""

    @pytest.mark.parametrize(
        ("headers", "lifetime"),
        [
            ([("Cache-Control", "max-age=60")], 60),
            ([("Cache-Control", "max-age=1, s-maxage=60")], 60),
            ([("Cache-Control", "s-maxage=1"), ("Cache-Control", "max-age=60")], 1),
            ([("Cache-Control", "max-age=60"), ("Expires", date(-9)), ("Date", date(0))], 60),
            ([("Cache-Control", "max-age=60"), ("Expires", "0")], 60),
            ([("Cache-Control", "max-age=0"), ("Expires", date(99))], 0),
            ([("Expires", date(60)), ("Date", date(0))], 60),
            ([("Expires", date(60)), ("Date", date(-10))], 70),
            ([("Expires", date(300)), ("Date", date(400))], 0),
            ([("Expires", date(60)), ("Date", "foo")], 60),
            ([("Expires", date(60))], 60),
            ([("Expires", date(0)), ("Date", date(0))], 0),
        ],
    )
    def test_it(self, headers: Pairs, lifetime: float) -> None:
        assert judge(*headers, ("ETag", '"a"')).plan.lifetime == lifetime

    @pytest.mark.parametrize("value", ["0", "-1", "Thu, 18 Aug 50 02:01:18 GMT", "Thu, 18 Aug 2050 2:01:18 GMT"])
    def test_5_3_an_invalid_expires_is_in_the_past(self, value: str) -> None:
        assert judge(("Expires", value), ("ETag", '"a"')).plan.lifetime == 0

    def test_4_2_1_two_different_expires(self) -> None:
        assert judge(("Expires", date(60)), ("Expires", date(61)), ("ETag", '"a"')).plan.lifetime == 0
        assert judge(("Expires", date(60)), ("Expires", date(60)), ("Date", date(0))).plan.lifetime == 60

    def test_an_invalid_expires_is_not_silence(self) -> None:
        assert judge(("Expires", "0"), ("ETag", '"a"'), rules=FreshnessRules(ttl=30)).plan.lifetime == 0


class TestTargeted:
    """RFC 9213 2.2: targeted fields."""

    def test_it_takes_the_place_of_all_others(self) -> None:
        headers = [("CDN-Cache-Control", "max-age=60"), ("Cache-Control", "no-store"), ("Expires", date(-9))]
        assert judge(*headers).plan.lifetime == 60
        assert judge(("CDN-Cache-Control", "no-store"), ("Cache-Control", "max-age=60")).refusal == b"no-store"
        assert judge(("CDN-Cache-Control", "private"), ("Cache-Control", "max-age=60")).refusal == b"private"

    def test_an_invalid_one_is_not_there(self) -> None:
        assert judge(("CDN-Cache-Control", "max-age=60, &"), ("Cache-Control", "no-store")).refusal == b"no-store"

    def test_the_first_of_the_policy_counts(self) -> None:
        rules = FreshnessRules(targets=(b"sidecar-cache-control", b"cdn-cache-control"))
        headers = [("CDN-Cache-Control", "max-age=1"), ("Sidecar-Cache-Control", "max-age=60")]
        assert judge(*headers, rules=rules).plan.lifetime == 60
        assert judge(headers[0], ("Sidecar-Cache-Control", "x=("), rules=rules).plan.lifetime == 1
        assert judge(*headers, rules=FreshnessRules(targets=())).refusal == b"no-freshness"


class TestSilence:
    """Freshness by the policy for an answer without directives; RFC 9111 4.2.2."""

    @pytest.mark.parametrize("status", sorted(HEURISTICALLY_CACHEABLE))
    def test_ttl(self, status: int) -> None:
        assert judge(status=status, rules=FreshnessRules(ttl=30)).plan.lifetime == 30

    def test_ttl_gives_way(self) -> None:
        rules = FreshnessRules(ttl=30)
        assert control("max-age=5", rules=rules).plan.lifetime == 5
        assert judge(("Expires", date(5)), rules=rules).plan.lifetime == 5
        assert control("no-cache", ("ETag", '"a"'), rules=rules).plan.lifetime == 0
        assert judge(("Pragma", "no-cache"), rules=rules).refusal == b"no-freshness"
        assert judge(status=403, rules=rules).refusal == b"status"
        assert judge(rules=rules, asked=RequestFacts(has_credential=True)).refusal == b"credentials"
        assert judge(rules=rules, asked=RequestFacts(has_authorization=True)).refusal == b"authorization"

    def test_the_heuristic_is_off_unless_it_is_turned_on(self) -> None:
        old = [("Last-Modified", date(-1000)), ("Date", date(0))]
        assert judge(*old).plan.lifetime == 0
        assert judge(*old, rules=FreshnessRules(heuristic=0.1)).plan.lifetime == 100
        assert judge(*old, status=202, rules=FreshnessRules(heuristic=0.1)).refusal == b"status"
        assert (
            judge(*old, ("Cache-Control", "public"), status=599, rules=FreshnessRules(heuristic=0.1)).plan.lifetime
            == 100
        )

    def test_the_heuristic_has_bounds(self) -> None:
        assert judge(("Last-Modified", date(-(10**9))), rules=FreshnessRules(heuristic=0.1)).plan.lifetime == 86400
        assert judge(("Last-Modified", date(99)), rules=FreshnessRules(heuristic=0.1)).plan.lifetime == 0


class TestAge:
    """RFC 9111 4.2.3 and 5.1: age."""

    @pytest.mark.parametrize(
        ("value", "age"),
        [
            (b"0", 0), (b"7200", 7200), (b"7200, 0", 7200), (b"0, 7200", 0), (b"2147483648", 2**31), (b"9" * 99, 2**31),
            (b"abc", 0), (b"-7200", 0), (b"7200.0", 0), (b"7200;foo=bar", 0), (b"", 0),
        ],
    )  # fmt: skip
    def test_5_1_the_field(self, value: bytes, age: float) -> None:
        assert parse_age(value) == age

    def test_5_1_the_first_of_several_lines(self) -> None:
        assert control("max-age=60", ("Age", "30"), ("Age", "0")).age == 30
        assert control("max-age=60", ("Age", "0"), ("Age", "30")).age == 0

    def test_4_2_3_the_largest_estimate(self) -> None:
        assert control("max-age=60", ("Date", date(-20)), ("Age", "5")).age == 20
        assert control("max-age=60", ("Date", date(-5)), ("Age", "20")).age == 20
        assert control("max-age=60", ("Date", date(30)), ("Age", "5")).age == 5
        assert judge(("Cache-Control", "max-age=60"), ("Age", "5"), delay=3).age == 8
        assert judge(("Cache-Control", "max-age=60"), ("Date", date(0)), delay=3).age == 3

    @given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12), st.floats(0, 1e6))
    def test_it_is_never_negative(self, age: int, day: int, delay: float) -> None:
        assert judge(("Age", str(age)), ("Date", date(day % 10**9)), ("ETag", '"a"'), delay=delay).age >= delay


class TestStaleWindows:
    """RFC 5861, and RFC 9111 4.2.4: stale answers."""

    RULES = FreshnessRules(stale_while_revalidate=10, stale_if_error=300)

    def windows(self, value: str, *more: tuple[str, str]) -> tuple[float, float, bool]:
        plan = control(value, *more, ("ETag", '"a"'), rules=self.RULES).plan
        return plan.stale_while_revalidate, plan.stale_if_error, plan.must_validate

    def test_the_policy_and_the_answer(self) -> None:
        assert self.windows("max-age=60") == (10, 300, False)
        assert self.windows("max-age=60, stale-while-revalidate=1, stale-if-error=2") == (1, 2, False)
        assert self.windows("max-age=60, stale-if-error=0") == (10, 0, False)

    def test_the_policy_has_no_say_where_nothing_was_fresh(self) -> None:
        assert self.windows("max-age=0") == (0, 0, False)
        assert self.windows("public") == (0, 0, False)
        assert self.windows("max-age=0, stale-if-error=5") == (0, 5, False)

    @pytest.mark.parametrize("word", ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"])
    def test_4_2_4_forbidden(self, word: str) -> None:
        assert self.windows(f"max-age=60, stale-while-revalidate=9, stale-if-error=9, {word}") == (0, 0, True)


NAMES = ["Cache-Control", "Expires", "Age", "Date", "Vary", "ETag", "CDN-Cache-Control", "Pragma", "Set-Cookie"]
VALUES = ["max-age=60", "no-store", "private", "no-cache", "public", "0", "*", '"a"', date(60), date(-60), "x", ""]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6), st.sampled_from([200, 206, 503])
)
def test_no_answer_with_a_ban_is_stored(headers: Pairs, status: int) -> None:
    stored = judge(*headers, status=status, rules=FreshnessRules(ttl=30, heuristic=0.5))
    words = {value for name, value in headers if name == "Cache-Control"}
    targeted = [value for name, value in headers if name == "CDN-Cache-Control"]
    if stored.refusal == b"":
        assert status != 206
        assert ("Vary", "*") not in headers
        assert "Set-Cookie" not in {name for name, _ in headers}
        assert stored.age >= 0
        if not targeted:
            assert words.isdisjoint({"no-store", "private"})


class TestOneAfterTheOther:
    """Verdicts of one reader, which keeps the last one: it may be used only for an answer with the same verdict."""

    RULES = FreshnessRules(heuristic=0.1)

    def lifetimes(self, *heads: Pairs, status: int = 200, rules: FreshnessRules = RULES) -> list[float]:
        one = FactsReader(rules.targets)
        found = []
        for head in heads:
            lines = "".join(f"{name}: {value}\r\n" for name, value in head).encode()
            found.append(assess(status, one.read(lines, NOW), PLAIN, rules, 0.0, NOW)[0].lifetime)
        return found

    @pytest.mark.parametrize("more", [[], [("Cache-Control", "public")], [("ETag", '"a"')]])
    def test_the_heuristic_is_that_of_each_answer(self, more: Pairs) -> None:
        old: Pairs = [("Date", date(0)), ("Last-Modified", date(-500_000)), *more]
        new: Pairs = [("Date", date(0)), ("Last-Modified", date(-100)), *more]
        later: Pairs = [("Date", date(900)), ("Last-Modified", date(-100)), *more]
        assert self.lifetimes(old, new, later, old) == [50_000, 10, 100, 50_000]

    def test_without_a_date_the_time_of_receipt_counts(self) -> None:
        one = FactsReader(self.RULES.targets)
        lines = f"Last-Modified: {date(-100)}\r\n".encode()
        for passed in (0, 50, 10):
            facts = one.read(lines, NOW + passed)
            plan, _, _ = assess(200, facts, PLAIN, self.RULES, 0.0, NOW + passed)
            assert plan.lifetime == (100 + passed) * 0.1

    def test_expires_is_that_of_each_answer(self) -> None:
        heads: list[Pairs] = [[("Date", date(0)), ("Expires", date(seconds))] for seconds in (500, 5, 500)]
        assert self.lifetimes(*heads) == [500, 5, 500]
        heads = [[("Date", date(-day)), ("Expires", date(500))] for day in (0, 100, 0)]
        assert self.lifetimes(*heads) == [500, 600, 500]

    def test_two_policies_do_not_lend_each_other_a_verdict(self) -> None:
        one = FactsReader(RULES.targets)
        lines = f"Date: {date(0)}\r\nLast-Modified: {date(-100)}\r\n".encode()
        for rules, lifetime in ((self.RULES, 10), (FreshnessRules(ttl=7), 7), (RULES, 0), (self.RULES, 10)):
            assert assess(200, one.read(lines, NOW), PLAIN, rules, 0.0, NOW)[0].lifetime == lifetime

    @given(
        st.lists(
            st.lists(
                st.sampled_from([
                    ("Cache-Control", "max-age=60"), ("Cache-Control", "public"), ("Cache-Control", "no-cache"),
                    ("Expires", date(60)), ("Expires", "0"), ("Last-Modified", date(-1000)),
                    ("Last-Modified", date(-50)), ("Date", date(0)), ("Date", date(-9)), ("Pragma", "no-cache"),
                    ("Vary", "*"), ("Vary", "a"), ("ETag", '"a"'), ("Age", "5"), ("Set-Cookie", "a=b"),
                    ("CDN-Cache-Control", "max-age=7"),
                ]), max_size=4),
            min_size=2, max_size=6,
        ),
        st.sampled_from([200, 404, 503]), st.sampled_from([RULES, FreshnessRules(ttl=30), FreshnessRules()]),
    )  # fmt: skip
    def test_an_answer_is_judged_as_if_it_were_the_first(
        self, heads: list[Pairs], status: int, rules: FreshnessRules
    ) -> None:
        one = FactsReader(rules.targets)
        for step, head in enumerate(heads):
            lines = "".join(f"{name}: {value}\r\n" for name, value in head).encode()
            plan, age, refusal = assess(status, one.read(lines, NOW + step), PLAIN, rules, 0.0, NOW + step)
            alone = FactsReader(rules.targets).read(lines, NOW + step)
            fresh, fresh_age, fresh_refusal = assess(status, alone, PLAIN, rules, 0.0, NOW + step)
            assert (plan.lifetime, age, refusal) == (fresh.lifetime, fresh_age, fresh_refusal)
