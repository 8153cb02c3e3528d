"""Rules of Traefik's routers: ``Host(`a.example`) && (PathPrefix(`/x`) || Path(`/y`))``.

A rule becomes alternatives, each a match of its own, as many as `MOST` at most.  Several values of one matcher are
alternatives (version 2 of the syntax).
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, Final, NamedTuple

from sidecar.imports.conditions import Conditions, quoted, whole
from sidecar.imports.draft import Draft
from sidecar.imports.source import Part

MOST: Final = 64
"""Most alternatives of a rule."""
MOST_DEPTH: Final = 50
TOKEN: Final = re.compile(r"\s*(?:(&&|\|\||[!(),])|([A-Za-z]+)|`([^`]*)`|\"((?:[^\"\\]|\\.)*)\"|'([^']*)')")
PAIRS: Final = ("Header", "Headers", "HeaderRegexp", "HeadersRegexp", "Query", "QueryRegexp")
"""Matchers of which two values are a name and its value."""


class Matcher(NamedTuple):
    """Matcher of a rule, such as ``Host(`a.example`)``."""

    name: str
    values: tuple[str, ...]
    negated: bool


Alternatives = list[tuple[Matcher, ...]]


class RuleError(ValueError):
    """Rule that cannot be read; the text says what is wrong."""


def matches(draft: Draft, part: Part) -> list[dict[str, Any]]:
    """Return the match of each alternative of a rule; none if it cannot be translated, which is reported."""
    found: list[dict[str, Any]] = []
    try:
        for alternative in _Parser(part.text()).parse():
            conditions = Conditions(draft)
            for each in alternative:
                if note := _add(conditions, each, part.line):
                    part.differ(note)
            found.append(conditions.match())
    except RuleError as error:
        part.lose(f"{error}; the whole route is left out")
        return []
    return found


def _add(found: Conditions, matcher: Matcher, line: int) -> str:
    """Add a matcher; return the difference of meaning.  Raises `RuleError`."""
    name, values, negated = matcher
    value = values[0] if values else ""
    term = ""
    if name in ("Host", "HostHeader"):
        if not negated and "host" in found.keys:
            raise RuleError("asks for two hosts at once")
        if not negated:
            found.host(value, line)
        term = f"request.host == {quoted(value.lower())}"
    elif name == "HostRegexp":
        pattern = _old(value)
        term = f"request.host.matches({quoted(pattern if pattern == value else pattern + '$')})"
        negated = _ask(found, term, negated, line)
    elif name in ("Path", "PathPrefix"):
        if not negated and "{" not in value:
            if found.keys.keys() & {"path", "path_prefix", "path_regex"}:
                raise RuleError("asks for two paths at once")
            return found.path("exact" if name == "Path" else "prefix", value, line)
        pattern = _old(value) if "{" in value else f"^{re.escape(value)}"
        term = f"request.path.matches({quoted(pattern + ('$' if name == 'Path' else ''))})"
        negated = _ask(found, term, negated, line)
    elif name == "PathRegexp":
        if not negated and not found.keys.keys() & {"path", "path_prefix", "path_regex"}:
            return found.path("regex", whole(value), line)
        term = f"request.path.matches({quoted(value)})"
        negated = _ask(found, term, negated, line)
    elif name == "Method":
        if not negated:
            found.method(*(each.upper() for each in values), line=line)
        term = f"request.method == {quoted(value.upper())}"
    elif name in PAIRS:
        if name.startswith("Query") and len(values) == 1:
            value, _, second = value.partition("=")
            values = (value, second) if _ else (value,)
        if len(values) > 2:
            raise RuleError(f"`{name}` has {len(values)} values; two would be right")
        kind = "present" if len(values) < 2 else "regex" if name.endswith("Regexp") else "exact"
        ask = found.parameter if name.startswith("Query") else found.header
        ask(value, kind, values[1] if len(values) > 1 else "", line, negated)
        return ""
    else:
        raise RuleError(f"`{name}` has no equal here")
    if negated:
        found.term(f"!({term})", line)
    return ""


def _ask(found: Conditions, term: str, negated: bool, line: int) -> bool:
    """Add a term that is not negated; return `negated`."""
    if not negated:
        found.term(term, line)
    return negated


def _old(template: str) -> str:
    """Return a template of version 2, such as `/a/{id:[0-9]+}`, as a regular expression; others as they are."""
    if template.startswith("^") or not re.search(r"\{[A-Za-z_]\w*(:|\})", template):
        return template
    pieces: list[str] = []
    at = 0
    for match in re.finditer(r"\{[A-Za-z_]\w*(?::((?:[^{}]|\{[^{}]*\})+))?\}", template):
        pieces += [re.escape(template[at : match.start()]), f"(?:{match[1]})" if match[1] else "[^/]+"]
        at = match.end()
    return "^" + "".join(pieces) + re.escape(template[at:])


class _Parser:
    """Rule as alternatives of matchers."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            match = TOKEN.match(text, at)
            if match is None:
                raise RuleError(f"cannot be read at `{text[at : at + 20]}`")
            kind = ("sign", "name", "value", "value", "value")[(match.lastindex or 1) - 1]
            self._tokens.append((kind, match[match.lastindex or 1]))
            at = match.end()
        self._at = 0

    def parse(self) -> Alternatives:
        """Return the alternatives.  Raises `RuleError`."""
        found = self._either(False, 0)
        if self._at < len(self._tokens):
            raise RuleError(f"has `{self._tokens[self._at][1]}` too many")
        return found

    def _next(self, kind: str) -> str:
        if self._at >= len(self._tokens) or self._tokens[self._at][0] != kind:
            raise RuleError(f"ends too early, or lacks a {kind}")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _takes(self, sign: str) -> bool:
        is_next = self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign)
        self._at += is_next
        return is_next

    def _either(self, negated: bool, depth: int) -> Alternatives:
        found = self._both(negated, depth)
        while self._takes("||"):
            other = self._both(negated, depth)
            found = _product(found, other) if negated else _bounded(found + other)
        return found

    def _both(self, negated: bool, depth: int) -> Alternatives:
        found = self._one(negated, depth)
        while self._takes("&&"):
            other = self._one(negated, depth)
            found = _bounded(found + other) if negated else _product(found, other)
        return found

    def _one(self, negated: bool, depth: int) -> Alternatives:
        if depth > MOST_DEPTH:
            raise RuleError("is nested too deeply")
        if self._takes("!"):
            return self._one(not negated, depth + 1)
        if self._takes("("):
            found = self._either(negated, depth + 1)
            if not self._takes(")"):
                raise RuleError("lacks a `)`")
            return found
        name = self._next("name")
        if not self._takes("("):
            raise RuleError(f"lacks a `(` behind `{name}`")
        values: list[str] = []
        while not self._takes(")"):
            values.append(self._next("value"))
            self._takes(",")
        if (name in PAIRS and not (name.startswith("Query") and len(values) > 2)) or len(values) < 2:
            return [(Matcher(name, tuple(values), negated),)]
        if name == "Method" and not negated:
            return [(Matcher(name, tuple(values), False),)]
        one: Alternatives = [(Matcher(name, (each,), negated),) for each in values]
        return _product(*([each] for each in one)) if negated else _bounded(one)


def _product(*groups: Alternatives) -> Alternatives:
    found: Alternatives = [()]
    for group in groups:
        found = _bounded([left + right for left, right in product(found, group)])
    return found


def _bounded(found: Alternatives) -> Alternatives:
    if len(found) > MOST:
        raise RuleError(f"has more than {MOST} alternatives")
    return found
