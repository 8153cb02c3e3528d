"""Tests of the windows of quotas: resets by the clock of a time zone, and days on which the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stages.quota.windows import Windows, find_zone

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")


def unix(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(per: str, resets: str, zone: str, wall: float) -> tuple[str, str]:
    found = Windows(per, resets, zone)
    found.find(wall)
    ends = (datetime.fromtimestamp(each, UTC) for each in (found.start, found.end))
    start, end = (each.strftime("%m-%d %H:%M") for each in ends)
    return start, end


@pytest.mark.parametrize(
    ("per", "resets", "zone", "at", "expected"),
    [
        ("day", "00:00", "UTC", "2026-05-05T00:00", ("05-05 00:00", "05-06 00:00")),
        ("day", "00:00", "UTC", "2026-05-05T23:59:59", ("05-05 00:00", "05-06 00:00")),
        ("day", "06:00", "UTC", "2026-05-05T05:59:59", ("05-04 06:00", "05-05 06:00")),
        ("day", "00:00", "Europe/Berlin", "2026-05-05T21:59", ("05-04 22:00", "05-05 22:00")),
        ("week", "00:00", "UTC", "2026-05-05T12:00", ("05-04 00:00", "05-11 00:00")),
        ("week", "06:00", "UTC", "2026-05-04T05:00", ("04-27 06:00", "05-04 06:00")),
        ("month", "00:00", "UTC", "2026-02-28T23:00", ("02-01 00:00", "03-01 00:00")),
        ("month", "06:00", "UTC", "2026-03-01T05:00", ("02-01 06:00", "03-01 06:00")),
        ("month", "00:00", "UTC", "2026-12-31T12:00", ("12-01 00:00", "01-01 00:00")),
        ("hour", "00:00", "UTC", "2026-05-05T10:20", ("05-05 10:00", "05-05 11:00")),
        ("hour", "00:00", "Asia/Kolkata", "2026-05-05T10:20", ("05-05 09:30", "05-05 10:30")),
    ],
)
def test_a_window_begins_at_its_time(per: str, resets: str, zone: str, at: str, expected: tuple[str, str]) -> None:
    assert window(per, resets, zone, unix(at)) == expected


@pytest.mark.parametrize(
    ("resets", "at", "hours"),
    [
        ("00:00", "2026-03-29T12:00", 23),
        ("00:00", "2026-10-25T12:00", 25),
        ("12:00", "2026-03-28T20:00", 23),
        ("00:00", "2026-03-30T12:00", 24),
    ],
)
def test_a_day_on_which_the_clock_changes_is_shorter_or_longer(resets: str, at: str, hours: int) -> None:
    found = Windows("day", resets, "Europe/Berlin")
    found.find(unix(at, "Europe/Berlin"))
    assert found.end - found.start == hours * 3600


def test_a_time_that_the_clock_skips_is_the_one_after_the_gap() -> None:
    found = Windows("day", "02:30", "Europe/Berlin")
    found.find(unix("2026-03-29T12:00", "Europe/Berlin"))
    assert found.start == unix("2026-03-29T03:30", "Europe/Berlin")


def test_a_time_that_comes_twice_resets_once() -> None:
    found = Windows("day", "02:30", "Europe/Berlin")
    for fold in (0, 1):
        found.find(unix("2026-10-25T02:45", "Europe/Berlin", fold))
        assert found.start == unix("2026-10-25T02:30", "Europe/Berlin", 0)
        assert found.end == unix("2026-10-26T02:30", "Europe/Berlin")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(ZONES), st.sampled_from(("hour", "day", "week", "month")), st.integers(0, 23), st.integers(0, 59),
    st.floats(0, 2_000_000_000),
)  # fmt: skip
def test_windows_follow_each_other_without_gap_or_overlap(
    zone: str, per: str, hour: int, minute: int, wall: float
) -> None:
    found = Windows(per, f"{hour:02}:{minute:02}", zone)
    found.find(wall)
    assert found.start <= wall < found.end
    start, end = found.start, found.end
    for inside in (start, (start + end) / 2, end - 0.001):
        found.find(inside)
        assert (found.start, found.end) == (start, end)
    found.find(end)
    assert found.start == end


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is that of the spec
        find_zone(name)
