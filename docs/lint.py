"""Linter of prose: `python -m docs.lint [PATH...]` (part of `make lint`) checks docstrings, comments and names.

1. A docstring names its own subject: it does not open with one of `OPENINGS`, and its first line asks no question.
2. Measured figures stand in `bench/README.md`, with their date and their command; the source keeps the reason.
   Limits, defaults and constants of protocols may stay in the source.
3. The field's word, not a metaphor: `WORDS` in a docstring, a comment or the name of a class or function.
4. The name of a class says what it does: none ends with one of `SUFFIXES`.

Text in `backquotes` is code and is not checked.  Style that needs judgement is left to the reader of a change.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
CHECKED: Final = ("sidecar", "chaos", "bench", "tests")
"""Directories that are checked when no path is given."""
UNFINISHED: Final[tuple[str, ...]] = (
    "sidecar/__init__.py",
    "sidecar/admin",
    "sidecar/config",
    "sidecar/control",
    "sidecar/core",
    "sidecar/demo",
    "sidecar/downstream",
    "sidecar/engine",
    "sidecar/policytest",
    "sidecar/process",
    "sidecar/routing",
    "sidecar/telemetry",
    "sidecar/upstream",
)
"""Files and packages whose prose is still being rewritten: left out when no path is given.  The list only shrinks."""

_PRONOUNS: Final = """
anybody anyone everybody everyone he her his it its nobody of one-for one-of one-that one-which one-who
she somebody someone that their them these they this those
"""
_QUESTIONS: Final = """
are can could did does had has how is may must shall should was were what whatever when whenever where wherever
whether which whichever who whoever whom whose why will would
"""
OPENINGS: Final = frozenset(f"{_PRONOUNS} {_QUESTIONS}".split())
"""First words that lean on the line above or ask a question; `one-of` stands for the two words `One of`."""

WORDS: Final = {
    "alas": "leave it out",
    "dear": "expensive",
    "dearer": "more expensive",
    "door": "listener, acceptor or admission",
    "doors": "listeners, acceptors or admission",
    "errand": "task or request",
    "errands": "tasks or requests",
    "flight": "fetch; a request is `in flight`",
    "flights": "fetches; requests are `in flight`",
    "guest": "connection",
    "guests": "connections",
    "heed": "obey, read or apply",
    "heeded": "obeyed, read or applied",
    "heeding": "obeying, reading or applying",
    "heeds": "obeys, reads or applies",
    "honest": "well-behaved or correct",
    "life": "lifecycle, lifetime, start or process",
    "lives": "is stored, stays open or runs",
    "unhurried": "paced",
    "whoever": "the caller, client or reader that is meant",
}
"""Metaphors, each with the words to use instead."""
TERMS: Final = re.compile(r"`[^`]*`|\bin[\s-]flight|\bsingle-flight", re.IGNORECASE)
"""Matches code and the field's terms that contain one of `WORDS`."""
SUFFIXES: Final = ("Manager", "Helper", "Helpers", "Util", "Utils")
"""Ends of class names that say nothing."""

_NUMBER: Final = r"\d[\d.,]*"
_UNIT: Final = r"(?:us|µs|ns|ms|s|KiB|MiB|GiB|%|times|(?:milli)?seconds|instructions)(?!\w)"
FIGURES: Final = re.compile(
    rf"\b{_NUMBER}\s?(?:us|µs|ns|microseconds?|nanoseconds?|instructions|cycles)\b"
    rf"|\b{_NUMBER}(?:\s?x|\s?times)(?:\s(?:of|that of))?\s(?:Envoy|nginx|HAProxy)"
    rf"|\b(?:costs?|cheaper by|dearer by|faster by|saves?|saved|slower by|took|worth)\s(?:[a-z]+\s){{0,2}}"
    rf"{_NUMBER}(?:\s(?:to|or)\s{_NUMBER})?\s?{_UNIT}"
    rf"|\b{_NUMBER}\s?(?:%|times|x)\s(?:cheaper|faster|less CPU|more CPU|more expensive|slower)\b",
    re.IGNORECASE,
)
"""Matches figures that were measured: small units of time, instructions, ratios to other proxies, costs."""

