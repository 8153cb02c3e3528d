"""Policy files: read from disk, and parsed from YAML 1.2 into nodes that keep their place in the file.

Rules:

1. A file that is too large, not UTF-8 or not YAML becomes a problem with a line and a column.  The other files are
   still read.
2. A hostile file costs no more than a large one: bytes, nodes and depth have limits, which hold while parsing
   (`tree.py`).  No code recurses into a file before its depth is known.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from sidecar.config.node import Mark, Node
from sidecar.config.report import Report
from sidecar.config.tree import TreeBuilder, UnreadableFile

SECOND: Final = "candidate"
"""Name of the directory below the policies that has the policies of a candidate."""
MAX_BYTES: Final = 2**20
"""Largest size of one file; also the most characters that environment variables may add to it."""
MAX_FILES: Final = 1_000
"""Most policy files in a directory."""
EVENTS: Final = 100
"""Parser events between two calls of `pace`."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml the result is the same
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no YAML file may contain (YAML 1.2, production 1)."""


class Source(NamedTuple):
    """Policy file as it was read."""

    name: str
    """Path of the file, as messages show it."""
    text: bytes
    """Content of the file, cut off one byte past `MAX_BYTES`."""


def read(path: str) -> list[Source]:
    """Read a policy file, or all `*.yaml` and `*.yml` files of a directory in the order of their names.

    The files of its directory `candidate` follow, if it has one.  Hidden files and `*.test.yaml` are left out.  Raises
    `OSError` with a message for the user.
    """
    if not os.path.isdir(path):
        return [_read(path)]
    second = os.path.join(path, SECOND)
    return _read_directory(path) + (_read_directory(second) if os.path.isdir(second) else [])


def split(sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Return the policy files themselves, and those of their directory `candidate`."""
    directories = {os.path.dirname(source.name) for source in sources}
    second = {each for each in directories if os.path.basename(each) == SECOND and os.path.dirname(each) in directories}
    found: tuple[list[Source], list[Source]] = ([], [])
    for source in sources:
        found[os.path.dirname(source.name) in second].append(source)
    return found


def _read_directory(path: str) -> list[Source]:
    """Read the policy files of one directory."""
    try:
        found = os.listdir(path)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror or error}") from error
    names = sorted(name for name in found if _is_policy(name) and _is_file(os.path.join(path, name)))
    if not names:
        raise FileNotFoundError(f"{path}: the directory has no *.yaml or *.yml file")
    if len(names) > MAX_FILES:
        raise OSError(f"{path}: {len(names)} policy files; at most {MAX_FILES} are read")
    return [_read(os.path.join(path, name)) for name in names]


def _is_file(path: str) -> bool:
    """True for a file, and for a link that leads nowhere: to leave that out would leave out its policies unnoticed."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _is_policy(name: str) -> bool:
    """True if a file name is that of a policy file."""
    return (
        name.endswith((".yaml", ".yml")) and not name.startswith(".") and not name.endswith((".test.yaml", ".test.yml"))
    )


def _read(path: str) -> Source:
    try:
        with Path(path).open("rb") as file:
            return Source(path, file.read(MAX_BYTES + 1))  # one byte more than allowed, which parse() reports
    except FileNotFoundError as error:
        what = "the link leads nowhere; let it lead to a file" if os.path.islink(path) else error.strerror
        raise OSError(error.errno, f"{path}: {what}", path) from error
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror or error}", path) from error


def digest(sources: list[Source]) -> str:
    """Return a hex digest of the files' names and contents: equal digests mean equal policies."""
    total = hashlib.sha256()
    for name, text in sources:
        total.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() + hashlib.sha256(text).digest())
    return total.hexdigest()


def parse(
    source: Source, environ: Mapping[str, str], report: Report, pace: Callable[[], object] = lambda: None
) -> Node | None:
    """Return the document of one file; None if the file is empty or cannot be parsed.  Problems go to the report.

    `pace` is called after every `EVENTS` parser events, and may pause the thread.
    """
    tree = TreeBuilder(environ, report, MAX_BYTES)
    try:
        _feed(tree, source.name, _decode(source), pace)
    except UnreadableFile as broken:
        report.error(broken.mark, "", broken.message)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        begun = getattr(error, "context_mark", None)
        context = getattr(error, "context", None)
        if context and begun and begun.line + 1 != line:
            context += f" that begins at {begun.line + 1}:{begun.column + 1}"
        what = ", ".join(word for word in (context, getattr(error, "problem", None)) if word) or str(error)
        report.error(Mark(source.name, line, column), "", f"is not valid YAML: {what}{_remedy(what)}")
    else:
        root = tree.root
        if root is None or root.value is None:
            return None
        root.label("")
        return root
    report.is_whole = False
    return None


def read_plain(path: str) -> Any:
    """Return the content of another YAML file, such as one with API keys; None if it is empty.

    Raises `OSError`, and `ValueError` with file, line and reason.
    """
    report = Report()
    root = parse(_read(path), {}, report)
    if report.problems:
        raise ValueError(str(report.problems[0]))
    return None if root is None else root.plain()


