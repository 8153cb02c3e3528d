"""Tests of the choice of an endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import events, metrics
from sidecar.core.exchange import Caller
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.endpoint import DRAINING, Endpoint, EndpointSet, Target
from sidecar.upstream.spec import UpstreamSpec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import exchange

HASH = {"hash": {"header": "x-user"}}
ALL = ["round_robin", "least_request", "latency", "random", HASH]
GET = exchange()


class Bench:
    """Upstream of some endpoints and its balancer."""

    def __init__(
        self,
        size: int,
        load_balancing: Any = "least_request",
        accepts: Callable[[Endpoint], bool] | None = None,
        **more: Any,
    ) -> None:
        urls = [f"http://10.0.0.{n}:80" for n in range(1, size + 1)]
        spec = UpstreamSpec.model_validate({"endpoints": urls, "load_balancing": load_balancing, **more})
        self.env: FakeEnv = make_env(seed=7)
        self.set = EndpointSet("app", spec, self.env)
        self.balancer = Balancer(self.set, spec, self.env, accepts)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self.set.members

    def pick(self, **facts: Any) -> Endpoint | None:
        return self.balancer.pick(exchange(**facts), self.env.now())

    def picks(self, number: int, **facts: Any) -> Counter[int]:
        """Return how often each endpoint (by index) is picked."""
        found: Counter[int] = Counter()
        for _ in range(number):
            endpoint = self.pick(**facts)
            assert endpoint is not None
            found[self.endpoints.index(endpoint)] += 1
        return found


def test_round_robin_is_exactly_fair_also_to_those_that_are_left() -> None:
    bench = Bench(4, "round_robin")
    assert set(bench.picks(400).values()) == {100}
    bench.endpoints[2].set_health(False)
    found = bench.picks(1200)
    assert set(found) == {0, 1, 3}
    assert set(found.values()) == {400}, "the neighbour of the one that is out gets no more than the others"


@pytest.mark.parametrize("load_balancing", ["least_request", "random"])
def test_equally_busy_endpoints_get_equal_shares(load_balancing: str) -> None:
    for size in (2, 3, 5):
        found = Bench(size, load_balancing).picks(1000 * size)
        assert len(found) == size
        assert all(850 < number < 1150 for number in found.values()), found


def test_the_less_busy_of_two_is_picked() -> None:
    bench = Bench(2)
    bench.endpoints[0].in_flight = 1
    assert bench.picks(50) == {1: 50}


def test_power_of_two_choices_keeps_loads_even() -> None:
    bench = Bench(10)
    for _ in range(1000):
        endpoint = bench.pick()
        assert endpoint is not None
        endpoint.in_flight += 1
    loads = [endpoint.in_flight for endpoint in bench.endpoints]
    assert max(loads) - min(loads) <= 10, loads


def test_a_key_stays_at_its_endpoint_and_only_the_keys_of_one_that_goes_move() -> None:
    bench = Bench(5, HASH)
    users = [{"headers": {"x-user": f"user-{n}"}} for n in range(1000)]
    before = [bench.pick(**user) for user in users]
    assert [bench.pick(**user) for user in users] == before
    assert all(150 < number < 250 for number in Counter(before).values())
    gone = bench.endpoints[1]
    bench.set.replace([e.url for e in bench.endpoints if e is not gone])
    after = [bench.pick(**user) for user in users]
    assert all(b is a for b, a in zip(before, after, strict=True) if b is not gone)
    moved = Counter(a for b, a in zip(before, after, strict=True) if b is gone)
    assert len(moved) == 4, "its keys go to all the others"


def test_a_key_goes_to_the_same_address_in_every_process() -> None:
    picked = Bench(3, HASH).pick(headers={"x-user": "alice"})
    assert picked is not None
    assert picked.url == "http://10.0.0.2:80", "a change of the hash moves every key of a running system"


def test_without_a_key_the_less_busy_one_and_without_a_header_the_clients_address() -> None:
    bench = Bench(2, HASH)
    bench.endpoints[1].in_flight = 1
    assert bench.picks(20) == {0: 20}
    by_address = Bench(5, {"hash": {}})
    assert len(by_address.picks(50, client_address="192.0.2.7")) == 1
    assert len({by_address.pick(client_address=f"192.0.2.{n}") for n in range(50)}) == 5


def test_the_caller_can_be_the_key() -> None:
    bench = Bench(5, {"hash": {"caller": True}})
    callers = [Caller(f"caller-{number}", "corporate", {}) for number in range(50)]
    assert all(len(bench.picks(10, caller=caller)) == 1 for caller in callers[:5])
    assert len({bench.pick(caller=caller) for caller in callers}) == 5
    bench.endpoints[1].in_flight = 1
    assert bench.pick() is not None, "an anonymous request goes anywhere"
    with pytest.raises(ValueError, match="header and caller"):
        Bench(2, {"hash": {"caller": True, "header": "x-user"}})


@pytest.mark.parametrize("load_balancing", ALL)
def test_a_retry_goes_elsewhere_where_it_can(load_balancing: Any) -> None:
    bench = Bench(3, load_balancing)
    first, second, third = bench.endpoints
    tried = {"avoid": frozenset((first.key, third.key)), "headers": {"x-user": "u"}}
    assert bench.picks(20, **tried) == {1: 20}
    second.set_health(False)
    assert set(bench.picks(20, **tried)) <= {0, 2}, "better the same one again than none"


@pytest.mark.parametrize("load_balancing", ALL)
def test_what_an_endpoints_own_policy_refuses_is_left_out(load_balancing: Any) -> None:
    refused: set[int] = {0}
    bench = Bench(2, load_balancing, accepts=lambda e: bench.endpoints.index(e) not in refused)
    assert bench.picks(20, headers={"x-user": "u"}) == {1: 20}
    refused.add(1)
    assert bench.pick() is None
    assert not bench.env.emitted(events.ENDPOINT_PANIC), "open breakers are no panic"


@pytest.mark.parametrize("load_balancing", ALL)
def test_panic_is_a_choice_told_once_and_counted(load_balancing: Any) -> None:
    for panic, found in (("spray", {0, 1}), ("fail_fast", set())):
        bench = Bench(2, load_balancing, panic=panic)
        for endpoint in bench.endpoints:
            endpoint.set_health(False)
        users = [bench.pick(headers={"x-user": f"{n}"}) for n in range(40)]
        assert {bench.endpoints.index(e) for e in users if e} == found
        assert bench.env.meter.value(metrics.PANIC_PICKS) == 40
        for endpoint in bench.endpoints:
            endpoint.set_health(True)
        assert bench.pick() is not None
        told = [event["panics"] for event in bench.env.emitted(events.ENDPOINT_PANIC)]
        assert told == [True, False]


def test_panic_begins_only_when_none_is_left() -> None:
    bench = Bench(4)
    for endpoint in bench.endpoints[1:]:
        endpoint.set_health(False)
    assert bench.picks(50) == {0: 50}


def test_an_ejected_endpoint_gets_one_request_a_second_on_trial() -> None:
    bench = Bench(2, "round_robin")
    out = bench.endpoints[0]
    out.eject(bench.env.now(), bench.env.now() + 10)
    assert bench.picks(20) == {1: 20}
    bench.env.advance(10)
    assert bench.picks(20)[0] == 1
    assert out.is_on_trial
    bench.env.advance(1)
    assert bench.picks(20)[0] == 1


def last_resort(load_balancing: Any = "round_robin", size: int = 3, **more: Any) -> Bench:
    """Return a bench with one endpoint up, which has just failed the request's attempt; the others are ejected."""
    bench = Bench(size, load_balancing, **more)
    for endpoint in bench.endpoints[:-1]:
        endpoint.eject(bench.env.now(), bench.env.now() + 10)
    bench.endpoints[-1].failures = 1
    return bench


