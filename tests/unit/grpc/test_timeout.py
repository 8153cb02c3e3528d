"""Tests of the field `grpc-timeout`."""

from __future__ import annotations

import pytest

from sidecar.grpc.timeout import format_timeout, parse_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"10u", 1e-5),
        (b"5n", 5e-9),
        (b"99999999S", 99_999_999.0),
        (b"0S", 0.0),
        (b"123456789m", None),
        (b"5", None),
        (b"m", None),
        (b"-5m", None),
        (b"1.5S", None),
        (b"5s", None),
        (b"", None),
    ],
)
def test_parse(value: bytes, seconds: float | None) -> None:
    assert parse_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (2.0, b"2000m"),
        (0.0101, b"10m"),
        (0.0099, b"9900u"),
        (0.0, b"1u"),
        (-1.0, b"1u"),
        (86_400.0, b"86400000m"),
        (200_000.0, b"200000S"),
        (1e12, b"99999999S"),
    ],
)
def test_format(seconds: float, value: bytes) -> None:
    assert format_timeout(seconds) == value
    read = parse_timeout(value)
    assert read is not None
    assert read <= max(seconds, 1e-6)
