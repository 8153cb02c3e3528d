"""Registry of instruments: makes them for recorders, and copies their values for collectors.

Rules:

1. A recorder holds its instrument, so recording never looks one up by name.
2. Every metric has a bound on its series.  Beyond it, values are counted in one series with the label value `other`,
   and `SERIES_DROPPED` counts the series that were replaced.  A gauge cannot be summed, so it is left out.
3. Series made inside `owned(key)` belong to the state object under that key, and `retire(key)` drops them.  A series
   with two owners stays until both are retired; a gauge then shows the value of the remaining owner.
4. The registry is used only on the event loop's thread.
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
"""Function that returns the current value of a gauge or counter."""
Instrument = Counter | Histogram | Read

OTHER: Final = "other"
"""Label value of the series beyond the bound."""
MAX_SERIES: Final = 1000
"""Most series of one metric."""
NONE: Final[Mapping[int, Exemplar]] = {}
UNDESCRIBED: Final = Description("", "")


class Series(NamedTuple):
    """Copy of one series at the time of collection."""

    labels: Labels
    value: float
    """Count of a counter, value of a gauge, or sum of a histogram."""
    counts: tuple[int, ...] = ()
    """Counts of a histogram by bucket, not cumulative; the last one counts values above all bounds."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of the buckets of a histogram."""
    exemplars: Mapping[int, Exemplar] = NONE
    """Exemplars by the index of their bucket."""


class Metric(NamedTuple):
    """Copy of all series of one metric, for the Prometheus page and OTLP exports."""

    name: str
    kind: Kind
    unit: str
    help: str
    series: list[Series]


class MetricFamily:
    """Series of one metric, each with the instruments of its owners; the instrument of the latest owner is read."""

    __slots__ = ("kind", "series")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.series: dict[Labels, dict[Hashable, Instrument]] = {}

    def claim(self, labels: Labels, owner: Hashable, instrument: Instrument) -> None:
        """Add an owner with its instrument to a series; None is an owner that is never retired."""
        claims = self.series.setdefault(labels, {})
        claims.pop(owner, None)
        claims[owner] = instrument

    def find(self, labels: Labels) -> Instrument | None:
        """Return the instrument that is read for a series; None if there is no such series."""
        claims = self.series.get(labels)
        return None if claims is None else next(reversed(claims.values()))

    def retire(self, owner: Hashable) -> None:
        """Remove an owner from all series, and drop series without owners."""
        for labels in [labels for labels, claims in self.series.items() if owner in claims]:
            del self.series[labels][owner]
            if not self.series[labels]:
                del self.series[labels]


class Registry:
    """`Meter` whose instruments can be collected; `limit` is the most series of one metric."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self._families: dict[str, MetricFamily] = {}
        self._owner: Hashable = None

    def counter(self, name: str, /, **labels: str) -> Counter:
        """Return the counter with this name and labels."""
        counter: Counter = self._instrument(name, "counter", Counter, labels)
        return counter

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """Return the histogram with this name and labels."""
        histogram: Histogram = self._instrument(name, "histogram", Histogram, labels)
        return histogram

    def gauge(self, name: str, read: Read, /, **labels: str) -> None:
        """Register a gauge; `read` is called at each collection.  A gauge with the same name and labels is replaced."""
        self._observe(name, "gauge", read, labels)

    def total(self, name: str, read: Read, /, **labels: str) -> None:
        """Register a counter that is kept elsewhere, such as CPU time; `read` is called at each collection."""
        self._observe(name, "counter", read, labels)

    @contextmanager
    def owned(self, owner: Hashable) -> Iterator[None]:
        """Let series that are made in this context belong to `owner`, the key of a state object."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def retire(self, owner: Hashable) -> None:
        """Drop the series of an owner that no longer exists."""
        for family in self._families.values():
            family.retire(owner)

    def instruments(self, name: str) -> Iterator[tuple[Labels, Instrument]]:
        """Yield the instruments of a metric without copying them, for frequent readers, which must not change them."""
        if (family := self._families.get(name)) is not None:
            for labels, claims in family.series.items():
                yield labels, next(reversed(claims.values()))

    def kinds(self) -> Iterator[tuple[str, Kind]]:
        """Yield the name and the kind of each metric."""
        for name, family in self._families.items():
            yield name, family.kind

    def collect(self) -> Iterator[Metric]:
        """Yield a copy of each metric, in the order of their names."""
        for name in sorted(self._families):
            family = self._families[name]
            unit, text = METRICS.get(name, UNDESCRIBED)
            series = [_copy(labels, next(reversed(claims.values()))) for labels, claims in family.series.items()]
            yield Metric(name, family.kind, unit, text, series)

    def _family(self, name: str, kind: Kind) -> MetricFamily:
        """Return the series of a metric.  Raises `ValueError` if the metric is of another kind."""
        family = self._families.setdefault(name, MetricFamily(kind))
        if family.kind != kind:
            raise ValueError(f"the metric {name} is a {family.kind} and cannot be a {kind} too; give one another name")
        return family

    def _instrument(self, name: str, kind: Kind, make: Callable[[], Any], labels: Mapping[str, str]) -> Any:
        """Return the instrument with this name and labels; make it, or use the common one beyond the bound."""
        family = self._family(name, kind)
        key = tuple(sorted(labels.items()))
        owner = self._owner
        if key not in family.series and len(family.series) >= self._limit:
            self._count_dropped(name)
            key = tuple((label, OTHER) for label, _ in key)
            owner = None
        instrument = family.find(key) or make()
        family.claim(key, owner, instrument)
        return instrument

    def _observe(self, name: str, kind: Kind, read: Read, labels: Mapping[str, str]) -> None:
        """Register a function that is called at each collection."""
        family = self._family(name, kind)
        key = tuple(sorted(labels.items()))
        if key not in family.series and len(family.series) >= self._limit:
            self._count_dropped(name)
            return
        family.claim(key, self._owner, read)

    def _count_dropped(self, name: str) -> None:
        """Count a series that is not made, because its metric has reached the bound."""
        if name != SERIES_DROPPED:
            self.counter(SERIES_DROPPED, metric=name).value += 1


def _copy(labels: Labels, instrument: Instrument) -> Series:
    """Return a copy of a series."""
    if isinstance(instrument, Counter):
        return Series(labels, instrument.value)
    if isinstance(instrument, Histogram):
        exemplars = NONE if instrument.exemplars is None else dict(instrument.exemplars)
        return Series(labels, instrument.total, instrument.exported(), SECONDS, exemplars)
    try:
        return Series(labels, float(instrument()))
    except Exception:  # one failing value must not make the whole page fail
        return Series(labels, float("nan"))
