"""Result of a replay as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.lint.arithmetic import times
from sidecar.replay.run import Replayed, mean
from sidecar.replay.tally import Numbers


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.2f} %"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.4g} ms"


Row = tuple[str, Callable[[Numbers], Any], Callable[[Any], str], int]
"""Title, value, form, and 1 if more is better, -1 if less is better, 0 if neither."""
ROWS: Final[tuple[Row, ...]] = (
    ("availability", lambda n: n.availability, _percent, 1),
    ("goodput", lambda n: n.goodput, _percent, 1),
    ("good answers a second", lambda n: n.per_second, "{:.4g}".format, 1),
    ("p50", lambda n: n.p50, _milliseconds, -1),
    ("p99", lambda n: n.p99, _milliseconds, -1),
    ("attempts a request", lambda n: n.load, "{:.3f}".format, -1),
    ("retries", lambda n: n.retries, str, 0),
    ("hedges", lambda n: n.hedges, str, 0),
    ("requests that these rescued", lambda n: n.rescued, str, 0),
    ("requests that these did not rescue", lambda n: n.not_rescued, str, -1),
    ("breaker openings", lambda n: n.opened, str, 0),
    ("requests that policies refused", lambda n: n.refused, str, 0),
    ("requests without a route", lambda n: n.unmatched, str, -1),
    ("cache hit ratio", lambda n: n.hit_ratio, _percent, 1),
)
RECORDED: Final = frozenset(("availability", "good answers a second", "p50", "p99", "attempts a request"))
"""Rows that the log itself has."""


def spread(runs: list[Numbers], value: Callable[[Numbers], Any], form: Callable[[Any], str]) -> str:
    """Return the range of a value over the seeds; empty if there is none."""
    values = [value(each) for each in runs if value(each) is not None]
    if not values or form(min(values)) == form(max(values)):
        return ""
    return f"{form(min(values))} to {form(max(values))}"


def verdict(result: Replayed, failures: list[str]) -> str:
    """Return the sentence that names the better policy set."""
    words = {
        "new": "the new policies are better",
        "old": "the old policies are better",
        "neither": "neither policy set is better",
    }
    return "; ".join([words[result.better], *failures])


def table(result: Replayed) -> list[tuple[str, str, str, str, str]]:
    """Return the rows: title, recorded, old, new, and the range of the new one over the seeds."""
    old, new = mean(result.old), mean(result.new)
    rows = []
    for title, value, form, _ in ROWS:
        recorded = form(value(result.recorded)) if title in RECORDED else "–"
        rows.append((title, recorded, form(value(old)), form(value(new)), spread(result.new, value, form)))
    return rows


def text(result: Replayed, failures: list[str]) -> str:
    """Return the result as text."""
    record = result.record
    head = ("", "recorded", "old", "new", "new over the seeds")
    rows = [head, *table(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [f"{len(record.requests)} requests in {record.seconds:.0f} s, {times(len(result.seeds), 'seed')}", ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += ["", verdict(result, failures), "", "What the log cannot tell:"]
    lines += [f"- {sentence}" for sentence in result.limits]
    lines += [f"- {sentence}" for sentence in record.named]
    return "\n".join(lines) + "\n"


def document(result: Replayed, failures: list[str]) -> dict[str, Any]:
    """Return the result as a `ReplayDocument`."""
    record = result.record
    return {
        "ok": not failures,
        "better": result.better,
        "failures": failures,
        "requests": len(record.requests),
        "seconds": record.seconds,
        "seeds": result.seeds,
        "unreadable": {"lines": record.unreadable, "first": record.named},
        "recorded": {
            "availability": result.recorded.availability,
            "p50": result.recorded.p50,
            "p99": result.recorded.p99,
            "load": result.recorded.load,
        },
        "old": {"mean": mean(result.old)._asdict(), "runs": [each._asdict() for each in result.old]},
        "new": {"mean": mean(result.new)._asdict(), "runs": [each._asdict() for each in result.new]},
        "limits": result.limits,
    }