@pytest.mark.parametrize("load_balancing", ALL)
def test_a_retry_asks_an_ejected_endpoint_before_the_same_one_fails_it_again(load_balancing: Any) -> None:
    bench = last_resort(load_balancing)
    first, second, third = bench.endpoints
    assert bench.picks(20, headers={"x-user": "u"}) == {2: 20}, "a first attempt asks none that is ejected"
    assert set(bench.picks(50, avoid=frozenset({third.key}), headers={"x-user": "u"})) <= {0, 1}
    assert bench.picks(20, avoid=frozenset({first.key, third.key}), headers={"x-user": "u"}) == {1: 20}
    assert bench.picks(20, avoid=frozenset(e.key for e in bench.endpoints), headers={"x-user": "u"}) == {2: 20}
    assert not first.is_on_trial, "its own time on trial comes when it comes"
    assert not second.is_on_trial
    assert not bench.env.emitted(events.ENDPOINT_PANIC)


def test_a_retry_goes_to_the_same_one_that_has_answered_others_well_since() -> None:
    bench = last_resort()
    bench.endpoints[2].failures = 0
    assert bench.picks(20, avoid=frozenset({bench.endpoints[2].key})) == {2: 20}


def test_no_last_resort_is_an_endpoint_that_its_check_or_its_breaker_finds_bad() -> None:
    bench = last_resort(accepts=lambda e: not e.url.endswith(".2:80"))
    bench.endpoints[0].set_health(False)
    assert bench.picks(20, avoid=frozenset({bench.endpoints[2].key})) == {2: 20}


