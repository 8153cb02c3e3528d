"""Conditions on an outcome, as `retry.on` and `circuit_breaker.failures` list them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.core.outcome import Outcome

STATUS_CLASSES: Final = {f"{n}xx": range(n * 100, n * 100 + 100) for n in range(1, 6)}
"""Range of statuses of each class, by the name that policy files use."""
CONDITION_WORDS: Final = ("connect_failure", "reset", "timeout", "protocol_error", *STATUS_CLASSES)
"""Names that a list of conditions may contain besides status numbers."""


class Conditions:
    """Compiled list of conditions such as `[connect_failure, reset, timeout, 5xx, 429]`.

    `connect_failure` covers refused connections and connect timeouts.  Statuses are compared only for responses of the
    upstream, so a 503 that the sidecar makes never matches.
    """

    __slots__ = ("codes", "statuses", "words")

    def __init__(self, words: Iterable[str | int]) -> None:
        self.words = tuple(words)
        """Conditions as written in the policy file."""
        codes: set[str] = set()
        statuses = bytearray(1000)
        for word in self.words:
            if word in STATUS_CLASSES:
                for status in STATUS_CLASSES[str(word)]:
                    statuses[status] = 1
            elif isinstance(word, int):
                statuses[word] = 1
            else:
                codes.add(word)
        if "connect_failure" in codes:
            codes.add("connect_timeout")
        self.codes = frozenset(codes)
        """Codes of the failures that match."""
        self.statuses = bytes(statuses)
        """One byte for each status: 1 if the status matches, else 0."""

    def match(self, outcome: Outcome) -> bool:
        """True if the outcome matches one of the conditions."""
        failure = outcome.failure
        if failure is None:
            return self.statuses[outcome.status] == 1
        return failure.origin == "upstream" and failure.code in self.codes

    def __repr__(self) -> str:
        return f"<Conditions {', '.join(map(str, self.words))}>"
