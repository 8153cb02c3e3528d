"""Tests of `subset`: even parts, few changes, and replacements of endpoints that are out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sidecar.core import events
from sidecar.core.outcome import RESET, failed
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.subset import Subset
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import DRAINING, Endpoint, EndpointSet, Target
from sidecar.upstream.spec import EjectionSpec, UpstreamSpec
from tests.support.clock import make_env
from tests.support.service import exchange

SIDECARS = [f"shop-{number:03}" for number in range(600)]


def urls(number: int, start: int = 0) -> list[str]:
    return [f"http://10.0.{at // 250}.{at % 250}:80" for at in range(start, start + number)]


def part(instance: str, found: list[Target], size: int = 20, by_zone: bool = False) -> list[Target]:
    subset = Subset(size, instance, by_zone)
    subset.rank(found)
    return subset.choose(lambda target: not target.is_ready)


def parts(found: list[str], size: int = 20) -> dict[str, set[str]]:
    return {name: {target.url for target in part(name, [Target(url) for url in found], size)} for name in SIDECARS}


class Bench:
    """Endpoint set with a subset, in the hands of one sidecar."""

    def __init__(self, number: int = 100, size: int = 5, **more: Any) -> None:
        self.env = make_env(seed=7)
        self.spec = UpstreamSpec.model_validate(
            {"endpoints": urls(number), "subset": {"size": size, "instance": "shop-1"}, **more}
        )
        self.set = EndpointSet("app", self.spec, self.env)

    @property
    def used(self) -> list[str]:
        return [endpoint.url for endpoint in self.set.members]

    @property
    def up(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.set.members if endpoint.is_up]


def test_all_sidecars_together_use_the_endpoints_evenly() -> None:
    """A mean of 100 sidecars an endpoint; the bounds are four standard deviations of a binomial distribution."""
    found = parts(urls(120))
    assert {len(each) for each in found.values()} == {20}
    used = Counter(url for each in found.values() for url in each)
    assert len(used) == 120
    assert all(63 <= number <= 137 for number in used.values()), sorted(used.values())


def test_an_endpoint_that_leaves_changes_one_place_of_the_parts_that_had_it_and_no_other() -> None:
    before, gone = parts(urls(120)), urls(120)[60]
    after = parts([url for url in urls(120) if url != gone])
    for name in SIDECARS:
        if gone in before[name]:
            assert before[name] - after[name] == {gone}
            assert len(after[name]) == 20
        else:
            assert after[name] == before[name]
    replaced = Counter(url for name in SIDECARS for url in after[name] - before[name])
    assert max(replaced.values()) <= 6, "its load goes to many others"


def test_an_endpoint_that_comes_takes_one_place_in_its_share_of_the_parts() -> None:
    before, after = parts(urls(119)), parts(urls(120))
    new = urls(120)[119]
    changed = [name for name in SIDECARS if before[name] != after[name]]
    assert all(after[name] - before[name] == {new} for name in changed)
    assert 63 <= len(changed) <= 137


def test_the_part_is_the_same_in_every_process_and_whatever_the_order() -> None:
    found = [Target(url) for url in urls(40)]
    assert [each.url for each in part("shop-1", found, 3)] == [
        "http://10.0.0.2:80", "http://10.0.0.7:80", "http://10.0.0.19:80",
    ]  # fmt: skip
    assert part("shop-1", found[::-1], 3) == part("shop-1", found, 3)
    assert part("shop-2", found, 3) != part("shop-1", found, 3)


def test_each_tier_has_a_part_of_its_own_and_with_locality_each_zone() -> None:
    found = [Target(url, zone="a") for url in urls(40)]
    found += [Target(url, zone="b") for url in urls(40, 50)]
    found += [Target(url, DRAINING) for url in urls(3, 100)]
    assert Counter(each.tier for each in part("shop-1", found, 10)) == {0: 10, DRAINING: 3}
    assert Counter(each.zone for each in part("shop-1", found, 10, by_zone=True)) == {"a": 10, "b": 10, "": 3}


def test_an_endpoint_that_is_not_ready_takes_no_place() -> None:
    found = [Target(url) for url in urls(40)]
    first = part("shop-1", found, 3)
    after = part("shop-1", [each._replace(is_ready=each not in first) for each in found], 3)
    assert [each.is_ready for each in after] == [True, True, True]
    few = [each._replace(is_ready=each in first[:2]) for each in found]
    assert [each.is_ready for each in part("shop-1", few, 3)] == [True, True, False, False, False, False], "for a panic"


def test_without_enough_endpoints_all_are_used() -> None:
    assert len(Bench(4).used) == 4


def test_one_that_is_out_is_replaced_until_it_is_back() -> None:
    bench = Bench()
    first = bench.used
    bench.set.members[1].set_health(False, 1.0)
    assert bench.used[:5] == first
    assert len(bench.up) == 5
    substitute = bench.set.members[5]
    assert substitute.up_since == bench.env.now(), "it starts slowly"
    bench.set.members[2].eject(1.0, 11.0)
    assert len(bench.used) == 7
    assert len(bench.up) == 5
    bench.set.members[1].set_health(True, 2.0)
    bench.set.members[2].restore(12.0)
    assert bench.used == first
    substitute.set_health(False)
    assert bench.used == first, "one that has left changes nothing"


def test_no_more_than_twice_as_many_are_tried_when_all_are_out() -> None:
    bench = Bench()
    for _ in range(20):
        for endpoint in bench.up:
            endpoint.set_health(False)
    assert len(bench.used) == 10
    assert bench.up == []
    balancer = Balancer(bench.set, bench.spec, bench.env)
    picked = {balancer.pick(exchange(), bench.env.now()).url for _ in range(500)}  # type: ignore[union-attr]
    assert picked == set(bench.used), "panic has them all"


def test_ejection_replaces_and_counts_the_endpoints_of_the_part() -> None:
    bench = Bench()
    ejector = Ejector(bench.set, EjectionSpec(consecutive_failures=1, min_healthy=3), bench.env)
    for _ in range(30):
        for endpoint in bench.up:
            ejector.record(endpoint, failed(RESET), bench.env.now(), bench.env.now())
    assert (len(bench.used), len(bench.up)) == (10, 3)
    ejector.retire()
    assert (len(bench.used), len(bench.up)) == (5, 5)


def test_first_attempts_and_retries_stay_within_the_part() -> None:
    bench = Bench()
    balancer = Balancer(bench.set, bench.spec, bench.env)
    tried: list[str] = []
    for _ in range(5):
        endpoint = balancer.pick(exchange(avoid=frozenset(tried)), bench.env.now())
        assert endpoint is not None
        tried.append(endpoint.url)
    assert sorted(tried) == sorted(bench.used)


def test_a_reload_changes_the_size_and_keeps_the_endpoints() -> None:
    bench = Bench()
    kept = bench.set.members
    bench.set.retune(bench.spec.model_copy(update={"subset": None}))
    assert len(bench.used) == 100
    bench.set.retune(bench.spec)
    assert bench.set.members == kept


def test_discovered_endpoints_are_a_part_of_all_that_are_found() -> None:
    env = make_env()
    spec = UpstreamSpec.model_validate(
        {"discover": {"file": "/etc/endpoints"}, "subset": {"size": 10, "instance": "shop-1"}}
    )
    assert isinstance(spec.discover, DiscoverSpec)
    endpoints = EndpointSet("app", spec, env)
    discovery = Discovery(endpoints, spec.discover, env, lambda _: None)  # type: ignore[arg-type, return-value]
    discovery.find([Target(url) for url in urls(5000)])
    assert len(endpoints.members) == 10
    assert any(int(endpoint.url.split(".")[2]) >= 4 for endpoint in endpoints.members), "none is cut before"
    assert endpoints.describe()["subset"] == {"size": 10, "of": 5000}
    (changed,) = env.emitted(events.DISCOVERY_CHANGED)
    assert (changed["found"], changed["used"], len(changed["added"])) == (5000, 10, 10)
    endpoints.retune(UpstreamSpec.model_validate({"discover": {"file": "/etc/endpoints"}, "subset": {"size": 20}}))
    assert len(endpoints.members) == 20, "a reload has all that were found"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"subset": {"size": 1}}, "greater than or equal to 2"),
        ({"subset": {"size": 5}, "load_balancing": {"hash": {}}}, "would send a key to another endpoint"),
    ],
)
def test_what_is_wrong_is_told(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpstreamSpec.model_validate({"endpoints": urls(10), **block})


def test_endpoints_in_use_are_counted_for_other_checks() -> None:
    assert Bench(100, 5).spec.most_in_use == 5
    zones = [{"url": url, "zone": "ab"[at % 3 > 0]} for at, url in enumerate(urls(9))]
    spec = UpstreamSpec.model_validate({"endpoints": zones, "locality": {"zone": "a"}, "subset": {"size": 4}})
    assert spec.most_in_use == 3 + 4
    assert len(EndpointSet("app", spec, make_env()).members) == 7
