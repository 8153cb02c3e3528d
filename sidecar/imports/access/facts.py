"""Facts about requests and callers, as conditions of access rules.

Each condition is true or false for every request, so that its opposite means the opposite: one on a fact that may be
absent asks for the fact first.  A condition that is not known for some values, such as a prefix of a claim that is a
list, lets nobody pass with them.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.core.pattern import compile_search
from sidecar.imports.access.rules import UNKNOWN, Condition, Some, Tree
from sidecar.imports.conditions import TESTS, quoted
from sidecar.imports.findings import NO_EQUAL


class Stated(Protocol):
    """Value of a configuration, with its line."""

    line: int

    def lose(self, why: str = NO_EQUAL) -> None:
        """Report the value as not translated."""


PSEUDO: Final = {":method": "request.method", ":authority": "request.host", "host": "request.host"}
"""Facts that some proxies name as header fields, and that every request has."""
NOBODY: Final = "the condition lets nobody pass here"


def header_of(name: str) -> tuple[str, str]:
    """Return a header field as a fact, and the test of its presence; empty for one without an equal."""
    if name in PSEUDO:
        return PSEUDO[name], ""
    if name.startswith(":"):
        return "", ""
    return f"request.headers[{quoted(name)}]", f"{quoted(name)} in request.headers"


def claim(*keys: str) -> str:
    """Return a claim of the caller's token as a fact."""
    return "caller.claims" + "".join(f"[{quoted(each)}]" for each in keys)


def present(fact: str, line: int) -> Condition:
    """Return the test that a claim is there."""
    return Condition(f"has({fact})", line)


def item_of(fact: str, value: str) -> str:
    """Return the condition that a claim is a list with a value."""
    return f"has({fact}[0]) && {quoted(value)} in {fact}"


def text_test(fact: str, presence: str, kind: str, value: str, part: Stated) -> Tree:
    """Return the test of a text, of one of the kinds of `TESTS`; `presence` is empty for a fact that is always there.

    A pattern that policies do not allow is reported, and lets nobody pass.
    """
    if fact == "request.host" and value != value.lower():
        part.lose(f"compares a host with capitals; {NOBODY}")
        return UNKNOWN
    if kind == "regex":
        try:
            compile_search(value)
        except ValueError as error:
            part.lose(f"the pattern {error}; {NOBODY}")
            return UNKNOWN
    test = TESTS[kind].format(fact=fact, value=quoted(value))
    return Condition(f"{presence} && {test}" if presence else test, part.line)


def claim_test(keys: tuple[str, ...], kind: str, value: str, part: Stated) -> Tree:
    """Return the test of a claim that is a text."""
    fact = claim(*keys)
    return text_test(fact, f"has({fact})", kind, value, part)


def any_claim(keys: tuple[str, ...], value: str, part: Stated, *, is_spaced: bool = False) -> Tree:
    """Return the test that a claim is a text, or a list with it; with `is_spaced`, a text of several words too."""
    fact = claim(*keys)
    found: list[Tree] = [Condition(f"has({fact}) && {fact} == {quoted(value)}", part.line)]
    found.append(Condition(item_of(fact, value), part.line))
    if is_spaced:
        for kind, text in (("prefix", f"{value} "), ("suffix", f" {value}"), ("contains", f" {value} ")):
            test = TESTS[kind].format(fact=fact, value=quoted(text))
            found.append(Condition(f"has({fact}) && !has({fact}[0]) && {test}", part.line))
    return Some(tuple(found))
