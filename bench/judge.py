"""Verdict on a soak: no growth of memory or objects, and nothing left at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final, NamedTuple

from bench.tally import Tally
from sidecar.core.message import LINES, LineDecision

WARM_UP: Final = 0.25
"""Share of the time in which caches, pools and free lists fill."""
SPARE_FILES: Final = 4
"""Descriptors that may be open at the end beyond those at the start."""
KEPT: Final = 100
"""Number of objects of one type that may be kept on purpose, such as the history of reloads."""
MEMORIES: Final = {f"{LineDecision.__module__}.{LineDecision.__qualname__}": 3 * LINES}
"""Most objects of types that are held in bounded tables: three selections keep lines.  Such a table grows until it is
full and then starts again empty.  So it is judged by its bound and not by a line through its samples."""
MIB: Final = 2**20


class Sample(NamedTuple):
    """Resources of the sidecar at one instant."""

    at: float
    """Seconds from the start."""
    memory: int
    """Resident bytes."""
    files: int
    tasks: int
    connections: int
    """Open connections of clients."""
    in_flight: int
    requests: int
    """Requests sent so far."""
    stalls: int
    objects: dict[str, int]
    """Live objects by type."""


class Growth(NamedTuple):
    """Straight line through the samples of one quantity."""

    name: str
    mean: float
    rise: float
    """Difference of the line's values at the first and the last sample."""
    allowed: float


class Verdict(NamedTuple):
    """Result of a soak; it has passed if `faults` is empty."""

    growths: list[Growth]
    faults: list[str]
    before: Sample
    after: Sample


def rise(times: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much a least-squares line through the points rises from the first to the last."""
    middle, mean = fmean(times), fmean(values)
    spread = sum((at - middle) ** 2 for at in times)
    if not spread:
        return 0.0
    slope = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread
    return slope * (times[-1] - times[0])


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Return the lines through the samples after the warm-up."""
    settled = [sample for sample in samples if sample.at >= samples[-1].at * WARM_UP]
    times = [sample.at for sample in settled]

    def line(name: str, read: Callable[[Sample], float], allowed: Callable[[float], float]) -> Growth:
        values = [read(sample) for sample in settled]
        return Growth(name, fmean(values), rise(times, values), allowed(fmean(values)))

    is_short = samples[-1].at < 300  # allocators take minutes to settle

    def small(mean: float) -> float:
        """Return the allowed rise of a quantity of few objects."""
        return 0.3 * mean + 20

    lines = [
        line("memory, MiB", lambda s: s.memory / MIB, lambda mean: 8 if is_short else 0.03 * mean),
        line("descriptors", lambda s: s.files, small),
        line("tasks", lambda s: s.tasks, small),
        line("objects", lambda s: sum(_transient(s).values()), lambda mean: 0.1 * mean + 200),
    ]
    kinds = sorted({kind for sample in settled for kind in _transient(sample)})
    return lines + [
        found
        for kind in kinds
        if (found := line(kind, lambda s, kind=kind: s.objects.get(kind, 0), small)).rise > found.allowed  # type: ignore[misc]
    ]


def _transient(sample: Sample) -> dict[str, int]:
    """Return the objects that should end with a request or a connection."""
    return {kind: count for kind, count in sample.objects.items() if kind not in MEMORIES}


def judge(samples: Sequence[Sample], before: Sample, after: Sample, tally: Tally) -> Verdict:
    """Return the verdict on a soak."""
    lines = growths(samples)
    faults = list(tally.violations)
    faults += [
        f"{one.name} grow: {one.rise:+.1f} at {one.mean:.1f} on average" for one in lines if one.rise > one.allowed
    ]
    for name, value, allowed in (
        ("connections of clients", after.connections, 0),
        ("requests in flight", after.in_flight, 0),
        ("tasks", after.tasks, before.tasks),
        ("descriptors", after.files, before.files + SPARE_FILES),
    ):
        if value > allowed:
            faults.append(f"{value} {name} remain; there were {allowed} before")
    for kind, most in MEMORIES.items():
        count = max(sample.objects.get(kind, 0) for sample in (*samples, before, after))
        if count > most:
            faults.append(f"{count} {kind} are kept, at most {most} should be")
    faults += [
        f"{count} {kind} remain; there were {before.objects.get(kind, 0)} before"
        for kind, count in _transient(after).items()
        if count > before.objects.get(kind, 0) + max(KEPT, 0.2 * before.objects.get(kind, 0))
    ]
    return Verdict(lines, faults, before, after)


def markdown(facts: dict[str, str], samples: Sequence[Sample], verdict: Verdict, tally: Tally) -> str:
    """Return the report as Markdown."""
    asked = sum(tally.asked.values())
    lines = ["# Soak", "", "Written by `make soak` (`bench/soak.py` has the rules).", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    lines += [
        f"- requests: {asked:,}, {asked / samples[-1].at:,.0f} a second; {sum(tally.answered.values()):,} answered by "
        f"the upstream, {sum(tally.refused.values()):,} by the sidecar, {tally.broken:,} cut short as the upstream's "
        f"answer was, {tally.left:,} left by their clients",
        f"- event loop: {samples[-1].stalls} stalls of 100 ms or more",
        f"- **{'passed' if not verdict.faults else 'failed'}**",
        "",
    ]
    lines += [f"  - {fault}" for fault in verdict.faults[:50]]
    lines += ["", "| requests | number |", "|---|---|"]
    lines += [f"| {kind} | {count:,} |" for kind, count in sorted(tally.asked.items())]
    lines += ["", "| refused by the sidecar | number |", "|---|---|"]
    lines += [f"| {reason} | {count:,} |" for reason, count in sorted(tally.refused.items())]
    lines += ["", "| after the warm-up | on average | rise over the whole time | allowed |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.mean:,.1f} | {one.rise:+,.1f} | {one.allowed:,.1f} |" for one in verdict.growths]
    lines += ["", "| at | memory, MiB | descriptors | tasks | clients | objects |", "|---|---|---|---|---|---|"]
    shown = samples[:: max(1, len(samples) // 12)]
    for name, one in (("before", verdict.before), *((f"{s.at:.0f} s", s) for s in shown), ("at rest", verdict.after)):
        lines.append(
            f"| {name} | {one.memory / MIB:.1f} | {one.files} | {one.tasks} | {one.connections} "
            f"| {sum(one.objects.values()):,} |"
        )
    return "\n".join(lines) + "\n"
