"""Path templates of `google.api.http`, and the table that finds the template of a path.

    /v1/{name=shops/*/orders/*}:cancel      segments, a variable over four of them, a verb
    /v1/{order.id}/items/**                 `{order.id}` is `{order.id=*}`; `**` is any number of segments, at the end

Rules:

1. Paths are in their canonical form (`sidecar.core.uri`) and are split before they are decoded.
2. A `*` takes one segment that is not empty.  The last colon of a path begins a verb if a template has that verb.
3. Of several templates for a path the most specific wins, segment by segment: a literal, then `*`, then `**`.
4. A variable of one segment is decoded wholly.  In one of several, `%2F` stays as it is.
5. The work for a path is bounded by the number of templates.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from sidecar.core.uri import canonical

T = TypeVar("T")
STAR: Final = b"*"
REST: Final = b"**"
MOST_SEGMENTS: Final = 64
"""Most segments of a template."""
ANY_METHOD: Final = "*"
_TOKEN: Final = re.compile(r"\*\*|[*/{}=:.]|[^*/{}=:.]+|.")
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;@-]|%[0-9A-Fa-f]{2})+")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BUT_SLASHES: Final = re.compile(rb"%(?!2F)[0-9A-F]{2}")


class TemplateError(ValueError):
    """Raised for a template that is none; the text completes "the template ...", and has the remedy."""


class Variable:
    """Variable of a template."""

    __slots__ = ("end", "is_single", "path", "start")

    def __init__(self, path: tuple[str, ...], start: int, end: int, is_single: bool) -> None:
        self.path = path
        """Names of the fields that lead to the one that it sets."""
        self.start = start
        """Place of its first segment."""
        self.end = end
        """Place behind its last segment; -1 if that is `**`."""
        self.is_single = is_single
        """True for a `*` alone."""

    @property
    def name(self) -> str:
        """Name as in the template."""
        return ".".join(self.path)


class Template:
    """Parsed template."""

    __slots__ = ("segments", "text", "variables", "verb")

    def __init__(self, text: str) -> None:
        """Parse a template.  Raises `TemplateError`."""
        self.text = text
        self.segments: list[bytes] = []
        """Segments: literals in their canonical form, `*` and `**`."""
        self.variables: list[Variable] = []
        self.verb = b""
        """Verb without its colon; empty without one."""
        tokens = _TOKEN.findall(text)
        if not tokens or tokens[0] != "/":
            raise TemplateError("does not begin with a slash; write such as /v1/orders/{id}")
        at = 0
        while at < len(tokens) and tokens[at] == "/":
            at = self._segment(tokens, at + 1)
        if at < len(tokens) and tokens[at] == ":":
            verb = "".join(tokens[at + 1 :])
            if not _LITERAL.fullmatch(verb):
                raise TemplateError(f"has the verb `{verb}`, which is none; write such as :cancel")
            self.verb = canonical(verb.encode())
            at = len(tokens)
        if at < len(tokens):
            raise TemplateError(f"has `{''.join(tokens[at:])}` where it should end")
        if REST in self.segments[:-1]:
            raise TemplateError("has a `**` that is not its last segment")
        if len(self.segments) > MOST_SEGMENTS:
            raise TemplateError(f"has more than {MOST_SEGMENTS} segments")
        names = [variable.name for variable in self.variables]
        for name in names:
            if names.count(name) > 1:
                raise TemplateError(f"has the variable {name} twice")

    def _segment(self, tokens: list[str], at: int) -> int:
        """Parse a segment or a variable, and return the place behind it."""
        if at < len(tokens) and tokens[at] == "{":
            return self._variable(tokens, at + 1)
        text = ""
        while at < len(tokens) and tokens[at] not in ("/", "{", "}", ":", "="):
            text += tokens[at]
            at += 1
        if text not in ("*", "**") and not _LITERAL.fullmatch(text):
            raise TemplateError(f"has the segment `{text}`, which is none; write a word, * or {{name}}")
        self.segments.append(canonical(text.encode()))
        return at

    def _variable(self, tokens: list[str], at: int) -> int:
        """Parse a variable behind its brace, and return the place behind it."""
        start = len(self.segments)
        path = ""
        while at < len(tokens) and tokens[at] not in ("}", "="):
            path += tokens[at]
            at += 1
        names = tuple(path.split("."))
        if not all(map(_NAME.fullmatch, names)):
            raise TemplateError(f"has the variable `{path}`, which is no field; write such as {{order.id}}")
        if at < len(tokens) and tokens[at] == "=":
            at = self._segment(tokens, at + 1)
            while at < len(tokens) and tokens[at] == "/":
                at = self._segment(tokens, at + 1)
            if any(variable.start >= start for variable in self.variables):
                raise TemplateError(f"has a variable within the variable {path}")
        else:
            self.segments.append(STAR)
        if at >= len(tokens) or tokens[at] != "}":
            raise TemplateError(f"has the variable {path} without its end; write }}")
        own = self.segments[start:]
        end = -1 if own[-1] == REST else len(self.segments)
        self.variables.append(Variable(names, start, end, own == [STAR]))
        return at + 1

    def captures(self, segments: list[bytes]) -> list[bytes]:
        """Return the decoded values of the variables for the segments of a path that matches."""
        found = []
        for variable in self.variables:
            if variable.is_single:
                value = segments[variable.start]
                found.append(unquote_to_bytes(value) if b"%" in value else value)
            else:
                many = segments[variable.start :] if variable.end < 0 else segments[variable.start : variable.end]
                value = b"/".join(many)
                found.append(_BUT_SLASHES.sub(lambda match: unquote_to_bytes(match[0]), value))
        return found

    def __repr__(self) -> str:
        return f"<Template {self.text}>"


class _Node(Generic[T]):
    """Node of the table: what may follow after some segments."""

    __slots__ = ("ends", "literals", "rest", "star")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node[T]] = {}
        self.star: _Node[T] | None = None
        self.ends: dict[str, T] = {}
        """Targets by method, if the path ends here."""
        self.rest: dict[str, T] = {}
        """Targets by method, for any further segments."""


class Match(Generic[T]):
    """Result of a look-up."""

    __slots__ = ("allowed", "segments", "target")

    def __init__(self, target: T | None, segments: list[bytes], allowed: set[str]) -> None:
        self.target = target
        """Target of the template that matches; None if there is none."""
        self.segments = segments
        """Segments of the path, without its verb."""
        self.allowed = allowed
        """Other methods that a template has for the path; of use without a target only."""

    @property
    def methods(self) -> list[str]:
        """Methods that the path can have, in order, for the field Allow."""
        return sorted(self.allowed | {"HEAD"} if "GET" in self.allowed else self.allowed)


class TemplateTable(Generic[T]):
    """Table of targets by method and template."""

    __slots__ = ("_roots",)

    def __init__(self) -> None:
        self._roots: dict[bytes, _Node[T]] = {}
        """Roots by verb."""

    def add(self, method: str, template: Template, target: T) -> T | None:
        """Add a target, and return the one that takes the same requests; then nothing is added."""
        node = self._roots.setdefault(template.verb, _Node())
        for segment in template.segments:
            if segment == REST:
                break
            if segment == STAR:
                if node.star is None:
                    node.star = _Node()
                node = node.star
            else:
                node = node.literals.setdefault(segment, _Node())
        leaf = node.rest if template.segments[-1] == REST else node.ends
        other = leaf.get(method)
        if other is None:
            leaf[method] = target
        return other

    def find(self, method: str, path: bytes) -> Match[T]:
        """Return the target of a path in its canonical form.  A HEAD is served like a GET if nothing else takes it."""
        segments = path[1:].split(b"/")
        allowed: set[str] = set()
        last = segments[-1]
        if b":" in last:
            head, _, verb = last.rpartition(b":")
            root = self._roots.get(verb)
            if root is not None and verb:
                shorter = [*segments[:-1], head]
                target = self._search(root, shorter, 0, method, allowed)
                if target is not None:
                    return Match(target, shorter, allowed)
        root = self._roots.get(b"")
        target = None if root is None else self._search(root, segments, 0, method, allowed)
        return Match(target, segments, allowed)

    def _search(self, node: _Node[T], segments: list[bytes], at: int, method: str, allowed: set[str]) -> T | None:
        target: T | None = None
        if at == len(segments):
            target = _choose(node.ends, method, allowed)
        else:
            segment = segments[at]
            inner = node.literals.get(segment)
            if inner is not None:
                target = self._search(inner, segments, at + 1, method, allowed)
            if target is None and node.star is not None and segment:
                target = self._search(node.star, segments, at + 1, method, allowed)
        if target is None and node.rest:
            target = _choose(node.rest, method, allowed)
        return target


def _choose(targets: dict[str, T], method: str, allowed: set[str]) -> T | None:
    """Return the target for a method; without one, add the methods that there are to `allowed`."""
    target = targets.get(method)
    if target is None and method == "HEAD":
        target = targets.get("GET")
    if target is None:
        target = targets.get(ANY_METHOD)
    if target is None:
        allowed.update(targets)
    return target
