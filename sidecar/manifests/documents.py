"""Documents of a manifest file, of which only the edited ones are written anew.

An edited document keeps the comments before it, but not those within: YAML's readers drop them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import yaml
from yaml.nodes import MappingNode, Node

from sidecar.manifests.tree import TooLargeError, compose, serialize, value_of


class ManifestError(Exception):
    """Text that is no YAML, with its place: `line:column: what is wrong`."""


class Document(NamedTuple):
    """One document of a file."""

    text: str
    """Text from the end of the document before it to its own end."""
    start: int
    """Index in `text` at which its content begins."""
    line: int
    """Line of the file in which its content begins, counted from 1."""
    content: Node


def split(text: str) -> list[Document]:
    """Return the documents of a file; their texts together are the file.  Raises `ManifestError`."""
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        starts = [event.start_mark for event in events if isinstance(event, yaml.DocumentStartEvent)]
        roots = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        before = text[: getattr(error, "position", 0)]  # the reader's errors have no mark
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        if mark is not None:
            line, column = mark.line, mark.column
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ManifestError(f"{line + 1}:{column + 1}: is no YAML: {what}") from None
    if not roots:
        return [Document(text, 0, 1, compose(None))]
    cuts = [0, *(_before_comments(text, start.index) for start in starts[1:] if start is not None), len(text)]
    return [
        Document(text[begin:end], root.start_mark.index - begin, root.start_mark.line + 1, root)
        for begin, end, root in zip(cuts[:-1], cuts[1:], roots, strict=True)
    ]


def _before_comments(text: str, start: int) -> int:
    """Return the index of the first of the comment lines right before an index, or the index itself."""
    first = start
    while start > 0:
        begin = text.rfind("\n", 0, start - 1) + 1
        line = text[begin:start].strip()
        if line and not text.startswith("#", begin):
            break
        start = begin
        if line:
            first = begin
    return first


def edit(text: str, change: Callable[[Document], Node]) -> str:
    """Return a file in which each document is what `change` returns for it.

    A document stays as it is written if `change` returns its own content.  Raises `ManifestError`.
    """
    parts: list[str] = []
    for document in split(text):
        node = change(document)
        try:
            parts.append(document.text if node is document.content else _written(document, node))
        except (TooLargeError, RecursionError):
            raise ManifestError(f"{document.line}:1: its aliases stand for more than a manifest has") from None
    return "".join(parts)


def _written(document: Document, node: Node) -> str:
    """Return the text of a document with other content."""
    before = document.text[: document.start]
    if document.text[document.start : document.start + 1] == "{" and isinstance(node, MappingNode):
        try:
            json.loads(document.text[document.start :])
        except ValueError:
            pass
        else:
            return before + json.dumps(value_of(node), indent=2, ensure_ascii=False) + "\n"
    if before and not before.endswith("\n"):
        before = before.rstrip(" ") + "\n"
    return before + serialize(node)
