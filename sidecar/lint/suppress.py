"""Suppressions of findings by comments in policy files, each with a reason.

    retry: {max_attempts: 8}         # lint: ignore R024: the ledger is idempotent and has capacity for it
    # lint: ignore R007, R073: a page for operators
    - {name: internal, upstream: app}

A comment counts for its own line; on a line of its own for the next line with a value.  `# lint: ignore-file R024: ...`
counts for the whole file.  A comment without a reason, with an unknown rule, or that suppresses nothing is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sidecar.config.files import Source
from sidecar.core.spec import Problem
from sidecar.lint.known import every_rule

_COMMENT: Final = re.compile(r"(?:^|\s)#\s*lint:\s*(?P<kind>[a-z-]*)\s*(?P<rest>.*)$")
_RULES: Final = re.compile(r"(?P<ids>[A-Za-z0-9, ]*?)\s*(?::\s*(?P<reason>.*))?$")
FORM: Final = "write such as `# lint: ignore R024: the reason`"
"""End of messages about comments."""


class _Comment:
    """Suppression of some rules, in one line or one file."""

    def __init__(self, line: int, column: int, ids: tuple[str, ...], reason: str) -> None:
        self.line = line
        self.column = column
        self.ids = ids
        self.reason = reason
        self.used: set[str] = set()


class Suppressions:
    """Suppressions of a set of policy files."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._problems: list[Problem] = []
        self._lines: dict[tuple[str, int], list[_Comment]] = {}
        self._files: dict[str, list[_Comment]] = {}
        self._comments: list[tuple[str, _Comment]] = []
        for source in sources:
            if b"lint:" in source.text:
                self._read(source.name, source.text.decode("utf-8", "replace").splitlines())

    def reason(self, rule: str, file: str, line: int) -> str | None:
        """Return the reason why a rule is suppressed at a line; None if it is not."""
        comments = [*self._lines.get((file, line), []), *self._files.get(file, [])]
        for comment in comments:
            if rule in comment.ids:
                comment.used.add(rule)
                return comment.reason
        return None

    @property
    def problems(self) -> list[Problem]:
        """Comments that are wrong, and those that have suppressed nothing so far."""
        idle = [
            Problem(file, comment.line, comment.column, "", f"suppresses {each}, which finds nothing here; take it out")
            for file, comment in self._comments
            for each in comment.ids
            if each not in comment.used and every_rule()[each].scope != "chain"  # found only along a chain
        ]
        return [*self._problems, *idle]

    def _read(self, file: str, lines: list[str]) -> None:
        """Add the comments of one file."""
        for number, text in enumerate(lines, 1):
            found = _COMMENT.search(text)
            if found is None:
                continue
            column = found.start("kind") + 1
            comment = self._comment(file, number, column, found["kind"], found["rest"].strip())
            if comment is None:
                continue
            self._comments.append((file, comment))
            if found["kind"] == "ignore-file":
                self._files.setdefault(file, []).append(comment)
            else:
                self._lines.setdefault((file, _target(lines, number)), []).append(comment)

    def _comment(self, file: str, line: int, column: int, kind: str, rest: str) -> _Comment | None:
        """Return the suppression of a comment; None if it is wrong, which is noted."""

        def refuse(message: str) -> None:
            self._problems.append(Problem(file, line, column, "", message))

        if kind not in ("ignore", "ignore-file"):
            refuse(f"is not a comment that lint knows; {FORM}")
            return None
        parsed = _RULES.match(rest)
        ids = tuple(each for each in re.split(r"[,\s]+", parsed["ids"]) if each) if parsed is not None else ()
        reason = (parsed["reason"] or "").strip() if parsed is not None else ""
        if not ids:
            refuse(f"names no rule; {FORM}")
        elif unknown := [each for each in ids if each not in every_rule()]:
            refuse(f"names {unknown[0]}, which is no rule; {FORM}")
        elif not reason:
            refuse(f"gives no reason, so it suppresses nothing; {FORM}")
        else:
            return _Comment(line, column, ids, reason)
        return None


def _target(lines: list[str], number: int) -> int:
    """Return the line that a comment counts for: its own, or for a comment alone the next one with a value."""
    if not lines[number - 1].lstrip().startswith("#"):
        return number
    for index in range(number, len(lines)):
        text = lines[index].strip()
        if text and not text.startswith("#"):
            return index + 1
    return number