class Part(NamedTuple):
    """Part of a file's text that is one value; offsets count characters from 0."""

    start: int
    end: int
    """Offset after the last character; comments and blank lines that follow are left out."""
    is_scalar: bool
    is_flow: bool
    """True for a mapping in braces, a list in brackets, and a scalar without line breaks of its own."""
    is_plain: bool
    """True for a scalar without quotes."""
    word: str
    """Value of a scalar as text; empty for a mapping or a list."""
    items: tuple[tuple[Part | None, Part], ...]
    """Key and value of each member of a mapping; None as the key for those of a list."""

    @property
    def members(self) -> list[tuple[Part, Part]]:
        """Key and value of each member of a mapping; empty for anything else."""
        return [(key, value) for key, value in self.items if key is not None]

    @property
    def is_mapping(self) -> bool:
        """True for a mapping, also for an empty one."""
        return not self.is_scalar and (not self.items or self.items[0][0] is not None)


def decode(source: Source) -> str:
    """Return the text of a file, without a byte order mark.  Raises `ValueError` with the place and the reason."""
    try:
        return _decode(source)
    except UnreadableFile as broken:
        raise ValueError(f"{broken.mark}: {broken.message}") from None


def locate(text: str) -> Part:
    """Return the parts of a text that `parse` has accepted.  An alias is an empty part."""
    return _part(yaml.compose(text, Loader=yaml.SafeLoader), text, -1)  # libyaml has no ends of keys and blocks


def _part(node: Any, text: str, least: int) -> Part:
    """Return the part of a node that begins behind the offset `least`."""
    start = node.start_mark.index
    if start < least:  # an alias: the node stands where the anchor does
        return Part(least, least, True, True, True, "", ())
    if isinstance(node, yaml.ScalarNode):
        end = node.end_mark.index
        is_block = node.style in ("|", ">")
        if is_block:
            end = start + len(text[start:end].rstrip())
        return Part(start, end, True, not is_block, not node.style, node.value, ())
    items: list[tuple[Part | None, Part]] = []
    end = start
    for member in node.value:
        key = None
        if isinstance(member, tuple):
            key = _part(member[0], text, end)
            end, member = key.end, member[1]
        items.append((key, value := _part(member, text, end)))
        end = value.end
    if node.flow_style:
        end = node.end_mark.index
    return Part(start, end, False, bool(node.flow_style), False, "", tuple(items))


def _remedy(what: str) -> str:
    """Return the usual remedy for a YAML error as the end of a message; empty if none is known."""
    if "cannot start any token" in what:
        return "; put text that begins with such a character into quotes, and indent with spaces, not tabs"
    if "flow" in what or "mapping values are not allowed" in what:
        return '; put text that holds one of { } [ ] , : # into quotes, such as "/orders/{id}"'
    return ""


def _feed(tree: TreeBuilder, name: str, text: str, pace: Callable[[], object]) -> None:
    """Parse a text and pass each event to the tree builder.  Raises `UnreadableFile` at a second document."""
    documents = 0
    events: Iterable[Any] = yaml.parse(text, Loader=_LOADER)
    for number, event in enumerate(events):
        if number % EVENTS == 0:
            pace()
        kind = type(event)
        mark = Mark(name, event.start_mark.line + 1, event.start_mark.column + 1)
        if kind is yaml.ScalarEvent:
            tree.scalar(mark, event.value, event.implicit[0], event.anchor, event.tag)
        elif kind is yaml.MappingStartEvent:
            tree.start(mark, {}, event.anchor, event.tag)
        elif kind is yaml.SequenceStartEvent:
            tree.start(mark, [], event.anchor, event.tag)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            tree.end()
        elif kind is yaml.AliasEvent:
            tree.alias(mark, event.anchor)
        elif kind is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                raise UnreadableFile(mark, "starts a second document; put it into a file of its own")


def _decode(source: Source) -> str:
    """Return the text of a file.  Raises `UnreadableFile` if it is too large, not UTF-8, or has forbidden octets."""
    if len(source.text) > MAX_BYTES:
        raise UnreadableFile(
            Mark(source.name, 1, 1), "is larger than 1 MiB; split it into several files of one directory"
        )
    try:
        text = source.text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source.text[: error.start].decode("utf-8", "replace")
        raise UnreadableFile(_position(source.name, before), "is not UTF-8 text; save the file as UTF-8") from None
    if bad := _UNPRINTABLE.search(text):
        where = _position(source.name, text[: bad.start()])
        raise UnreadableFile(
            where, f"has the control character U+{ord(bad[0]):04X}; remove it, or write it as an escape in quotes"
        )
    return text


def _position(name: str, before: str) -> Mark:
    """Return the place that follows the text `before`."""
    return Mark(name, before.count("\n") + 1, len(before) - before.rfind("\n"))
