"""Tests of a cache's memory: budget, order, indexes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidecar.cache.entry import Entry, Variants
from sidecar.cache.table import MAX_VARIANTS, Table
from tests.unit.cache.support import NOW, entry


def item(name: str, size: int = 0, tags: str = "", keep: float = 3600.0) -> Entry:
    headers = [("Cache-Control", "max-age=60")] + ([("Cache-Tag", tags)] if tags else [])
    return entry(*headers, key=f"k http://a/{name}".encode(), body=b"x" * size, keep=keep)


def store(max_bytes: int = 100_000) -> Table:
    table = Table(max_bytes)
    table.namespaces = frozenset({b"k "})
    return table


def keys(memory: Table) -> list[bytes]:
    return [item.key for item in memory._recent.newest_first()][::-1]


def test_the_least_recently_used_leaves_first() -> None:
    memory = store(5 * item("a", 1000).size + 20)
    for name in "abcde":
        memory.put(item(name, 1000))
    assert memory.get(b"k http://a/a", NOW)
    memory.put(item("f", 1000))
    assert [key[-1:] for key in keys(memory)] == [b"c", b"d", b"e", b"a", b"f"]
    assert (memory.evictions.value, len(memory)) == (1, 5)


def test_eviction_removes_several_small_items() -> None:
    """Entries that were stored one after another are adjacent in memory, so freeing them together is cheaper."""
    small = item("1000").size
    memory = store(1000 * small)
    for number in range(1000, 2001):
        memory.put(item(str(number)))
    assert (len(memory), memory.evictions.value) == (998, 3), "a 512th of the budget beyond the one"
    memory.put(item("2001"))
    assert (len(memory), memory.evictions.value) == (999, 3)
    assert memory.bytes <= memory.max_bytes
    memory = store(10**9)
    for number in range(1001):
        large = item(str(number))
        large.size = 10**6
        memory.put(large)
    assert memory.evictions.value == 2, "of a large budget not more than `SPARE`"


def test_one_body_cannot_empty_the_table() -> None:
    memory = store(100_000)
    memory.put(item("a"))
    assert not memory.put(item("b", 30_000))
    assert keys(memory) == [b"k http://a/a"]
    assert not memory.put(item("a", 30_000)), "the old one would be wrong"
    assert keys(memory) == []


def test_an_expired_item_is_removed_when_it_is_looked_up() -> None:
    memory = store()
    memory.put(item("a", keep=10))
    assert memory.get(b"k http://a/a", NOW + 70)
    assert memory.get(b"k http://a/a", NOW + 71) is None
    assert (len(memory), memory.bytes) == (0, 0)


def test_purging() -> None:
    memory = store()
    for name, tags in (("o/1", "x"), ("o/2", "x, y"), ("o/22", ""), ("p", "y")):
        memory.put(item(name, tags=tags))
    assert memory.remove_uri(b"http://a/o/2") == 1
    assert memory.remove_tag(b"x") == 1
    assert memory.remove_prefix(b"http://a/o/") == 1
    assert memory.remove_tag(b"nothing") == memory.remove_uri(b"http://a/o/2") == 0
    assert memory.remove_everything() == 1
    assert (memory.bytes, memory._uris, memory._tags) == (0, {}, {})


def test_variants_are_removed_together() -> None:
    memory = store(10**7)
    variants = Variants(b"k http://a/", (b"foo",))
    memory.put(variants)
    for number in range(MAX_VARIANTS + 5):
        one = entry(key=b"k http://a/\x01%d" % number)
        memory.put(one)
        memory.add_variant(variants, one.key)
    assert len(memory) == MAX_VARIANTS + 1
    assert memory.get(b"k http://a/\x010", NOW) is None
    assert memory.remove(variants.key) == MAX_VARIANTS + 1
    assert (memory.bytes, memory._uris) == (0, {})


def test_many_keys_stay_within_the_memory_counted() -> None:
    memory = store(2**21)
    tracemalloc.start()
    try:
        for number in range(7_500):
            memory.put(item(str(number), 100, tags=f"t{number}"))
            assert memory.bytes <= 2**21
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1.25 * 2**21, "entries cost more than they count for"
    assert len(memory._tags) == len(memory)


def test_a_smaller_budget_takes_effect_in_steps() -> None:
    memory = store()
    for number in range(20):
        memory.put(item(str(number), 1000))
    memory.max_bytes = 5 * item("19", 1000).size
    assert memory.shrink(10)
    assert len(memory) == 10
    memory.put(item("20", 1000))
    assert len(memory) == 10, "who comes meanwhile makes room for itself alone"
    assert not memory.shrink(10)
    assert (len(memory), memory.evictions.value) == (5, 16)


def test_the_hottest() -> None:
    memory = store()
    for hits, name in enumerate("abc"):
        one = item(name)
        one.hits = hits
        memory.put(one)
    assert [one.uri[-1:] for one in memory.hottest(2)] == [b"c", b"b"]


class Histories(RuleBasedStateMachine):
    """Random histories of puts and removals, after each of which all counts must be right."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = store(20_000)

    @rule(name=st.sampled_from("abcdefgh"), size=st.integers(0, 6000), tags=st.sampled_from(["", "x", "x,y"]))
    def put(self, name: str, size: int, tags: str) -> None:
        self.memory.put(item(name, size, tags))

    @rule(name=st.sampled_from("abcdefgh"), value=st.sampled_from("123"))
    def put_variant(self, name: str, value: str) -> None:
        key = f"k http://a/{name}".encode()
        known = self.memory.get(key, NOW)
        if not isinstance(known, Variants):
            known = Variants(key, (b"foo",))
            self.memory.put(known)
        one = entry(key=key + b"\x01" + value.encode())
        if self.memory.put(one):
            self.memory.add_variant(known, one.key)

    @rule(name=st.sampled_from("abcdefgh"), value=st.sampled_from("123"))
    def put_one_of_a_rule_with_fields(self, name: str, value: str) -> None:
        self.memory.put(entry(key=f"k http://a/{name} {value}".encode()))

    @rule(name=st.sampled_from("abcdefgh"))
    def remove(self, name: str) -> None:
        uri = f"http://a/{name}".encode()
        there = {key for key, one in self.memory._items.items() if one.uri == uri}
        assert self.memory.remove_uri(uri) == len(there)
        assert there.isdisjoint(self.memory._items)

    @rule(tag=st.sampled_from("xy"))
    def remove_tag(self, tag: str) -> None:
        self.memory.remove_tag(tag.encode())

    @rule(name=st.sampled_from("abcdefgh"))
    def peek(self, name: str) -> None:
        self.memory.get(f"k http://a/{name}".encode(), NOW)

    @invariant()
    def the_books_are_right(self) -> None:
        items = self.memory._items
        assert sorted(keys(self.memory)) == sorted(items)
        assert self.memory.bytes == sum(one.size for one in items.values()) <= self.memory.max_bytes
        by_uri = {key for keys in self.memory._uris.values() for key in keys}
        assert by_uri == {key for key in items if key.count(b" ") > 1}
        for tag, tagged in self.memory._tags.items():
            assert tagged == {key for key, one in items.items() if isinstance(one, Entry) and tag in one.tags} != set()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_keys_of_one_uri(count: int) -> None:
    memory = store()
    for number in range(count):
        memory.namespaces |= {b"k%d " % number}
        memory.put(entry(key=b"k%d http://a/" % number))
        memory.put(entry(key=b"k http://a/ %d" % number))
    assert memory.remove_uri(b"http://a/") == 2 * count
    assert memory._uris == {}
