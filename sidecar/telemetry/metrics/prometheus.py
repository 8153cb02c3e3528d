"""Metrics page: Prometheus text format 0.0.4, or OpenMetrics 1.0 for scrapers that accept it.

Rules:

1. Names follow OpenTelemetry's rules for Prometheus: dots become underscores, the unit is appended (`_seconds`,
   `_bytes`), and a counter ends in `_total`.
2. Only OpenMetrics has exemplars, which lead from a histogram bucket to a trace.
3. A page is written in pieces, with a turn of the loop after each.  It is kept for a second, so that simultaneous
   scrapes share it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from sidecar.telemetry.metrics.registry import Metric, Registry, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text"
OPENMETRICS_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
END: Final = "# EOF\n"
PIECE: Final = 50
"""Most series that are written in one turn of the loop."""
SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}
"""Suffix of a metric's name, by its unit."""

_label_escapes: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_help_escapes: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def wants_openmetrics(accept: str) -> bool:
    """True if an `Accept` field (RFC 9110 12.5.1) accepts OpenMetrics."""
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == OPENMETRICS and not {"q=0", "q=0.0"} & set(parameters):
            return True
    return False


def family_name(metric: Metric) -> str:
    """Return a metric's name in OpenMetrics, without the suffix of a counter's samples."""
    return re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name) + SUFFIXES.get(metric.unit, "")


def metric_name(metric: Metric) -> str:
    """Return a metric's name on the page."""
    name = family_name(metric)
    return name + "_total" if metric.kind == "counter" else name


def number(value: float) -> str:
    """Return a value or bound in the notation of the format."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def labels_text(series: Series) -> str:
    """Return `name="value",...`, without the braces."""
    return ",".join(
        f'{re.sub("[^a-zA-Z0-9_]", "_", name)}="{value.translate(_label_escapes)}"' for name, value in series.labels
    )


def bound(value: float, *, openmetrics: bool) -> str:
    """Return the upper bound of a bucket as text; OpenMetrics writes whole numbers as `1.0`."""
    return repr(float(value)) if openmetrics else number(value)


def render(metric: Metric, *, openmetrics: bool = False) -> Iterator[str]:
    """Yield the lines of one metric in pieces of at most `PIECE` series; nothing if it has no series."""
    if not metric.series:
        return
    name = metric_name(metric)
    family = family_name(metric) if openmetrics else name
    escapes = _label_escapes if openmetrics else _help_escapes
    lines = [f"# TYPE {family} {metric.kind}"]
    if openmetrics and metric.unit in SUFFIXES:
        lines.append(f"# UNIT {family} {SUFFIXES[metric.unit][1:]}")
    if metric.help:
        lines.insert(len(lines) if openmetrics else 0, f"# HELP {family} {metric.help.translate(escapes)}")
    for count, series in enumerate(metric.series, 1):
        labels = labels_text(series)
        if metric.kind == "histogram":
            _histogram(lines, name, labels, series, openmetrics=openmetrics)
        else:
            lines.append(f"{name}{{{labels}}} {number(series.value)}" if labels else f"{name} {number(series.value)}")
        if count % PIECE == 0:
            yield "\n".join(lines) + "\n"
            lines = []
    if lines:
        yield "\n".join(lines) + "\n"


def _histogram(lines: list[str], name: str, labels: str, series: Series, *, openmetrics: bool) -> None:
    """Append the lines of one histogram."""
    before = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    exemplars = series.exemplars if openmetrics else {}
    seen = 0
    for index, count in enumerate(series.counts):
        seen += count
        le = "+Inf" if index == len(series.bounds) else bound(series.bounds[index], openmetrics=openmetrics)
        line = f'{before}{le}"}} {seen}'
        if index in exemplars:
            value, wall, trace_id, span_id = exemplars[index]
            line += f' # {{trace_id="{trace_id.decode()}",span_id="{span_id:016x}"}} {value!r} {wall:.3f}'
        lines.append(line)
    braces = f"{{{labels}}}" if labels else ""
    lines.append(f"{name}_sum{braces} {number(series.value)}")
    lines.append(f"{name}_count{braces} {seen}")


class Page:
    """Metrics page in both formats, kept for `keep` seconds."""

    def __init__(
        self, registry: Registry, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]], keep: float = 1.0
    ) -> None:
        self._registry = registry
        self._now = now
        self._sleep = sleep
        self._keep = keep
        self._lock = asyncio.Lock()
        self._texts: dict[bool, tuple[float, bytes]] = {}
        """Time and text of the latest page, by format; True is OpenMetrics."""

    async def text(self, *, openmetrics: bool = False) -> bytes:
        """Return the page; write a new one if the latest is too old."""
        async with self._lock:
            written, text = self._texts.get(openmetrics, (-math.inf, b""))
            if self._now() - written >= self._keep:
                pieces = []
                for metric in self._registry.collect():
                    for piece in render(metric, openmetrics=openmetrics):
                        pieces.append(piece)
                        await self._sleep(0)
                if openmetrics:
                    pieces.append(END)
                text = "".join(pieces).encode()
                self._texts[openmetrics] = (self._now(), text)
            return text
