"""Model tests of leases of a rate: 1 to 20 processes in virtual time, with skew, loss, restarts and clock steps."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.rate import ADMITTED, OVERFLOW, UNKNOWN, Ask, RateLessee, RateLessor
from tests.support.cases import each
from tests.unit.leases.fleet import Fleet, Process

START = 1000.0
LEASES = st.sampled_from([0.05, 0.1, 0.2])
FEW = settings(max_examples=20, deadline=None, derandomize=True)


def bound(fleet: Fleet) -> float:
    """Return the most requests that a second may have: 1.2 times what the limit allows in one."""
    return 1.2 * (fleet.capacity + fleet.rate)


def alone_admitted(fleet: Fleet) -> list[float]:
    """Return when one process without leases would have admitted requests of the fleet."""
    admitted, tat = [], 0.0
    for at in sorted(fleet.admitted + fleet.refused):
        following = max(tat, at) + 1 / fleet.rate
        if following <= at + fleet.capacity / fleet.rate:
            tat = following
            admitted.append(at)
    return admitted


@FEW
@given(
    st.integers(1, 20), st.sampled_from([5.0, 50.0, 150.0]), st.sampled_from([0.1, 1.0]), LEASES,
    st.floats(1.2, 6.0), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_a_fleet_in_steady_state_uses_its_limit(
    processes: int, rate: float, burst: float, lease: float, load: float, is_skewed: bool, seed: int
) -> None:
    """The burst is a tenth of a second or a whole one."""
    fleet = Fleet(rate, 1.0 + burst * rate, lease, Random(seed))
    weights = [2.0**-each if is_skewed else 1.0 for each in range(processes)]
    for weight in weights:
        fleet.add(load * rate * weight / sum(weights))
    fleet.run(START + 9)
    steady = len([at for at in fleet.admitted if at >= START + 3])
    alone = len([at for at in alone_admitted(fleet) if at >= START + 3])
    assert 0.95 * alone - 2 <= steady
    assert steady <= 1.05 * max(alone, 6 * rate) + 2
    assert fleet.most_in(1.0) <= bound(fleet)


@FEW
@given(
    st.integers(1, 20), st.sampled_from([5.0, 50.0, 150.0]), st.sampled_from([1.0, 20.0]), LEASES,
    st.sampled_from([0.0, 0.05, 0.3]), st.floats(-3600.0, 3600.0), st.integers(0, 2**32),
)  # fmt: skip
def test_no_second_is_over_the_limit_whatever_happens(
    processes: int, rate: float, capacity: float, lease: float, loss: float, step: float, seed: int
) -> None:
    """Load comes and goes, messages are lost or late, processes start anew, and the clock of the store steps."""
    rng = Random(seed)
    fleet = Fleet(rate, capacity, lease, rng, loss=loss, delay=0.012)
    for _ in range(processes):
        begin = START + rng.random() * 3
        demand = rng.choice((0.2, 1.0, 5.0)) * rate / processes
        process = fleet.add(demand, begin, begin + rng.random() * 4)
        fleet.add(demand * 2, begin + 2, begin + 3)
        fleet.at(START + rng.random() * 5, process.start)
    fleet.run(START + 2)
    fleet.step = step
    fleet.run(START + 6)
    assert fleet.most_in(1.0) <= bound(fleet)


def test_a_request_below_the_limit_is_never_refused() -> None:
    """20 processes that together send half of the limit, each a little."""
    fleet = Fleet(100.0, 101.0, 0.1, Random(1))
    for _ in range(20):
        fleet.add(2.5)
    fleet.run(START + 10)
    assert fleet.refused == []
    assert len(fleet.admitted) > 400


@each(
    (processes, load, burst, lease)
    for processes in (1, 4, 20)
    for load, burst in ((0.5, 1.0), (0.98, 1.0), (1.5, 1.0), (4.0, 0.2))
    for lease in (0.05, 0.1, 0.2)
)
def test_a_process_asks_once_in_each_lease_and_twice_over_the_limit(case: tuple[int, float, float, float]) -> None:
    """Twelve requests or more in each lease.  Below the limit few requests wait for an answer."""
    processes, load, burst, lease = case
    rate = 24 * processes / lease
    fleet = Fleet(rate, 1 + burst * rate, lease, Random(2), delay=0.001)
    for _ in range(processes):
        fleet.add(load * rate / processes)
    fleet.run(START + 1)
    fleet.exchanges = fleet.waited = 0
    fleet.run(START + 1 + 20 * lease)
    asks = fleet.exchanges / processes / 20
    if load < 1:
        assert asks <= 1.5
        assert fleet.waited <= 0.03 * load * rate * 20 * lease
    else:
        assert asks <= 2.2


def test_a_process_with_much_load_never_waits() -> None:
    fleet = Fleet(100_000.0, 100_000.0, 0.1, Random(2))
    fleet.add(5_000.0)
    fleet.run(START + 0.3)
    fleet.exchanges = fleet.waited = 0
    fleet.run(START + 2.3)
    assert fleet.exchanges <= 2 / (0.1 * 7 / 8) + 1
    assert fleet.waited == 0


def test_keys_are_renewed_together() -> None:
    """100 keys whose first requests come one after the other."""
    lessor, lessee = RateLessor(1000.0, 1000.0, 0.1), RateLessee(1000.0, 1000.0, 0.1)
    keys = [str(number) for number in range(100)]
    calls = 0
    for turn in range(3000):
        now = turn * 0.001
        for index, key in enumerate(keys):
            if turn >= index and (turn + index) % 3 == 0 and lessee.take(key, 1.0, now) == UNKNOWN:
                lessee.wait(key, 1.0)
        if lessee.is_asking or lessee.due <= now:
            asks = lessee.collect(now)
            calls += turn >= 1000 and bool(asks)
            for ask in asks + (lessee.collect_old(now) if asks else []):
                lessee.receive(ask, lessor.exchange(ask, now), now)
    assert calls <= 2 * 25


def test_an_idle_process_gives_back_what_it_has_not_spent() -> None:
    lessor, lessee = RateLessor(10.0, 10.0, 0.1), RateLessee(10.0, 10.0, 0.1)
    for _ in range(5):
        assert lessee.take("a", 1.0, 0.0) == UNKNOWN
        lessee.wait("a", 1.0)
    (ask,) = lessee.collect(0.0)
    lessee.receive(ask, lessor.exchange(ask, 0.0), 0.0)
    assert lessee.take("a", 1.0, 0.0) == ADMITTED
    for tick in range(1, 11):
        for ask in lessee.collect(tick * 0.025):
            lessee.receive(ask, lessor.exchange(ask, tick * 0.025), tick * 0.025)
    assert lessee.leases == {}
    # One token was spent, and 0.25 s have filled it again: the whole burst is there.
    assert lessor.exchange(Ask("a", 10.0, 10.0, 10.0, 0.0, 0.0), 0.25).tokens == 10.0


def test_renewing_without_spending_piles_up_no_tokens() -> None:
    """20 lessees that renew and give back for ever have no more tokens than the limit has."""
    lessor = RateLessor(100.0, 1.0, 0.1)
    held = [0.0] * 20
    stamps = [0.0] * 20
    most = 0.0
    for tick in range(2000):
        index, now = tick % 20, tick * 0.005
        grant = lessor.exchange(Ask("a", 0.0, 0.0, 10.0, held[index], stamps[index]), now)
        held[index], stamps[index] = grant.tokens, grant.stamp
        most = max(most, sum(held))
    assert most <= 1.0 + 100.0 * 2 * 0.1


def test_a_grant_that_comes_twice_too_late_or_for_a_gone_key_is_no_error() -> None:
    lessor, lessee = RateLessor(10.0, 10.0, 0.1), RateLessee(10.0, 10.0, 0.1)
    lessee.take("a", 1.0, 0.0)
    lessee.wait("a", 1.0)
    (ask,) = lessee.collect(0.0)
    lessee.fail(ask)
    lessee.leases.clear()
    lessee.receive(ask, lessor.exchange(ask, 0.0), 5.0)
    assert lessee.leases == {}


def test_keys_beyond_the_tables_share_one_count() -> None:
    lessor, lessee = RateLessor(1.0, 3.0, 0.1, 2), RateLessee(1.0, 3.0, 0.1, 2)
    for key in "abcd":
        assert lessee.take(key, 1.0, 0.0) == UNKNOWN
        lessee.wait(key, 1.0)
    asks = lessee.collect(0.0)
    assert [(ask.key, ask.firm) for ask in asks] == [("a", 1.0), ("b", 1.0), (OVERFLOW, 2.0)]
    for ask in asks:
        assert lessor.exchange(ask, 0.0).tokens == ask.firm
    assert lessor.keys == 3


def test_a_full_table_of_a_lessor_evicts_only_keys_that_say_nothing() -> None:
    lessor = RateLessor(1.0, 3.0, 0.1, 2)
    lessor.exchange(Ask("used", 3.0, 3.0, 3.0, 0.0, 0.0), 0.0)
    lessor.exchange(Ask("once", 1.0, 1.0, 1.0, 0.0, 0.0), 0.0)
    lessor.exchange(Ask("new", 1.0, 1.0, 1.0, 0.0, 0.0), 1.5)
    assert lessor.exchange(Ask("used", 3.0, 3.0, 3.0, 0.0, 0.0), 1.5).tokens == 0.0


def test_requests_below_the_burst_wait_for_one_answer_and_pass() -> None:
    fleet = Fleet(1.0, 10.0, 0.1, Random(3))
    fleet.now = START
    process = Process(fleet, 1.0, 2000.0, 2000.0)
    for _ in range(8):
        process.take(START, may_wait=True)
    process.pump()
    fleet.run(START + 0.01)
    assert len(fleet.admitted) == 8


@each(range(3))
def test_costs_that_are_known_late_stay_within_the_rate_in_the_long_run(seed: int) -> None:
    """Three processes, whose requests cost 1 at first and up to 31 a while later."""
    rng, rate, capacity, seconds = Random(seed), 200.0, 400.0, 60.0
    lessor = RateLessor(rate, capacity, 0.1, debt=3600.0)
    lessees = [RateLessee(rate, capacity, 0.1) for _ in range(3)]
    now = spent = 0.0
    late: list[tuple[float, RateLessee, float]] = []

    def exchange(lessee: RateLessee) -> None:
        asks = lessee.collect(now)
        for ask in asks + (lessee.collect_old(now) if asks else []):
            lessee.receive(ask, lessor.exchange(ask, now), now)

    while now < seconds:
        now += rng.expovariate(150.0)
        for _, lessee, cost in [entry for entry in late if entry[0] <= now]:
            lessee.charge("a", cost, now)
            spent += cost
        late = [entry for entry in late if entry[0] > now]
        for lessee in lessees:
            if lessee.is_asking or lessee.due <= now:
                exchange(lessee)
        lessee = rng.choice(lessees)
        found = lessee.take("a", 1.0, now)
        if found == UNKNOWN:
            lessee.wait("a", 1.0)
            exchange(lessee)
            found = lessee.take("a", 1.0, now)
        if found == ADMITTED:
            spent += 1.0
            late.append((now + rng.random() * 0.2, lessee, rng.choice((0.0, 3.0, 30.0))))
    assert 0.95 * rate * seconds <= spent <= rate * seconds + capacity + 10 * 31, "ten requests are in flight or owed"
