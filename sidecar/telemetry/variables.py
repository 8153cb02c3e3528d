"""Reader of OpenTelemetry's standard variables.

Rules of OpenTelemetry's Environment Variable Specification: an empty variable counts as unset, only `true` is true,
times are in milliseconds, and an invalid value is reported and replaced by the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

OTLP: Final = "OTEL_EXPORTER_OTLP_"
"""Prefix of the variables for OTLP exporters."""


class Variables:
    """Typed values of environment variables, and warnings about invalid ones."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings so far, each once; a warning names the variable and says what would be right."""
        return tuple(self._warnings)

    def warn(self, name: str, what: str) -> None:
        """Add a warning about a variable."""
        self._warnings[f"{name} {what}"] = None

    def text(self, name: str) -> str:
        """Return the value without surrounding space; empty if it is unset."""
        return self._environ.get(name, "").strip()

    def flag(self, name: str) -> bool:
        """True if the value is `true`."""
        return self.text(name).lower() == "true"

    def word(self, name: str, known: Mapping[str, T], default: T) -> T:
        """Return the entry of `known` for the value; the default if the value is unset or unknown."""
        value = self.text(name).lower()
        if value and value not in known:
            self.warn(name, f"is {value!r}; known are {', '.join(known)}")
        return known.get(value, default)

    def words(self, name: str, known: Mapping[str, T]) -> list[T]:
        """Return the entries of `known` for the words of a comma-separated list, without unknown words."""
        found = []
        for word in self.text(name).split(","):
            if word.strip() in known:
                found.append(known[word.strip()])
            elif word.strip():
                self.warn(name, f"names {word.strip()!r}; known are {', '.join(known)}")
        return found

    def whole(self, name: str, default: int) -> int:
        """Return a whole number above zero; the default if the value is unset or invalid."""
        value = self.text(name)
        if value and not (value.isdigit() and int(value) > 0):
            self.warn(name, f"is {value!r} and not a whole number above 0; the default is used")
            return default
        return int(value) if value else default

    def seconds(self, name: str) -> float:
        """Return a duration in seconds, which the value gives in milliseconds; 0 if it is unset or invalid."""
        return self.whole(name, 0) / 1000

    def ratio(self, name: str) -> float:
        """Return a number from 0 to 1; 1 if the value is unset or invalid."""
        value = self.text(name)
        try:
            ratio = float(value or 1.0)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            self.warn(name, f"is {value!r} and not a number from 0 to 1; 1 is used")
            return 1.0
        return ratio

    def headers(self, name: str) -> dict[str, str]:
        """Return the members of a percent-encoded list `key=value,key=value`, with keys in lower case."""
        found = {}
        for member in self.text(name).split(","):
            key, equals, value = member.partition("=")
            if equals and key.strip():
                found[unquote(key.strip()).lower()] = unquote(value.strip())
            elif member.strip():
                self.warn(name, "has a member that is not key=value")
        return found

    def of(self, signal: str, name: str, read: Callable[[str], T]) -> T:
        """Return an exporter's variable, read by `read`: that of the signal, or else that of all signals."""
        return read(f"{OTLP}{signal}_{name}") or read(f"{OTLP}{name}")
