"""Lists of conditions on an outcome, as `retry.on` and `circuit_breaker.failures` name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.core.outcome import Outcome

STATUS_CLASSES: Final = {f"{n}xx": range(n * 100, n * 100 + 100) for n in range(1, 6)}
CONDITION_WORDS: Final = ("connect_failure", "reset", "timeout", "protocol_error", *STATUS_CLASSES)
"""What a list of conditions (`retry.on`, `circuit_breaker.failures`) may name besides a status."""


class Conditions:
    """A compiled list of conditions: `[connect_failure, reset, timeout, 5xx, 429]`.

    `connect_failure` covers the refused and the timed-out connect.  A status is compared only for real responses, so
    a gateway's own 503 never counts as the upstream's.
    """

    __slots__ = ("codes", "statuses", "words")

    def __init__(self, words: Iterable[str | int]) -> None:
        self.words = tuple(words)
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
        self.statuses = bytes(statuses)

    def match(self, outcome: Outcome) -> bool:
        """Does the outcome meet one of the conditions?"""
        failure = outcome.failure
        if failure is None:
            return self.statuses[outcome.status] == 1
        return failure.origin == "upstream" and failure.code in self.codes

    def __repr__(self) -> str:
        return f"<Conditions {', '.join(map(str, self.words))}>"
