"""Charts as inline SVG: lines over time with the intervals of faults shaded, bands of states, and a waterfall.

1. Colours are CSS variables of the page, so that they follow light and dark.
2. Series differ by dashes too, and each chart has a title and a description for readers who do not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor
from typing import NamedTuple

WIDTH, HEIGHT = 460, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 22
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")
COLOURS = 5


class Series(NamedTuple):
    """Line with its points (seconds, value); None is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Frame(NamedTuple):
    """Time that all charts of an arm show; `shaded` are the intervals of faults."""

    start: float
    end: float
    shaded: Sequence[tuple[float, float]]

    def x(self, at: float) -> float:
        """Return the horizontal position of an instant."""
        share = (min(max(at, self.start), self.end) - self.start) / (self.end - self.start)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def lines(title: str, series: Sequence[Series], frame: Frame, top: float, form: Callable[[float], str]) -> str:
    """Return a chart of lines; `top` is the largest value of the axis, `form` writes a value."""
    top = top or 1.0

    def y(value: float) -> float:
        return TOP + (1 - min(value, top) / top) * (HEIGHT - TOP - BOTTOM)

    parts = [_shade(frame, HEIGHT)]
    for share in (0.0, 0.5, 1.0):
        at = y(top * share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{at + 3:.1f}" text-anchor="end">{form(top * share)}</text>')
    parts.append(_axis(frame, HEIGHT))
    for number, each in enumerate(series):
        path, pen = "", "M"
        for at, value in each.points:
            if value is None:
                pen = "M"
                continue
            path += f"{pen}{frame.x(at):.1f} {y(value):.1f}"
            pen = "L"
        dash = DASHES[number % len(DASHES)]
        parts.append(f'<path class="line c{number % COLOURS}" stroke-dasharray="{dash}" d="{path or "M0 0"}"/>')
    said = "; ".join(f"{each.name}: {_range_text(each, form)}" for each in series)
    return _svg(title, said, HEIGHT, "".join(parts), legend([each.name for each in series]))


def _range_text(series: Series, form: Callable[[float], str]) -> str:
    """Return the range of a line's values in words."""
    values = [value for _, value in series.points if value is not None]
    return f"from {form(min(values))} to {form(max(values))}" if values else "no values"


def legend(names: Sequence[str]) -> str:
    """Return the legend of a chart of lines."""
    items = "".join(
        f'<li><svg width="26" height="8" aria-hidden="true"><path class="line c{n % COLOURS}" '
        f'stroke-dasharray="{DASHES[n % len(DASHES)]}" d="M1 4L25 4"/></svg>{escape(name)}</li>'
        for n, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def band(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, float, str]]]], frame: Frame) -> str:
    """Return a chart of states over time; each row has a name and its states (start, end, state)."""
    height = 18 * len(rows) + BOTTOM + 4
    parts = [_shade(frame, height)]
    for number, (name, states) in enumerate(rows):
        y = 4 + 18 * number
        for start, end, state in states:
            x, width = frame.x(start), max(1.0, frame.x(end) - frame.x(start))
            label = f"<title>{escape(name)}: {state}, {start:.1f} to {end:.1f} s</title>"
            box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="13"'
            parts.append(f'<rect class="state {state}" {box}>{label}</rect>')
            if width > 45:
                parts.append(f'<text class="word" x="{x + 4:.1f}" y="{y + 10}">{state.replace("_", "-")}</text>')
    parts.append(_axis(frame, height))
    said = "; ".join(f"{name}: " + ", ".join(s for *_, s in states) for name, states in rows)
    names = "".join(f"<li>{escape(name)}</li>" for name, _ in rows)
    return _svg(title, said, height, "".join(parts), f'<ul class="legend">{names}</ul>')


def waterfall(title: str, spans: Sequence[tuple[str, float, float, float, str]]) -> str:
    """Return the waterfall of one request; each span has a name, arrival, start of work, end (seconds) and result."""
    last = max((end for *_, end, _ in spans), default=1.0) or 1.0
    height = 20 * len(spans) + 6
    parts = []
    left = 120

    def x(seconds: float) -> float:
        return left + seconds / last * (WIDTH - left - 90)

    for number, (name, arrived, started, ended, what) in enumerate(spans):
        y = 4 + 20 * number
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        parts.append(_bar("wait", x(arrived), x(started), y))
        parts.append(_bar("work", x(started), x(ended), y))
        parts.append(f'<text class="tick" x="{x(ended) + 5:.1f}" y="{y + 11}">{escape(what)}</text>')
    said = "; ".join(f"{name}: {what}" for name, *_, what in spans)
    return _svg(title, said, height, "".join(parts))


def _bar(kind: str, start: float, end: float, y: float) -> str:
    if end - start < 0.05:
        return ""
    return f'<rect class="{kind}" x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="14"/>'


def _shade(frame: Frame, height: float) -> str:
    parts = []
    for start, end in frame.shaded:
        x, width = frame.x(start), max(2.0, frame.x(end) - frame.x(start))
        box = f'x="{x:.1f}" y="0" width="{width:.1f}" height="{height - BOTTOM + 4:.0f}"'
        parts.append(f'<rect class="fault" {box}/>')
    return "".join(parts)


def _axis(frame: Frame, height: float) -> str:
    step = 2 if frame.end - frame.start <= 20 else 5
    return "".join(
        f'<text class="tick" x="{frame.x(at):.1f}" y="{height - 6}" text-anchor="middle">{at}</text>'
        for at in range(ceil(frame.start / step) * step, floor(frame.end) + 1, step)
    )


def _svg(title: str, said: str, height: float, body: str, below: str = "") -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><desc>{escape(said)}</desc>{body}</svg>{below}</figure>'
    )
