"""Entries for the tests of the cache."""

from __future__ import annotations

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.dates import format_date
from sidecar.cache.rfc.facts import FactsReader
from sidecar.cache.rfc.freshness import FreshnessRules, RequestFacts, assess
from sidecar.cache.rfc.key import is_keyed_by_fields

NOW = 1000.0
WALL = 1_750_000_000.0
"""Wall clock at the instant `NOW`, as Unix time."""


def date(offset: float) -> str:
    """Return an HTTP date, so many seconds after the start."""
    return format_date(WALL + offset).decode()


def entry(
    *headers: tuple[str, str], body: bytes = b"0123456789", status: int = 200, key: bytes = b"k http://a/",
    now: float = NOW, keep: float = 3600.0, rules: FreshnessRules | None = None,
) -> Entry:  # fmt: skip
    """Return a stored answer; without headers it is fresh for a minute."""
    lines = "".join(f"{n}: {v}\r\n" for n, v in headers or [("Cache-Control", "max-age=60")]).encode("latin-1")
    rules = rules or FreshnessRules()
    wall = WALL + now - NOW
    facts = FactsReader(rules.targets).read(lines, wall)
    plan, age, refusal = assess(status, facts, RequestFacts(), rules, 0.0, wall)
    assert refusal == b"", plan
    return Entry(key, status, lines, body, facts, plan, age, now, wall, keep, is_keyed_by_fields(key))
