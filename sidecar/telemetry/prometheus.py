"""The metrics page: Prometheus text exposition format 0.0.4, written in pieces.

Names go by OpenTelemetry's rules for Prometheus: dots become underscores, the unit is appended (`_seconds`, `_bytes`)
and a counter ends in `_total`.  A page of 1000 histograms is 2 MB and takes 20 ms to write: whoever writes it yields
to the loop after each piece (`page`), and `Page` keeps the last one for a second and lets simultaneous scrapes share.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from sidecar.telemetry.metrics import Metric, Registry, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PIECE: Final = 50
"""Series in a piece: about 1 ms of work where they are histograms."""
SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}

_label_escapes: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_help_escapes: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def metric_name(metric: Metric) -> str:
    """Its name on the page."""
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name) + SUFFIXES.get(metric.unit, "")
    return name + "_total" if metric.kind == "counter" else name


def number(value: float) -> str:
    """A value or bound as the format spells it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def labels_text(series: Series) -> str:
    """`name="value",...` without the braces."""
    return ",".join(
        f'{re.sub("[^a-zA-Z0-9_]", "_", name)}="{value.translate(_label_escapes)}"' for name, value in series.labels
    )


def render(metric: Metric) -> Iterator[str]:
    """The lines of one metric, in pieces of at most `PIECE` series; none where it has no series."""
    if not metric.series:
        return
    name = metric_name(metric)
    lines = [f"# HELP {name} {metric.help.translate(_help_escapes)}"] if metric.help else []
    lines.append(f"# TYPE {name} {metric.kind}")
    for count, series in enumerate(metric.series, 1):
        labels = labels_text(series)
        if metric.kind == "histogram":
            _histogram(lines, name, labels, series)
        else:
            lines.append(f"{name}{{{labels}}} {number(series.value)}" if labels else f"{name} {number(series.value)}")
        if count % PIECE == 0:
            yield "\n".join(lines) + "\n"
            lines = []
    if lines:
        yield "\n".join(lines) + "\n"


def _histogram(lines: list[str], name: str, labels: str, series: Series) -> None:
    before = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    seen = 0
    for bound, count in zip(series.bounds, series.counts, strict=False):
        seen += count
        lines.append(f'{before}{number(bound)}"}} {seen}')
    seen += series.counts[-1]
    lines.append(f'{before}+Inf"}} {seen}')
    braces = f"{{{labels}}}" if labels else ""
    lines.append(f"{name}_sum{braces} {number(series.value)}")
    lines.append(f"{name}_count{braces} {seen}")


class Page:
    """The page, at most one second old."""

    def __init__(
        self, registry: Registry, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]], keep: float = 1.0
    ) -> None:
        self._registry = registry
        self._now = now
        self._sleep = sleep
        self._keep = keep
        self._lock = asyncio.Lock()
        self._written = -math.inf
        self._text = b""

    async def text(self) -> bytes:
        """The page; written anew, a piece at a time, where the last one is too old."""
        async with self._lock:
            if self._now() - self._written >= self._keep:
                pieces = []
                for metric in self._registry.collect():
                    for piece in render(metric):
                        pieces.append(piece)
                        await self._sleep(0)
                self._text = "".join(pieces).encode()
                self._written = self._now()
            return self._text
