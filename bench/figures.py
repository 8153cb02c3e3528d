"""Recorded figures of the gate (`instructions.json`), limits, and the verdict on new figures.

1. A limit is a multiple of the recorded figure.
2. A figure holds for one environment: another interpreter, C library, valgrind or compiler gives other counts. In
   another environment nothing is judged.
3. Libraries are pinned by the project, so a more expensive version of one breaks a limit.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from bench import callgrind, machine
from bench.callgrind import Counts
from bench.peers import ROOT

FILE: Final = ROOT / "bench" / "instructions.json"
PAGE: Final = FILE.with_suffix(".md")
COMMAND: Final = "make instructions INSTRUCTIONS=--write"
MOST: Final = Counts(1.02, 1.04, float("inf"))
"""Limits, as multiples of the recorded figures."""
GOALS: Final[Mapping[tuple[str, str], Counts]] = {("compiled", "demo"): Counts(45_000, 2_000, float("inf"))}
"""Target counts by build and scenario.  They are printed beside the limits; missing one is no failure."""
RATIOS: Final[Mapping[tuple[str, str], float]] = {
    ("known", "bearer"): 1.04,
    ("parts", "demo"): 3.3,
    ("split", "demo"): 1.02,
    ("mirror", "demo"): 1.15,
    ("limited", "demo"): 1.03,
    ("counted", "demo"): 1.03,
}
"""Goals for the instructions of one scenario, as multiples of those of another in the same run.  Missing one is no
failure."""
WORDS: Final = ("instructions", "L1 instruction misses", "L1 data misses")
"""Names of the fields of `Counts` in tables."""

Figures = Mapping[str, Counts]
"""Counts of a request by the scenario's name."""


class Known(NamedTuple):
    """Recorded figures of one build."""

    environment: Mapping[str, str]
    """Environment in which the figures were taken: interpreter, C library, valgrind, compiler."""
    facts: Mapping[str, str]
    """Date and commit of the figures."""
    figures: Figures


class Verdict(NamedTuple):
    """Verdict on the figures of a build."""

    is_broken: bool
    """True if a limit does not hold."""
    lines: list[str]


def environment(is_compiled: bool) -> dict[str, str]:
    """Return what the counts of a build depend on besides the project."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    found = {
        "interpreter": f"{platform.python_implementation()} {' '.join(sys.version.split())}",
        "machine": f"{platform.machine()}{', AVX2' if 'avx2' in flags.split() else ''}",
        "C library": " ".join(platform.libc_ver()),
        "valgrind": callgrind.version(),
    }
    return {**found, "C compiler": machine.first_line(["cc", "--version"])} if is_compiled else found


def judge(found: Figures, here: Mapping[str, str], before: Known | None) -> Verdict:
    """Judge figures by the recorded ones; `here` is their environment."""
    if before is None:
        return Verdict(False, [f"no limits yet; `{COMMAND}` writes them down"])
    if others := differences(before.environment, here):
        return Verdict(False, ["not judged, the limits are of another environment", *others])
    faults = broken(found, before.figures)
    return Verdict(bool(faults), faults or ["every limit holds"])


def differences(known: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return in words what differs between two environments."""
    return [
        f"{name}: {known.get(name, 'none')} there, {value} here"
        for name, value in here.items()
        if known.get(name) != value
    ]


def broken(found: Figures, known: Figures) -> list[str]:
    """Return in words which limits do not hold.  A scenario without a figure has no limit."""
    return [
        f"{name}: {what} {value:,.0f}, {value / before:.3f}x of {before:,.0f}; at most {most}x"
        for name, counts in found.items()
        for what, value, before, most in zip(WORDS, counts, known.get(name, counts), MOST, strict=True)
        if value > before * most
    ]


