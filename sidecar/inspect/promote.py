"""Promotion of a candidate: its policies, or its upstream, become those of the route, in the text of the policy file.

Rules:

1. Only what changes is edited.  All other text, comments and layout stay as they are.
2. A policy of the candidate is merged over that of the route key by key, as it is in force.  A policy that the route
   does not have takes the place of `candidate`, with its comments.
3. The result is loaded before it is written.  It is refused unless the route is the former candidate in every value,
   and all else is unchanged.
4. The files of the directory `candidate` take the place of those above it as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, NamedTuple

from sidecar.config.files import Part, Source, decode, locate, split
from sidecar.config.load import load
from sidecar.config.report import suggest
from sidecar.config.spec import CANDIDATE, POLICIES, PolicySpec, RouteSpec, name_of_part
from sidecar.rollout.spec import SplitSpec

BY_HAND: Final = "edit the route by hand"
BOM: Final = b"\xef\xbb\xbf"

Edit = tuple[int, int, str]
"""Replacement of a part of a text: where it begins and ends, and what comes in its place."""


class Promotion(NamedTuple):
    """Edited policy file."""

    name: str
    """Path of the file."""
    old: str
    new: str
    arm: str
    """Arm that the route becomes: a name of an upstream, or `candidate`."""
    has_mark: bool
    """True if the file begins with a byte order mark."""

    def diff(self) -> str:
        """Return the change as a unified diff."""
        old, new = self.old.splitlines(keepends=True), self.new.splitlines(keepends=True)
        lines = unified_diff(old, new, self.name, self.name)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def write(self) -> None:
        """Replace the file as a whole, with its permissions.  Raises `OSError`."""
        path = Path(self.name).resolve()
        with NamedTemporaryFile("wb", dir=path.parent, prefix=".", suffix=".new", delete=False) as file:
            made = Path(file.name)
            try:
                file.write((BOM if self.has_mark else b"") + self.new.encode())
                file.close()
                made.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o644)
                made.replace(path)
            except BaseException:
                with suppress(OSError):
                    made.unlink()
                raise


class WholePromotion(NamedTuple):
    """Policy files of a directory, each with what becomes of it as its candidate takes their place."""

    changed: list[Promotion]
    """Files whose text is that of the candidate."""
    removed: list[Source]
    """Files that the candidate does not have, and its own."""

    def diff(self) -> str:
        """Return the change as a unified diff, without the files of the candidate."""
        lines = [each.diff() for each in self.changed]
        return "".join([*lines, *(f"removed: {each.name}\n" for each in self.removed)])

    def write(self) -> None:
        """Replace the files one after another, and remove the directory of the candidate.  Raises `OSError`."""
        for each in self.changed:
            each.write()
        for source in self.removed:
            Path(source.name).unlink()
        with suppress(OSError):  # it has other files, such as policy tests
            Path(os.path.dirname(self.removed[-1].name)).rmdir()


class PromotionError(Exception):
    """Reason why a promotion is not possible: where, what is wrong, and what would be right."""


def promote(
    sources: Sequence[Source], spec: PolicySpec, name: str, arm: str | None, environ: Mapping[str, str]
) -> Promotion:
    """Return the edited file of a declared route.  `arm` names the arm of a split; None for its only candidate.

    Raises `PromotionError`.
    """
    found = next(each for each in spec.routes if each.name == name)
    place = f"{found.node.mark}: routes.{name}"
    if found.rollout is not None and found.rollout is spec.candidate:
        raise PromotionError(f"{place}: has its candidate in `{CANDIDATE}/`; leave the route out to promote all of it")
    winner = _winner(found, arm, place)
    source = next(each for each in sources if each.name == found.node.mark.file)
    try:
        text = decode(source)
        editor = _Editor(text)
        part = _route_part(locate(text), name)
        if _is_split(found):
            editor.promote_upstream(part, winner.upstream)
        else:
            editor.promote_candidate(part)
    except ValueError as error:
        raise PromotionError(f"{place}: cannot be edited: {error}; {BY_HAND}") from None
    new = editor.result()
    _verify(sources, source, new, spec, found, winner, place, environ)
    return Promotion(source.name, text, new, arm_name(winner), source.text.startswith(BOM))


def promote_directory(sources: Sequence[Source], environ: Mapping[str, str]) -> WholePromotion:
    """Return the edited files of policies whose directory `candidate` takes their place.  Raises `PromotionError`."""
    own, second = split(sources)
    if not second:
        raise PromotionError(f"{own[0].name}: the directory has no candidate; put policy files into `{CANDIDATE}/`")
    place = os.path.dirname(os.path.dirname(second[0].name))
    before = {each.name: each for each in own}
    after = [Source(os.path.join(place, os.path.basename(each.name)), each.text) for each in second]
    wanted, found = load(second, environ), load(after, environ)
    if found.spec is None or found.spec != wanted.spec:
        reason = str(found.problems[0]) if found.problems else "they would say something else there"
        raise PromotionError(f"{place}: the files of the candidate cannot take this place: {reason}; {BY_HAND}")
    changed = [
        Promotion(each.name, decode(old), decode(each), CANDIDATE, each.text.startswith(BOM))
        for each in after
        if (old := before.get(each.name, Source(each.name, b""))).text != each.text
    ]
    names = {each.name for each in after}
    return WholePromotion(changed, [*(each for each in own if each.name not in names), *second])


def arm_name(arm: RouteSpec) -> str:
    """Return the name of an arm as the policy file has it: its upstream, or `candidate`."""
    return CANDIDATE if arm.name.endswith(f"@{CANDIDATE}") else arm.upstream


def _is_split(route: RouteSpec) -> bool:
    return isinstance(route.rollout, SplitSpec)


def _winner(route: RouteSpec, arm: str | None, place: str) -> RouteSpec:
    """Return the arm that a route is to become."""
    if route.rollout is None:
        raise PromotionError(f"{place}: has neither a split nor a candidate; name a route that has one")
    if not _is_split(route):
        if arm not in (None, CANDIDATE):
            raise PromotionError(f"{place}: has no arm `{arm}`; its only candidate is `{CANDIDATE}`")
        return route.arms[0]
    arms = {each.upstream: each for each in (route, *route.arms)}
    if arm is None:
        if len(route.arms) > 1:
            raise PromotionError(f"{place}: has several candidates; name one with --arm: {', '.join(arms)}")
        return route.arms[0]
    if arm not in arms:
        raise PromotionError(f"{place}: has no arm `{arm}`; {suggest(arm, sorted(arms))}")
    return arms[arm]


def _verify(
    sources: Sequence[Source],
    source: Source,
    text: str,
    before: PolicySpec,
    route: RouteSpec,
    winner: RouteSpec,
    place: str,
    environ: Mapping[str, str],
) -> None:
    """Raise `PromotionError` unless the edited policies differ from the old ones in the promotion alone."""
    edited = [Source(source.name, text.encode()) if each is source else each for each in sources]
    loaded = load(edited, environ)
    if loaded.spec is None:
        raise PromotionError(f"{place}: cannot be edited: the result has a problem: {loaded.problems[0]}; {BY_HAND}")
    names = {name_of_part(winner.name, part): name_of_part(route.name, part) for part in winner.parts}
    parts = (f"{route.name}:", f"{route.name}@")  # the beginnings of no name that a file can have
    wanted = {each.name: each for each in before.routes if not each.name.startswith(parts)}
    wanted |= {new: replace(each, name=new) for each in before.routes if (new := names.get(each.name))}
    wanted[route.name] = replace(winner, name=route.name, arms=(), shares=(), rollout=None, observes=())
    found = {each.name: each for each in loaded.spec.routes}
    if found != wanted or replace(loaded.spec, routes=[]) != replace(before, routes=[]):
        raise PromotionError(f"{place}: cannot be edited: the result would say something else; {BY_HAND}")


class _Editor:
    """Edits of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.edits: list[Edit] = []

    def result(self) -> str:
        """Return the text with all edits."""
        text = self._text
        for start, end, words in sorted(self.edits, reverse=True):
            text = text[:start] + words + text[end:]
        return text

    def promote_upstream(self, route: Part, name: str) -> None:
        """Replace the split of a route by the name of an upstream."""
        key, value = _members(route)["upstream"]
        word = next(self._words(one) for one, _ in _members(value)["split"][1].members if one.word == name)
        if value.is_flow:
            self.edits.append((value.start, value.end, word))
        else:
            self.edits.append((key.end, value.end, f": {word}"))

    def promote_candidate(self, route: Part) -> None:
        """Merge the candidate's policies over those of the route, and remove the candidate."""
        own = _members(route)
        key, candidate = own[CANDIDATE]
        new = []
        for word, (name, value) in _members(candidate).items():
            if word not in POLICIES:
                continue
            if word in own:
                self._merge(*own[word], name, value, route, candidate)
            else:
                new.append((name, value))
        if route.is_flow:
            self._remove_from_braces(route, key, candidate, new)
        else:
            start = self._line_start(key.start)
            if self._text[start : key.start].strip():
                raise ValueError("`candidate` stands on the line of `-`; move it below `name`")
            end = self._line_end(candidate.end)
            column = key.start - start
            lines = "".join(self._entry(name, value, candidate, column) for name, value in new)
            if end == len(self._text) and not self._text.endswith("\n"):
                lines = lines.rstrip("\r\n")
            self.edits.append((start, end, lines))

    def _remove_from_braces(self, route: Part, key: Part, value: Part, new: list[tuple[Part, Part]]) -> None:
        """Put new entries in the place of an entry of a mapping in braces."""
        words = ", ".join(self._in_braces(name, each) for name, each in new)
        if words:
            self.edits.append((key.start, value.end, words))
            return
        at = next(number for number, (one, _) in enumerate(route.members) if one is key)
        if at:
            self.edits.append((route.members[at - 1][1].end, value.end, ""))
        else:
            self.edits.append((key.start, route.members[1][0].start, ""))

    def _merge(self, key: Part, old: Part, new_key: Part, new: Part, within: Part, origin: Part) -> None:
        """Merge a value of the mapping `origin` over one of the mapping `within`."""
        self._words(old)
        if old.is_mapping and new.is_mapping and old.items and new.items:
            known = _members(old)
            added = []
            for word, (name, value) in _members(new).items():
                if word in known:
                    self._merge(*known[word], name, value, old, new)
                else:
                    added.append((name, value))
            if added:
                self._append(old, new, added)
        elif new.is_mapping and not new.items:
            if not old.is_mapping:
                self._replace(key, old, new_key, new, within, origin)
        else:
            self._replace(key, old, new_key, new, within, origin)

    def _append(self, mapping: Part, origin: Part, entries: list[tuple[Part, Part]]) -> None:
        """Add entries of the mapping `origin` behind the last one of another mapping."""
        end = mapping.members[-1][1].end
        if mapping.is_flow:
            self.edits.append((end, end, "".join(f", {self._in_braces(name, value)}" for name, value in entries)))
            return
        at = self._line_end(end)
        first = mapping.members[0][0].start
        column = first - self._line_start(first)
        lines = "".join(self._entry(name, value, origin, column) for name, value in entries)
        if not self._text.endswith("\n", 0, at):
            lines = "\n" + lines.rstrip("\r\n")
        self.edits.append((at, at, lines))

    def _replace(self, key: Part, old: Part, new_key: Part, new: Part, within: Part, origin: Part) -> None:
        """Replace one value by another."""
        if within.is_flow:
            self.edits.append((old.start, old.end, self._value_in_braces(new)))
        elif new.is_flow:
            start, colon = (old.start, "") if old.is_flow else (key.end, ": ")
            self.edits.append((start, old.end, f"{colon}{self._words(new)}"))
        else:
            start = self._line_start(key.start)
            entry = self._entry(new_key, new, origin, key.start - start, has_comments=False)
            self.edits.append((key.start, self._line_end(old.end), entry.lstrip(" ")))

    def _entry(self, key: Part, value: Part, origin: Part, column: int, *, has_comments: bool = True) -> str:
        """Return the lines of an entry of the mapping `origin`, with its comments, for a mapping in a column."""
        text = self._text
        if origin.is_flow:
            return f"{' ' * column}{self._words(key)}: {self._words(value)}{self._newline()}"
        start = self._line_start(key.start)
        before = key.start - start
        earlier = (self._line_end(each.end) for _, each in origin.members if each.end <= key.start)
        least = max(earlier, default=0)
        while has_comments and start > least:
            above = self._line_start(start - 1)
            if above < least or not text[above:start].lstrip().startswith("#"):
                break
            start = above
        lines = []
        for line in text[start : self._line_end(value.end)].splitlines(keepends=True):
            bare = line.lstrip(" ")
            depth = max(0, len(line) - len(bare) - before + column)
            lines.append(f"{' ' * depth if bare.strip() else ''}{bare}")
        found = "".join(lines)
        return found if found.endswith("\n") else found + self._newline()

    def _in_braces(self, key: Part, value: Part) -> str:
        """Return an entry as it stands within braces."""
        return f"{self._words(key)}: {self._value_in_braces(value)}"

    def _value_in_braces(self, value: Part) -> str:
        """Return a value as it stands within braces."""
        text = self._words(value)
        if value.is_scalar:
            if not value.is_flow or "\n" in text:
                raise ValueError(f"a text of several lines has no place within braces (line {self._line(value)})")
            return "'" + text.replace("'", "''") + "'" if value.is_plain and any(c in text for c in ",[]{}") else text
        if value.is_flow:
            return text
        at, gaps = value.start, []
        for leaf in _leaves(value):
            gaps.append(self._text[at : leaf.start])
            at = leaf.end
        if any("#" in gap for gap in gaps):
            raise ValueError(f"a comment has no place within braces (line {self._line(value)})")
        if value.is_mapping:
            return f"{{{', '.join(self._in_braces(key, each) for key, each in value.members)}}}"
        return f"[{', '.join(self._value_in_braces(each) for _, each in value.items)}]"

    def _words(self, part: Part) -> str:
        """Return the text of a part.  Raises `ValueError` for an alias."""
        if part.start == part.end:
            raise ValueError(f"an alias has to be written out first (line {self._line(part)})")
        return self._text[part.start : part.end]

    def _line(self, part: Part) -> int:
        return self._text.count("\n", 0, part.start) + 1

    def _line_start(self, offset: int) -> int:
        return self._text.rfind("\n", 0, offset) + 1

    def _line_end(self, offset: int) -> int:
        """Return the offset behind the line break of a line."""
        found = self._text.find("\n", offset)
        return len(self._text) if found < 0 else found + 1

    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self._text else "\n"


def _route_part(root: Part, name: str) -> Part:
    """Return the part of a route."""
    for _, route in _members(root)["routes"][1].items:
        given = _members(route).get("name")
        if given is not None and given[1].word == name:
            return route
    raise ValueError("its name is not written in the file")  # such as one from a variable


def _members(mapping: Part) -> dict[str, tuple[Part, Part]]:
    """Return keys and values of a mapping by the words of the keys."""
    return {key.word: (key, value) for key, value in mapping.members}


def _leaves(part: Part) -> Iterator[Part]:
    """Yield keys, scalars and values in braces or brackets, in the order of the text."""
    if part.is_flow or part.is_scalar:
        yield part
        return
    for key, value in part.items:
        if key is not None:
            yield key
        yield from _leaves(value)
