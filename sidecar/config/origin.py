"""Values from environment variables, and the texts that are printed in their place.

A value that came from `${NAME}` may be a secret.  So it is never printed: the text of the file stands in its place.

Rules:

1. Each node has its origin.  A printed node shows its text in the file, whatever the value is.
2. In other texts (messages, logs, `/state`), each value of a variable and each scalar that contains one is replaced.
   Three kinds of value stay, because replacing them would garble unrelated text: values shorter than `MIN_SECRET`
   characters, numbers and quantities, and words that the files also contain literally.
3. The process's own output, such as `/state`, also keeps addresses and the names of routes and of the service.  Where
   the process listens is a fact of the system, and the names are in every metric.
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
    """Environment variable in a scalar, with the value that it was replaced by."""

    name: str
    value: str
    is_default: bool
    """True if the value is the default in the file, because the variable is not set or empty."""


class Origin(NamedTuple):
    """Text of a scalar as the file has it, with its variables."""

    written: str
    """Text as the file has it, such as `http://${HOST}:80`."""
    variables: tuple[Variable, ...]

    def masked(self, message: str, value: object) -> str:
        """Return a message about the scalar with its value masked, and with a remark that names the variables."""
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
    """Return a message with words masked that contain a part of a value, such as the host of a URL."""
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
    """Return the end of a message: which variables gave the value, and which are not set."""
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

    def add_literal(self, word: str) -> None:
        """Record a word that a file contains literally, so that it is never masked."""
        self._literal.add(word.lower())

    def note(self, value: str, origin: Origin) -> None:
        """Record the value and the origin of a scalar that contains variables."""
        given = [each for each in origin.variables if not each.is_default]
        for each in given:
            self._variables.setdefault(each.value, f"${{{each.name}}}")
        if given:
            self._scalars.setdefault(value, origin.written)

    def message_masks(self) -> Masks:
        """Return the masks for messages about the files."""
        return Masks({value: shown for value, shown in self._all() if self._is_masked(value)})

    def output_masks(self, names: Iterable[str]) -> Masks:
        """Return the masks for the process's own output; `names`, of its service and its routes, stay readable."""
        kept = set(names)
        shown = {value: text for value, text in self.message_masks().replacements.items() if value not in kept}
        return Masks({value: text for value, text in shown.items() if not _ADDRESS.fullmatch(value)})

    def _all(self) -> Iterable[tuple[str, str]]:
        """Return pairs of a value and the text in its place."""
        return {**self._scalars, **self._variables}.items()

    def _is_masked(self, value: str) -> bool:
        """True if a value from a variable must not appear in messages; see rule 2."""
        word = value.lower()
        return (
            len(value) >= MIN_SECRET
            and word not in self._literal
            and word not in _COMMON
            and not _QUANTITY.fullmatch(value)
        )
