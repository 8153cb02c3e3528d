"""Target: header fields that the cache reads (dates, caching, ranges, tags), and stored records.

Laws:

1. Only `ValueError` is raised, for bytes that are no record.
2. Numbers are finite and within their bounds; no malformed field makes an answer fresh for longer than it says.
3. An encoded record decodes to the same.
"""

from __future__ import annotations

import re
from math import isfinite
from zlib import crc32

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.cache import codec
    from sidecar.cache.rfc import etag, ranges, reuse, structured, vary
    from sidecar.cache.rfc.dates import format_date, parse_date
    from sidecar.cache.rfc.directives import FOREVER, Directives, parse, parse_targeted
    from sidecar.cache.rfc.facts import FactsReader
    from sidecar.cache.rfc.freshness import FreshnessRules, RequestFacts, assess
    from sidecar.core.http1 import FIELDS
    from sidecar.core.message import http_date, retry_after, tokens
    from sidecar.core.outcome import Outcome
    from sidecar.stages.pacing.fields import read_allowances

WALL = 1_750_000_000.0
NOW = 1000.0
LINES = re.compile(FIELDS)
CONTROLS = re.compile(rb"[^\t\x20-\x7e\x80-\xff]+")
"""Matches octets that the grammar allows in no field value."""
NUMBERS = ("max_age", "s_maxage", "stale_while_revalidate", "stale_if_error", "min_fresh", "max_stale")


def check(data: bytes) -> None:
    """Check the data as one value of each field, as lines of fields, and as a record."""
    check_value(CONTROLS.sub(b"", data).strip(b" \t"))
    lines = data.replace(b"\r", b"").replace(b"\n", b"\r\n")
    if LINES.fullmatch(lines):
        check_answer(lines)
    check_record(data)


def check_value(value: bytes) -> None:
    for date in (parse_date(value, WALL), http_date(value)):
        assert date is None or isfinite(date)
    date = parse_date(value, WALL)
    if date is not None and date >= 0:
        assert parse_date(format_date(date), WALL) == int(date)
    wait = retry_after([(b"retry-after", value)], WALL)
    assert wait is None or 0 <= wait <= 1e9
    check_directives(parse((value,)))
    check_directives(parse((value, value)))
    if (targeted := parse_targeted((value,))) is not None:
        check_directives(targeted)
    structured.parse_dictionary(value)
    for remaining, seconds in read_allowances(Outcome(200, [(b"ratelimit", value)])):
        assert 0 <= remaining < 1e15
        assert 0 <= seconds < 1e15
    for start, end in ranges.parse_ranges(value, 1000) or ():
        assert 0 <= start < end <= 1000
    assert len(ranges.parse_ranges(value, 1000) or ()) <= ranges.MAX_RANGES
    for tag in etag.tags_of(value) or ():
        assert etag.is_tag(tag)
    names = vary.field_names([value])
    assert names is None or len(names) <= vary.MAX_NAMES
    for name in (b"accept-encoding", b"accept", b"x"):
        normal = vary.normalised(name, value)
        assert vary.normalised(name, normal) == normal
    tokens([(b"connection", value)], b"connection")


def check_directives(found: Directives) -> None:
    for name in NUMBERS:
        number = getattr(found, name)
        assert number is None or 0 <= number <= FOREVER


def check_answer(lines: bytes) -> None:
    rules = FreshnessRules(ttl=30.0, heuristic=0.1, stale_while_revalidate=10.0, stale_if_error=60.0)
    plan, age, _ = assess(200, FactsReader(rules.targets).read(lines, WALL), RequestFacts(), rules, 1.0, WALL)
    assert 0 <= age < float("inf")
    for number in (plan.lifetime, plan.stale_while_revalidate, plan.stale_if_error):
        assert 0 <= number <= 2 * FOREVER, plan
    reuse.request_directives(reuse.read_fields(lines))


def check_record(data: bytes) -> None:
    """Check the data as a record, as it is and behind a valid record head."""
    payload = data[1:]
    kind = b"E" if data[:1] < b"\x80" else b"V"
    for record in (data, codec.HEAD.pack(codec.MAGIC, kind, crc32(payload)) + payload):
        try:
            read = codec.decode(record, NOW, WALL)
        except ValueError:
            continue
        again = codec.encode(read, NOW, WALL)
        once = codec.encode(codec.decode(again, NOW, WALL), NOW, WALL)
        assert len(once) == len(again)


if __name__ == "__main__":
    fuzz("fields", check)
