"""Meaning of a change of policies: what requests will experience, instead of how the text differs.

    route orders: worst latency 3s to 9s; most upstream calls a request 1 to 2; POST now retried; cache shared between
    callers: yes (was no)

One sentence for each route, upstream or section that behaves differently.  Moved lines, comments and values that are
written elsewhere change nothing.  Risks come first: a longer worst case, more load, writes that are sent twice, answers
shared between callers, protection that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.config.report import visible
from sidecar.config.spec import PolicySpec
from sidecar.lint.arithmetic import percent
from sidecar.lint.behaviour import HIDDEN, NONE, Fact, Facts, process_facts, route_facts, upstream_facts
from sidecar.lint.facts import Policies
from sidecar.lint.run import Finding, find

MOST: Final = 100
"""Most sentences of one reload."""
PROTECTIONS: Final = frozenset((
    "timeout", "circuit_breaker", "concurrency", "rate_limit", "quota", "fallback", "authenticate", "authorize",
    "throttle", "pacing",
))  # fmt: skip
"""Blocks whose removal is a risk."""

DETAILS: Final = {
    "a failure for the breaker": "circuit_breaker",
    "breaker stays open for": "circuit_breaker",
    "a reason to retry": "retry",
    "tries": "retry",
    "hedged after": "hedge",
    "places in the queue": "concurrency",
    "a reason for the fallback": "fallback",
}
"""Facts that are not worth a word where their whole block is added or removed, with the block."""


class Change(NamedTuple):
    """One difference in behaviour."""

    text: str
    """Difference in words."""
    is_risk: bool
    """True if it may do harm."""
    old: str
    """Former value; empty for a set."""
    new: str
    """New value; empty for a set."""
    name: str
    """Name of the fact."""


class Subject(NamedTuple):
    """Route, upstream or section that behaves differently."""

    name: str
    """Kind and name, such as `route orders`."""
    changes: tuple[Change, ...]
    """Differences, risks first."""

    @property
    def sentence(self) -> str:
        """Return all differences in one line."""
        return f"{self.name}: {'; '.join(each.text for each in self.changes)}"

    @property
    def is_risk(self) -> bool:
        """True if one of the differences may do harm."""
        return any(each.is_risk for each in self.changes)


class Difference(NamedTuple):
    """Difference of two sets of policies."""

    subjects: list[Subject]
    """Routes, upstreams and sections that behave differently, in this order."""
    appeared: list[Finding]
    """Findings of rules that only the new policies have."""
    disappeared: list[Finding]
    """Findings of rules that only the old policies have."""

    @property
    def sentences(self) -> list[str]:
        """Return one line for each subject."""
        return [each.sentence for each in self.subjects]


def diff(old: PolicySpec, new: PolicySpec) -> Difference:
    """Return what a change of policies means."""
    before, after = Policies(old), Policies(new)
    subjects = [*_routes(before, after), *_upstreams(before, after), *_sections(before, after)]
    had, has = _findings(old), _findings(new)
    return Difference(
        [_masked(each, before, after) for each in subjects],
        [each for key, each in has.items() if key not in had],
        [each for key, each in had.items() if key not in has],
    )


def with_margins(found: Difference, old: Mapping[str, float], new: Mapping[str, float]) -> Difference:
    """Return a difference with the changes of margins: shares of what a service can do, by the names of routes."""
    subjects = {each.name: each for each in found.subjects}
    for name in [each for each in new if each in old]:
        before, after = percent(old[name]), percent(new[name])
        if before == after:
            continue
        change = Change(
            f"recovers from an overload at up to {after} of what its service can do (was {before})",
            new[name] < old[name], before, after, "margin",
        )  # fmt: skip
        subject = subjects.get(f"route {name}", Subject(f"route {name}", ()))
        changes = sorted((*subject.changes, change), key=lambda each: not each.is_risk)
        subjects[subject.name] = Subject(subject.name, tuple(changes))
    return found._replace(subjects=list(subjects.values()))


def sentences(old: PolicySpec, new: PolicySpec) -> list[str]:
    """Return the meaning of a reload, one line for each subject, `MOST` at most."""
    before, after = Policies(old), Policies(new)
    subjects = [*_routes(before, after), *_upstreams(before, after), *_sections(before, after)]
    lines = [visible(_masked(each, before, after).sentence) for each in subjects]
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more"]


def _findings(spec: PolicySpec) -> dict[tuple[str, str], Finding]:
    """Return the findings by rule and path, since lines move."""
    return {(each.rule, each.problem.path): each for each in find(spec) if each.severity != "note"}


def _masked(subject: Subject, before: Policies, after: Policies) -> Subject:
    """Return a subject with values of environment variables as the files have them."""

    def mask(text: str) -> str:
        return after.spec.masks.text(before.spec.masks.text(text))

    changes = (each._replace(text=mask(each.text), old=mask(each.old), new=mask(each.new)) for each in subject.changes)
    return Subject(subject.name, tuple(changes))


# ----- subjects


def _routes(before: Policies, after: Policies) -> Iterator[Subject]:
    """Yield routes that are new, gone, or behave differently."""
    old = {route.name: route for route in before.routes}
    new = {route.name: route for route in after.routes}
    for name, route in new.items():
        if name in old:
            yield from _subject(f"route {name}", route_facts(old[name]), route_facts(route))
            continue
        worst = route.worst
        facts = route_facts(route)
        what = f"new: takes {facts['takes'].text}, worst latency {facts['worst latency'].text}"
        yield Subject(f"route {name}", (_whole(f"{what}, most upstream calls a request {worst.calls}", False),))
    for name, route in old.items():
        if name not in new:
            took = route_facts(route)["takes"].text
            message = f"removed: took {took}; such requests take another route or none"
            yield Subject(f"route {name}", (_whole(message, True),))


def _upstreams(before: Policies, after: Policies) -> Iterator[Subject]:
    """Yield upstreams that are new, gone, or behave differently."""
    for name in dict.fromkeys((*after.upstreams, *before.upstreams)):
        old, new = before.upstreams.get(name), after.upstreams.get(name)
        if old is not None and new is not None:
            yield from _subject(f"upstream {name}", upstream_facts(old), upstream_facts(new))
        else:
            yield Subject(f"upstream {name}", (_whole("new" if old is None else "removed", False),))


def _sections(before: Policies, after: Policies) -> Iterator[Subject]:
    """Yield other sections that differ."""
    old, new = process_facts(before), process_facts(after)
    for name in dict.fromkeys((*new, *old)):
        if name not in old or name not in new:
            yield Subject(name, (_whole("new" if name in new else "removed", False),))
        elif not old[name] or not new[name]:
            if old[name] != new[name]:
                yield Subject(name, (_whole("on (was off)" if new[name] else "off (was on)", False),))
        else:
            yield from _subject(name, old[name], new[name])
    if before.spec.service != after.spec.service:
        yield Subject("service", (_whole(f"name {before.spec.service} to {after.spec.service}", False),))


def _whole(text: str, is_risk: bool) -> Change:
    return Change(text, is_risk, "", "", "")


# ----- facts


def _subject(name: str, old: Facts, new: Facts) -> Iterator[Subject]:
    """Yield the subject, if its facts differ."""
    keys = [*dict.fromkeys((*new, *old))]
    gone = {key.removesuffix(" is there") for key in keys if key.endswith(" is there") and (key in old) != (key in new)}
    changes: list[Change] = []
    for key in keys:
        block = DETAILS.get(key) or key.partition(".")[0]
        if block in gone or (key.endswith(" only observes") and key.removesuffix(" only observes") in gone):
            continue  # said by `is there`
        changes += _changes(key, old.get(key), new.get(key))
    if changes:
        yield Subject(name, tuple(sorted(changes, key=lambda each: not each.is_risk)))


def _changes(name: str, old: Fact | None, new: Fact | None) -> Iterator[Change]:
    """Yield the differences of one fact."""
    if old == new:
        return
    if name.endswith(" is there"):
        block = name.removesuffix(" is there")
        is_gone = new is None
        yield Change(f"{block} {'removed' if is_gone else 'added'}", is_gone and block in PROTECTIONS, "", "", name)
        return
    kind = (new or old or Fact("value", "")).kind
    if kind == "set":
        yield from _members(name, old, new)
        return
    before, after = (NONE if each is None else each.text for each in (old, new))
    if before == after:
        return
    risk = _is_risk(old, new)
    if before.startswith(HIDDEN) or after.startswith(HIDDEN):
        yield Change(f"{name} changed", risk, "", "", name)
    elif kind == "answer":
        before, after = ("no" if each is None else each.text for each in (old, new))
        if before != after:
            yield Change(f"{name}: {after} (was {before})", risk, before, after, name)
    elif NONE in (before, after):
        yield Change(f"{name}: {after} (was {before})", risk, before, after, name)
    else:
        yield Change(f"{name} {before} to {after}", risk, before, after, name)


def _members(name: str, old: Fact | None, new: Fact | None) -> Iterator[Change]:
    """Yield the members that a set has gained and lost."""
    before = old.members if old is not None else frozenset[str]()
    after = new.members if new is not None else frozenset[str]()
    writes = {"POST", "PATCH"}
    grows = (new or old or Fact("set", "")).grows
    if added := sorted(after - before):
        is_risk = bool(grows and writes.intersection(added))
        yield Change(f"{', '.join(added)} now {name}", is_risk, "", "", name)
    if lost := sorted(before - after):
        yield Change(f"{', '.join(lost)} no longer {name}", False, "", "", name)


def _is_risk(old: Fact | None, new: Fact | None) -> bool:
    """True if a number or an answer changes towards harm."""
    either = new or old
    if either is None or not either.grows:
        return False
    before = old.size if old is not None and old.size is not None else 0.0
    after = new.size if new is not None and new.size is not None else 0.0
    return after > before if either.grows == "more" else after < before


# ----- texts


def text(difference: Difference) -> str:
    """Return a difference as lines of text."""
    lines = [f"{'! ' if each.is_risk else '  '}{each.sentence}" for each in difference.subjects]
    lines += [f"! new finding: {each.text}" for each in difference.appeared]
    lines += [f"  no longer found: {each.text}" for each in difference.disappeared]
    return "".join(f"{visible(line)}\n" for line in lines) or "  nothing changes in behaviour\n"


def markdown(difference: Difference, old: str, new: str) -> str:
    """Return a difference as Markdown for a pull request; `old` and `new` name both sides."""
    if not any(difference):
        return f"### Policies: nothing changes in behaviour\n\n`{old}` and `{new}` mean the same.\n"
    risks = sum(each.is_risk for subject in difference.subjects for each in subject.changes)
    title = f"### Policies: {_counted(len(difference.subjects), 'change')}" + (
        f", {_counted(risks, 'risk')}" if risks else ""
    )
    rows = [
        f"| {'⚠️' if each.is_risk else ''} | {_cell(subject.name)} | {_cell(each.text)} |"
        for subject in difference.subjects
        for each in subject.changes
    ]
    lines = [title, ""]
    if rows:
        lines += ["| | where | what changes |", "|---|---|---|", *rows, ""]
    lines += _list("Found now by `sidecar lint`", difference.appeared)
    lines += _list("No longer found", difference.disappeared)
    return "\n".join(lines)


def _list(title: str, findings: Sequence[Finding]) -> list[str]:
    """Return a titled list of findings; empty without any."""
    if not findings:
        return []
    return [f"**{title}**", "", *(f"- {_cell(each.text)}" for each in findings), ""]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _cell(words: str) -> str:
    """Return a text for a cell of a table."""
    return visible(words).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
