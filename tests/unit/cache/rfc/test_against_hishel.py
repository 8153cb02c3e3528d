"""Differential test against an independent implementation of RFC 9111: the sans-I/O core of hishel 2.

A generated history is a request and its answer, then some time, then another request.  Both implementations decide
whether the stored answer is reused without validation.  If they differ, one of `DIFFERENCES` must explain it; each of
these has an example, so that it is removed once it no longer holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.facts import FactsReader
from sidecar.cache.rfc.freshness import FreshnessRules, assess
from sidecar.cache.rfc.reuse import FRESH, judge, read_fields, request_directives
from sidecar.cache.rfc.storing import request_facts, storable
from sidecar.cache.rfc.vary import selecting
from sidecar.core.exchange import Exchange
from tests.unit.cache.support import WALL, date

hishel = pytest.importorskip("hishel")
spec = pytest.importorskip("hishel._core._spec")

Pairs = tuple[tuple[str, str], ...]


class History(NamedTuple):
    """Request, its answer, a number of seconds, and the next request."""

    first: Pairs
    status: int
    answer: Pairs
    seconds: int
    then: Pairs
    method: str = "GET"

    def says(self, *names: str) -> bool:
        """True if the answer has one of these fields."""
        return any(name.lower() in names for name, _ in self.answer)

    @property
    def control(self) -> str:
        return ", ".join(value for name, value in self.answer if name == "Cache-Control")

    def asks(self, *names: str) -> bool:
        return any(name.lower() in names for name, _ in self.then)


def request(method: str, pairs: Pairs) -> Exchange:
    return Exchange(method.encode(), b"/", [(name.lower().encode(), value.encode()) for name, value in pairs])


def ours(history: History) -> bool:
    """True if the sidecar reuses the stored answer."""
    rules = FreshnessRules()
    first, then = request("GET", history.first), request(history.method, history.then)
    lines = "".join(f"{name}: {value}\r\n" for name, value in history.answer).encode()
    facts = FactsReader(rules.targets).read(lines, WALL)
    plan, age, refusal = assess(history.status, facts, request_facts(first, facts, rules), rules, 0.0, WALL)
    if refusal:
        return False
    lines = storable(lines, plan, facts, WALL)
    entry = Entry(b"", history.status, lines, b"", facts, plan, age, 0.0, WALL, 3600.0)
    if selecting(first, entry.vary) != selecting(then, entry.vary):
        return False
    fields = read_fields(then.lines)
    if request_directives(fields).no_store:
        return False
    return judge(entry, request_directives(fields), float(history.seconds)) == FRESH


def theirs(history: History, monkeypatch: pytest.MonkeyPatch) -> bool:
    """True if hishel reuses the stored answer."""

    def message(kind: Any, pairs: Pairs, **more: Any) -> Any:
        headers: dict[str, list[str]] = {}
        for name, value in pairs:
            headers.setdefault(name, []).append(value)
        return kind(headers=hishel.Headers(headers), **more)

    clock = SimpleNamespace(**vars(time))
    monkeypatch.setattr(spec, "time", clock)
    options = hishel.CacheOptions(shared=True)
    clock.time = lambda: WALL
    asked = message(hishel.Request, history.first, method="GET", url="http://a/")
    answer = message(hishel.Response, history.answer, status_code=history.status)
    stored = hishel.CacheMiss(request=asked, options=options).next(answer)
    if isinstance(stored, hishel.CouldNotBeStored):
        return False
    entry = hishel.Entry(id=UUID(int=0), request=asked, response=stored.response)
    clock.time = lambda: WALL + history.seconds
    again = message(hishel.Request, history.then, method=history.method, url="http://a/")
    return isinstance(hishel.IdleClient(options=options).next(again, [entry]), hishel.FromCache)


class Difference(NamedTuple):
    """Difference between the sidecar and hishel, its reason, and a history that shows it."""

    why: str
    applies: Callable[[History], bool]
    example: History


FRESH_ANSWER: Pairs = (("Cache-Control", "max-age=60"), ("Date", date(0)))
DIFFERENCES = [
    Difference(
        "RFC 9111 4.2.3 and 5.1: Age counts; hishel looks at Date alone",
        lambda h: h.says("age"),
        History((), 200, (*FRESH_ANSWER, ("Age", "90")), 1, ()),
    ),
    Difference(
        "RFC 9110 6.6.1: an answer without a Date was made when it came; to hishel it stays 0 seconds old",
        lambda h: not h.says("date"),
        History((), 200, FRESH_ANSWER[:1], 61, ()),
    ),
    Difference(
        "RFC 9111 5.2.1: max-age, min-fresh and no-store of a request are honoured; hishel reads no-cache alone",
        lambda h: h.asks("cache-control"),
        History((), 200, FRESH_ANSWER, 10, (("Cache-Control", "max-age=5"),)),
    ),
    Difference(
        "RFC 9111 5.4: so is Pragma: no-cache where there is no Cache-Control",
        lambda h: h.asks("pragma"),
        History((), 200, FRESH_ANSWER, 1, (("Pragma", "no-cache"),)),
    ),
    Difference(
        "RFC 9111 4.2.2 is a MAY, and off unless the policy turns it on; hishel takes a tenth of the time",
        lambda h: h.says("last-modified") and "max-age" not in h.control and not h.says("expires"),
        History((), 200, (("Last-Modified", date(-10000)), ("Date", date(0))), 1, ()),
    ),
    Difference(
        "RFC 9111 5.2.2.3: must-understand sets no-store aside; hishel does not know it",
        lambda h: "must-understand" in h.control,
        History((), 200, (("Cache-Control", "max-age=60, no-store, must-understand"), ("Date", date(0))), 1, ()),
    ),
    Difference(
        "RFC 9213: CDN-Cache-Control takes the place of Cache-Control",
        lambda h: h.says("cdn-cache-control"),
        History((), 200, (("CDN-Cache-Control", "no-store"), *FRESH_ANSWER), 1, ()),
    ),
    Difference(
        "RFC 9111 7.3 leaves it open: Set-Cookie is stored with the policy's consent only",
        lambda h: h.says("set-cookie"),
        History((), 200, (*FRESH_ANSWER, ("Set-Cookie", "a=b")), 1, ()),
    ),
    Difference(
        "RFC 9111 4.2.1: different lifetimes in one answer make it stale",
        lambda h: h.control.count("max-age") - h.control.count("s-maxage") > 1,
        History((), 200, (("Cache-Control", "max-age=60, max-age=90"), ("Date", date(0))), 1, ()),
    ),
    Difference(
        "RFC 9111 4.1 allows white space and letter case to differ where they mean nothing; hishel compares text",
        lambda h: h.says("vary"),
        History(
            (("Accept-Encoding", "gzip, br"),), 200, (*FRESH_ANSWER, ("Vary", "Accept-Encoding")), 1,
            (("Accept-Encoding", "gzip,BR"),),
        ),
    ),
    Difference(
        "RFC 9110 14: a range is taken from the whole answer; hishel asks the origin",
        lambda h: h.asks("range"),
        History((), 200, FRESH_ANSWER, 1, (("Range", "bytes=0-1"),)),
    ),
    Difference(
        "RFC 9110 9.3.2: a HEAD is answered from a stored GET",
        lambda h: h.method == "HEAD",
        History((), 200, FRESH_ANSWER, 1, (), "HEAD"),
    ),
]  # fmt: skip

CONTROLS = [
    "max-age=60", "max-age=0", "s-maxage=60", "max-age=0, s-maxage=60", "max-age=60, s-maxage=0", "no-store", "private",
    "no-cache, max-age=60", 'no-cache="x", max-age=60', 'private="x", max-age=60', "public", "public, max-age=60",
    "must-revalidate, max-age=60", "proxy-revalidate, max-age=60", "immutable, max-age=60", "max-age=60, no-store",
    "max-age=60, max-age=90", "no-store, max-age=60, must-understand", "foobar, max-age=60", "MAX-AGE=60",
    'x="no-store", max-age=60', "stale-if-error=600, max-age=60",
]  # fmt: skip


def chance(*pairs: tuple[str, str]) -> st.SearchStrategy[Pairs]:
    """Return a strategy for one of these fields, or none."""
    return st.sampled_from([(), *((pair,) for pair in pairs)])


def joined(*parts: st.SearchStrategy[Pairs]) -> st.SearchStrategy[Pairs]:
    return st.tuples(*parts).map(lambda lists: tuple(pair for pairs in lists for pair in pairs))


ANSWERS = joined(
    chance(*(("Cache-Control", value) for value in CONTROLS)),
    st.sampled_from([(("Date", date(0)),), (("Date", date(-30)),), ()]),
    chance(("Expires", date(60)), ("Expires", date(-60)), ("Expires", "0")),
    chance(("ETag", '"a"')),
    chance(("Last-Modified", date(-10000))),
    st.one_of(
        st.just(()),
        chance(("Age", "5"), ("Age", "90"), ("Vary", "Foo"), ("Vary", "*"), ("Set-Cookie", "a=b"),
               ("CDN-Cache-Control", "max-age=60")),
    ),
)  # fmt: skip
HISTORIES = st.builds(
    History,
    joined(chance(("Authorization", "x")), chance(("Foo", "1"))),
    st.sampled_from([200, 200, 200, 203, 204, 206, 301, 302, 404, 500, 503]),
    ANSWERS,
    st.sampled_from([1, 20, 40, 61, 1000]),
    joined(
        chance(("Foo", "1"), ("Foo", "2")),
        chance(
            ("Cache-Control", "no-cache"),
            ("Cache-Control", "max-age=5"),
            ("Pragma", "no-cache"),
            ("Range", "bytes=0-1"),
        ),
    ),
    st.just("GET"),
)


@given(HISTORIES)
@settings(max_examples=800, deadline=None)
def test_both_caches_agree_but_for_listed_differences(history: History) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        if ours(history) != theirs(history, monkeypatch):
            assert [difference.why for difference in DIFFERENCES if difference.applies(history)], history


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.why.partition(":")[0])
def test_every_listed_difference_occurs(difference: Difference, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference.applies(difference.example)
    assert ours(difference.example) != theirs(difference.example, monkeypatch)


def test_the_histories_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories without a known difference include both reuse and its refusal."""
    plain = [
        History((), 200, (("Cache-Control", value), ("Date", date(0)), ("ETag", '"a"')), 20, ()) for value in CONTROLS
    ]
    compared = [h for h in plain if not any(difference.applies(h) for difference in DIFFERENCES)]
    assert len(compared) >= 18
    assert {ours(h) for h in compared} == {theirs(h, monkeypatch) for h in compared} == {True, False}
