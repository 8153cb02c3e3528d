"""Scalars of policy files: the core schema of YAML 1.2 (section 10.3), and `${NAME}`.

YAML 1.1 reads `on`, `off`, `yes` and `no` as booleans, `12:30` as a number and `010` as 8: `retry: {on: [502]}` would
become `{True: [502]}`.  In YAML 1.2 they are words.

`${NAME}` and `${NAME:-default}` are replaced in values, never in keys.  As in a shell, the default also replaces an
empty variable.  `$${` is a literal `${`.  The result is one scalar: a variable cannot add keys or lines.  An unquoted
word is interpreted after the replacement, so `max: ${MAX:-100}` is a number; a quoted one stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.config.origin import Origin, Variable

NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
BOOLEANS: Final = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")

Scalar = str | int | float | bool | None


def resolve(word: str) -> Scalar:
    """Return the value of an unquoted scalar."""
    if word in NULLS:
        return None
    if word in BOOLEANS:
        return BOOLEANS[word]
    if word[0] in "0123456789+-.":
        if _INTEGER.fullmatch(word):
            return int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
        if _FLOAT.fullmatch(word):
            return float(word.replace(".", "", 1) if word.lower().endswith(("inf", "nan")) else word)
    return word


def expand(text: str, environ: Mapping[str, str], limit: int) -> tuple[str, Origin]:
    """Return the text with every `${NAME}` replaced, and its origin.

    `limit` is the most characters that variables may add.  Raises `ValueError` for a variable that is not set, and for
    a wrong one.
    """
    size = 0
    variables: list[Variable] = []

    def value(match: re.Match[str]) -> str:
        nonlocal size
        if match[0] == "$${":
            return "${"
        name, default = match[1], match[2]
        if name is None:
            raise ValueError("has a `${` that is no variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${")
        found = environ.get(name)
        if found is None and default is None:
            raise ValueError(f"needs the environment variable {name}; set it or give a default: ${{{name}:-value}}")
        word = default if default is not None and not found else found
        assert word is not None
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ValueError(f"needs the environment variable {name}, which is not UTF-8 text; set it to UTF-8 text")
        variables.append(Variable(name, word, is_default=not found and default is not None))
        size += len(word)
        if size > limit:
            raise ValueError("is too long with its environment variables; shorten them")
        return word

    return _VARIABLE.sub(value, text), Origin(text, tuple(variables))
