"""Answer of an `aggregate` block: the body by its form, and the header fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sidecar.core.exchange import Part
from sidecar.core.outcome import Outcome
from sidecar.stages.aggregate.lifetime import NO_STORE, least
from sidecar.stages.aggregate.spec import AnswerSpec, Spec
from sidecar.stages.aggregate.texts import NULL, JsonTemplate, Scope
from sidecar.transform.selection import joined, members_of

JSON: Final = b"content-type: application/json\r\n"
SET_COOKIE: Final = b"set-cookie"
MOST_TIMED: Final = 100
"""Most requests in Server-Timing; clients refuse a head that is too long."""


def written(tenths: int) -> bytes:
    """Return tenths of a millisecond in milliseconds; integers are written much faster than floats."""
    return b"%d.%d" % divmod(tenths, 10)


SHORT: Final = [written(tenths) for tenths in range(1000)]
"""Times below 100 ms, written once for all requests."""


class Answer:
    """Compiled form of an answer."""

    __slots__ = ("_keys", "_labels", "_member", "_names", "_passed", "_status", "_template", "_timing", "is_merged")

    def __init__(self, spec: Spec, constants: Mapping[str, str]) -> None:
        self.is_merged = spec.answer == "merged"
        """True if the answer has the members of all parts."""
        self._template = JsonTemplate(spec.answer.json_, constants) if isinstance(spec.answer, AnswerSpec) else None
        self._names = list(spec.parts)
        self._keys = [
            (name, b"%b%b:" % (b"," if number else b"{", json.dumps(name).encode()))
            for number, name in enumerate(spec.parts)
        ]
        """Text before the value of each part."""
        self._labels = {name: b", %b;dur=" % name.encode() for name in spec.parts}
        """Beginning of the member of `Server-Timing` for each part."""
        self._member = b"" if spec.partial.member is None else json.dumps(spec.partial.member).encode()
        """Key of the member that names missing parts; empty without one."""
        self._status = spec.partial.status
        self._passed = [name.encode() for name in spec.headers]
        self._timing = spec.server_timing

    def make(
        self, scope: Scope, outcomes: list[Outcome], missing: list[str], parts: list[Part], wall: float, speaks: bool
    ) -> Outcome:
        """Return the answer.

        `outcomes` are those of the parts that have one, in the order of the file.  `missing` are the names of the parts
        that failed.  `wall` is the Unix time in seconds.  `speaks` is False if no answer says anything about storing.
        """
        lines = JSON
        if missing:
            lines += NO_STORE + b"x-sidecar-partial: %b\r\n" % ", ".join(missing).encode()
        elif speaks:
            lines += least(outcomes, wall)
        if self._passed:
            lines += self._fields(outcomes)
        if self._timing:
            lines += self._server_timing(parts)
        found = Outcome(self._status if missing else 200, None, self._body(scope, missing), lines=lines)
        if self._passed:
            found.sensitive = found.sensitive.union(*[outcome.sensitive for outcome in outcomes])
        return found

    def _body(self, scope: Scope, missing: list[str]) -> bytes:
        values = scope.parts
        if self._template is not None:
            body = self._template.render(scope)
        elif self.is_merged:
            found: dict[str, bytes] = {}
            for name in self._names:
                if (members := members_of(values[name].document)) is not None:
                    found.update(members)
            if self._member:
                found.pop(json.loads(self._member), None)
            body = joined(found)
        else:
            pieces: list[bytes] = []
            for name, key in self._keys:
                pieces.append(key)
                pieces.append(values[name].text)
            pieces.append(b"}")
            body = b"".join(pieces)
        if self._member:
            comma = b"" if body == b"{}" else b","
            body = b"%b%b%b:%b}" % (body[:-1], comma, self._member, json.dumps(list(missing)).encode())
        return body or NULL

    def _server_timing(self, parts: list[Part]) -> bytes:
        """Return the line Server-Timing: the milliseconds of the first requests, and the reason of each failure."""
        if not parts:
            return b""
        pieces = [b"server-timing:"]
        for part in parts if len(parts) <= MOST_TIMED else parts[:MOST_TIMED]:
            label = self._labels.get(part.name)
            if label is None:  # of an item of a list
                label = b", %b;dur=" % part.name.encode()
            pieces.append(label if len(pieces) > 1 else label[1:])
            tenths = int((part.ended - part.started) * 10_000 + 0.5)
            pieces.append(SHORT[tenths] if 0 <= tenths < len(SHORT) else written(tenths))
            if part.reason:
                pieces.append(b';desc="%b"' % part.reason.encode())
        pieces.append(b"\r\n")
        return b"".join(pieces)

    def _fields(self, outcomes: list[Outcome]) -> bytes:
        """Return the lines of the parts' fields that pass to the client."""
        lines = b""
        for name in self._passed:
            for outcome in outcomes:
                values = [value for key, value in outcome.headers if key == name]
                lines += b"".join([b"%b: %b\r\n" % (name, value) for value in values])
                if values and name != SET_COOKIE:
                    break
        return lines
