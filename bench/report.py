"""Medians and ratios, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench.peers import Peer
from bench.scenarios import Sample, Scenario

Samples = Mapping[tuple[str, str], Sequence[Sample]]
"""By name of the scenario and name of the peer."""

HEADINGS: Final = ("", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "resident MiB", "errors")


def medians(samples: Sequence[Sample]) -> Sample:
    """Field by field."""
    return Sample(*(median(values) for values in zip(*samples, strict=True)))


def markdown(facts: Mapping[str, str], peers: Sequence[Peer], scenarios: Sequence[Scenario], samples: Samples) -> str:
    """The page `results.md`."""
    lines = ["# Results", "", "Written by `make bench`; how they were got is in [README.md](README.md).", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    for scenario in scenarios:
        lines += ["", f"## {scenario.title[0].upper()}{scenario.title[1:]}", ""]
        lines += table(scenario, peers, samples)
    lines += ["", "## What each was configured to do", "", "| | policies | cannot |", "|---|---|---|"]
    lines += [f"| {peer.name} | {peer.policies} | {peer.lacks or '-'} |" for peer in peers]
    return "\n".join(lines) + "\n"


def table(scenario: Scenario, peers: Sequence[Peer], samples: Samples) -> list[str]:
    """Medians by peer; in brackets how many times the sidecar's figure it is."""
    ours = medians(samples[scenario.name, peers[0].name])
    idle = scenario.idle > 0
    headings = [*HEADINGS, "KiB an idle connection"] if idle else [*HEADINGS]
    rows = [f"| {' | '.join(headings)} |", f"|---{'|---:' * (len(headings) - 1)}|"]
    for peer in peers:
        got = medians(samples[scenario.name, peer.name])

        def beside(mine: float, theirs: float, form: str, scale: float = 1.0, peer: Peer = peer) -> str:
            ratio = f" ({theirs / mine:.2f}x)" if peer is not peers[0] and mine else ""
            return f"{theirs * scale:{form}}{ratio}"

        cells = [
            peer.name,
            beside(ours.cpu, got.cpu, ".1f"),
            beside(ours.per_second, got.per_second, ",.0f"),
            beside(ours.p50, got.p50, ".2f", 1e-3),
            beside(ours.p99, got.p99, ".2f", 1e-3),
            beside(ours.resident, got.resident, ".1f", 2**-20),
            f"{got.errors:.1%}",
        ]
        if idle:
            cells.append(f"{got.idle / 1024:.1f}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def as_json(facts: Mapping[str, str], samples: Samples) -> str:
    """Every single measurement."""
    runs: list[dict[str, Any]] = [
        {"scenario": scenario, "peer": peer, **sample._asdict()}
        for (scenario, peer), several in samples.items()
        for sample in several
    ]
    return json.dumps({"facts": dict(facts), "samples": runs}, indent=1)
