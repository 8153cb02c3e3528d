"""Tests of entries: stored fields and size."""

from __future__ import annotations

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.facts import Facts
from sidecar.cache.rfc.freshness import Plan
from sidecar.cache.table import Table
from tests.unit.cache.support import NOW, WALL, entry


def arriving() -> Entry:
    return Entry(b"k http://a/", 200, b"", b"", Facts(), Plan(), 0.0, NOW, WALL, 9.0, is_whole=False)


def test_no_table_takes_an_entry_before_its_body_is_whole() -> None:
    table = Table(10**9)
    part = arriving()
    assert not table.put(part)
    part.change_key(b"k http://a/\x01variant")
    assert not table.put(part), "not under another key either"
    part.recompute()
    assert not table.put(part)
    assert len(table) == table.bytes == 0
    part.complete(b"0123456789")
    assert table.put(part)
    assert (part.body, table.bytes) == (b"0123456789", part.size)


def test_a_complete_one_counts_as_one_that_came_whole() -> None:
    part = arriving()
    part.complete(b"0123456789")
    assert part.size == Entry(b"k http://a/", 200, b"", b"0123456789", Facts(), Plan(), 0.0, NOW, WALL, 9.0).size


def test_one_that_expires_keeps_its_windows() -> None:
    item = entry(("Cache-Control", "max-age=60, stale-while-revalidate=5, stale-if-error=100"))
    item.expire(NOW + 10)
    assert (item.fresh_until, item.stale_until, item.stale_if_error_until) == (NOW + 10, NOW + 15, NOW + 160)
    item.expire(NOW + 20)
    assert item.fresh_until == NOW + 10
