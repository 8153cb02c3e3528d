"""Configuration in YAML or JSON as a tree that knows which of its values were read.

Rules:

1. A value counts as read once it is asked for; what nobody has asked for is reported with its line.
2. Each alias is a value of its own, so reading it at one place does not count for another one.
3. A value of the wrong kind, a key that stands twice, and a document of more nodes, depth or text than a configuration
   has are errors with their place.
"""

from __future__ import annotations

from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.imports.findings import NO_EQUAL, Findings, TranslationError, printable
from sidecar.manifests.tree import MERGE

MOST_TEXT: Final = 1 << 20
"""Most characters of a file."""
MOST_NODES: Final = 100_000
"""Most nodes of a file once its aliases are written out."""
MOST_DEPTH: Final = 100
"""Deepest nesting of values."""
NULLS: Final = ("", "~", "null", "Null", "NULL")


class Part:
    """Value of a configuration."""

    def __init__(self, findings: Findings, path: str, line: int, column: int) -> None:
        self.findings = findings
        self.path = path
        """Key path: `routes[0].match`."""
        self.line = line
        self.is_read = False
        self.is_whole = False
        """True if all that is within counts as read."""
        self._column = column
        self.scalar: str | None = None
        self.is_quoted = False
        self.children: dict[str, Part] | None = None
        self.list: list[Part] | None = None
        self.owner: Part | None = None
        """Mapping that has the value as a member."""

    # ----- facts

    @property
    def place(self) -> str:
        """Place: `envoy.yaml:12`."""
        return self.findings.place(self.line)

    @property
    def name(self) -> str:
        """Last keys of the path, which are enough beside the line."""
        return ".".join(self.path.split(".")[-2:])[-80:] or "the document"

    @property
    def kind(self) -> str:
        """Kind of the value, as error texts name it."""
        return "a mapping" if self.children is not None else "a list" if self.list is not None else "a single value"

    @property
    def is_null(self) -> bool:
        """True for a key without a value."""
        return self.scalar is not None and not self.is_quoted and self.scalar in NULLS

    # ----- reading

    def fail(self, why: str) -> TranslationError:
        """Return the error for this value."""
        return TranslationError(printable(f"{self.findings.file}:{self.line}:{self._column}: {self.name}: {why}"))

    def get(self, *keys: str) -> Part | None:
        """Return the value at a path of keys, in either spelling (`max_retries`, `maxRetries`); None without one.

        Raises `TranslationError` if a value on the way is no mapping.
        """
        part = self
        for key in keys:
            part.is_read = True
            if part.children is None:
                if part.is_null:
                    return None
                raise part.fail(f"is {part.kind}; a mapping with `{key}` would be right")
            found = part.children.get(key) or part.children.get(_camel(key))
            if found is None:
                return None
            part = found
        part.is_read = True
        return None if part.is_null else part

    def items(self, *keys: str) -> list[Part]:
        """Return the items of the list at a path; none without one.  Other values raise `TranslationError`."""
        part = self.get(*keys)
        if part is None:
            return []
        if part.list is None:
            raise part.fail(f"is {part.kind}; a list would be right")
        for each in part.list:
            each.is_read = True
        return part.list

    def members(self, *keys: str) -> list[tuple[str, Part]]:
        """Return the members of the mapping at a path; none without one.  Other values raise `TranslationError`."""
        part = self.get(*keys)
        if part is None:
            return []
        if part.children is None:
            raise part.fail(f"is {part.kind}; a mapping would be right")
        for each in part.children.values():
            each.is_read = True
        return list(part.children.items())

    def text(self, *keys: str) -> str:
        """Return the scalar at a path; empty without one.  Raises `TranslationError` for other values."""
        part = self.get(*keys)
        if part is None:
            return ""
        if part.scalar is None:
            raise part.fail(f"is {part.kind}; a single value would be right")
        return part.scalar

    def number(self, *keys: str) -> int | None:
        """Return the whole number at a path; None without one.  Raises `TranslationError` for other values."""
        part = self.get(*keys)
        if part is None:
            return None
        spelt = part.text()
        if not spelt.isascii() or not spelt.isdigit() or len(spelt) > 12:
            raise part.fail(f"is `{spelt}`; a whole number of at most twelve digits would be right")
        return int(spelt)

    def is_true(self, *keys: str) -> bool:
        """True if the scalar at a path is `true`."""
        return self.text(*keys).lower() == "true"

    # ----- accounts

    def label(self, *keys: str) -> None:
        """Mark values as read that have no effect on requests, such as names for statistics."""
        for key in keys:
            if (part := self.get(key)) is not None:
                part.take()

    def take(self) -> None:
        """Mark the value as read with all that is within."""
        self.is_read = self.is_whole = True

    def lose(self, why: str = NO_EQUAL) -> None:
        """Report the value, with all that is within, as not translated."""
        self.take()
        self.findings.lose(self.line, self.name, why)

    def differ(self, why: str) -> None:
        """Report that the value has another meaning here."""
        self.findings.differ(self.line, self.name, why)

    def report_unread(self) -> None:
        """Report each value within that nobody has read."""
        if self.is_whole:
            return
        if not self.is_read:
            self.lose()
            return
        for each in (self.children or {}).values():
            each.report_unread()
        for each in self.list or []:
            each.report_unread()


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