def test_no_endpoints_is_no_panic() -> None:
    spec = UpstreamSpec.model_validate({"discover": {"dns": "app", "port": 80}})
    env = make_env()
    assert Balancer(EndpointSet("app", spec, env), spec, env).pick(GET, 0.0) is None
    assert not env.events


@given(
    st.sampled_from(ALL),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6),
)
def test_a_pick_is_the_best_there_is(load_balancing: Any, standing: list[tuple[bool, bool, bool, bool]]) -> None:
    bench = Bench(len(standing), load_balancing, accepts=lambda e: accepted[e.key], panic="fail_fast")
    accepted = {}
    avoid = set()
    for endpoint, (healthy, ejected, tried, accepts) in zip(bench.endpoints, standing, strict=True):
        endpoint.set_health(healthy)
        if ejected:
            endpoint.eject(bench.env.now(), bench.env.now() + 9)
        if tried:
            avoid.add(endpoint.key)
        accepted[endpoint.key] = accepts
    good = [e for e in bench.endpoints if e.is_up and accepted[e.key]]
    picked = bench.pick(avoid=frozenset(avoid), headers={"x-user": "u"})
    assert (picked is None) == (not good)
    if picked is not None:
        assert picked in ([e for e in good if e.key not in avoid] or good)


def first_tries(bench: Bench, requests: int, further: int) -> Counter[int]:
    """Return how often each endpoint is picked first by requests that make so many further attempts."""
    firsts: Counter[int] = Counter()
    for _ in range(requests):
        tried: list[Endpoint] = []
        for attempt in range(1, further + 2):
            endpoint = bench.pick(attempt=attempt, avoid=frozenset(each.key for each in tried))
            assert endpoint is not None
            if attempt == 1:
                firsts[bench.endpoints.index(endpoint)] += 1
            tried.append(endpoint)
    return firsts


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("further", [1, 2, 3])
def test_retries_and_hedges_are_no_turns_of_a_round_robin(size: int, further: int) -> None:
    firsts = first_tries(Bench(size, "round_robin"), 60 * size, further)
    assert set(firsts.values()) == {60}


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("further", [1, 2])
def test_nor_of_that_among_the_endpoints_that_are_left(size: int, further: int) -> None:
    bench = Bench(size, "round_robin")
    bench.endpoints[0].set_health(False)
    firsts = first_tries(bench, 60 * size * (size - 1), further)
    assert set(firsts) == set(range(1, size))
    assert max(firsts.values()) == min(firsts.values())


def test_further_attempts_are_spread_too() -> None:
    bench = Bench(3, "round_robin")
    found = bench.picks(300, attempt=2, avoid=frozenset([bench.endpoints[0].key]))
    assert found == {1: 150, 2: 150}


@pytest.mark.parametrize("load_balancing", ALL)
def test_a_further_attempt_goes_to_another_endpoint(load_balancing: Any) -> None:
    bench = Bench(2, load_balancing)
    user = {"x-user": "alice"}
    first = bench.pick(headers=user)
    assert first is not None
    for _ in range(50):
        again = bench.pick(headers=user, attempt=2, avoid=frozenset([first.key]))
        assert again is not None
        assert again is not first