_FIRST: Final = re.compile(r"\W*([\w'’]+)(?:\s+(\w+))?")
_WORD: Final = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
_NAME_PARTS: Final = re.compile(r"[A-Z]?[a-z]+")
_SUSPECT: Final = re.compile(rf"#.*(?:{_WORD.pattern}|{FIGURES.pattern})", re.IGNORECASE)


class Finding(NamedTuple):
    """One violation: the path of a file, the line, and a message that says what is wrong and what would be right."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def check_source(path: str, source: str) -> list[Finding]:
    """Return the violations of one module, in the order of its lines."""
    found: list[tuple[int, str]] = []
    for node in _statements(ast.parse(source, path)):
        if isinstance(node, ast.Expr):
            value = node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found += _check_docstring(node.lineno, value.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found += _check_name(node)
    if _SUSPECT.search(source):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found += _check_text(token.start[0], token.string)
    return [Finding(path, line, message) for line, message in sorted(found, key=itemgetter(0))]


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield every statement of a module; expressions are not descended into."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                waiting += inner


def _check_docstring(line: int, text: str) -> Iterator[tuple[int, str]]:
    first = _FIRST.match(text)
    if first is not None:
        word, follower = first[1], first[2] or ""
        for opening in (word, f"{word} {follower}"):
            if opening.lower().replace(" ", "-") in OPENINGS:
                yield line, f"docstring opens with {opening!r}; name its subject: Return ..., True if ..., Cache of ..."
    if text.strip().partition("\n")[0].endswith("?"):
        yield line, "docstring asks a question; state the answer: Return ..., True if ..., Time after which ..."
    yield from _check_text(line, text)


def _check_text(line: int, text: str) -> Iterator[tuple[int, str]]:
    """Yield metaphors and measured figures of a docstring or comment that begins on `line`."""
    prose = TERMS.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in _WORD.finditer(prose):
        yield line + prose.count("\n", 0, match.start()), _metaphor(match[0])
    for match in FIGURES.finditer(prose):
        figure = " ".join(match[0].split())
        message = f"measured figure {figure!r}; keep the reason, and put the figure into bench/README.md"
        yield line + prose.count("\n", 0, match.start()), message


def _check_name(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.ClassDef) and node.name.endswith(SUFFIXES):
        yield node.lineno, f"class {node.name} says nothing of what it does; name it for its subject, such as Pool"
    name = re.sub(r"in_?flight|single_?flight", "", node.name, flags=re.IGNORECASE)
    for part in _NAME_PARTS.findall(name):
        if part.lower() in WORDS:
            yield node.lineno, f"name {node.name}: {_metaphor(part)}"


def _metaphor(word: str) -> str:
    return f"{word!r} is a metaphor here; write {WORDS[word.lower()]}"


def _files(paths: list[str]) -> Iterator[Path]:
    """Yield the Python files below the given paths; without any, those of `CHECKED` that are not `UNFINISHED`."""
    for path in map(Path, paths):
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))
    if not paths:
        left_out = tuple(ROOT / package for package in UNFINISHED)
        for directory in CHECKED:
            for path in sorted((ROOT / directory).rglob("*.py")):
                if not any(path.is_relative_to(package) for package in left_out):
                    yield path


def main(paths: list[str]) -> int:
    """Print every violation; the result is the exit code, 1 where there are any."""
    count = 0
    for path in _files(paths):
        absolute = path.resolve()
        name = str(absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else path)
        for finding in check_source(name, path.read_text()):
            print(finding)
            count += 1
    if count:
        print(f"{count} violations; the rules stand in docs/lint.py", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
