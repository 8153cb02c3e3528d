"""Vary: the request fields that a rewritten response depends on (RFC 9110 12.5.5).

Without them a cache could give one client the response for another.  Two kinds of fields are added to the Vary of the
upstream:

1. A condition or template reads the field, and the response or the address sent upstream depends on it.
2. The field reaches the upstream under another name, and the response's Vary has that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.core.outcome import Outcome
from sidecar.core.template import names
from sidecar.expression.condition import Condition
from sidecar.expression.facts import RESPONSE, WHOLE_REQUEST, Scope
from sidecar.stages.transform.spec import RequestRule, ResponseRule, Spec


class Dependence:
    """Request fields that the responses of one `transform` block depend on."""

    __slots__ = ("_plain", "_renamed", "_said")

    def __init__(self, spec: Spec) -> None:
        requests = (spec.request, *spec.request.cases)
        responses = (spec.response, *spec.response.cases)
        read = {name for rule in requests for name in _of_request(rule)}
        read |= {name for rule in responses for name in _of_response(rule)}
        self._said = ", ".join(sorted(read)).encode()
        self._plain = b""
        """Field lines of the last response without a Vary.  Responses within a second often have the same lines."""
        self._renamed: dict[str, set[str]] = {}
        for rule in requests:
            fields = rule.headers
            for old, new in fields.rename.items():
                self._renamed.setdefault(new.lower(), set()).add(old.lower())
            for name, text in (*fields.set.items(), *fields.add.items()):
                for source in _fields(text):
                    self._renamed.setdefault(name.lower(), set()).add(source)

    def __bool__(self) -> bool:
        """True if there are fields to add."""
        return bool(self._said or self._renamed)

    def add_vary(self, outcome: Outcome) -> None:
        """Add the fields to a response's Vary."""
        if self._renamed and outcome.lines != self._plain:
            self._add_renamed(outcome)
        if self._said:
            outcome.add(b"vary", self._said)

    def _add_renamed(self, outcome: Outcome) -> None:
        """Add the client's names of fields that the Vary has under the names sent upstream."""
        vary = outcome.joined(b"vary")
        if vary is None:
            self._plain = outcome.lines
        else:
            named = {name.strip().lower() for name in vary.decode("latin-1").split(",")}
            behind = sorted(set().union(*(self._renamed[name] for name in named & self._renamed.keys())) - named)
            if behind:
                outcome.add(b"vary", ", ".join(behind).encode())


def _fields(value: Any) -> Iterator[str]:
    """Yield the request fields that the templates in a value read."""
    if isinstance(value, str):
        yield from (name.removeprefix("header.").lower() for name in names(value) if name.startswith("header."))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _fields(inner)


def _condition(when: str | None, scope: Scope) -> frozenset[str]:
    return frozenset() if when is None else Condition(when, scope).headers


def _of_request(rule: RequestRule) -> Iterator[str]:
    yield from _condition(rule.when, WHOLE_REQUEST)
    yield from _fields([rule.path, rule.host, rule.query.set, rule.query.add])


def _of_response(rule: ResponseRule) -> Iterator[str]:
    yield from _condition(rule.when, RESPONSE)
    yield from _fields([rule.headers.set, rule.headers.add])
    if rule.body is not None:
        yield from _fields([rule.body.set, rule.body.default])
