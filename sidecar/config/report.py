"""Problems and warnings of one run over policy files.

A value that many routes inherit is reported once, at the place where it is written.  Policies with an error are
refused; policies with a warning are not: some setting of theirs has no effect, or another one than expected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from sidecar.config.node import Mark, Node
from sidecar.config.origin import Origins
from sidecar.core.spec import Problem

MAX_LISTED = 12
"""Most known words that a message lists."""
COMPARISONS = 20_000
"""Most comparisons of a misspelt name with a declared one in one run."""


class Report:
    """Problems and warnings, each once, in the order of file, line and column."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}
        self._seen: set[tuple[Mark, str]] = set()
        self._marks: set[Mark] = set()
        self.origins = Origins()
        """Origins of values from environment variables, which problems and warnings do not show."""
        self._comparisons = COMPARISONS
        self._sorted: dict[int, list[str]] = {}
        """Sorted names, by the `id` of the collection that they come from."""
        self._kept: list[Collection[str]] = []
        """Collections of names, kept alive so that no other object gets their `id`."""
        self.is_whole = True
        """True if every file was read to its end; otherwise missing names are not reported."""

    def suggest(self, word: str, known: Collection[str]) -> str:
        """Return a suggestion for a misspelt name, as the function `suggest` does.

        After `COMPARISONS` comparisons the known names are only listed.  Otherwise the work would grow with the product
        of misspelt and known names.
        """
        names = self._sorted.get(id(known))
        if names is None:
            names = sorted(known)
            self._sorted[id(known)] = names
            self._kept.append(known)
        self._comparisons -= len(names)
        return suggest(word, names) if self._comparisons >= 0 else _listed(names)

    def error(self, mark: Mark, path: str, message: str) -> None:
        """Report an error at a place; the same message at the same place is reported once."""
        if (mark, message) not in self._seen:
            self._seen.add((mark, message))
            self._marks.add(mark)
            self._problems[Problem(*mark, visible(path), visible(message))] = None

    def has_error(self, node: Node) -> bool:
        """True if an error at the place of a value was reported already."""
        return node.mark in self._marks

    def error_in(self, node: Node, message: str) -> None:
        """Report an error in a value; of several errors in one scalar, only the first is kept."""
        if isinstance(node.value, dict | list) or node.mark not in self._marks:
            self.error(node.place, node.path, _about(node, message))

    def warn(self, node: Node, message: str) -> None:
        """Warn of a value that has no effect, or another effect than it seems to have."""
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
        """Return problems sorted by their places, with values of variables masked."""
        masks = self.origins.message_masks()
        return sorted(each._replace(message=masks.text(each.message)) for each in problems)


def _about(node: Node, message: str) -> str:
    """Return a message about a value, with the value masked if a variable gives it."""
    return message if node.origin is None else node.origin.masked(message, node.value)


def visible(text: str) -> str:
    """Return the text on one line, with unprintable characters escaped as in a Python string."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean ...?` if a known word is similar, else a list of the known words."""
    words = known if isinstance(known, list) else sorted(known)
    if near := get_close_matches(word, words, n=1):
        return f"did you mean `{near[0]}`?"
    return _listed(words)


def _listed(words: list[str]) -> str:
    """Return a list of known words as the end of a message."""
    if not words:
        return "there are none"
    more = f" and {len(words) - MAX_LISTED} more" if len(words) > MAX_LISTED else ""
    return f"known are {', '.join(words[:MAX_LISTED])}{more}"
