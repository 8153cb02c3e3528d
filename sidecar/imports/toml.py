"""Configuration in TOML as a tree that knows which of its values were read.

`tomllib` reads the values.  A scan of the text finds their lines: that of each header of a table and of each key.  A
value within a list or an inline table has the line of its key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from sidecar.imports.findings import Findings, TranslationError, printable
from sidecar.imports.source import MOST_DEPTH, MOST_TEXT, Builder, Part

TOKEN: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|' + r"'''(?:[^']|'(?!''))*'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|" + r"#[^\n]*|[\[\]{}=.\n]|[A-Za-z0-9_-]+|.",
    re.DOTALL,
)
"""Strings, comments, brackets, keys and single characters of a text that is known to be valid."""
Path = tuple[str | int, ...]


def read_toml(findings: Findings, text: str) -> Part:
    """Return a file as one mapping.  Raises `TranslationError`."""
    if len(text) > MOST_TEXT:
        raise TranslationError(f"{findings.file}: has more than {MOST_TEXT} characters; split the file")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TranslationError(printable(f"{findings.file}: is no TOML: {error}")) from None
    except RecursionError:
        raise TranslationError(f"{findings.file}: is nested too deeply; at most {MOST_DEPTH} levels are read") from None
    return _build(Builder(findings), dict(_lines(text)), values, (), 1)


def _build(builder: Builder, lines: dict[Path, int], value: Any, path: Path, line: int) -> Part:
    line = lines.get(path, line)
    shown = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).removeprefix(".")
    part = builder.part(shown, line, 1, len(path))
    if isinstance(value, dict):
        part.children = {}
        for key, inner in value.items():
            child = _build(builder, lines, inner, (*path, key), line)
            child.owner = part
            part.children[key] = child
    elif isinstance(value, list):
        part.list = [_build(builder, lines, inner, (*path, at), line) for at, inner in enumerate(value)]
    else:
        part.scalar = str(value).lower() if isinstance(value, bool) else str(value)
        part.is_quoted = True
    return part


def _lines(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the path and the line of each table and key."""
    table: Path = ()
    items: dict[Path, int] = {}
    line, depth = 1, 0
    words: list[str] = []
    is_key, is_header = True, False
    for match in TOKEN.finditer(text):
        word = match[0]
        if word == "\n":
            if not depth:
                is_key, words = True, []
        elif not is_key:
            depth += (word in ("[", "{")) - (word in ("]", "}"))
        elif word == "[" and not words:
            is_header = True
            depth += 1
        elif word == "]" and is_header:
            depth -= 1
            if not depth:
                table = _table(words, text.startswith("]]", match.start() - 1), items)
                yield table, line
                is_header, is_key = False, False
        elif word == "=":
            yield from (((*table, *words[: end + 1]), line) for end in range(len(words)))
            is_key = False
        elif word[0] in "\"'" or word[0].isalnum() or word[0] in "_-":
            words.append(_key(word))
        line += word.count("\n")


def _key(word: str) -> str:
    return str(next(iter(tomllib.loads(f"{word} = 0")))) if word[0] in "\"'" else word


def _table(words: list[str], is_item: bool, items: dict[Path, int]) -> Path:
    """Return the path of a table; each list of tables on the way stands for its last item."""
    path: Path = ()
    for at, each in enumerate(words):
        path = (*path, each)
        if is_item and at == len(words) - 1:
            items[path] = items.get(path, -1) + 1
        if path in items:
            path = (*path, items[path])
    return path
