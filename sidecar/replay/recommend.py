"""Recommendation: values that a log or the figures of a sidecar suggest, and edits of the files, as text and JSON.

The effect of each value comes from a replay, which only a log allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import unified_diff
from typing import Any, Final, NamedTuple

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.node import Mark
from sidecar.config.report import visible
from sidecar.config.spec import PolicySpec
from sidecar.inspect.edit import put
from sidecar.replay.advice import Advice, advise
from sidecar.replay.evidence import Origin
from sidecar.replay.fit import Fitted
from sidecar.replay.limits import limits
from sidecar.replay.record import Record
from sidecar.replay.report import ROWS
from sidecar.replay.run import mean
from sidecar.replay.tally import Numbers
from sidecar.replay.world import run_world

SHOWN: Final = ("goodput", "p99", "attempts a request", "cache hit ratio")
"""Rows of the replay that tell an effect."""
BOM: Final = b"\xef\xbb\xbf"


class Suggestion(NamedTuple):
    """Suggested value with its place and its effect.

    - `place`: place of the value in force, or of its owner.
    - `effect`: numbers of a replay with this value alone; None if it was not replayed.
    - `by_hand`: reason why the file cannot be edited; empty if it can.
    """

    advice: Advice
    place: Mark
    effect: Numbers | None
    by_hand: str


class Recommended(NamedTuple):
    """Result for one log, or for the figures of a sidecar.

    - `before`, `after`: numbers of replays with the policies as they are, and with all values that could be edited;
      None if nothing was replayed.
    - `changed`: files with these values.
    - `unknown`: sentences about what the origin cannot tell.
    """

    origin: Origin
    suggestions: list[Suggestion]
    before: Numbers | None
    after: Numbers | None
    sources: list[Source]
    changed: list[Source]
    unknown: list[str]

    def patch(self) -> str:
        """Return the change of the files as a unified diff; empty without one."""
        lines: list[str] = []
        for old, new in zip(self.sources, self.changed, strict=True):
            before, after = (each.text.decode().splitlines(keepends=True) for each in (old, new))
            lines += unified_diff(before, after, old.name, new.name)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def recommend(
    sources: Sequence[Source], spec: PolicySpec, origin: Origin, environ: Mapping[str, str], seeds: Sequence[int] = ()
) -> Recommended:
    """Return what the evidence of an origin suggests; without a log or without seeds nothing is replayed.

    Raises `CompileError`, and `Unmatched` if no request has a route.
    """
    record = origin.record
    seeds = seeds if record is not None else ()
    found, changed, final = [], list(sources), spec
    before = _replayed(spec, record, seeds)
    for advice in advise(origin):
        edited, by_hand = _edited(changed, spec, advice)
        effect = None
        if not by_hand:
            loaded = load(edited, environ)
            if loaded.spec is None:
                by_hand = f"the file would have a problem: {loaded.problems[0].message}"
            else:
                changed, final = edited, loaded.spec
                alone, _ = _edited(sources, spec, advice) if seeds else ([], "")
                one = load(alone, environ).spec if seeds else None
                effect = None if one is None else _replayed(one, record, seeds[:1])
        node = _owner(spec, advice).nearest(*advice.path)
        found.append(Suggestion(advice, node.place, effect, by_hand))
    after = _replayed(final, record, seeds) if found else before
    told = origin.unknown()
    if record is not None:
        fitted = Fitted(record)
        told += limits(record, 0, len(fitted.curves), len(fitted.failures))
    return Recommended(origin, found, before, after, list(sources), changed, told)


def _replayed(spec: PolicySpec, record: Record | None, seeds: Sequence[int]) -> Numbers | None:
    """Return the mean numbers of replays; None without seeds."""
    if record is None or not seeds:
        return None
    runs = []
    for seed in seeds:
        fitted = Fitted(record)
        runs.append(run_world(spec, record.requests, fitted, seed, fitted.endpoints))
    return mean(runs)


def _owner(spec: PolicySpec, advice: Advice) -> Any:
    """Return the node of the route or upstream."""
    if advice.kind == "routes":
        return next(each.node for each in spec.routes if each.name == advice.name)
    return spec.node.nearest("upstreams", advice.name)


def _edited(sources: Sequence[Source], spec: PolicySpec, advice: Advice) -> tuple[list[Source], str]:
    """Return the files with one value more, and the reason if that is not possible."""
    name = _owner(spec, advice).place.file
    changed = []
    for source in sources:
        if source.name == name:
            mark = BOM if source.text.startswith(BOM) else b""
            try:
                text = put(source.text.decode("utf-8-sig"), advice.kind, advice.name, advice.path, advice.new)
            except ValueError as error:
                return list(sources), str(error)
            source = source._replace(text=mark + text.encode())
        changed.append(source)
    return changed, ""


# ----- the result as text and as a document


def _numbers(before: Numbers, after: Numbers) -> str:
    """Return what differs, such as `goodput 99.2 % -> 99.6 %`."""
    words = []
    for title, value, form, _ in ROWS:
        if title in SHOWN and form(value(before)) != form(value(after)):
            words.append(f"{title} {form(value(before))} -> {form(value(after))}")
    return ", ".join(words) or "nothing changes"


def text(result: Recommended) -> str:
    """Return the result as text."""
    lines = [f"{result.origin.requests} requests in {result.origin.seconds:.0f} s", ""]
    for each in result.suggestions:
        advice = each.advice
        lines.append(f"{each.place.file}:{each.place.line}: {advice.place}: {advice.old or 'not set'} -> {advice.new}")
        lines.append(f"    {advice.why}")
        if each.by_hand:
            lines.append(f"    not in the patch: {each.by_hand}")
        elif each.effect is not None and result.before is not None:
            lines.append(f"    replay: {_numbers(result.before, each.effect)}")
    if not result.suggestions:
        lines.append(f"the policies agree with the {result.origin.name}")
    elif result.before is not None and result.after is not None:
        lines += ["", f"all together: {_numbers(result.before, result.after)}"]
    lines += ["", f"What the {result.origin.name} cannot tell:", *(f"- {each}" for each in result.unknown)]
    return "".join(f"{visible(line)}\n" for line in lines)


def document(result: Recommended) -> dict[str, Any]:
    """Return the result as a `RecommendDocument`."""

    def numbers(found: Numbers | None) -> dict[str, Any] | None:
        return None if found is None else found._asdict()

    return {
        "ok": True,
        "origin": result.origin.name,
        "requests": result.origin.requests,
        "seconds": result.origin.seconds,
        "suggestions": [
            {
                "path": each.advice.place,
                "place": {"file": each.place.file, "line": each.place.line},
                "old": each.advice.old or None,
                "new": each.advice.new,
                "why": each.advice.why,
                "by_hand": each.by_hand or None,
                "replayed": numbers(each.effect),
            }
            for each in result.suggestions
        ],
        "before": numbers(result.before),
        "after": numbers(result.after),
        "unknown": result.unknown,
        "patch": result.patch(),
    }
