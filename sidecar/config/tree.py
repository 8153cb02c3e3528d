"""Tree of nodes, built from the events of a YAML parser within limits that hold while parsing.

Rules:

1. No YAML constructor runs: explicit tags (`!!python/...`) are refused, and keys are the words as written.
2. Duplicate keys are errors that show both places.
3. An alias shares its value, but counts in the limits as if the value were written out.  So neither nested aliases
   (the "billion laughs" attack) nor a cycle gets past this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.config.node import Mark, Node
from sidecar.config.origin import Origin
from sidecar.config.report import Report
from sidecar.config.scalars import expand, resolve

MAX_NODES: Final = 20_000
"""Most values of one file, with aliases written out."""
MAX_DEPTH: Final = 40
"""Deepest nesting of one file, in levels."""


class UnreadableFile(Exception):  # noqa: N818 - the outcome of reading a file, not an error of the program
    """Raised where a file cannot be read any further."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


class _OpenContainer:
    """Mapping or list whose end the parser has not reached."""

    __slots__ = ("anchor", "height", "key", "node", "size")

    def __init__(self, node: Node, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: tuple[str, Mark] | None = None
        """Key whose value comes next; None while a key is expected, and in a list."""
        self.size = 1
        """Number of values so far, this one included."""
        self.height = 1
        """Number of levels so far, this one included."""


class TreeBuilder:
    """Builder of nodes from events."""

    def __init__(self, environ: Mapping[str, str], report: Report, room: int) -> None:
        """`room` is the most characters that environment variables may add to the file."""
        self.root: Node | None = None
        """Document; None before its end, and for an empty file."""
        self._environ = environ
        self._report = report
        self._room = room
        self._nodes = 0
        self._open: list[_OpenContainer] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        """Node, size and height of the value of each anchor; None while the value is not complete."""

    def scalar(self, mark: Mark, word: str, is_plain: bool, anchor: str | None, tag: str | None) -> None:
        """Add a key or a scalar; `is_plain` is False for a quoted scalar, which stays text."""
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
            self._report.origins.add_literal(word)
        node = Node(resolve(word) if is_plain else word, mark, origin=origin)
        self._add(node, 1, 1, mark)
        if anchor is not None:
            self._anchors[anchor] = (node, 1, 1)

    def start(self, mark: Mark, value: dict[str, Node] | list[Node], anchor: str | None, tag: str | None) -> None:
        """Begin a mapping or a list; `value` is the empty container."""
        self._refuse_tag(mark, tag)
        if self._wants_key():
            raise UnreadableFile(mark, "a key must be a word, not a list or a mapping")
        self._check_depth(mark, 1)
        self._count(mark, 1)
        self._open.append(_OpenContainer(Node(value, mark), anchor))
        if anchor is not None:
            self._anchors[anchor] = None

    def end(self) -> None:
        """End the innermost mapping or list."""
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.node, done.size, done.height)
        self._nodes -= done.size  # _add counts all these values again
        self._add(done.node, done.size, done.height, done.node.mark)

    def alias(self, mark: Mark, anchor: str) -> None:
        """Add the value of an anchor again."""
        if self._wants_key():
            raise UnreadableFile(mark, "an alias cannot be a key; write the key out")
        found = self._anchors.get(anchor)
        if found is None:
            why = "contains itself" if anchor in self._anchors else "is not defined above"
            raise UnreadableFile(mark, f"the anchor `&{anchor}` {why}; write the value out")
        node, size, height = found
        self._add(Node(node.value, node.mark, origin=node.origin), size, height, mark)

    def _wants_key(self) -> bool:
        """True if the next scalar is a key."""
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _refuse_tag(self, mark: Mark, tag: str | None) -> None:
        """Report an explicit tag."""
        if tag is not None:
            self._report.error(mark, self._path(), f"has the tag `{tag}`; policy files use no tags, remove it")

    def _key(self, word: str, mark: Mark) -> None:
        """Take a key of the innermost mapping, and report a repeated one."""
        self._report.origins.add_literal(word)
        top = self._open[-1]
        if word == "<<":
            message = "merge keys are not YAML 1.2; make a bundle under `policies` and name it in `use`"
            self._report.error(mark, self._path(), message)
        if (first := top.node.value.get(word)) is not None:
            message = f"is defined twice: here and at {':'.join(map(str, first.key))}; keep one of them"
            self._report.error(mark, self._path(word), message)
        top.key = (word, mark)

    def _add(self, node: Node, size: int, height: int, mark: Mark) -> None:
        """Add a value of `size` values and `height` levels to the innermost container, within the limits."""
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
        """Count values.  Raises `UnreadableFile` beyond `MAX_NODES`."""
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise UnreadableFile(
                mark, f"has more than {MAX_NODES} values; split it into several files of one directory"
            )

    def _check_depth(self, mark: Mark, height: int) -> None:
        """Raise `UnreadableFile` if a value of `height` levels would be nested too deep."""
        if len(self._open) + height > MAX_DEPTH:
            raise UnreadableFile(mark, f"is nested deeper than {MAX_DEPTH} levels; no policy needs that")

    def _path(self, *more: str) -> str:
        """Return the path of the next value, with indexes for items of lists, and `more` keys below it."""
        path = ""
        for frame in self._open:
            if isinstance(frame.node.value, list):
                path += f"[{len(frame.node.value)}]"
            elif frame.key is not None:
                path += f".{frame.key[0]}" if path else frame.key[0]
        return ".".join((path, *more)) if path else "".join(more)
