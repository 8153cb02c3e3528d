"""Registry of instruments: recorders hold their instruments, collectors get a copy of all metrics.

Rules:

1. A recorder holds its instrument.  To record is an increment or a list index; nothing is looked up by name.
2. Every metric has a bound on its series.  Beyond it values are counted in one series whose labels all say `other`, and
   `SERIES_DROPPED` counts the identities that were folded so.  A gauge cannot be summed and is left out.
3. Series of a state object go with it: those made inside `owned(key)` belong to the object of that key, and
   `retire(key)` drops them.  A series that two objects claim stays as long as either, and a gauge falls back to the
   reading of the one that is left.
4. All of it runs on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

from sidecar.core.metrics import METRICS, SECONDS, SERIES_DROPPED, Counter, Description, Exemplar, Histogram

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]
"""Names and values of labels, sorted by name."""
Read = Callable[[], float]
Instrument = Counter | Histogram | Read

OTHER: Final = "other"
MAX_SERIES: Final = 1000
NONE: Final[Mapping[int, Exemplar]] = {}
UNDESCRIBED: Final = Description("", "")


class Series(NamedTuple):
    """Copy of one series at the time of collection."""

    labels: Labels
    value: float
    """Count of a counter, reading of a gauge, sum of a histogram."""
    counts: tuple[int, ...] = ()
    """Counts of a histogram by bucket, not cumulative; the last one is of values beyond every bound."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""
    exemplars: Mapping[int, Exemplar] = NONE
    """Exemplars by the index of their bucket."""


class Metric(NamedTuple):
    """Copy of all series of one metric, from which the Prometheus page and OTLP exports are made."""

    name: str
    kind: Kind
    unit: str
    help: str
    series: list[Series]


class MetricFamily:
    """Living series of one metric: the owners that claim each of them, with their instruments; the last one shows."""

    __slots__ = ("kind", "series")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.series: dict[Labels, dict[Hashable, Instrument]] = {}

    def claim(self, labels: Labels, owner: Hashable, instrument: Instrument) -> None:
        """Let an owner use the series; None is an owner that is never retired."""
        claims = self.series.setdefault(labels, {})
        claims.pop(owner, None)
        claims[owner] = instrument

    def find(self, labels: Labels) -> Instrument | None:
        """Return the instrument that shows for the series, None if there is none."""
        claims = self.series.get(labels)
        return None if claims is None else next(reversed(claims.values()))

    def retire(self, owner: Hashable) -> None:
        """Drop an owner's claims, and the series that nobody else claims."""
        for labels in [labels for labels, claims in self.series.items() if owner in claims]:
            del self.series[labels][owner]
            if not self.series[labels]:
                del self.series[labels]


class Registry:
    """`Meter` whose instruments can be collected; `limit` bounds the series of each metric."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self._families: dict[str, MetricFamily] = {}
        self._owner: Hashable = None

    def counter(self, name: str, /, **labels: str) -> Counter:
        """Return the counter of that name and labels."""
        counter: Counter = self._instrument(name, "counter", Counter, labels)
        return counter

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """Return the histogram of that name and labels."""
        histogram: Histogram = self._instrument(name, "histogram", Histogram, labels)
        return histogram

    def gauge(self, name: str, read: Read, /, **labels: str) -> None:
        """Register a gauge; `read` is called at each collection.  One of the same identity is replaced."""
        self._observe(name, "gauge", read, labels)

    def total(self, name: str, read: Read, /, **labels: str) -> None:
        """Register a counter that is kept elsewhere, such as CPU time; `read` is called at each collection."""
        self._observe(name, "counter", read, labels)

    @contextmanager
    def owned(self, owner: Hashable) -> Iterator[None]:
        """Let the series that are asked for inside belong to `owner`, a state object that is being made."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def retire(self, owner: Hashable) -> None:
        """Drop the series of an owner that is gone."""
        for family in self._families.values():
            family.retire(owner)

    def instruments(self, name: str) -> Iterator[tuple[Labels, Instrument]]:
        """Yield the living instruments of a metric, for frequent readers; they must not be changed."""
        if (family := self._families.get(name)) is not None:
            for labels, claims in family.series.items():
                yield labels, next(reversed(claims.values()))

    def collect(self) -> Iterator[Metric]:
        """Yield a copy of each metric, in the order of their names."""
        for name in sorted(self._families):
            family = self._families[name]
            unit, text = METRICS.get(name, UNDESCRIBED)
            series = [_copy(labels, next(reversed(claims.values()))) for labels, claims in family.series.items()]
            yield Metric(name, family.kind, unit, text, series)

    def _family(self, name: str, kind: Kind) -> MetricFamily:
        family = self._families.setdefault(name, MetricFamily(kind))
        if family.kind != kind:
            raise ValueError(f"the metric {name} is a {family.kind} and cannot be a {kind} too; give one another name")
        return family

    def _instrument(self, name: str, kind: Kind, make: Callable[[], Any], labels: Mapping[str, str]) -> Any:
        family = self._family(name, kind)
        key = tuple(sorted(labels.items()))
        owner = self._owner
        if key not in family.series and len(family.series) >= self._limit:
            self._fold(name)
            key = tuple((label, OTHER) for label, _ in key)
            owner = None
        instrument = family.find(key) or make()
        family.claim(key, owner, instrument)
        return instrument

    def _observe(self, name: str, kind: Kind, read: Read, labels: Mapping[str, str]) -> None:
        family = self._family(name, kind)
        key = tuple(sorted(labels.items()))
        if key not in family.series and len(family.series) >= self._limit:
            self._fold(name)
            return
        family.claim(key, self._owner, read)

    def _fold(self, name: str) -> None:
        if name != SERIES_DROPPED:
            self.counter(SERIES_DROPPED, metric=name).value += 1


def _copy(labels: Labels, instrument: Instrument) -> Series:
    if isinstance(instrument, Counter):
        return Series(labels, instrument.value)
    if isinstance(instrument, Histogram):
        exemplars = NONE if instrument.exemplars is None else dict(instrument.exemplars)
        return Series(labels, instrument.total, instrument.exported(), SECONDS, exemplars)
    try:
        return Series(labels, float(instrument()))
    except Exception:  # one failing reading must not cost the whole page; it shows as NaN
        return Series(labels, float("nan"))
