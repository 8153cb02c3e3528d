"""Results of a run as Markdown and as JSON: medians, and ratios to Envoy (`bench.limits.ratio`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench import costs, limits, startup
from bench.costs import Cost
from bench.limits import REFERENCE, Samples, ratio
from bench.peers import Peer
from bench.scenarios import Sample, Scenario
from bench.startup import Starts

COLUMNS: Final = (
    ("CPU us/request", "cpu", ".1f", 1.0),
    ("requests/s", "per_second", ",.0f", 1.0),
    ("p50 ms", "p50", ".2f", 1e-3),
    ("p99 ms", "p99", ".2f", 1e-3),
    ("resident MiB", "resident", ".1f", 2**-20),
)
"""Columns of the tables: heading, field of `Sample`, format and scale."""


def medians(samples: Sequence[Sample]) -> Sample:
    """Return the median of each field."""
    return Sample(*(median(values) for values in zip(*samples, strict=True)))


def markdown(
    facts: Mapping[str, str],
    peers: Sequence[Peer],
    scenarios: Sequence[Scenario],
    samples: Samples,
    found: Sequence[Cost],
    starts: Starts,
) -> str:
    """Return the page `results.md`."""
    lines = ["# Results", "", "Written by `make bench`; how they were got is in [README.md](README.md).", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if rows := limits.table(samples, found, starts):
        lines += ["", "## What must hold", "", *rows]
    for scenario in scenarios:
        lines += ["", f"## {scenario.title[0].upper()}{scenario.title[1:]}", ""]
        lines += table(scenario, [peer.name for peer in peers if (scenario.name, peer.name) in samples], samples)
    if found:
        lines += ["", "## What a policy costs a request", "", *costs.table(found)]
    if starts:
        lines += ["", "## CPU until ready", "", *startup.table(starts, REFERENCE)]
    lines += ["", "## What each was configured to do", "", "| | policies | cannot |", "|---|---|---|"]
    lines += [f"| {peer.name} | {peer.policies} | {peer.lacks or '-'} |" for peer in peers]
    return "\n".join(lines) + "\n"


def table(scenario: Scenario, names: Sequence[str], samples: Samples) -> list[str]:
    """Return the medians by peer; in brackets their ratio to Envoy's, or to the first peer's if Envoy was not run."""
    reference = REFERENCE if REFERENCE in names else names[0]
    headings = ["", *(heading for heading, *_ in COLUMNS), "errors"]
    if scenario.idle:
        headings.append("KiB an idle connection")
    if scenario.base is not None:
        headings.append(f"CPU, times that of {scenario.base.title}")
    rows = [f"| {' | '.join(headings)} |", f"|---{'|---:' * (len(headings) - 1)}|"]
    for name in names:
        own = samples[scenario.name, name]
        got = medians(own)
        cells = [name]
        for _, field, form, scale in COLUMNS:
            times = None if name == reference else ratio(own, samples[scenario.name, reference], field)
            cells.append(f"{getattr(got, field) * scale:{form}}{'' if times is None else f' ({times:.2f}x)'}")
        cells.append(f"{got.errors:.1%}")
        if scenario.idle:
            cells.append(f"{got.idle / 1024:.1f}")
        if scenario.base is not None:
            cells.append(f"{got.times:.2f}x")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def as_json(facts: Mapping[str, str], samples: Samples, found: Sequence[Cost], starts: Starts) -> str:
    """Return every single measurement as JSON."""
    runs: list[dict[str, Any]] = [
        {"scenario": scenario, "peer": peer, **sample._asdict()}
        for (scenario, peer), several in samples.items()
        for sample in several
    ]
    policies = [cost._asdict() for cost in found]
    return json.dumps({"facts": dict(facts), "samples": runs, "costs": policies, "startup": starts}, indent=1)
