"""Which rules' answers a purge finds."""

from __future__ import annotations

import gc

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


def test_answers_of_each_rule_in_use_are_found() -> None:
    where = store()
    rules = [KeyRule("a"), KeyRule("b"), KeyRule("c", headers=("x-tenant",))]
    uses = [where.learn(rule) for rule in rules]
    for rule in rules:
        put(where, rule)
    assert where.purge_uri(URI) == len(uses) == 3
    for rule in rules:
        put(where, rule)
    assert where.purge_prefix("http://orders/") == 3


def test_answers_of_a_policy_that_is_gone_are_found_too() -> None:
    where = store()
    old, new = KeyRule("a"), KeyRule("b")
    use = where.learn(old)
    put(where, old)
    del use
    gc.collect()
    kept = where.learn(new)
    assert kept.rule is new
    assert [rule.digest for rule in where._rules] == [new.digest], "and its way of making keys is not"
    assert where.purge_uri(URI) == 1, "the policy may come back, and must not find what was purged meanwhile"


def test_what_is_remembered_of_rules_is_bounded() -> None:
    where = store()
    stored, used = KeyRule("stored"), KeyRule("used")
    where.learn(stored)
    put(where, stored)
    use = where.learn(used)
    for number in range(MAX_NAMESPACES):
        where.learn(KeyRule(f"{number}"))
    assert {stored.namespace, used.namespace} <= where.memory.namespaces
    assert len(where.memory.namespaces) <= MAX_NAMESPACES
    assert use.rule is used


def test_the_hits_of_an_answer_outlive_its_validation() -> None:
    where, rule = store(), KeyRule("a")
    x = exchange(authority=b"orders", path="/a", headers={"foo": "1"})
    for _ in range(2):  # the second finds that there are variants
        one = entry(("Cache-Control", "max-age=60"), ("Vary", "foo"), key=rule.key(x))
        one.hits = 7
        assert where.put(rule.key(x), one, x)
        assert one.hits == 7
