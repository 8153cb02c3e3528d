"""Recordings as curves, for the report."""

from __future__ import annotations

from chaos.scenario.spec import Scenario
from chaos.verdict.charts import Frame, Series
from chaos.verdict.judge import base, is_good, percentile
from chaos.verdict.recording import Recording

STEP = 0.5
"""Seconds between two points."""
STATES = ("closed", "half_open", "open")


def frame(recording: Recording) -> Frame:
    """Return the time that charts show, with the intervals of faults."""
    start, end = recording.phases["before"][0], recording.phases["after"][1]
    shaded = [(fault.began, fault.ended) for fault in recording.faults] or [recording.phases["during"]]
    return Frame(start, end, shaded)


def bins(recording: Recording) -> list[float]:
    """Return the start of each step."""
    start, end = recording.phases["before"][0], recording.phases["after"][1]
    return [start + STEP * n for n in range(int((end - start) / STEP))]


def goodput(recording: Recording, scenario: Scenario) -> list[Series]:
    """Return the share of good responses of each class, by when the requests were due."""
    found = []
    for cls in scenario.load:
        points: list[tuple[float, float | None]] = []
        requests = [r for r in recording.requests if r.cls == cls]
        for at in bins(recording):
            here = [is_good(r, scenario) for r in requests if at <= r.due < at + STEP]
            points.append((at + STEP / 2, sum(here) / len(here) if here else None))
        found.append(Series(cls, points))
    return found


def latency(recording: Recording, scenario: Scenario, share: float = 0.95) -> list[Series]:
    """Return a percentile of each class's latency."""
    found = []
    for cls in scenario.load:
        points: list[tuple[float, float | None]] = []
        requests = [r for r in recording.requests if r.cls == cls]
        for at in bins(recording):
            here = [r.seconds for r in requests if at <= r.due < at + STEP]
            points.append((at + STEP / 2, percentile(here, share) if here else None))
        found.append(Series(cls, points))
    return found


def upstream_load(recording: Recording, scenario: Scenario) -> list[Series]:
    """Return the calls a second that reached each service."""
    found = []
    for service in scenario.services:
        arrivals = [call.arrived for call in recording.calls if base(call.node) == service]
        points: list[tuple[float, float | None]] = [
            (at + STEP / 2, sum(at <= t < at + STEP for t in arrivals) / STEP) for at in bins(recording)
        ]
        found.append(Series(service, points))
    return found


def breakers(recording: Recording) -> list[tuple[str, list[tuple[float, float, str]]]]:
    """Return the states of each breaker over time."""
    start, end = recording.phases["before"][0], recording.phases["after"][1]
    rows: dict[str, list[tuple[float, float, str]]] = {}
    for event in recording.events:
        if event.name != "breaker.transition":
            continue
        name = f"{event.node.removesuffix('-sidecar')}: {event.facts.get('breaker', '')}"
        row = rows.setdefault(name, [(start, end, "closed")])
        began, _, state = row[-1]
        row[-1] = (began, max(began, event.at), state)
        row.append((max(began, event.at), end, str(event.facts.get("after", ""))))
    return [(name, [s for s in row if s[1] > s[0] and s[1] > start]) for name, row in sorted(rows.items())]


def amplification(recording: Recording, scenario: Scenario) -> list[tuple[str, float]]:
    """Return, for each service, its calls for each attempt of a user in the phase `during`."""
    start, end = recording.phases["during"]
    tries = sum(r.tries for r in recording.requests if start <= r.due < end)
    return [
        (service, sum(base(c.node) == service and start <= c.arrived < end for c in recording.calls) / max(1, tries))
        for service in scenario.services
    ]


def typical(recording: Recording, scenario: Scenario) -> list[tuple[str, float, float, float, str]]:
    """Return the spans of one request: of the first class, in the phase `during`, the median by latency."""
    cls = next(iter(scenario.load))
    start, end = recording.phases["during"]
    found = sorted((r for r in recording.requests if r.cls == cls and start <= r.due < end), key=lambda r: r.seconds)
    if not found:
        return []
    request = found[len(found) // 2]
    what = f"{request.status or 'no answer'} {request.reason}".strip()
    spans = [(f"user, {cls}", 0.0, 0.0, request.seconds, f"{what}, {request.seconds * 1000:.0f} ms")]
    calls = sorted((c for c in recording.calls if c.id == request.id), key=lambda c: c.arrived)[:12]
    for call in calls:
        times = [max(0.0, t - request.due) for t in (call.arrived, call.started, call.ended)]
        spans.append((call.node, times[0], times[1], times[2], str(call.status or "broken")))
    return spans
