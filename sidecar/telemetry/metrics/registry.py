"""The registry of instruments: who counts holds its instrument, who collects gets a copy of all.

Rules:

1. Whoever records holds its instrument: an increment or a list index, nothing is looked up by name.
2. Every metric has a bound on its series.  What exceeds it is counted in one series whose labels all say `other`, and
   `SERIES_DROPPED` counts how many identities were folded so.  A gauge cannot be summed into another: it is left out.
3. What belongs to an object that can be retired goes with it: series made inside `owned(key)` are tagged with the key
   of the state object that is being made, and `retire(key)` takes them away.  A series that two objects claim stays
   as long as either, and a gauge falls back to the reading of the one that is left.
4. One thread: all of it runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

from sidecar.core.metrics import METRICS, SERIES_DROPPED, Counter, Description, Exemplar, Histogram

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""
Read = Callable[[], float]
Instrument = Counter | Histogram | Read

OTHER: Final = "other"
MAX_SERIES: Final = 1000
NONE: Final[Mapping[int, Exemplar]] = {}
UNDESCRIBED: Final = Description("", "")


class Series(NamedTuple):
    """One line of numbers, copied at the time of collection."""

    labels: Labels
    value: float
    """The count, the reading, or a histogram's sum."""
    counts: tuple[int, ...] = ()
    """A histogram's counts by bucket, not cumulative; the last is what exceeds every bound."""
    bounds: tuple[float, ...] = ()
    exemplars: Mapping[int, Exemplar] = NONE
    """By the index of their bucket."""


class Metric(NamedTuple):
    """All series of a name.  What the Prometheus page and an OTLP exporter are made from."""

    name: str
    kind: Kind
    unit: str
    help: str
    series: list[Series]


class Family:
    """A metric while it is being counted: who claims each of its series, with which instrument; the last one shows."""

    __slots__ = ("kind", "series")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.series: dict[Labels, dict[Hashable, Instrument]] = {}

    def claim(self, labels: Labels, owner: Hashable, instrument: Instrument) -> None:
        """An owner (None: nobody who can be retired) uses the series."""
        claims = self.series.setdefault(labels, {})
        claims.pop(owner, None)
        claims[owner] = instrument

    def find(self, labels: Labels) -> Instrument | None:
        claims = self.series.get(labels)
        return None if claims is None else next(reversed(claims.values()))

    def retire(self, owner: Hashable) -> None:
        """Take an owner's claims away, and the series that nobody else claims."""
        for labels in [labels for labels, claims in self.series.items() if owner in claims]:
            del self.series[labels][owner]
            if not self.series[labels]:
                del self.series[labels]


class Registry:
    """A `Meter` that can be collected.  `limit` bounds the series of each metric."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self._families: dict[str, Family] = {}
        self._owner: Hashable = None

    def counter(self, name: str, /, **labels: str) -> Counter:
        """The counter of that name and labels."""
        counter: Counter = self._instrument(name, "counter", Counter, labels)
        return counter

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """The histogram of that name and labels."""
        histogram: Histogram = self._instrument(name, "histogram", Histogram, labels)
        return histogram

    def gauge(self, name: str, read: Read, /, **labels: str) -> None:
        """`read` is called at each collection; one of the same name and labels is replaced."""
        self._observe(name, "gauge", read, labels)

    def total(self, name: str, read: Read, /, **labels: str) -> None:
        """A counter that someone else keeps (a CPU time, say): `read` is called at each collection."""
        self._observe(name, "counter", read, labels)

    @contextmanager
    def owned(self, owner: Hashable) -> Iterator[None]:
        """What is asked for inside belongs to `owner`: for the making of state objects, never on the hot path."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def retire(self, owner: Hashable) -> None:
        """An owner is gone, and its series with it."""
        for family in self._families.values():
            family.retire(owner)

    def instruments(self, name: str) -> Iterator[tuple[Labels, Instrument]]:
        """The living instruments of a metric, for who reads it often; not to be changed."""
        if (family := self._families.get(name)) is not None:
            for labels, claims in family.series.items():
                yield labels, next(reversed(claims.values()))

    def collect(self) -> Iterator[Metric]:
        """A copy of every metric, one at a time, in the order of their names."""
        for name in sorted(self._families):
            family = self._families[name]
            unit, text = METRICS.get(name, UNDESCRIBED)
            series = [_copy(labels, next(reversed(claims.values()))) for labels, claims in family.series.items()]
            yield Metric(name, family.kind, unit, text, series)

    def _family(self, name: str, kind: Kind) -> Family:
        family = self._families.setdefault(name, Family(kind))
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
        return Series(labels, instrument.total, tuple(instrument.counts), instrument.bounds, exemplars)
    try:
        return Series(labels, float(instrument()))
    except Exception:  # one reading that fails must not take the page away; it shows as NaN
        return Series(labels, float("nan"))
