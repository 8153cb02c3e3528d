"""Tests of places for requests whose body arrives slowly."""

from __future__ import annotations

import pytest

from sidecar.upstream.slow_places import SlowPlaces


@pytest.mark.parametrize(("share", "limit", "places"), [(0.25, 256, 64), (0.25, 16, 4), (0.25, 1, 1), (0.0, 9, 1)])
def test_a_share_of_the_limit_and_at_least_one(share: float, limit: int, places: int) -> None:
    slow = SlowPlaces((share, limit))
    assert [slow.take() for _ in range(places + 1)] == [True] * places + [False]
    slow.release()
    assert slow.take()
    assert slow.describe() == {"max": places, "taken": places}


def test_fewer_places_are_reached_as_they_come_back() -> None:
    slow = SlowPlaces((1.0, 3))
    assert [slow.take() for _ in range(3)] == [True] * 3
    slow.retune((1.0, 2))
    slow.release()
    assert not slow.take()
    slow.release()
    assert slow.take()
