"""What an answer depends on, said in Vary (RFC 9110 12.5.5), so that caches in front of us, our own included, do not
give one client what was made for another.

Two things make a request field matter that the service does not name:

- a condition or a template reads it, and the answer or the address that is asked for depends on it: it is added;
- it reaches the service under another name: where the answer's Vary names that one, the field is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.core.outcome import Outcome
from sidecar.core.template import names
from sidecar.expression import RESPONSE, WHOLE_REQUEST, Condition, Scope
from sidecar.stages.transform.spec import RequestRule, ResponseRule, Spec


class Dependence:
    """The request fields that the answers of one `transform` block depend on."""

    __slots__ = ("_plain", "_renamed", "_said")

    def __init__(self, spec: Spec) -> None:
        requests = (spec.request, *spec.request.cases)
        responses = (spec.response, *spec.response.cases)
        read = {name for rule in requests for name in _of_request(rule)}
        read |= {name for rule in responses for name in _of_response(rule)}
        self._said = ", ".join(sorted(read)).encode()
        self._plain = b""
        """Fields of the last answer without a Vary.  Within a second an origin says the same in many answers."""
        self._renamed: dict[str, set[str]] = {}
        for rule in requests:
            fields = rule.headers
            for old, new in fields.rename.items():
                self._renamed.setdefault(new.lower(), set()).add(old.lower())
            for name, text in (*fields.set.items(), *fields.add.items()):
                for source in _fields(text):
                    self._renamed.setdefault(name.lower(), set()).add(source)

    def __bool__(self) -> bool:
        return bool(self._said or self._renamed)

    def tell(self, outcome: Outcome) -> None:
        """Say it in an answer."""
        if self._renamed and outcome.lines != self._plain:
            self._read(outcome)
        if self._said:
            outcome.add(b"vary", self._said)

    def _read(self, outcome: Outcome) -> None:
        vary = outcome.joined(b"vary")
        if vary is None:
            self._plain = outcome.lines
        else:
            named = {name.strip().lower() for name in vary.decode("latin-1").split(",")}
            behind = sorted(set().union(*(self._renamed[name] for name in named & self._renamed.keys())) - named)
            if behind:
                outcome.add(b"vary", ", ".join(behind).encode())


def _fields(value: Any) -> Iterator[str]:
    """Fields of the request that the templates in a value read."""
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
