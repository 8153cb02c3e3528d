"""Pictures of the documentation, drawn from one source: boxes, arrows and words become SVG files (`make docs`).

The order of the stages is that of `sidecar.stages.STAGES`, so a picture cannot tell another one.  Colours follow the
reader's light or dark scheme.  Coordinates are in units of a grid of ten pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Final, NamedTuple

from sidecar.stages import STAGES, StageKind

UNIT: Final = 10
STYLE: Final = """
text { font: 14px system-ui, sans-serif; fill: #1f2430; text-anchor: middle; dominant-baseline: central }
text.small { font-size: 12px; fill: #5a6372 }
text.left { text-anchor: start }
rect { fill: #ffffff; stroke: #8a94a6; stroke-width: 1.2 }
rect.ours { fill: #e8ecfb; stroke: #3f51b5 }
rect.group { fill: none; stroke-dasharray: 5 4 }
rect.bad { fill: #fdeaea; stroke: #c62828 }
rect.good { fill: #e7f5ea; stroke: #2e7d32 }
path { stroke: #5a6372; stroke-width: 1.5; fill: none }
path.head { fill: #5a6372; stroke: none }
path.back { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9f0 } text.small { fill: #a7b0c0 }
  rect { fill: #23283a; stroke: #7d879c } rect.ours { fill: #2b3566; stroke: #8c9eff } rect.group { fill: none }
  rect.bad { fill: #4a2327; stroke: #ef9a9a } rect.good { fill: #21402a; stroke: #a5d6a7 }
  path { stroke: #a7b0c0 } path.head { fill: #a7b0c0 }
}
"""
WORK: Final = {
    "timeout": "sets the deadline",
    "rate_limit": "refuses what comes too fast",
    "quota": "refuses what is too much for the day",
    "fallback": "stands in for a failure",
    "cache": "answers from the store",
    "concurrency": "takes a permit",
    "transform": "rewrites request and response",
    "hedge": "starts a second request when the first is slow",
    "retry": "repeats what failed",
    "throttle": "sends less to who refuses",
    "pacing": "sends more slowly to who asks",
    "circuit_breaker": "refuses while the upstream is down",
    "fault": "injects faults for drills",
}
"""Work of each stage in a few words; a stage without an entry is described by its spec."""


class Box(NamedTuple):
    """Box with a line of text, and a smaller one below it."""

    x: float
    y: float
    width: float
    height: float
    text: str = ""
    small: str = ""
    kind: str = ""


class Arrow(NamedTuple):
    """Straight arrow with a word beside it."""

    x1: float
    y1: float
    x2: float
    y2: float
    text: str = ""
    is_answer: bool = False
    dx: float = 0
    dy: float = -1
    has_head: bool = True


class Word(NamedTuple):
    """Text without a box."""

    x: float
    y: float
    text: str
    kind: str = "small"


Part = Box | Arrow | Word


def svg(width: float, height: float, title: str, parts: Iterable[Part]) -> str:
    """Return a picture as the text of an SVG file."""
    w, h = width * UNIT, height * UNIT
    drawn = "\n".join(draw(part) for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{drawn}\n</svg>\n"
    )


def draw(part: Part) -> str:
    if isinstance(part, Box):
        x, y, w, h = (value * UNIT for value in part[:4])
        found = f'<rect class="{part.kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>'
        if part.kind == "group":
            return found + text(x + w / 2, y + 14, part.text, "small")
        shift = 9 if part.small else 0
        found += text(x + w / 2, y + h / 2 - shift, part.text)
        return found + (text(x + w / 2, y + h / 2 + shift, part.small, "small") if part.small else "")
    if isinstance(part, Word):
        return text(part.x * UNIT, part.y * UNIT, part.text, part.kind)
    x1, y1, x2, y2 = (value * UNIT for value in part[:4])
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    bx, by = (x2 - ux * 9, y2 - uy * 9) if part.has_head else (x2, y2)
    found = f'<path class="{"back" if part.is_answer else ""}" d="M{x1:g} {y1:g}L{bx:.4g} {by:.4g}"/>'
    points = f"M{x2:g} {y2:g}L{bx - uy * 4.5:.4g} {by + ux * 4.5:.4g}L{bx + uy * 4.5:.4g} {by - ux * 4.5:.4g}Z"
    if part.has_head:
        found += f'<path class="head" d="{points}"/>'
    middle = ((x1 + x2) / 2 + part.dx * UNIT, (y1 + y2) / 2 + part.dy * UNIT)
    return found + (text(*middle, part.text, "small") if part.text else "")


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def beside_the_service() -> str:
    """Return the picture of a sidecar beside its service."""
    return svg(
        86, 25, "A sidecar beside its service: requests come in by one listener and calls go out by the other",
        [
            Box(16, 1, 48, 23, "one host or pod", kind="group"),
            Box(1, 5, 11, 5, "clients"),
            Box(20, 5, 14, 5, "inbound", "0.0.0.0:8080", "ours"),
            Box(47, 5, 14, 5, "service", "127.0.0.1:8000"),
            Box(40, 16, 14, 5, "outbound", "127.0.0.1:15001", "ours"),
            Box(71, 13, 13, 4, "payments"), Box(71, 19, 13, 4, "stock"),
            Arrow(12, 7.5, 20, 7.5), Arrow(34, 7.5, 47, 7.5, "a route's stages"),
            Arrow(50.5, 10, 50.5, 16, "its calls", dx=-4, dy=0),
            Arrow(54, 17.8, 71, 15), Arrow(54, 19.2, 71, 21),
            Word(66, 17.6, "stages"), Word(27, 18.5, "both listeners belong to the sidecar"),
        ],
    )  # fmt: skip


def stages() -> str:
    """Return the picture of a route's chain of stages."""
    parts: list[Part] = [Box(22, 1, 16, 3.4, "client")]
    for number, kind in enumerate(STAGES):
        top = 6.5 + number * 4.6
        parts += [Box(22, top, 16, 3.4, kind.name, kind="ours"), Word(40, top + 1.7, work_of(kind), "small left")]
        parts += [Arrow(27, top - 1.2 if number else top - 2.1, 27, top), Arrow(33, top, 33, top - 1.3, is_answer=True)]
    end = 6.5 + len(STAGES) * 4.6
    parts += [
        Box(22, end, 16, 3.4, "upstream"), Arrow(27, end - 1.2, 27, end), Arrow(33, end, 33, end - 1.3, is_answer=True),
        Word(12, 8, "admit: on the way in,"), Word(12, 10, "outermost first"),
        Word(12, end - 3, "answer, settle: on the"), Word(12, end - 1, "way out, innermost first"),
    ]  # fmt: skip
    return svg(76, end + 5, "The stages of a route, outermost first; what is not configured is not there", parts)


def work_of(kind: StageKind) -> str:
    """Return what a stage does, in a few words."""
    described = (kind.spec.__doc__ or "").strip().partition(".")[0]
    return WORK.get(kind.name) or described[:1].lower() + described[1:60]


def deadline() -> str:
    """Return the picture of one request in time."""
    return svg(
        80, 17, "A request with two attempts: everything is within the deadline",
        [
            Box(2, 2, 72, 3, "timeout.request: the deadline, which travels on to the upstream", kind="ours"),
            Box(2, 7, 22, 3, "first attempt", kind="bad"), Box(24, 7, 8, 3, "back-off"),
            Box(32, 7, 16, 3, "second attempt", kind="good"),
            Word(2, 11.4, "ends at timeout.attempt, or with a failure named under on", "small left"),
            Word(24, 13.6, "only if the budget allows it, and not past the deadline", "small left"),
            Arrow(2, 15.5, 76, 15.5), Word(77.5, 15.5, "time"),
        ],
    )  # fmt: skip


def breaker() -> str:
    """Return the picture of a circuit breaker's states."""
    return svg(
        82, 17, "The states of a circuit breaker",
        [
            Box(3, 6, 15, 5, "closed", "requests pass", "good"),
            Box(34, 6, 15, 5, "open", "requests are refused", "bad"),
            Box(65, 6, 15, 5, "half-open", "a few probes pass", "ours"),
            Arrow(18, 7.3, 34, 7.3, "too many failures"), Arrow(49, 7.3, 65, 7.3, "open_for is over"),
            Arrow(65, 9.8, 49, 9.8, "a probe fails", dy=1.3),
            Arrow(72.5, 11, 72.5, 14.5, has_head=False),
            Arrow(72.5, 14.5, 10.5, 14.5, "probes succeed: a ramp, then all", dy=1.2, has_head=False),
            Arrow(10.5, 14.5, 10.5, 11),
        ],
    )  # fmt: skip


def reload() -> str:
    """Return the picture of a reload."""
    return svg(
        92, 22, "A reload: a new snapshot takes the place of the old one, and state stays",
        [
            Box(2, 3, 14, 5, "policy files", "YAML"), Box(22, 3, 14, 5, "specs", "checked values"),
            Box(42, 3, 16, 5, "new snapshot", "routes with stages", "ours"),
            Box(70, 3, 18, 5, "requests", "each keeps its own"),
            Arrow(16, 5.5, 22, 5.5), Arrow(36, 5.5, 42, 5.5), Arrow(58, 5.5, 70, 5.5, "in force at once"),
            Box(22, 13, 14, 5, "every problem", "nothing changes", "bad"),
            Arrow(29, 8, 29, 13, "a mistake", dx=4.5, dy=0),
            Box(42, 13, 46, 5, "breakers, budgets, pools, caches, counters", "state lives on", "good"),
            Arrow(50, 8, 50, 13, "takes it over", dx=6, dy=0),
        ],
    )  # fmt: skip


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "beside-the-service": beside_the_service,
    "stages": stages,
    "deadline": deadline,
    "breaker": breaker,
    "reload": reload,
}
"""Pictures of `docs/assets/` by name."""
