"""Report: one page of HTML that needs no other file.

The verdicts come first, then each scenario:

1. its arms side by side, on the same scales;
2. its expectations with the measured values;
3. one typical request of each arm;
4. the command that repeats it;
5. the sentence that says which line of which policy contained the failure.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.verdict import charts, curves
from chaos.verdict.cause import display_path
from chaos.verdict.compare import Compared, compare

if TYPE_CHECKING:
    from chaos.battery import Arm, Result

STYLE = (Path(__file__).parent / "report.css").read_text()
ARMS = {
    "both": ("bare", "sidecar"), "all": ("bare", "sidecar", "envoy"),
    "bare": ("bare",), "sidecar": ("sidecar",), "envoy": ("envoy",), "recommended": ("recommended",),
}  # fmt: skip
"""Arms by the word of --arm."""
WORDS = {"better": ("ok", "✓ better"), "equal": ("quiet", "= equal"), "worse": ("bad", "✗ worse")}
NAMES = {
    "bare": "Without sidecars", "sidecar": "With sidecars", "recommended": "With recommended values",
    "envoy": "With Envoy",
}  # fmt: skip


def page(results: Sequence[Result]) -> str:
    """Return the page."""
    good = sum(result.passed for result in results)
    arms = [arm for result in results for arm in result.arms]
    seeds = sorted({arm.recording.seed for arm in arms})
    how = "simulated in virtual time" if any(arm.recording.is_simulated for arm in arms) else "real processes"
    seed_words = ", ".join(map(str, seeds))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chaos report: {good} of {len(results)} as expected</title><style>{STYLE}</style></head><body>
<header><h1>{good} of {len(results)} scenarios as expected</h1>
<p>Each scenario is a failure known from the field, run without and with sidecars under the same load and the same
faults. It is as expected if the cascade happens without sidecars and is contained with them. ({how}, seed
{seed_words})</p></header>
<main><section aria-labelledby="verdicts"><h2 id="verdicts">Verdicts</h2>{_table(results)}{_key()}</section>
{_peer(results)}
{"".join(_scenario(result, results) for result in results)}</main></body></html>
"""