def ratios(found: Figures) -> list[str]:
    """Return how scenarios compare with each other."""
    known = [(pair, most) for pair, most in RATIOS.items() if all(name in found for name in pair)]
    compared = [
        (name, found[name].instructions / found[other].instructions, other, most) for (name, other), most in known
    ]
    return [
        f"{name}: {ratio:.3f}x of the instructions of {other}, the goal is {most}x"
        for name, ratio, other, most in compared
    ]


def goals(build: str, found: Figures, titles: Mapping[str, str]) -> list[str]:
    """Return how far a build is from its goals; `titles` are of the scenarios, by name."""
    return [
        f"{titles.get(name, name)}: {what} {value:,.0f}, {value / goal:.2f}x of the goal {goal:,.0f}"
        for name, counts in found.items()
        for what, value, goal in zip(WORDS, counts, GOALS.get((build, name), ()), strict=False)
        if goal != float("inf")
    ]


def table(found: Mapping[str, Figures], known: Mapping[str, Figures], titles: Mapping[str, str]) -> list[str]:
    """Return figures beside their limits, by build, as Markdown; `titles` are of the scenarios, by name."""
    instructions, l1i, l1d = WORDS
    lines = [
        f"| build | request | {instructions} | at most | {l1i} | at most | {l1d} |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for build, figures in found.items():
        for name, counts in figures.items():
            before = known.get(build, {}).get(name)
            limits = ["", ""] if before is None else [f"{before[n] * MOST[n]:,.0f}" for n in (0, 1)]
            lines.append(
                f"| {build} | {titles.get(name, name)} | {counts.instructions:,.0f} | {limits[0]} "
                f"| {counts.l1i:,.0f} | {limits[1]} | {counts.l1d:,.0f} |"
            )
    return lines


def page(known: Mapping[str, Known], titles: Mapping[str, str]) -> str:
    """Return the page `instructions.md`."""
    figures = {build: one.figures for build, one in known.items()}
    lines = [
        "# Instructions of a request",
        "",
        f"Written by `{COMMAND}`; how they are counted is in [README.md](README.md#the-gate).",
        "",
        f"A limit is {MOST.instructions}x of the instructions and {MOST.l1i}x of the misses of L1's instruction cache. "
        "Misses of its data cache are for information.",
        "",
        *(
            f"- {build}: {', '.join(one.facts.values())}; {', '.join(one.environment.values())}"
            for build, one in known.items()
        ),
        "",
        *table(figures, figures, titles),
        "",
        *(f"- {build}: {line}" for build, counts in figures.items() for line in goals(build, counts, titles)),
    ]
    return "\n".join(lines) + "\n"


def known(figures: Figures, here: Mapping[str, str]) -> Known:
    """Return figures as they are recorded now; `here` is their environment."""
    commit = git("log", "-1", "--format=%h", "--", "sidecar") or "no commit"
    changed = " with changes" if git("status", "--porcelain", "--", "sidecar") else ""
    facts = {"date": date.today().isoformat(), "sources": f"sidecar/ of {commit}{changed}", "command": COMMAND}
    return Known(here, facts, {name: Counts(*map(round, counts)) for name, counts in figures.items()})


def git(*arguments: str) -> str:
    """Return the output of a git command; empty where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def load() -> dict[str, Known]:
    """Return the recorded figures, by build."""
    if not FILE.exists():
        return {}
    return {
        build: Known(
            one["environment"], one["facts"], {name: Counts(**counts) for name, counts in one["figures"].items()}
        )
        for build, one in json.loads(FILE.read_text()).items()
    }


def save(known: Mapping[str, Known], titles: Mapping[str, str]) -> None:
    """Write `instructions.json` and the page `instructions.md`."""
    text = {
        build: {
            "environment": one.environment,
            "facts": one.facts,
            "figures": {name: counts._asdict() for name, counts in one.figures.items()},
        }
        for build, one in known.items()
    }
    FILE.write_text(json.dumps(text, indent=1) + "\n")
    PAGE.write_text(page(known, titles))
