"""Problems and warnings of one run over policy files.

A value that many routes inherit is reported once, where it is written.  An error refuses the policies; a warning is
about what has no effect, and does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from sidecar.config.node import Mark, Node
from sidecar.config.origin import Origins
from sidecar.core.spec import Problem

MAX_LISTED = 12


class Report:
    """Problems and warnings, each once, in the order of file, line and column."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}
        self._seen: set[tuple[Mark, str]] = set()
        self._marks: set[Mark] = set()
        self.origins = Origins()
        """Origins of the values that variables give; their values are in no problem."""
        self.is_whole = True
        """True if every file was read to its end; if not, nothing is said about names that are missing."""

    def error(self, mark: Mark, path: str, message: str) -> None:
        """Report an error at a place, once."""
        if (mark, message) not in self._seen:
            self._seen.add((mark, message))
            self._marks.add(mark)
            self._problems[Problem(*mark, visible(path), visible(message))] = None

    def at(self, node: Node, message: str) -> None:
        """Report an error in a value; of several errors in one scalar only the first."""
        if isinstance(node.value, dict | list) or node.mark not in self._marks:
            self.error(node.place, node.path, _about(node, message))

    def warn(self, node: Node, message: str) -> None:
        """Report a value that has no effect, or not the one that it seems to have."""
        self._warnings[Problem(*node.place, visible(node.path), visible(_about(node, message)))] = None

    @property
    def problems(self) -> list[Problem]:
        """Errors in the order of their places."""
        return self._masked(self._problems)

    @property
    def warnings(self) -> list[Problem]:
        """Warnings in the order of their places."""
        return self._masked(self._warnings)

    def _masked(self, problems: Iterable[Problem]) -> list[Problem]:
        masks = self.origins.masks()
        return sorted(each._replace(message=masks.text(each.message)) for each in problems)


def _about(node: Node, message: str) -> str:
    return message if node.origin is None else node.origin.disguise(message, node.value)


def visible(text: str) -> str:
    """Return the text on one line: line ends and control characters are escaped as Python does it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean ...?` where a known word is near, else a list of the known words."""
    words = sorted(known)
    if near := get_close_matches(word, words, n=1):
        return f"did you mean `{near[0]}`?"
    if not words:
        return "there are none"
    more = f" and {len(words) - MAX_LISTED} more" if len(words) > MAX_LISTED else ""
    return f"known are {', '.join(words[:MAX_LISTED])}{more}"
