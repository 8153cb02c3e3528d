"""Tests of quotas: tables, leases, and a model of many processes with a lessor, lost messages and crashes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.quota import (
    EXHAUSTED,
    HOLD,
    LARGEST_SHARE,
    RECHECK,
    SKEW,
    QuotaAsk,
    QuotaGrant,
    QuotaLessee,
    QuotaTable,
    settle_ask,
)
from sidecar.leases.rate import ADMITTED, OVERFLOW, UNKNOWN

DAY = 86_400.0


def test_a_table_admits_what_the_quota_allows_for_each_key() -> None:
    table = QuotaTable(2, 10)
    table.roll(0.0)
    assert [table.take("a", 1.0) for _ in range(3)] == [True, True, False]
    assert table.take("b", 2.0)
    assert (table.left("a"), table.left("b"), table.left("c")) == (0, 0, 2)
    table.refund("a", 1.0)
    assert table.take("a", 1.0)


def test_keys_beyond_a_table_share_one_count_and_nobody_is_evicted() -> None:
    table = QuotaTable(1, 2)
    table.roll(0.0)
    for key in ("a", "b"):
        assert table.take(table.locate(key), 1.0)
    found = [table.locate(f"flood {number}") for number in range(100)]
    assert found == [OVERFLOW] * 100
    assert [table.take(key, 1.0) for key in found].count(True) == 1
    assert not table.take(table.locate("a"), 1.0), "the flood has reset nobody"
    assert len(table.used) == 3


@pytest.mark.parametrize(
    ("start", "is_new"), [(DAY, True), (0.0, False), (-SKEW, False), (-SKEW - 1, False), (-30 * DAY, False)]
)
def test_only_a_later_window_begins_anew(start: float, is_new: bool) -> None:
    table = QuotaTable(1, 10)
    table.roll(0.0)
    assert table.take("a", 1.0)
    table.roll(start)
    assert table.take("a", 1.0) is is_new


def test_a_clock_that_was_a_year_ahead_resets_one_window_and_not_the_next() -> None:
    table = QuotaTable(1, 10)
    table.roll(365 * DAY)
    table.roll(0.0)
    table.take("a", 1.0)
    table.roll(DAY)
    assert table.take("a", 1.0)


@pytest.mark.parametrize(
    ("used", "ask", "expected"),
    [
        (0.0, {"firm": 1.0, "want": 1.0}, (1.0, 1.0)),
        (9.0, {"firm": 3.0, "want": 9.0}, (10.0, 1.0)),
        (0.0, {"firm": 1.0, "want": 9.0}, (2.0, 2.0)),
        (5.0, {"back": 2.0}, (3.0, 0.0)),
        (1.0, {"back": 2.0}, (0.0, 0.0)),
        (9.0, {"owed": 5.0, "firm": 1.0, "want": 1.0}, (14.0, 0.0)),
    ],
)
def test_an_ask_is_settled(used: float, ask: dict[str, float], expected: tuple[float, float]) -> None:
    found = QuotaAsk("a", 0.0, **{"firm": 0.0, "want": 0.0, "back": 0.0, "owed": 0.0, "known": 0.0, **ask})
    assert settle_ask(used, found, 10.0) == expected


class Pair:
    """Process and lessor."""

    def __init__(self, most: float = 1000.0, max_keys: int = 100, keys_of_table: int = 1000) -> None:
        self.table = QuotaTable(most, keys_of_table)
        self.lessee = QuotaLessee(most, max_keys)
        self.now = 0.0
        self.overflowed = 0
        self.lessee.on_overflow = self._count
        self.lessee.roll(0.0)

    def _count(self) -> None:
        self.overflowed += 1

    def exchange(self) -> list[QuotaAsk]:
        asks = self.lessee.collect(self.now)
        for ask in asks:
            self.lessee.receive(ask, self.table.grant(ask), self.now)
        return asks

    def send(self, key: str = "a", cost: float = 1.0) -> bool:
        """Send a request, which waits for the lessor if it has to."""
        found = self.lessee.take(key, cost, self.now)
        if found == UNKNOWN:
            self.lessee.wait(key, cost)
            self.exchange()
            found = self.lessee.take(key, cost, self.now)
        return found == ADMITTED


def test_a_lessee_asks_rarely_far_from_the_end_and_never_spends_more_than_the_quota() -> None:
    pair = Pair()
    asks = 0
    admitted = 0
    for _ in range(1200):
        admitted += pair.send()
        pair.now += 0.01
        asks += len(pair.exchange())
    assert admitted == 1000
    assert asks < 200
    assert pair.table.used == {"a": 1000.0}


def test_a_lessee_holds_only_a_small_part_ahead() -> None:
    pair = Pair()
    for _ in range(200):
        pair.send()
    assert pair.lessee.leases["a"].held <= 2 * LARGEST_SHARE * 1000


def test_units_that_are_not_used_come_back() -> None:
    pair = Pair()
    pair.send()
    held = pair.lessee.leases["a"].held
    assert held > 0
    pair.now += HOLD + 1
    assert [ask.back for ask in pair.exchange()] == [held]
    assert pair.table.used == {"a": 1.0}
    pair.now += HOLD + 1
    pair.exchange()
    assert pair.lessee.leases == {}
    assert pair.lessee.due == float("inf")


def test_a_quota_that_is_used_up_is_asked_for_once_a_second() -> None:
    pair = Pair(most=1.0)
    assert pair.send()
    assert not pair.send()
    assert pair.lessee.take("a", 1.0, pair.now) == EXHAUSTED
    assert pair.exchange() == []
    pair.now += RECHECK
    assert pair.lessee.take("a", 1.0, pair.now) == UNKNOWN


def test_a_cheap_request_gets_what_an_expensive_one_could_not() -> None:
    pair = Pair(most=3.0)
    assert not pair.send(cost=5.0)
    assert [pair.send() for _ in range(4)] == [True, True, True, False]


def test_a_new_window_begins_without_units_and_without_debts() -> None:
    pair = Pair(most=10.0)
    assert all(pair.send() for _ in range(10))
    pair.lessee.roll(DAY)
    assert pair.send()
    assert pair.table.start == DAY


def test_a_late_answer_of_the_last_window_brings_nothing() -> None:
    pair = Pair()
    pair.lessee.take("a", 1.0, 0.0)
    (ask,) = pair.lessee.collect(0.0)
    pair.lessee.roll(DAY)
    pair.lessee.take("a", 1.0, 0.0)
    pair.lessee.receive(ask, QuotaGrant(50.0, 0.0, False), 0.0)
    assert pair.lessee.leases["a"].held == 0


def test_places_of_a_lessee_are_given_to_new_keys_without_a_reset() -> None:
    pair = Pair(most=1.0, max_keys=2)
    for number in range(20):
        assert pair.send(str(number))
        assert len(pair.lessee.leases) <= 3
    assert not any(pair.send(str(number)) for number in range(20))
    assert pair.overflowed == 0


def test_keys_beyond_the_table_of_the_lessor_are_counted_and_share_one_count() -> None:
    pair = Pair(most=1.0, keys_of_table=2)
    assert [pair.send(key) for key in ("a", "b", "c", "d", "a")] == [True, True, True, False, False]
    assert pair.overflowed > 0


def test_leases_that_all_hold_units_let_new_keys_share_a_place() -> None:
    pair = Pair(max_keys=2)
    for key in ("a", "b", "c", "d"):
        assert pair.send(key)
    assert set(pair.lessee.leases) == {"a", "b", OVERFLOW}
    assert pair.overflowed == 2


def test_what_was_spent_without_the_lessor_is_told_and_bounded_by_a_share() -> None:
    pair = Pair(most=100.0)
    for _ in range(20):
        pair.send()
    left, held = pair.lessee.leases["a"].left, pair.lessee.leases["a"].held
    alone = [pair.lessee.take_alone("a", 1.0, pair.now, 1, 4, is_bounded=True) for _ in range(100)]
    assert alone.count(True) == int(held) + int(left / 4)
    pair.lessee.owe()
    (ask,) = pair.exchange()
    assert ask.owed == int(left / 4)
    assert pair.table.used["a"] >= 20 + int(left / 4)


def test_a_debt_is_told_again_after_a_lost_message() -> None:
    pair = Pair()
    assert pair.lessee.take_alone("a", 3.0, 0.0, 1, 1, is_bounded=False)
    pair.lessee.owe()
    (ask,) = pair.lessee.collect(0.0)
    pair.lessee.fail(ask)
    pair.lessee.owe()
    (again,) = pair.exchange()
    assert again.owed == 3.0


def test_a_lessor_that_has_lost_its_count_learns_it_again() -> None:
    pair = Pair(most=10.0)
    for _ in range(6):
        assert pair.send()
    pair.table.clear()
    assert [pair.send() for _ in range(10)].count(True) == 4


def test_a_lower_quota_holds_at_once() -> None:
    pair = Pair(most=10.0)
    for _ in range(6):
        assert pair.send()
    pair.lessee.retune(7.0, 100)
    pair.table.most = 7.0
    assert [pair.send() for _ in range(3)] == [True, False, False]


def test_an_ending_process_gives_all_back() -> None:
    pair = Pair()
    pair.send()
    pair.lessee.take_alone("b", 2.0, 0.0, 1, 1, is_bounded=False)
    for ask in pair.lessee.give_back(0.0):
        pair.table.grant(ask)
    assert pair.table.used == {"a": 1.0, "b": 2.0}


Event = tuple[Any, ...]
EVENTS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.sampled_from("ab"), st.sampled_from((1.0, 1.0, 3.0))),
    st.tuples(st.just("exchange"), st.integers(0, 2), st.sampled_from(("answered", "answered", "lost", "unheard"))),
    st.tuples(st.just("pass"), st.sampled_from((0.01, 0.5, 2.0, HOLD))),
    st.tuples(st.just("crash"), st.integers(0, 2)),
    st.tuples(st.just("end"), st.integers(0, 2)),
)


@settings(max_examples=150, deadline=None)
@given(events=st.lists(EVENTS, max_size=120), most=st.sampled_from((5.0, 60.0)))
def test_all_processes_together_never_spend_more_than_the_quota(events: list[Event], most: float) -> None:
    """Messages are lost on both ways, processes crash and end, and the sum of what is admitted stays within."""
    table = QuotaTable(most, 100)
    lessees = [QuotaLessee(most, 100) for _ in range(3)]
    for each in lessees:
        each.roll(0.0)
    now, spent = 0.0, {"a": 0.0, "b": 0.0}
    for event in events:
        if event[0] == "pass":
            now += event[1]
            continue
        lessee = lessees[event[1]]
        if event[0] == "send":
            found = lessee.take(event[2], event[3], now)
            if found == ADMITTED:
                spent[event[2]] += event[3]
            elif found == UNKNOWN:
                lessee.wait(event[2], event[3])
        elif event[0] == "exchange":
            for ask in lessee.collect(now):
                grant = table.grant(ask) if event[2] != "lost" else None
                if grant is not None and event[2] == "answered":
                    lessee.receive(ask, grant, now)
                else:
                    lessee.fail(ask)
        else:
            if event[0] == "end":
                for ask in lessee.give_back(now):
                    table.grant(ask)
            lessees[event[1]] = QuotaLessee(most, 100)
            lessees[event[1]].roll(0.0)
        for key, units in spent.items():
            held = sum(each.leases[key].held for each in lessees if key in each.leases)
            assert units + held <= table.used.get(key, 0.0) + 1e-6
    assert all(units <= most for units in spent.values())