class Builder:
    """Values of one file, within limits."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._left = MOST_NODES

    def part(self, path: str, line: int, column: int, depth: int) -> Part:
        """Return a value that counts for the limits.  Raises `TranslationError` beyond them."""
        part = Part(self._findings, path, line, column)
        self._left -= 1
        if self._left < 0 or depth > MOST_DEPTH:
            limit = f"{MOST_NODES} values" if self._left < 0 else f"{MOST_DEPTH} levels"
            raise part.fail(f"is beyond the limit of {limit}, with aliases written out; split the file")
        return part

    def build(self, node: Node, line: int, path: str, depth: int) -> Part:
        """Return the value of a node of YAML."""
        part = self.part(path, line, node.start_mark.column + 1, depth)
        if isinstance(node, MappingNode):
            part.children = {}
            self._add_members(part, part.children, node, path, depth)
        elif isinstance(node, SequenceNode):
            part.list = [
                self.build(each, each.start_mark.line + 1, f"{path}[{at}]", depth + 1)
                for at, each in enumerate(node.value)
            ]
        else:
            assert isinstance(node, ScalarNode)
            part.scalar = str(node.value)
            part.is_quoted = node.style in ("'", '"')
        return part

    def _add_members(self, part: Part, members: dict[str, Part], node: MappingNode, path: str, depth: int) -> None:
        own: set[str] = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.tag == MERGE:
                for each in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(each, MappingNode) or depth > MOST_DEPTH:
                        raise part.fail("merges (`<<`) something that is no mapping; name a mapping")
                    merged: dict[str, Part] = {}
                    self._add_members(part, merged, each, path, depth + 1)
                    for key, found in merged.items():
                        members.setdefault(key, found)
                continue
            if not isinstance(name, ScalarNode):
                raise part.fail("has a key that is no single value; write a plain key")
            key = str(name.value)
            inner = self.build(value, line, f"{path}.{key}" if path else key, depth + 1)
            if key in own:
                raise inner.fail("stands twice; leave one of them")
            own.add(key)
            inner.owner = part
            members[key] = inner


def read_documents(findings: Findings, text: str) -> list[Part]:
    """Return the documents of a file.  Raises `TranslationError`."""
    if len(text) > MOST_TEXT:
        raise TranslationError(f"{findings.file}: has more than {MOST_TEXT} characters; split the file")
    try:
        roots = [root for root in yaml.compose_all(text, Loader=yaml.SafeLoader) if root is not None]
        builder = Builder(findings)
        parts = [builder.build(root, root.start_mark.line + 1, "", 0) for root in roots]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.line + 1}:{mark.column + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise TranslationError(printable(f"{findings.file}:{place}is no YAML: {what}")) from None
    except RecursionError:
        raise TranslationError(f"{findings.file}: is nested too deeply; at most {MOST_DEPTH} levels are read") from None
    for part in parts:
        if part.children is None and not part.is_null:
            part.path = "the document"
            raise part.fail(f"is {part.kind}; a mapping would be right")
    return [part for part in parts if part.children is not None]
