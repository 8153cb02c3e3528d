"""Everything that is wrong with the policy files, collected in one run.

A value that many routes inherit is reported once, where it is written.  Errors are certain to be wrong and refuse the
policies; warnings are merely useless and do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from sidecar.config.node import Mark, Node
from sidecar.core.spec import Problem

MAX_LISTED = 12


class Report:
    """Problems and warnings, each once, in the order of file, line and column."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}
        self._seen: set[tuple[Mark, str]] = set()
        self._marks: set[Mark] = set()
        self.is_whole = True
        """Was every file read to its end?  If not, nothing can be said about names that are not there."""

    def error(self, mark: Mark, path: str, message: str) -> None:
        if (mark, message) not in self._seen:
            self._seen.add((mark, message))
            self._marks.add(mark)
            self._problems[Problem(*mark, visible(path), visible(message))] = None

    def at(self, node: Node, message: str) -> None:
        """An error in a value; of several in one scalar the first tells most."""
        if isinstance(node.value, dict | list) or node.mark not in self._marks:
            self.error(node.place, node.path, message)

    def warn(self, node: Node, message: str) -> None:
        """Something that has no effect or not the one that it seems to have."""
        self._warnings[Problem(*node.place, visible(node.path), visible(message))] = None

    @property
    def problems(self) -> list[Problem]:
        return sorted(self._problems)

    @property
    def warnings(self) -> list[Problem]:
        return sorted(self._warnings)


def visible(text: str) -> str:
    """On one line, whatever of a file it quotes: line ends and control characters are written as Python writes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?` where a known word is near, else the known words."""
    words = sorted(known)
    if near := get_close_matches(word, words, n=1):
        return f"did you mean `{near[0]}`?"
    if not words:
        return "there are none"
    more = f" and {len(words) - MAX_LISTED} more" if len(words) > MAX_LISTED else ""
    return f"known are {', '.join(words[:MAX_LISTED])}{more}"
