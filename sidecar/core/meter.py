"""Instruments that cost next to nothing: a counter is one attribute, a histogram one list.

Stages ask the `Meter` in their `Env` for an instrument once, when they are built, and then only touch attributes.
OpenTelemetry's own instruments cost 7 us a record and cannot be bound in advance, hence these (see
`telemetry/metrics.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

SECONDS: Final[tuple[float, ...]] = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds, as the OpenTelemetry HTTP conventions advise them."""


class Counter:
    """Counts up.  On a hot path write `counter.value += 1`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount


class Exemplar(NamedTuple):
    """One value out of many, with the trace that shows where it came from."""

    value: float
    wall: float
    """Seconds since 1970."""
    trace_id: bytes
    """32 characters of hex."""
    span_id: int


class Histogram:
    """Counts of values by upper bound (inclusive), with their sum."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None
        """The latest of each bucket, by its index; None where there has been none."""

    def record(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Meter(Protocol):
    """Gives out instruments; the same name and labels give the same instrument, within a bound on their number."""

    def counter(self, name: str, /, **labels: str) -> Counter: ...
    def histogram(self, name: str, /, **labels: str) -> Histogram: ...
    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """`read` is called when metrics are collected.  A gauge of the same name and labels is replaced."""
