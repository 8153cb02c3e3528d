"""Conditions on requests, as the `match` of a route.

Exact conditions become keys of `match`.  All others become terms of its `when`.  There an absent field has no value, so
a term that negates another one asks for the field first.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.imports.draft import Draft, Value

TESTS: Final = {
    "exact": "{fact} == {value}", "prefix": "{fact}.startsWith({value})", "suffix": "{fact}.endsWith({value})",
    "contains": "{fact}.contains({value})", "regex": "{fact}.matches({value})",
}  # fmt: skip
"""Term of each kind of condition on a text."""
GRPC: Final = "request.headers['content-type'].startsWith('application/grpc')"


def quoted(text: str) -> str:
    """Return a text as a literal of a condition."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{''.join(each if each.isprintable() else f'{chr(92)}u{ord(each) & 0xFFFF:04x}' for each in escaped)}'"


def whole(pattern: str) -> str:
    """Return a regular expression for a part of a text as one for all of it."""
    start = "" if pattern.startswith("^") else ".*"
    end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else ".*"
    return f"{start}(?:{pattern.removeprefix('^').removesuffix('$') if not end else pattern.removeprefix('^')}){end}"


def common_host(one: str, other: str) -> str:
    """Return the host that two patterns have in common, such as `a.example` of it and `*.example`; empty for none."""
    if one == other or other == "*":
        return one
    if one == "*":
        return other
    for wide, narrow in ((one, other), (other, one)):
        if wide.startswith("*.") and narrow.endswith(wide[1:]):
            return narrow
    return ""


def full(pattern: str) -> str:
    """Return a regular expression that matches a text as a whole there, as one that does so in a condition."""
    inner = pattern.removeprefix("^")
    inner = inner[:-1] if inner.endswith("$") and not inner.endswith("\\$") else inner
    return f"^(?:{inner})$"


class Conditions:
    """Match under construction."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.keys: dict[str, Any] = {}
        """Keys of the match but `when`."""
        self._terms: list[str] = []
        self._line = 0

    def host(self, name: str, line: int) -> None:
        """Ask for a host; `*` is every host."""
        if name not in ("", "*"):
            self.keys["host"] = self._draft.value(name, line)

    def path(self, kind: str, path: str, line: int) -> str:
        """Ask for a path: `exact`, `prefix` (of text), `segments` (a prefix of whole segments) or `regex` (whole).

        Return the difference of meaning; empty without one.
        """
        if kind == "exact" and not set(path) & set("{}"):
            self.keys["path"] = self._draft.value(path, line)
        elif kind in ("exact", "regex"):
            self.keys["path_regex"] = self._draft.value(re.escape(path) if kind == "exact" else path, line)
        elif path.strip("/"):
            self.keys["path_prefix"] = self._draft.value(path, line)
            if kind == "prefix" and not path.endswith("/"):
                self._draft.textual.add(path)
                return f"takes whole segments only here: not {path}x"
            if kind == "prefix":
                return f"takes {path.rstrip('/')} itself too here"
        return ""

    def method(self, *names: str, line: int) -> None:
        """Ask for one of some methods."""
        self.keys["methods"] = self._draft.value(list(names), line)

    def header(self, name: str, kind: str, value: str, line: int, negated: bool = False) -> None:
        """Ask for a header field: `present`, or a text of one of `TESTS`."""
        self._field("headers", name.lower(), kind, value, line, negated)

    def parameter(self, name: str, kind: str, value: str, line: int, negated: bool = False) -> None:
        """Ask for a query parameter: `present`, or a text of one of `TESTS`."""
        self._field("query", name, kind, value, line, negated)

    def term(self, text: str, line: int) -> None:
        """Add a term of `when`."""
        self._terms.append(text)
        self._line = self._line or line

    def _field(self, where: str, name: str, kind: str, value: str, line: int, negated: bool) -> None:
        if kind == "exact" and not negated and name not in self.keys.get(where, {}):
            self.keys.setdefault(where, {})[name] = self._draft.value(value, line)
            return
        has = f"{quoted(name)} in request.{where}"
        if kind == "present":
            self.term(f"!({has})" if negated else has, line)
            return
        test = TESTS[kind].format(fact=f"request.{where}[{quoted(name)}]", value=quoted(value))
        self.term(f"(!({has}) || !({test}))" if negated else test, line)

    def match(self) -> dict[str, Any]:
        """Return the match."""
        if not self._terms:
            return self.keys
        when = Value(" && ".join(self._terms), self._draft.findings.place(self._line), self._line)
        return {**self.keys, "when": when}
