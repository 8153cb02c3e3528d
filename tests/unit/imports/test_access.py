"""Tests of access rules as trees: the policy allows what the tree does, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import product
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter

from sidecar.imports.access.rules import (
    ALWAYS,
    NEVER,
    UNKNOWN,
    Access,
    Condition,
    Every,
    Networks,
    Not,
    Some,
    TooManyRulesError,
    Tree,
    rules_of,
    simple,
)
from sidecar.imports.draft import Draft, plain
from sidecar.imports.findings import Findings
from sidecar.stages.authorize.rules import Rules
from sidecar.stages.authorize.spec import Spec
from tests.support.service import exchange

SPEC: TypeAdapter[Spec] = TypeAdapter(Spec)
GET, SECRET = (
    Condition("request.method == 'GET'", 3),
    Condition("'x' in request.headers && request.headers['x'] == '1'", 4),
)
NETWORKS = [("10.0.0.0/8",), ("10.1.0.0/16", "192.0.2.7"), ("2001:db8::/32",), ("10.1.2.3", "0.0.0.0/1")]
CLIENTS = ("10.1.2.3", "10.9.0.1", "192.0.2.7", "203.0.113.9", "2001:db8::1", "::ffff:10.1.2.3")
REQUESTS = list(product(("GET", "PUT"), ({}, {"x": "1"}, {"x": "2"}), CLIENTS))


def draft() -> Draft:
    return Draft(Findings("source"))


def values(rules: Any) -> Any:
    """Return rules with plain values."""
    return plain({"rules": {str(at): each for at, each in enumerate(rules)}})["rules"].values()


def allows(rules: list[dict[str, Any]], method: str, headers: dict[str, str], client: str) -> bool:
    """Return the decision of the stage."""
    if not rules:
        return False
    x = exchange(method, headers=headers)
    x.client_address = client
    return Rules(SPEC.validate_python(list(values(rules)))).decide(x).is_allowed


def meant(tree: Tree, unknown: bool, method: str, headers: dict[str, str], client: str) -> bool:
    """Return the decision that a tree stands for, if what is not known has the value `unknown`."""
    if isinstance(tree, Every | Some):
        found = [meant(each, unknown, method, headers, client) for each in tree.parts]
        return all(found) if isinstance(tree, Every) else any(found)
    if isinstance(tree, Not):
        return not meant(tree.part, unknown, method, headers, client)
    if isinstance(tree, Networks):
        address = ip_address(client.removeprefix("::ffff:"))
        return any(address in ip_network(each) for each in tree.networks)
    return unknown if tree == UNKNOWN else method == "GET" if tree == GET else headers.get("x") == "1"


def random_tree(rng: Random, depth: int, leaves: list[Tree]) -> Tree:
    if not depth or rng.random() < 0.2:
        return rng.choice(leaves)
    if rng.random() < 0.25:
        return Not(random_tree(rng, depth - 1, leaves))
    kind = rng.choice((Every, Some))
    return kind(tuple(random_tree(rng, depth - 1, leaves) for _ in range(rng.randrange(4))))


LEAVES: list[Tree] = [GET, SECRET, *(Networks(each, 5) for each in NETWORKS)]


@pytest.mark.parametrize("seed", range(3))
def test_rules_allow_what_a_tree_means(seed: int) -> None:
    rng = Random(seed)
    compared = 0
    for _ in range(120):
        leaves = LEAVES if rng.random() < 0.7 else [*LEAVES, UNKNOWN]
        tree = random_tree(rng, 4, leaves)
        try:
            rules = rules_of(draft(), simple(tree)) if simple(tree) != ALWAYS else [{"allow": {}}]
        except TooManyRulesError:
            continue
        for request in REQUESTS:
            told, both = allows(rules, *request), [meant(tree, each, *request) for each in (False, True)]
            compared += 1
            assert told == both[0] if leaves is LEAVES else not told or all(both), (tree, rules, request)
    assert compared > 2000


def test_what_is_not_known_lets_nobody_pass_either_way() -> None:
    for tree in (UNKNOWN, Not(UNKNOWN), Every((GET, UNKNOWN)), Not(Some((GET, UNKNOWN)))):
        assert simple(tree) == NEVER
    assert simple(Some((GET, UNKNOWN))) == GET
    assert simple(Not(Every((GET, UNKNOWN)))) == Condition("!(request.method == 'GET')", 3)


def keys_of(access: Access) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    access.apply(keys)
    return {**plain(keys), "authorize": list(values(keys.get("authorize", [])))}


def test_rules_of_several_places_add_up() -> None:
    access, other = Access(draft()), Access(draft())
    assert access.is_open
    access.demand(GET)
    other.demand(Networks(("10.0.0.1/8",), 5))
    before = access.copy()
    access.add(other)
    assert keys_of(before)["authorize"] == [{"allow": {"when": GET.text}}]
    assert keys_of(access)["authorize"] == [{"allow": {"networks": ["10.0.0.0/8"], "when": GET.text}}]
    access.refuse(7, "rbac")
    refused: dict[str, Any] = {"authenticate": {}}
    access.apply(refused)
    assert list(values(refused["authorize"])) == [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
    assert "authenticate" not in refused


def test_two_kinds_of_callers_refuse() -> None:
    access = Access(draft())
    access.identify(["corporate"], 2, optional=True)
    access.identify(["corporate"], 3, optional=False)
    assert keys_of(access)["authenticate"] == {"any_of": ["corporate"]}, "both must let a request pass"
    access.identify(["partners"], 4, optional=False)
    assert "authenticate" not in keys_of(access)
    assert keys_of(access)["authorize"] == [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]


def test_conditions_that_policies_cannot_have_refuse() -> None:
    many = Condition("request.method == 'GET'" + " || request.method == 'PUT'" * 100, 3)
    wide = Some(tuple(Networks((f"10.0.{at}.0/24",), 3) for at in range(200)))
    apart = Every((GET, Some((SECRET, Not(Networks(tuple(f"10.{at}.7.0/24" for at in range(256)), 3))))))
    for tree in (many, wide, apart):
        access = Access(made := draft())
        access.demand(tree)
        keys: dict[str, Any] = {}
        access.apply(keys)
        assert keys["authorize"][0]["deny"]["networks"].value == ["0.0.0.0/0", "::/0"]
        assert any("all requests are refused here" in each for each in made.findings.lines())