def _table(results: Sequence[Result]) -> str:
    arms = [name for name in NAMES if any(arm.name == name for result in results for arm in result.arms)]
    head = "".join(f'<th scope="col">{NAMES[name]}</th>' for name in arms)
    rows = []
    for result in results:
        cells = "".join(
            f'<td data-title="{NAMES[name]}">{_cell(result, name)}{_first(result, name)}</td>' for name in arms
        )
        link = f'<a href="#{_id(result)}">{_title(result, results)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th>{cells}<td>{_mark(result.passed)}</td></tr>')
    return (
        '<table class="verdicts"><thead><tr><th scope="col">Scenario</th>'
        f'{head}<th scope="col">Verdict</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _compared(result: Result) -> list[Compared]:
    """Return the comparison with Envoy; empty where one of the two arms was not run."""
    found = {arm.name: arm.recording for arm in result.arms}
    if "sidecar" not in found or "envoy" not in found:
        return []
    return compare(result.scenario, found["sidecar"], found["envoy"])


def _peer(results: Sequence[Result]) -> str:
    """Return the comparison with Envoy over all scenarios, and how its configuration differs."""
    rows, every = [], Counter[str]()
    for result in results:
        found = _compared(result)
        every.update(each.word for each in found)
        rows += [
            f'<tr><th scope="row"><a href="#{_id(result)}">{_title(result, results)}</a></th>'
            f"<td>{escape(each.what)}</td><td>{escape(each.ours)}</td><td>{escape(each.theirs)}</td>"
            f"<td>{_word(each.word)}</td></tr>"
            for each in found
            if each.word != "equal"
        ]
    if not every:
        return ""
    notes = dict.fromkeys(note for result in results for arm in result.arms for note in arm.recording.notes)
    gaps = "".join(f"<li>{escape(note.removeprefix('envoy: '))}</li>" for note in notes)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Scenario", "Measure", "Sidecars", "Envoy", ""))
    return (
        '<section aria-labelledby="peer"><h2 id="peer">Beside Envoy</h2>'
        f"<p>Envoy was configured from the same policies. Of {every.total()} measures the "
        f"sidecars are better on {every['better']}, equal on {every['equal']} and worse on {every['worse']}. "
        "Values that differ no more than two runs of the same arm do are equal.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<h3>How Envoy's configuration differs</h3><ul>{gaps}</ul></section>"
    )


def _word(word: str) -> str:
    return f'<span class="{WORDS[word][0]}">{WORDS[word][1]}</span>'


def _cell(result: Result, name: str) -> str:
    arm = next((arm for arm in result.arms if arm.name == name), None)
    if arm is None:
        return '<span class="quiet">not run: the scenario is about the sidecar itself</span>'
    if arm.recording.trouble:
        return "the run was stopped"
    met = sum(verdict.passed for verdict in arm.verdicts)
    if name == "bare":
        return "cascade seen" if arm.passed else "no cascade seen"
    return "contained" if arm.passed else f"{met} of {len(arm.verdicts)} expectations met"


def _first(result: Result, name: str) -> str:
    """Return the first expectation, which is the most important, as it was measured."""
    for arm in result.arms:
        if arm.name == name and len(arm.verdicts) > 1:
            verdict = arm.verdicts[1]
            return f'<br><span class="quiet">{escape(verdict.what)}: {escape(verdict.measured)}</span>'
    return ""


def _mark(passed: bool) -> str:
    return '<span class="ok">✓ as expected</span>' if passed else '<span class="bad">✗ not as expected</span>'


def _key() -> str:
    return (
        '<p class="quiet">In all charts time is in seconds from the start of the faults; intervals with faults are '
        "shaded. Goodput is the share of requests with a good answer in time. Latency counts from when a request was "
        "due, so that a stall is not hidden.</p>"
    )


def _scenario(result: Result, results: Sequence[Result]) -> str:
    scenario = result.scenario
    source = f'<p class="quiet">Known from: {escape(scenario.source)}</p>' if scenario.source else ""
    arms = "".join(_arm(result, arm) for arm in result.arms)
    name = _id(result)
    return (
        f'<section class="scenario" aria-labelledby="{name}"><h2 id="{name}">{_title(result, results)} '
        f"{_mark(result.passed)}</h2><p>{escape(scenario.story)}</p>{source}"
        f'<div class="arms">{arms}</div>{_beside(result)}'
        f'<p class="repeat">Repeat it with <code>{escape(_repeat(result))}</code></p>'
        f'<p class="cause">{_code(result.cause)}</p></section>'
    )


def _repeat(result: Result) -> str:
    """Return the command that runs a scenario again as it was run."""
    recording = result.arms[0].recording
    names = {arm.name for arm in result.arms}
    known = {word: set(chosen) & set(result.scenario.runnable) for word, chosen in ARMS.items()}
    arm = next((word for word in ("both", "all", *NAMES) if known[word] == names), "all")
    words = ["chaos", "simulate" if recording.is_simulated else "run", display_path(result.path)]
    words += ["--arm", arm, "--seed", str(recording.seed)]
    if any(each.recording.without for each in result.arms):
        words.append("--without-decisive")
    if result.network:
        words += ["--network", result.network]
    return shlex.join(words)


def _code(text: str) -> str:
    """Return a sentence as HTML, what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _beside(result: Result) -> str:
    """Return every measure of both arms, where Envoy was run."""
    rows = "".join(
        f'<tr><th scope="row">{escape(each.what)}</th><td>{escape(each.ours)}</td><td>{escape(each.theirs)}</td>'
        f"<td>{_word(each.word)}</td></tr>"
        for each in _compared(result)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Beside Envoy", "Sidecars", "Envoy", ""))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""


def _arm(result: Result, arm: Arm) -> str:
    recording, scenario = arm.recording, result.scenario
    title = f'<h3>{NAMES[arm.name]}<span class="headline">{_cell(result, arm.name)}</span></h3>'
    if not recording.requests:
        return f'<div class="arm">{title}<p class="bad">{escape(recording.trouble or "nothing was recorded")}</p></div>'
    frame = curves.frame(recording)
    slowest = max(_top(curves.latency(each.recording, scenario)) for each in result.arms)
    busiest = max(_top(curves.upstream_load(each.recording, scenario)) for each in result.arms)
    parts = [
        title,
        charts.lines("Goodput", curves.goodput(recording, scenario), frame, 1.0, lambda v: f"{v:.0%}"),
        charts.lines("Latency, 95th percentile", curves.latency(recording, scenario), frame, slowest, _seconds),
        charts.lines("Calls a second", curves.upstream_load(recording, scenario), frame, busiest, lambda v: f"{v:.0f}"),
    ]
    if rows := curves.breakers(recording):
        parts.append(charts.band("Circuit breakers", rows, frame))
    calls = ", ".join(f"{escape(name)} {value:.2f}" for name, value in curves.amplification(recording, scenario))
    parts.append(f"<p>Calls for each attempt of a user, during the faults: {calls}.</p>")
    parts.append(_expectations(arm))
    if spans := curves.typical(recording, scenario):
        parts.append(charts.waterfall("A typical request during the faults (light: waiting for a worker)", spans))
    if recording.without:
        parts.append(f'<p class="bad">Taken out of the policies: {escape(", ".join(recording.without))}</p>')
    if recording.notes:
        notes = "".join(f"<li>{escape(note.removeprefix('envoy: '))}</li>" for note in recording.notes)
        parts.append(f"<h4>Notes</h4><ul>{notes}</ul>")
    return f'<div class="arm">{"".join(parts)}</div>'


def _expectations(arm: Arm) -> str:
    rows = []
    for verdict in arm.verdicts:
        mark = '<span class="ok">✓ met</span>' if verdict.passed else '<span class="bad">✗ not met</span>'
        because = f'<br><span class="quiet">{escape(verdict.because)}</span>' if verdict.because else ""
        rows.append(
            f'<tr><th scope="row">{escape(verdict.what)}{because}</th><td>{escape(verdict.measured)}</td>'
            f'<td class="limit">{escape(verdict.limit).replace(" = ", "<br>= ")}</td><td>{mark}</td></tr>'
        )
    what = "Cascade" if arm.name == "bare" else "Expectation"
    return (
        f'<table class="expectations"><thead><tr><th scope="col">{what}</th><th scope="col">Measured</th>'
        f'<th scope="col">Limit</th><th scope="col"></th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _top(series: Sequence[charts.Series]) -> float:
    return max((value for each in series for _, value in each.points if value is not None), default=0.0)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _title(result: Result, results: Sequence[Result]) -> str:
    """Return the title of a run, with its seed if the page has several runs of the scenario."""
    is_repeated = sum(each.name == result.name for each in results) > 1
    return escape(result.scenario.title) + (f", seed {result.arms[0].recording.seed}" if is_repeated else "")


def _id(result: Result) -> str:
    return f"{result.name}-{result.arms[0].recording.seed}"
