"""Reading OpenTelemetry's standard variables: values with their types, and what is wrong with them.

By "Environment Variable Specification": an empty variable is an unset one, only `true` is true, times are milliseconds,
and a value that makes no sense is reported and its default taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

OTLP: Final = "OTEL_EXPORTER_OTLP_"


class Variables:
    """An environment, and the `warnings` about it: each names the variable and says what would be right."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def warn(self, name: str, what: str) -> None:
        self._warnings[f"{name} {what}"] = None

    def text(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def flag(self, name: str) -> bool:
        return self.text(name).lower() == "true"

    def word(self, name: str, known: Mapping[str, T], default: T) -> T:
        """What one of several words stands for."""
        value = self.text(name).lower()
        if value and value not in known:
            self.warn(name, f"is {value!r}; known are {', '.join(known)}")
        return known.get(value, default)

    def words(self, name: str, known: Mapping[str, T]) -> list[T]:
        """What the words of a list stand for."""
        found = []
        for word in self.text(name).split(","):
            if word.strip() in known:
                found.append(known[word.strip()])
            elif word.strip():
                self.warn(name, f"names {word.strip()!r}; known are {', '.join(known)}")
        return found

    def whole(self, name: str, default: int) -> int:
        """A whole number above zero."""
        value = self.text(name)
        if value and not (value.isdigit() and int(value) > 0):
            self.warn(name, f"is {value!r} and not a whole number above 0; the default is used")
            return default
        return int(value) if value else default

    def seconds(self, name: str) -> float:
        """A time, written in milliseconds; zero where there is none."""
        return self.whole(name, 0) / 1000

    def ratio(self, name: str) -> float:
        """A number from 0 to 1, which is what it is by default."""
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
        """`key=value,key=value`, percent-encoded."""
        found = {}
        for member in self.text(name).split(","):
            key, equals, value = member.partition("=")
            if equals and key.strip():
                found[unquote(key.strip()).lower()] = unquote(value.strip())
            elif member.strip():
                self.warn(name, "has a member that is not key=value")
        return found

    def of(self, signal: str, name: str, read: Callable[[str], T]) -> T:
        """An exporter's variable: the one of the signal, else the one of all signals."""
        return read(f"{OTLP}{signal}_{name}") or read(f"{OTLP}{name}")
