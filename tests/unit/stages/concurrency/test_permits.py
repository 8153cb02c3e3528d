"""Tests of `Permits`: requests that get one, that wait, and that are refused."""

from __future__ import annotations

import pytest

from sidecar.core.exchange import CRITICAL, DEFAULT, SHEDDABLE
from sidecar.core.outcome import OVERLOADED, Outcome, failed
from sidecar.stages.concurrency.permits import Permits, Place
from tests.support.clock import FakeEnv, make_env


def refuse(why: str) -> Outcome:
    return failed(OVERLOADED, cause=why)


def permits(limit: int, size: int = 0, env: FakeEnv | None = None) -> Permits:
    made = Permits(env or make_env())
    made.retune(limit, size)
    return made


def fill(pool: Permits, rank: int) -> int:
    """Take all permits that a rank may have; return their number."""
    count = 0
    while pool.take(rank):
        count += 1
    return count


def outcome(place: Place | None) -> str:
    """Return the state of a place in words."""
    assert place is not None
    if not place.done():
        return "waits"
    result = place.result()
    return "permit" if result is None else result.cause


@pytest.mark.parametrize("rank", [CRITICAL, DEFAULT, SHEDDABLE])
def test_while_all_are_alike_the_limit_is_the_limit(rank: int) -> None:
    pool = permits(10)
    assert fill(pool, rank) == 10
    pool.release()
    assert fill(pool, rank) == 1


def test_sheddable_leaves_permits_for_the_others() -> None:
    pool = permits(10)
    pool.take(CRITICAL)
    assert fill(pool, SHEDDABLE) == 7
    assert fill(pool, DEFAULT) == 1
    assert fill(pool, CRITICAL) == 1
    assert pool.active == 10


def test_what_is_kept_free_is_released_when_nobody_needs_it() -> None:
    env = make_env()
    pool = permits(10, env=env)
    pool.take(DEFAULT)
    assert fill(pool, SHEDDABLE) == 7
    env.advance(31)
    assert fill(pool, SHEDDABLE) == 2


@pytest.mark.parametrize("rank", [CRITICAL, DEFAULT, SHEDDABLE])
def test_a_limit_of_one_lets_one_in(rank: int) -> None:
    pool = permits(1)
    for other in (CRITICAL, DEFAULT):
        pool.take(other)
        pool.release() if pool.active else None
    assert fill(pool, rank) == 1


def test_a_released_permit_goes_to_the_first_of_the_highest_rank() -> None:
    pool = permits(1, size=4)
    pool.take(DEFAULT)
    places = [pool.join(rank, 1, refuse) for rank in (SHEDDABLE, DEFAULT, CRITICAL, DEFAULT)]
    seen = []
    for _ in places:
        seen.append([outcome(place) for place in places])
        pool.release()
    assert seen[1] == ["waits", "waits", "permit", "waits"]
    assert seen[2] == ["waits", "permit", "permit", "waits"]
    assert seen[3] == ["waits", "permit", "permit", "permit"]
    assert outcome(places[0]) == "permit"
    assert (pool.active, pool.queued) == (1, 0)


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    pool = permits(10, size=5)
    pool.take(CRITICAL)
    fill(pool, SHEDDABLE)
    pool.join(SHEDDABLE, 1, refuse)
    assert not pool.take(SHEDDABLE)
    assert pool.take(DEFAULT), "but who ranks higher does"


def test_a_full_queue_takes_nobody() -> None:
    pool = permits(1, size=1)
    pool.take(DEFAULT)
    assert pool.join(DEFAULT, 1, refuse) is not None
    assert pool.join(DEFAULT, 1, refuse) is None
    assert pool.join(SHEDDABLE, 1, refuse) is None


def test_the_youngest_of_the_lowest_rank_makes_place_for_a_higher() -> None:
    pool = permits(1, size=3)
    pool.take(DEFAULT)
    first, second, third = (pool.join(rank, 1, refuse) for rank in (SHEDDABLE, SHEDDABLE, DEFAULT))
    critical = pool.join(CRITICAL, 1, refuse)
    assert "higher criticality" in outcome(second)
    assert [outcome(place) for place in (first, third, critical)] == ["waits", "waits", "waits"]
    assert pool.join(DEFAULT, 1, refuse) is not None
    assert "higher criticality" in outcome(first)
    assert pool.queued == 3


def test_a_waiter_is_given_up_after_its_time() -> None:
    env = make_env()
    pool = permits(1, 2, env)
    pool.take(DEFAULT)
    place = pool.join(DEFAULT, 0.1, refuse)
    env.advance(0.09)
    assert outcome(place) == "waits"
    env.advance(0.02)
    assert "no permit came free" in outcome(place)
    pool.release()
    assert (pool.active, pool.queued) == (0, 0)


def test_leaving_gives_back_the_place_or_the_permit() -> None:
    env = make_env()
    pool = permits(1, 2, env)
    pool.take(DEFAULT)
    waiting, granted = pool.join(DEFAULT, 1, refuse), pool.join(DEFAULT, 1, refuse)
    assert waiting is not None
    assert granted is not None
    waiting.cancel()
    pool.leave(DEFAULT, waiting)
    pool.release()
    assert (outcome(granted), pool.active) == ("permit", 1)
    pool.leave(DEFAULT, granted)
    assert (pool.active, pool.queued) == (0, 0)
    assert all(timer.cancelled for timer in env.clock.timers)


def test_a_permit_is_not_handed_to_one_who_is_about_to_leave() -> None:
    pool = permits(1, 2)
    pool.take(DEFAULT)
    leaving, staying = pool.join(DEFAULT, 1, refuse), pool.join(DEFAULT, 1, refuse)
    assert leaving is not None
    leaving.cancel()
    pool.release()
    assert (outcome(staying), pool.active) == ("permit", 1)
    pool.leave(DEFAULT, leaving)
    assert pool.active == 1


def test_a_long_queue_of_short_requests_does_not_pile_up_on_the_stack() -> None:
    pool = permits(1, size=5000)
    pool.take(DEFAULT)
    for _ in range(5000):
        place = pool.join(DEFAULT, 1, refuse)
        assert place is not None
        place.set_waiter(lambda _: pool.release())  # the request ends within `resolve`
    pool.release()
    assert (pool.active, pool.queued) == (0, 0)


def test_retuning_keeps_the_count_and_wakes_who_fits_in() -> None:
    pool = permits(2, size=5)
    fill(pool, DEFAULT)
    places = [pool.join(DEFAULT, 1, refuse) for _ in range(2)]
    pool.retune(3, 5)
    assert [outcome(place) for place in places] == ["permit", "waits"]
    pool.retune(1, 0)
    assert (pool.active, outcome(places[1])) == (3, "waits")
    for _ in range(3):
        pool.release()
    assert (outcome(places[1]), pool.active) == ("permit", 1)
    assert pool.describe() == {
        "active": 1,
        "limit": 1,
        "queue": 0,
        "waiting": {"critical": 0, "default": 0, "sheddable": 0},
    }
