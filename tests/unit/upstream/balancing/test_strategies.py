"""Tests of load balancing by latency and of the slow start."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.outcome import ABANDONED, RESET, TIMEOUT, Outcome, failed
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.strategies import DECAY, cost, observe
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import UpstreamSpec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import exchange
from tests.unit.upstream.balancing.test_balancer import Bench

OK = Outcome(200)
GET = exchange()


def endpoint() -> Endpoint:
    return Endpoint("http://10.0.0.1:80")


# ----- the average


def test_a_slower_response_counts_at_once_and_a_quicker_one_by_and_by() -> None:
    one = endpoint()
    observe(one, OK, 0.010, 100.0)
    observe(one, OK, 0.200, 100.1)
    assert one.latency == 0.200
    observe(one, OK, 0.010, 100.2)
    assert 0.19 < one.latency < 0.2
    for turn in range(600):
        observe(one, OK, 0.010, 100.2 + turn / 10)
    assert one.latency == pytest.approx(0.010, rel=0.1)


def test_time_alone_makes_an_endpoint_worth_another_try() -> None:
    one = endpoint()
    observe(one, OK, 1.0, 100.0)
    assert cost(one, 100.0) == 1.0
    assert cost(one, 100.0 + 5 * DECAY) == pytest.approx(0.0067, rel=0.01)


@pytest.mark.parametrize(
    "outcome",
    [failed(RESET), Outcome(500), Outcome(429), Outcome(503, lines=b"retry-after: 1\r\n")],
    ids=["reset", "500", "429", "503 with Retry-After"],
)
def test_a_quick_failure_makes_an_endpoint_more_expensive(outcome: Outcome) -> None:
    one = endpoint()
    observe(one, OK, 0.010, 100.0)
    observe(one, outcome, 0.0001, 100.0)
    assert one.latency == pytest.approx(0.040)
    for _ in range(20):
        observe(one, outcome, 0.0001, 100.0)
    assert one.latency == 1.0, "but not for minutes"


def test_a_failure_that_is_not_the_upstream_s_says_only_that_it_took_at_least_as_long() -> None:
    one = endpoint()
    observe(one, OK, 0.100, 100.0)
    observe(one, ABANDONED, 0.001, 100.0)
    assert one.latency == 0.100
    observe(one, ABANDONED, 0.300, 100.0)
    assert one.latency == 0.300


@given(st.lists(st.tuples(st.sampled_from([OK, Outcome(503), failed(TIMEOUT), ABANDONED]), st.floats(0, 60))))
def test_the_average_is_never_negative_nor_above_what_was_seen(seen: list[tuple[Outcome, float]]) -> None:
    one, now = endpoint(), 100.0
    for outcome, seconds in seen:
        now += seconds
        observe(one, outcome, seconds, now)
        assert 0.0 <= one.latency <= max(1.0, *(each for _, each in seen)) * 1.000001


# ----- the choice


def test_the_quicker_of_two_is_picked_and_the_busier_one_is_more_expensive() -> None:
    bench = Bench(2, "latency")
    slow, quick = bench.endpoints
    observe(slow, OK, 0.100, bench.env.now())
    observe(quick, OK, 0.010, bench.env.now())
    assert bench.picks(50) == {1: 50}
    quick.in_flight = 20
    assert bench.picks(50) == {0: 50}


def test_an_unknown_endpoint_gets_one_request_and_no_second_before_its_answer() -> None:
    bench = Bench(2, "latency")
    known, new = bench.endpoints
    observe(known, OK, 0.010, bench.env.now())
    assert bench.picks(20) == {1: 20}
    new.in_flight = 1
    assert bench.picks(20) == {0: 20}


def test_one_of_three_that_is_ten_times_slower_gets_little() -> None:
    """Requests arrive every 10 ms, and each endpoint answers after its own time."""
    bench = Bench(3, "latency")
    times = {0: 0.005, 1: 0.005, 2: 0.050}
    found: Counter[int] = Counter()
    for _ in range(5000):
        picked = bench.pick()
        assert picked is not None
        number = bench.endpoints.index(picked)
        found[number] += 1
        bench.env.advance(0.010)
        observe(picked, OK, times[number], bench.env.now())
    assert found[2] < 250, found
    assert found[2] > 1, "it is tried again, to see whether it has become quicker"


def test_a_hedge_or_a_retry_goes_elsewhere() -> None:
    bench = Bench(2, "latency")
    slow, quick = bench.endpoints
    observe(slow, OK, 0.100, bench.env.now())
    observe(quick, OK, 0.010, bench.env.now())
    x = exchange()
    x.avoid = frozenset({quick.key})
    assert bench.balancer.pick(x, bench.env.now()) is slow


# ----- slow start


def of(strategy: object, slow_start: str = "30s", size: int = 3) -> tuple[FakeEnv, EndpointSet, Balancer]:
    urls = [f"http://10.0.0.{n}:80" for n in range(1, size + 1)]
    spec = UpstreamSpec.model_validate({"endpoints": urls, "load_balancing": strategy, "slow_start": slow_start})
    env = make_env(seed=7)
    endpoints = EndpointSet("app", spec, env)
    return env, endpoints, Balancer(endpoints, spec, env)


def share(env: FakeEnv, endpoints: EndpointSet, balancer: Balancer) -> float:
    """Return the share of the last endpoint in 2,000 picks."""
    picks = [balancer.pick(GET, env.now()) for _ in range(2000)]
    return picks.count(endpoints.members[-1]) / len(picks)


@pytest.mark.parametrize("strategy", ["round_robin", "least_request", "random"])
def test_an_endpoint_that_joins_gets_a_tenth_of_its_share_at_first_and_all_of_it_in_the_end(strategy: str) -> None:
    env, endpoints, balancer = of(strategy)
    endpoints.replace([*(each.url for each in endpoints.members), "http://10.0.0.9:80"])
    env.advance(1)
    assert 0.01 < share(env, endpoints, balancer) < 0.05
    env.advance(14)
    assert 0.10 < share(env, endpoints, balancer) < 0.16
    env.advance(16)
    assert 0.22 < share(env, endpoints, balancer) < 0.28


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (2, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("strategy", ["round_robin", "least_request", "latency", "random"])
def test_the_ramp_takes_from_all_others_alike(strategy: str, weights: tuple[int, ...]) -> None:
    entries = [{"url": f"http://10.0.0.{n}:80", "weight": weight} for n, weight in enumerate(weights)]
    before, spec = [
        UpstreamSpec.model_validate({"endpoints": each, "load_balancing": strategy, "slow_start": "30s"})
        for each in (entries[:3], entries)
    ]
    env = make_env(seed=7)
    endpoints = EndpointSet("app", before, env)
    endpoints.retune(spec)
    balancer, total = Balancer(endpoints, spec, env), sum(weights)
    for ramp, age in ((0.1, 1), (0.5, 14), (1.0, 15)):
        env.advance(age)
        for each in endpoints.members:
            each.latency, each.measured_at = 0.01, env.now()
        picks = Counter(balancer.pick(GET, env.now()) for _ in range(6000))
        own = ramp * weights[3] / total
        for each, weight in zip(endpoints.members, weights, strict=True):
            share = own if each is endpoints.members[3] else (1 - own) * weight / (total - weights[3])
            assert picks[each] / 6000 == pytest.approx(share, abs=0.03), (ramp, each)


def test_endpoints_of_the_start_do_not_start_slowly() -> None:
    env, endpoints, balancer = of("random")
    assert 0.3 < share(env, endpoints, balancer) < 0.37


def test_an_endpoint_starts_slowly_after_an_ejection_and_after_a_failed_probe() -> None:
    env, endpoints, balancer = of("random")
    last = endpoints.members[-1]
    last.eject(env.now(), env.now() + 10)
    env.advance(10)
    last.restore(env.now())
    env.advance(1)
    assert share(env, endpoints, balancer) < 0.06
    env.advance(60)
    assert share(env, endpoints, balancer) > 0.3
    last.set_health(False, env.now())
    last.set_health(True, env.now())
    env.advance(1)
    assert share(env, endpoints, balancer) < 0.06
    last.set_health(True, env.now())
    env.advance(28)
    assert share(env, endpoints, balancer) > 0.28, "a further good probe does not begin it anew"


def test_without_a_warm_endpoint_those_that_start_get_everything() -> None:
    env, endpoints, balancer = of("least_request", size=2)
    for each in endpoints.members:
        each.up_since = env.now()
    env.advance(1)
    assert 0.4 < share(env, endpoints, balancer) < 0.6
