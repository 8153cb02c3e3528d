"""Values of a configuration that are not translated, or whose meaning differs here, each with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

NO_EQUAL: Final = "has no equal here"


class TranslationError(Exception):
    """Configuration that cannot be translated at all; the text says where, what is wrong and what would be right."""


class Finding(NamedTuple):
    """Value that is not translated, or that has another meaning here."""

    line: int
    """Line of the configuration, counted from 1."""
    text: str
    """Key and reason."""


@dataclass
class Findings:
    """Findings about one file."""

    file: str
    """Name of the file, without its directory."""
    lost: list[Finding] = field(default_factory=list)
    """Values that are not translated."""
    differs: list[Finding] = field(default_factory=list)
    """Values that are translated, but whose meaning is not quite the same."""

    def place(self, line: int) -> str:
        """Return a place: `envoy.yaml:12`."""
        return f"{self.file}:{line}"

    def lose(self, line: int, what: str, why: str = NO_EQUAL) -> None:
        """Add a value that is not translated."""
        self._add(self.lost, line, f"{what}: {why}")

    def differ(self, line: int, what: str, why: str) -> None:
        """Add a value whose meaning differs."""
        self._add(self.differs, line, f"{what}: {why}")

    def _add(self, findings: list[Finding], line: int, text: str) -> None:
        finding = Finding(line, printable(text))
        if finding not in findings:
            findings.append(finding)

    def lines(self) -> list[str]:
        """Return all findings in the order of their lines, each as one line."""
        told = [(each, "not translated") for each in self.lost] + [(each, "differs") for each in self.differs]
        told.sort(key=lambda pair: pair[0].line)
        return [f"{self.place(each.line)}: {kind}: {each.text}" for each, kind in told]


def printable(text: str) -> str:
    """Return a text on one line, of bounded length, with other characters than printable ones escaped."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:300])
    return shown if len(text) <= 300 else shown + " …"
