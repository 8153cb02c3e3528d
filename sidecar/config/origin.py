"""Origins of values that environment variables give, and what is shown in their place.

A value that came from `${NAME}` may be a secret, so no printer shows it: what is shown is the text as the file has it.

Rules:

1. A node knows its origin.  What is printed of a node is its text in the file, whatever the value is.
2. In other texts (messages, logs, `/state`) each value of a variable, and each scalar that holds one, is replaced
   wherever it occurs.  Three kinds of value are left there, since to replace them would garble text that says nothing
   of them: fewer than `MIN_SECRET` characters, numbers and quantities, and words that the files also spell out.
3. What a running process says of itself keeps bare addresses and names of routes and of the service: where it listens
   is a fact of the system, and the names stand in every metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from sidecar.telemetry.plain import MIN_SECRET, Masks

_QUANTITY: Final = re.compile(r"[-+]?[0-9.]{1,9}[A-Za-z%]{0,3}(/[A-Za-z]{1,2})?")
_ADDRESS: Final = re.compile(
    r"(?i)(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:.]+\]|[0-9a-f]*:[0-9a-f:.]*|localhost)(?::[0-9]{1,5})?"
)
_PART: Final = re.compile(r"[^\W_]{4,}")
_WORD: Final = re.compile(r"[^\s,;`'\"()]+")
_COMMON: Final = frozenset(("true", "false", "null", "http", "https", "unix", "localhost"))


class Variable(NamedTuple):
    """Value that a variable gives to a scalar."""

    name: str
    value: str
    is_default: bool
    """True if the variable is not set, so that the file's own default counts."""


class Origin(NamedTuple):
    """Text of a scalar in the file, with its variables."""

    written: str
    """Text as the file has it, such as `http://${HOST}:80`."""
    variables: tuple[Variable, ...]

    def disguise(self, message: str, value: object) -> str:
        """Return a message about the scalar without its value, and with the variable that gives it."""
        secrets = {each.value: f"${{{each.name}}}" for each in self.variables if not each.is_default and each.value}
        if secrets:
            secrets[str(value)] = self.written
            forms = {form: shown for text, shown in secrets.items() for form in (text, repr(text)[1:-1])}
            for text in sorted(forms, key=len, reverse=True):
                message = message.replace(f"`{text}`", f"`{forms[text]}`").replace(f"'{text}'", f"'{forms[text]}'")
            message = Masks({text: shown for text, shown in forms.items() if len(text) >= MIN_SECRET}).text(message)
            message = _without_parts(message, self.variables)
        return message + _source(self.variables)


def _without_parts(message: str, variables: Iterable[Variable]) -> str:
    """Return a message without what it derives from a part of a value, such as the host of a URL."""
    for each in variables:
        if each.is_default:
            continue
        parts = {part.lower() for part in _PART.findall(each.value)} - _COMMON

        def shown(match: re.Match[str], name: str = each.name, parts: set[str] = parts) -> str:
            word = match[0]
            is_sentence = word.rstrip(".").isalpha() or word.startswith("${")
            is_part = not parts.isdisjoint(part.lower() for part in _PART.findall(word))
            return word if is_sentence or not is_part else f"${{{name}}}"

        message = _WORD.sub(shown, message)
    return message


def _source(variables: Iterable[Variable]) -> str:
    """Return the remark that says which variables gave a value."""
    each = list(variables)
    given = list(dict.fromkeys(one.name for one in each if not one.is_default))
    absent = dict.fromkeys((one.name, one.value) for one in each if one.is_default)
    words = [f"the environment variable{'s' * (len(given) > 1)} {', '.join(given)} gave it"] if given else []
    words += [f"{name} is not set, and its default is `{default}`" for name, default in absent]
    return f" ({'; '.join(words)})" if words else ""


class Origins:
    """Origins of all scalars of one set of files."""

    def __init__(self) -> None:
        self._literal: set[str] = set()
        self._variables: dict[str, str] = {}
        self._scalars: dict[str, str] = {}

    def spell(self, word: str) -> None:
        """Note a word that a file spells out."""
        self._literal.add(word.lower())

    def note(self, value: str, origin: Origin) -> None:
        """Note the value and the origin of a scalar with variables."""
        given = [each for each in origin.variables if not each.is_default]
        for each in given:
            self._variables.setdefault(each.value, f"${{{each.name}}}")
        if given:
            self._scalars.setdefault(value, origin.written)

    def masks(self) -> Masks:
        """Return the masks for messages about the files."""
        return Masks({value: shown for value, shown in self._all() if self._is_telling(value)})

    def facts(self, names: Iterable[str]) -> Masks:
        """Return the masks for what a process says of itself; `names` are those of its service and its routes."""
        kept = set(names)
        shown = {value: text for value, text in self.masks().words.items() if value not in kept}
        return Masks({value: text for value, text in shown.items() if not _ADDRESS.fullmatch(value)})

    def _all(self) -> Iterable[tuple[str, str]]:
        return {**self._scalars, **self._variables}.items()

    def _is_telling(self, value: str) -> bool:
        word = value.lower()
        return (
            len(value) >= MIN_SECRET
            and word not in self._literal
            and word not in _COMMON
            and not _QUANTITY.fullmatch(value)
        )
