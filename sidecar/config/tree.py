"""Nodes made of the events of a YAML parser, within limits that hold while parsing.

Rules:

1. No YAML constructor is involved: explicit tags (`!!python/...`) are refused, and keys are the words as written.
2. Duplicate keys are errors that show both places.
3. An alias shares its value, but counts in the limits as if it were written out.  Neither a bomb of aliases nor a cycle
   gets past this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.config.node import Mark, Node
from sidecar.config.origin import Origin
from sidecar.config.report import Report
from sidecar.config.scalars import expand, resolve

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 40


class Broken(Exception):  # noqa: N818 - the outcome of reading a file, not an error of the program
    """End of reading a file, whose rest cannot be understood."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


class _Open:
    """Mapping or list whose end has not come yet."""

    __slots__ = ("anchor", "height", "key", "node", "size")

    def __init__(self, node: Node, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: tuple[str, Mark] | None = None
        self.size = 1
        self.height = 1


class TreeBuilder:
    """Builder of nodes from events."""

    def __init__(self, environ: Mapping[str, str], report: Report, room: int) -> None:
        """`room` is the number of characters that variables may add."""
        self.root: Node | None = None
        """The document, once all events have come."""
        self._environ = environ
        self._report = report
        self._room = room
        self._nodes = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        """Node, size and height of each anchor's value; None while the value is still open."""

    def scalar(self, mark: Mark, word: str, is_plain: bool, anchor: str | None, tag: str | None) -> None:
        """Add a key or a scalar; `is_plain` is False for a quoted one, which stays text."""
        self._refuse_tag(mark, tag)
        if self._wants_key():
            self._key(word, mark)
            return
        origin: Origin | None = None
        if "${" in word:
            try:
                word, origin = expand(word, self._environ, self._room)
                self._report.origins.note(word, origin)
            except ValueError as error:
                self._report.error(mark, self._path(), str(error))
            self._room -= len(word)
        else:
            self._report.origins.spell(word)
        node = Node(resolve(word) if is_plain else word, mark, origin=origin)
        self._add(node, 1, 1, mark)
        if anchor is not None:
            self._anchors[anchor] = (node, 1, 1)

    def start(self, mark: Mark, value: dict[str, Node] | list[Node], anchor: str | None, tag: str | None) -> None:
        """Begin a mapping or a list, which `value` is."""
        self._refuse_tag(mark, tag)
        if self._wants_key():
            raise Broken(mark, "a key must be a word, not a list or a mapping")
        self._check_depth(mark, 1)
        self._count(mark, 1)
        self._open.append(_Open(Node(value, mark), anchor))
        if anchor is not None:
            self._anchors[anchor] = None

    def end(self) -> None:
        """End the innermost mapping or list."""
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.node, done.size, done.height)
        self._nodes -= done.size  # _add counts all of it again
        self._add(done.node, done.size, done.height, done.node.mark)

    def alias(self, mark: Mark, anchor: str) -> None:
        """Add the value of an anchor again."""
        if self._wants_key():
            raise Broken(mark, "an alias cannot be a key; write the key out")
        found = self._anchors.get(anchor)
        if found is None:
            why = "contains itself" if anchor in self._anchors else "is not defined above"
            raise Broken(mark, f"the anchor `&{anchor}` {why}; write the value out")
        node, size, height = found
        self._add(Node(node.value, node.mark, origin=node.origin), size, height, mark)

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _refuse_tag(self, mark: Mark, tag: str | None) -> None:
        if tag is not None:
            self._report.error(mark, self._path(), f"has the tag `{tag}`; policy files use no tags, remove it")

    def _key(self, word: str, mark: Mark) -> None:
        self._report.origins.spell(word)
        top = self._open[-1]
        if word == "<<":
            message = "merge keys are not YAML 1.2; make a bundle under `policies` and name it in `use`"
            self._report.error(mark, self._path(), message)
        if (first := top.node.value.get(word)) is not None:
            message = f"is defined twice: here and at {':'.join(map(str, first.key))}; keep one of them"
            self._report.error(mark, self._path(word), message)
        top.key = (word, mark)

    def _add(self, node: Node, size: int, height: int, mark: Mark) -> None:
        self._count(mark, size)
        self._check_depth(mark, height)
        if not self._open:
            self.root = node
            return
        top = self._open[-1]
        top.size += size
        top.height = max(top.height, height + 1)
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif top.key is not None:
            word, node.key = top.key
            top.node.value.setdefault(word, node)
            top.key = None

    def _count(self, mark: Mark, size: int) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise Broken(mark, f"has more than {MAX_NODES} values; split it into several files of one directory")

    def _check_depth(self, mark: Mark, height: int) -> None:
        if len(self._open) + height > MAX_DEPTH:
            raise Broken(mark, f"is nested deeper than {MAX_DEPTH} levels; no policy needs that")

    def _path(self, *more: str) -> str:
        """Return the path at which the builder is, with list items by their index."""
        path = ""
        for frame in self._open:
            if isinstance(frame.node.value, list):
                path += f"[{len(frame.node.value)}]"
            elif frame.key is not None:
                path += f".{frame.key[0]}" if path else frame.key[0]
        return ".".join((path, *more)) if path else "".join(more)
