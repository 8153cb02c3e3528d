"""Tests of load balancing by weights and zones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.strategies import LeastRequest
from sidecar.upstream.balancing.weights import Nearest
from sidecar.upstream.endpoint import Endpoint, EndpointSet, Target
from sidecar.upstream.spec import UpstreamSpec
from tests.support.clock import make_env
from tests.support.service import exchange

KINDS: list[Any] = ["round_robin", "least_request", "latency", "random", {"hash": {"header": "x-user"}}]


class Weighted:
    """Upstream of endpoints with weights, and its balancer."""

    def __init__(self, kind: Any, *endpoints: dict[str, Any], **more: Any) -> None:
        entries = [{"url": f"http://10.0.0.{n}:80", **each} for n, each in enumerate(endpoints, 1)]
        self.spec = UpstreamSpec.model_validate({"endpoints": entries, "load_balancing": kind, **more})
        self.env = make_env(seed=3)
        self.set = EndpointSet("app", self.spec, self.env)
        self.balancer = Balancer(self.set, self.spec, self.env)

    def measure(self, *latencies: float) -> None:
        """Set the average latency of each endpoint, in seconds."""
        for endpoint, latency in zip(self.set.members, latencies, strict=True):
            endpoint.latency, endpoint.measured_at = latency, self.env.now()

    def picks(self, number: int, *avoid: Endpoint) -> Counter[int]:
        found: Counter[int] = Counter()
        for n in range(number):
            x = exchange(headers={"x-user": f"u{n}"}) if avoid == () else exchange()
            x.avoid = frozenset(each.key for each in avoid)
            endpoint = self.balancer.pick(x, self.env.now())
            assert endpoint is not None
            found[self.set.members.index(endpoint)] += 1
        return found


@pytest.mark.parametrize("latency", [0.0, 0.05])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_requests_are_in_proportion_to_the_weights(kind: Any, latency: float) -> None:
    bench = Weighted(kind, {"weight": 5}, {"weight": 3}, {"weight": 2})
    bench.measure(latency, latency, latency)
    found = bench.picks(4000)
    for number, share in enumerate((0.5, 0.3, 0.2)):
        assert found[number] / 4000 == pytest.approx(share, abs=0.03)


def test_a_weighted_round_robin_has_no_runs() -> None:
    bench = Weighted("round_robin", {"weight": 3}, {"weight": 1})
    assert [next(iter(bench.picks(1))) for _ in range(8)] == [0, 0, 1, 0] * 2


def test_equal_weights_are_balanced_as_without() -> None:
    bench = Weighted("least_request", {"weight": 3}, {"weight": 3})
    assert type(bench.balancer._choose) is LeastRequest


def test_requests_in_flight_count_for_the_weight() -> None:
    bench = Weighted("least_request", {"weight": 3}, {"weight": 1})
    bench.set.members[0].in_flight = 2
    bench.set.members[1].in_flight = 1
    assert set(bench.picks(100)) == {0}
    bench.set.members[0].in_flight = 4
    assert set(bench.picks(100)) == {1}


def test_requests_in_flight_cost_less_at_an_endpoint_with_more_weight() -> None:
    bench = Weighted("latency", {"weight": 3}, {"weight": 1})
    bench.measure(0.11, 0.1)
    assert set(bench.picks(100)) == {1}, "the slower one costs more, whatever its weight"
    for endpoint in bench.set.members:
        endpoint.in_flight = 3
    assert set(bench.picks(100)) == {0}
    bench.measure(0.3, 0.1)
    assert set(bench.picks(100)) == {1}


def test_a_changed_weight_moves_only_keys_of_that_endpoint() -> None:
    def owners(weight: int) -> list[str]:
        bench = Weighted({"hash": {"header": "x-user"}}, {"weight": weight}, {"weight": 2}, {"weight": 3})
        keys = [exchange(headers={"x-user": f"u{n}"}) for n in range(600)]
        found = [bench.balancer.pick(x, 0.0) for x in keys]
        return [each.key for each in found if each is not None]

    before, after = owners(1), owners(4)
    first = "http://10.0.0.1:80"
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert moved
    assert all(new == first for _, new in moved)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_retries_avoid_what_was_tried_and_take_no_turn(kind: Any) -> None:
    bench = Weighted(kind, {"weight": 9}, {"weight": 1})
    assert set(bench.picks(50, bench.set.members[0])) == {1}
    if kind == "round_robin":
        assert bench.picks(100) == {0: 90, 1: 10}


ZONES = ({"zone": "a"}, {"zone": "a"}, {"zone": "b"}, {"zone": "b"}, {})


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_own_zone_gets_all_requests_while_enough_of_it_is_up(kind: Any) -> None:
    bench = Weighted(kind, *ZONES, locality={"zone": "a", "spill_below": "50%"})
    assert set(bench.picks(200)) == {0, 1}
    bench.set.members[0].set_health(False)
    assert set(bench.picks(200)) == {1}, "half of the zone is enough"


def test_requests_spill_over_in_proportion_to_what_is_down() -> None:
    bench = Weighted("round_robin", *ZONES, locality={"zone": "a", "spill_below": "100%"})
    bench.set.members[0].set_health(False)
    found = bench.picks(2000)
    assert set(found) == {1, 2, 3, 4}
    assert found[1] / 2000 == pytest.approx(0.5, abs=0.04)
    bench.set.members[1].set_health(False)
    assert set(bench.picks(200)) == {2, 3, 4}


def test_retries_stay_in_the_zone_while_it_has_an_untried_endpoint() -> None:
    bench = Weighted("least_request", *ZONES, locality={"zone": "a"})
    first, second = bench.set.members[:2]
    assert set(bench.picks(50, first)) == {1}
    assert set(bench.picks(200, first, second)) == {2, 3, 4}


def test_zones_and_weights_go_together() -> None:
    bench = Weighted("random", {"zone": "a", "weight": 4}, {"zone": "a"}, {"zone": "b"}, locality={"zone": "a"})
    found = bench.picks(2000)
    assert set(found) == {0, 1}
    assert found[0] / 2000 == pytest.approx(0.8, abs=0.03)
    assert isinstance(bench.balancer._choose, Nearest)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_shares_of_zones_hold_whatever_the_number_of_endpoints(kind: Any) -> None:
    endpoints = ({"zone": "a"}, {"zone": "b"}, {"zone": "b", "weight": 3}, {"zone": "b"})
    bench = Weighted(kind, *endpoints, locality={"shares": {"a": "80%", "b": "20%"}})
    found = bench.picks(4000)
    for number, share in enumerate((0.8, 0.04, 0.12, 0.04)):
        assert found[number] / 4000 == pytest.approx(share, abs=0.03)
    bench.set.members[0].set_health(False)
    assert set(bench.picks(200)) == {1, 2, 3}


@pytest.mark.parametrize("zones", [{"a": "40%", "b": "60%"}, {"a": "75%", "b": "25%"}], ids=["more", "as many"])
@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_shares_of_zones_hold_where_a_zone_is_slower_and_busier(kind: Any, zones: dict[str, str]) -> None:
    """Within a zone the strategy chooses: the second endpoint of zone a is quicker and less busy than the others."""
    share = float(zones["b"].rstrip("%")) / 100
    more = [{"zone": "a"}] if share == 0.25 else []
    bench = Weighted(kind, {"zone": "a"}, {"zone": "a"}, {"zone": "b"}, *more, locality={"shares": zones})
    bench.measure(0.1, 0.01, 0.5, *[0.1 for _ in more])
    for busy in (0, 2, 3)[: 2 + len(more)]:
        bench.set.members[busy].in_flight = 9
    found = bench.picks(4000)
    assert found[2] / 4000 == pytest.approx(share, abs=0.03)
    if kind in ("least_request", "latency") and not more:
        assert set(found) == {1, 2}


def test_shares_of_zones_hold_for_discovered_endpoints() -> None:
    spec = UpstreamSpec.model_validate(
        {"discover": {"file": "/endpoints"}, "locality": {"shares": {"a": "80%", "b": "20%"}}}
    )
    found = EndpointSet("app", spec, make_env())
    found.assign(
        [
            Target("http://10.0.0.1:80", zone="a"),
            Target("http://10.0.0.2:80", zone="b"),
            Target("http://10.0.0.3:80", zone="b"),
            Target("http://10.0.0.4:80", zone="c"),
        ]
    )
    assert [each.weight for each in found.members] == [800_000, 100_000, 100_000, 1]
    found.retune(UpstreamSpec.model_validate({"discover": {"file": "/endpoints"}}))
    assert not found.is_weighted


@pytest.mark.parametrize("source", [{"file": "/endpoints"}, {"kubernetes": {"service": "app"}}], ids=str)
def test_the_own_zone_is_named_alike_for_discovered_endpoints(source: dict[str, Any]) -> None:
    spec = UpstreamSpec.model_validate({"discover": source, "locality": {"zone": "a"}})
    found = EndpointSet("app", spec, make_env())
    found.assign([Target(f"http://10.0.0.{number}:80", zone=zone) for number, zone in enumerate("abb")])
    env = make_env(seed=3)
    balancer = Balancer(found, spec, env)
    assert {balancer.pick(exchange(), env.now()) for _ in range(50)} == {found.members[0]}


def test_a_reload_changes_weights_and_zones_of_endpoints_that_stay() -> None:
    bench = Weighted("random", {"weight": 4, "zone": "a"}, {})
    first = bench.set.members[0]
    assert first.describe(0.0)["weight"] == 4
    bench.set.retune(UpstreamSpec.model_validate({"endpoints": ["http://10.0.0.1:80", "http://10.0.0.2:80"]}))
    assert bench.set.members[0] is first
    assert (first.weight, first.zone) == (1, "")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"endpoints": [{"url": "http://a"}, "http://a:80"]}, "names http://a:80 more than once"),
        ({"endpoints": [{"url": "http://a", "weight": 0}]}, "greater than or equal to 1"),
        ({"endpoints": ["http://a"], "locality": {"zone": "a"}}, "no endpoint has a zone"),
        ({"endpoints": [{"url": "http://a", "zone": "a"}], "locality": {"zone": "a", "spill_below": "0%"}}, "is 0%"),
        ({"endpoints": [{"url": "http://a", "wait": 3}]}, "wait"),
        ({"endpoints": [{"url": "http://a", "zone": "a"}], "locality": {}}, "takes one of zone"),
        ({"endpoints": [{"url": "http://a", "zone": "a"}], "locality": {"shares": {"a": "80%"}}}, "80% together"),
        (
            {"endpoints": ["http://b", {"url": "http://a", "zone": "a"}], "locality": {"shares": {"a": "100%"}}},
            "no share",
        ),
        (
            {"endpoints": [{"url": "http://a", "zone": "a"}], "locality": {"shares": {"a": "80%", "b": "20%"}}},
            "zone b, in which there is no endpoint",
        ),
        ({"discover": {"srv": "_http._tcp.a"}, "locality": {"zone": "a"}}, "by srv names no zones"),
        (
            {"discover": {"kubernetes": {"service": "a", "zone_aware": True}}, "locality": {"zone": "a"}},
            "locality beside zone_aware: true",
        ),
        ({"discover": {"srv": "_http._tcp.a", "subset": {"version": "v2"}}}, "a file alone has labels"),
    ],
)
def test_what_is_wrong_is_refused(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        UpstreamSpec.model_validate(spec)