# ----- tiers


def tiered(*sizes: int, spills: bool = False, **more: object) -> Bench:
    """Return a bench whose tiers have these numbers of endpoints; the last one is draining."""
    bench = Bench(1, **more)  # type: ignore[arg-type]
    tiers = [*range(len(sizes) - 1), DRAINING]
    found = [
        Target(f"http://10.{level}.0.{n}:80", tier)
        for level, (tier, size) in enumerate(zip(tiers, sizes, strict=True))
        for n in range(size)
    ]
    bench.set.assign(found, spills=spills)
    return bench


def level(endpoint: Endpoint | None) -> int:
    assert endpoint is not None
    return int(endpoint.host.split(".")[1])


def levels(bench: Bench, number: int = 400, **facts: object) -> Counter[int]:
    """Return how often each tier is picked."""
    return Counter(level(bench.pick(**facts)) for _ in range(number))


def out(bench: Bench, tier: int, number: int) -> None:
    """Make endpoints of a tier unhealthy."""
    for endpoint in [each for each in bench.endpoints if level(each) == tier][:number]:
        endpoint.set_health(False)


@pytest.mark.parametrize("load_balancing", ALL)
def test_the_first_tier_takes_all_requests_while_it_can(load_balancing: object) -> None:
    bench = tiered(4, 4, 4, load_balancing=load_balancing)
    assert levels(bench) == {0: 400}
    out(bench, 0, 3)
    assert levels(bench) == {0: 400}, "priorities do not spill"
    out(bench, 0, 4)
    assert levels(bench) == {1: 400}
    out(bench, 1, 4)
    assert levels(bench) == {2: 400}, "terminating endpoints, since nothing else serves"


@pytest.mark.parametrize(("failed", "expected"), [(0, 0.0), (1, 0.0), (5, 0.3), (8, 0.72), (10, 1.0)])
def test_a_zone_spills_over_in_proportion(failed: int, expected: float) -> None:
    bench = tiered(10, 10, 2, spills=True, load_balancing="random")
    out(bench, 0, failed)
    found = levels(bench, 4000)
    assert found[1] / 4000 == pytest.approx(expected, abs=0.04)
    assert found[2] == 0


def test_a_zone_does_not_spill_over_to_endpoints_that_terminate() -> None:
    bench = tiered(10, 0, 10, spills=True, load_balancing="random")
    out(bench, 0, 9)
    assert levels(bench) == {0: 400}


def test_a_retry_goes_on_to_the_next_tier_before_it_repeats_an_endpoint() -> None:
    bench = tiered(2, 1, 1)
    tried = frozenset(each.key for each in bench.endpoints if level(each) == 0)
    assert levels(bench, avoid=tried) == {1: 400}
    assert 2 not in levels(bench, avoid=frozenset(each.key for each in bench.endpoints if level(each) < 2))


def test_a_tier_whose_breakers_are_open_is_passed_over() -> None:
    bench = tiered(2, 2, 1, accepts=lambda endpoint: level(endpoint) == 1)
    assert levels(bench) == {1: 400}


@pytest.mark.parametrize(("panic", "is_refused"), [("spray", False), ("fail_fast", True)])
def test_endpoints_that_are_not_ready_get_requests_in_panic_alone(panic: str, is_refused: bool) -> None:
    bench = Bench(1, panic=panic)
    ready, starting = Target("http://10.0.0.1:80"), Target("http://10.0.0.2:80", is_ready=False)
    bench.set.assign([ready, starting])
    assert bench.picks(100) == {0: 100}
    bench.endpoints[0].set_health(False)
    assert (bench.pick() is None) is is_refused
    if not is_refused:
        assert set(bench.picks(100)) == {0, 1}
    bench.set.assign([starting])
    assert (bench.pick() is None) is is_refused
    assert bench.env.meter.value(metrics.ENDPOINT_UP, state="not_ready") == 1
    bench.set.assign([starting._replace(is_ready=True)])
    assert bench.picks(10) == {0: 10}
