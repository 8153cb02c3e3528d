"""Tests of a cache's store: registered key rules, purges, and loads."""

from __future__ import annotations

import gc
import subprocess
import sys

from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import MAX_NAMESPACES, Store
from tests.support.clock import make_env
from tests.support.service import exchange
from tests.unit.cache.support import entry

URI = "http://orders/a"


def store() -> Store:
    return Store("default", CacheSpec(), make_env())


def put(where: Store, rule: KeyRule) -> None:
    x = exchange(authority=b"orders", path="/a")
    assert where.put(rule.key(x), entry(key=rule.key(x)), x)


def test_a_purge_finds_answers_of_every_registered_rule() -> None:
    where = store()
    rules = [KeyRule("a"), KeyRule("b"), KeyRule("c", headers=("x-tenant",))]
    uses = [where.register(rule) for rule in rules]
    for rule in rules:
        put(where, rule)
    assert where.purge_uri(URI) == len(uses) == 3
    for rule in rules:
        put(where, rule)
    assert where.purge_prefix("http://orders/") == 3


def test_a_purge_finds_answers_of_a_policy_that_is_gone() -> None:
    where = store()
    old, new = KeyRule("a"), KeyRule("b")
    use = where.register(old)
    put(where, old)
    del use
    gc.collect()
    kept = where.register(new)
    assert kept.rule is new
    assert [rule.digest for rule in where._rules] == [new.digest], "and its way of making keys is not"
    assert where.purge_uri(URI) == 1, "the policy may come back, and must not find what was purged meanwhile"


def test_remembered_namespaces_are_bounded() -> None:
    where = store()
    stored, used = KeyRule("stored"), KeyRule("used")
    where.register(stored)
    put(where, stored)
    use = where.register(used)
    for number in range(MAX_NAMESPACES):
        where.register(KeyRule(f"{number}"))
    assert {stored.namespace, used.namespace} <= where.memory.namespaces
    assert len(where.memory.namespaces) <= MAX_NAMESPACES
    assert use.rule is used


def test_hits_survive_when_an_entry_is_stored_again() -> None:
    where, rule = store(), KeyRule("a")
    x = exchange(authority=b"orders", path="/a", headers={"foo": "1"})
    for _ in range(2):  # the second look-up finds variants
        one = entry(("Cache-Control", "max-age=60"), ("Vary", "foo"), key=rule.key(x))
        one.hits = 7
        assert where.put(rule.key(x), one, x)
        assert one.hits == 7


def test_a_memory_alone_loads_neither_aiocache_nor_redis() -> None:
    script = (
        "import sys; from sidecar.cache.spec import CacheSpec; from sidecar.cache.store import Store\n"
        "from tests.support.clock import make_env; Store('default', CacheSpec(), make_env())\n"
        "print([name for name in ('aiocache', 'redis', 'aiomcache') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
