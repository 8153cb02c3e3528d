"""Policy document as a tree in which every value has its place in a file.

A merged mapping (`merge.py`) keeps the nodes that it was merged from, so every effective value still has its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sidecar.config.origin import Origin

OFF: Final = "off"
"""Value that turns an inherited block off."""


class Mark(NamedTuple):
    """Place in a policy file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


BUILT_IN: Final = Mark("built-in default", 0, 0)
"""Place of a value that is in no file."""


class Node:
    """Value of a document: a mapping of nodes, a list of nodes or a scalar (str, int, float, bool, None)."""

    __slots__ = ("key", "mark", "origin", "path", "value")

    def __init__(
        self, value: Any, mark: Mark, key: Mark | None = None, path: str = "", origin: Origin | None = None
    ) -> None:
        self.value = value
        self.mark = mark
        self.key = mark if key is None else key
        """Place of the key; in a list, the place of the value itself."""
        self.path = path
        """Path in the document, such as `routes.order.retry.on[1]`; empty for the document itself."""
        self.origin = origin
        """Origin of a scalar that contains `${NAME}`; None for any other value."""

    @property
    def place(self) -> Mark:
        """Place that a message about this value shows: of a scalar its own, of any other value its key."""
        return self.key if self.value is None or isinstance(self.value, dict | list) else self.mark

    @property
    def items(self) -> dict[str, Node]:
        """Members of a mapping; empty for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    def child(self, step: str | int) -> Node | None:
        """Return the member under a key or an index; None if there is none."""
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]  # type: ignore[no-any-return]
        return None

    def find(self, path: Iterable[str | int]) -> Node | None:
        """Return the node at a path below this one; None if the files have no value there."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            node = node.child(step)
        return node

    def nearest(self, *path: str | int) -> Node:
        """Return the node at a path below this one, or the last existing node on the way to it."""
        node = self
        for step in path:
            inner = node.child(step)
            if inner is None:
                break
            node = inner
        return node

    def with_items(self, items: dict[str, Node]) -> Node:
        """Return a mapping with the given members, at the place of this one."""
        return Node(items, self.mark, self.key, self.path)

    def plain(self) -> Any:
        """Return the value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def shown(self) -> Any:
        """Return the value for printing: a scalar that contains `${NAME}` is left as the file has it."""
        if isinstance(self.value, dict):
            return {key: node.shown() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.shown() for node in self.value]
        return self.value if self.origin is None else self.origin.written

    def printable(self, value: str, *path: str | int) -> str:
        """Return `value`, the formatted value at a path, or its text in the file if that contains `${NAME}`."""
        node = self.find(path)
        return value if node is None or node.origin is None else node.origin.written

    def label(self, path: str) -> None:
        """Set the paths of this node and all nodes below; a value that an alias shares keeps its first path."""
        if self.path:
            return
        self.path = path
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                node.label(f"{path}.{key}" if path else key)
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                name = node.child("name")
                named = name is not None and isinstance(name.value, str) and name.value
                node.label(f"{path}.{name.shown()}" if name is not None and named else f"{path}[{index}]")

    def __repr__(self) -> str:
        return f"<Node {self.path or 'document'} at {self.mark}>"
