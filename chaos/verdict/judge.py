"""Judge: returns the verdict on each expectation of a recording.

1. The recording is the only input.
2. An expectation that cannot be measured has failed, for example if no request of its class was due in its phase: a run
   that recorded nothing must not pass.
3. A bug that a sidecar reported fails the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from chaos.scenario.expect import ALL, Multiple
from chaos.scenario.spec import Scenario
from chaos.verdict.recording import Recording, Request
from sidecar.core.events import BUG

BIN: Final = 0.5
"""Seconds of the intervals in which goodput is measured to find the recovery."""
SERVED: Final = 0.99
"""Goodput that a class outside the blast radius keeps."""
BY_EVENTS: Final = ("detection", "events")
"""Measures that are taken from the events of sidecars, which Envoy does not log."""
OWN: Final = frozenset(("breaker_open", "overloaded", "no_endpoint", "unverifiable", "no_credentials"))


class Verdict(NamedTuple):
    """Result of one expectation; all fields but `passed` are text."""

    what: str
    passed: bool
    measured: str
    limit: str
    because: str = ""


class Unmeasurable(Exception):  # noqa: N818 - a verdict of the judge
    """Raised if a recording has nothing to measure."""


def judge(recording: Recording, scenario: Scenario) -> list[Verdict]:
    """Return a verdict for each expectation of the arm; the first verdict is on the run itself."""
    expectations = scenario.expect.cascade if recording.arm == "bare" else scenario.expect.contained
    bugs = [f"{e.node} reported a bug: {e.facts.get('error')}" for e in recording.events if e.name == BUG]
    trouble = recording.trouble or "; ".join(bugs[:1])
    verdicts = [Verdict("the run ended as planned", not trouble, trouble or "yes", "yes")]
    for expectation in expectations:
        if recording.arm == "envoy" and expectation.measure in BY_EVENTS:
            continue
        try:
            verdicts.append(_judge_one(recording, scenario, expectation))
        except Unmeasurable as missing:
            verdicts.append(Verdict(describe(expectation), False, str(missing), _limit(expectation)))
    return verdicts


def passed(verdicts: Iterable[Verdict]) -> bool:
    """True if all verdicts passed."""
    return all(verdict.passed for verdict in verdicts)


def _judge_one(recording: Recording, scenario: Scenario, e: Any) -> Verdict:
    value, form = MEASURES[e.measure](recording, scenario, e)
    if e.measure == "blast_radius":
        return Verdict(describe(e), value == 0, form(value), _limit(e), e.because)
    ok = True
    limit_text = _limit(e)
    for name in ("at_least", "at_most"):
        limit = getattr(e, name, None)
        if limit is None:
            continue
        if isinstance(limit, Multiple):
            quiet = percentile(_latencies(recording, e.of, "before"), e.percentile)
            limit = float(limit) * quiet
            limit_text += f" = {form(limit)}"
        ok = ok and (value >= limit if name == "at_least" else value <= limit)
    return Verdict(describe(e), ok, form(value), limit_text, e.because)


# ----- texts


def describe(e: Any) -> str:
    """Return what an expectation measures."""
    about = getattr(e, "of", "") or getattr(e, "node", "")
    match e.measure:
        case "latency":
            return f"p{e.percentile * 100:g} latency of {about}, {e.phase}"
        case "amplification":
            return f"calls to {e.to} for each request of {about}, {e.phase}"
        case "upstream_load":
            return f"load of {e.to} as a multiple of the quiet phase, {e.phase}"
        case "duplicates":
            return "writes carried out more than once"
        case "detection":
            return f"time until {e.event}"
        case "recovery":
            return f"time after the fault until goodput of {about} stays at {e.to:.0%}"
        case "events":
            return f"number of {e.event}{f' to {e.to}' if e.to else ''}{f', {e.reason}' if e.reason else ''}"
        case "peak":
            return f"peak of {e.of_} of {about}"
        case "growth":
            return "growth of a sidecar's memory"
        case "blast_radius":
            return f"classes that suffer, other than {', '.join(e.only) or 'none'}"
    return f"{e.measure} of {about}, {e.phase}"


def _limit(e: Any) -> str:
    if e.measure == "blast_radius":
        return "none"
    words = []
    for name, sign in (("at_least", "≥"), ("at_most", "≤")):
        limit = getattr(e, name, None)
        if limit is not None:
            form = FORMS.get(e.measure, _plain)
            words.append(f"{sign} {float(limit):g}x quiet" if isinstance(limit, Multiple) else f"{sign} {form(limit)}")
    return " and ".join(words)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return "never" if value == float("inf") else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value / 2**20:.1f} MiB"


FORMS: Final[dict[str, Callable[[float], str]]] = {
    "availability": _percent, "goodput": _percent, "refused": _percent, "latency": _seconds, "detection": _seconds,
    "recovery": _seconds, "growth": _bytes,
}  # fmt: skip

# ----- measures


def is_good(request: Request, scenario: Scenario) -> bool:
    """True for a good response in time."""
    spec = scenario.load[request.cls]
    return 200 <= request.status < 400 and request.seconds <= (spec.good_within or spec.timeout)


def select(recording: Recording, cls: str, phase: str) -> list[Request]:
    """Return the requests of a class, or of all, that were due in a phase; raises `Unmeasurable` without any."""
    start, end = recording.phases[phase]
    found = [r for r in recording.requests if cls in (r.cls, ALL) and start <= r.due < end]
    if not found:
        raise Unmeasurable(f"no request of {cls} in the phase {phase}")
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least a `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def _latencies(recording: Recording, cls: str, phase: str) -> list[float]:
    return [request.seconds for request in select(recording, cls, phase)]


Value = tuple[float, Callable[[float], str]]


def _share(recording: Recording, scenario: Scenario, e: Any) -> Value:
    found = select(recording, e.of, e.phase)
    if e.measure == "goodput":
        count = sum(is_good(r, scenario) for r in found)
    elif e.measure == "availability":
        count = sum(0 < r.status < 500 for r in found)
    else:
        count = sum(r.reason in OWN for r in found)
    return count / len(found), _percent


def _latency(recording: Recording, _: Scenario, e: Any) -> Value:
    return percentile(_latencies(recording, e.of, e.phase), e.percentile), _seconds


def _amplification(recording: Recording, _: Scenario, e: Any) -> Value:
    start, end = recording.phases[e.phase]
    requests = sum(r.tries for r in select(recording, e.of, e.phase))
    calls = sum(
        1 for c in recording.calls if base(c.node) == e.to and c.cls == e.of and start <= c.arrived < end
    )  # fmt: skip
    return calls / requests, _plain


def _upstream_load(recording: Recording, _: Scenario, e: Any) -> Value:
    def rate(phase: str) -> float:
        start, end = recording.phases[phase]
        calls: int = sum(base(c.node) == e.to and start <= c.arrived < end for c in recording.calls)
        return calls / (end - start)

    if not (quiet := rate("before")):
        raise Unmeasurable(f"no call reached {e.to} in the quiet phase")
    return rate(e.phase) / quiet, _plain


def _duplicates(recording: Recording, _: Scenario, __: Any) -> Value:
    writes = Counter((base(c.node), c.write) for c in recording.calls if c.write and c.status == 200)
    if not writes:
        raise Unmeasurable("no write was carried out")
    return sum(count - 1 for count in writes.values()), _plain


def _detection(recording: Recording, _: Scenario, e: Any) -> Value:
    began = recording.fault_time[0]
    found = [event.at for event in recording.events if event.name == e.event and event.at >= began]
    return (min(found) - began if found else float("inf")), _seconds


def _recovery(recording: Recording, scenario: Scenario, e: Any) -> Value:
    ended, last = recording.fault_time[1], recording.phases["after"][1]
    bins: dict[int, list[bool]] = {}
    for request in recording.requests:
        if request.cls == e.of and ended <= request.due < last:
            bins.setdefault(int((request.due - ended) / BIN), []).append(is_good(request, scenario))
    if not bins:
        raise Unmeasurable(f"no request of {e.of} after the fault")
    back = float("inf")
    good = total = 0
    for index in sorted(bins, reverse=True):  # the longest interval up to the end that is good, and begins good
        here = sum(bins[index])
        good += here
        total += len(bins[index])
        if good >= e.to * total and here >= e.to * len(bins[index]):
            back = index * BIN
    return back, _seconds


def _events(recording: Recording, _: Scenario, e: Any) -> Value:
    wanted = {"after": e.to, "reason": e.reason}
    found = [
        v for v in recording.events
        if v.name == e.event and all(not word or v.facts.get(fact) == word for fact, word in wanted.items())
    ]  # fmt: skip
    return len(found), _plain


def _peak(recording: Recording, _: Scenario, e: Any) -> Value:
    found = [getattr(sample, e.of_) for sample in recording.samples if e.node in (sample.node, base(sample.node))]
    if not found:
        raise Unmeasurable(f"no sample of {e.node}")
    return float(max(found)), _plain


def _growth(recording: Recording, _: Scenario, __: Any) -> Value:
    memory: dict[str, list[tuple[float, int]]] = {}
    for sample in recording.samples:
        if sample.memory:
            memory.setdefault(sample.node, []).append((sample.at, sample.memory))
    if not memory:
        if recording.is_simulated:
            return 0.0, _bytes  # a simulated sidecar has no memory of its own
        raise Unmeasurable("no sample of memory")
    growth = []
    for samples in memory.values():
        quiet = [size for at, size in samples if at < recording.phases["during"][0]]
        growth.append(samples[-1][1] - max(quiet or [samples[0][1]]))
    return max(0, *growth), _bytes


def _blast_radius(recording: Recording, scenario: Scenario, e: Any) -> Value:
    hurt = []
    for cls in scenario.load:
        if cls not in e.only:
            for phase in recording.phases:
                found = select(recording, cls, phase)
                if sum(is_good(r, scenario) for r in found) < SERVED * len(found):
                    hurt.append(f"{cls} {phase}")
    return len(hurt), lambda _: ", ".join(hurt) or "none"


def base(node: str) -> str:
    """Return the service of a replica."""
    return node.partition(".")[0]


MEASURES: Final[Mapping[str, Callable[[Recording, Scenario, Any], Value]]] = {
    "availability": _share, "goodput": _share, "refused": _share, "latency": _latency,
    "amplification": _amplification, "upstream_load": _upstream_load, "duplicates": _duplicates,
    "detection": _detection, "recovery": _recovery, "events": _events, "peak": _peak, "growth": _growth,
    "blast_radius": _blast_radius,
}  # fmt: skip
