"""Conditions on an outcome, as `retry.on` and `circuit_breaker.failures` list them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.core.outcome import Outcome

STATUS_CLASSES: Final = {f"{n}xx": range(n * 100, n * 100 + 100) for n in range(1, 6)}
"""Statuses of each class, by the class's word in a policy file."""
CONDITION_WORDS: Final = ("connect_failure", "reset", "timeout", "protocol_error", *STATUS_CLASSES)
"""Words that a list of conditions may hold besides a status."""


class Conditions:
    """Compiled list of conditions such as `[connect_failure, reset, timeout, 5xx, 429]`.

    `connect_failure` covers connects that were refused and those that timed out.  A status is compared for real
    responses alone, so a 503 of the sidecar never counts as one of the upstream.
    """

    __slots__ = ("codes", "statuses", "words")

    def __init__(self, words: Iterable[str | int]) -> None:
        self.words = tuple(words)
        """Conditions as the policy file has them."""
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
        """Codes of the failures that meet a condition."""
        self.statuses = bytes(statuses)
        """1 at the index of each status that meets one, 0 elsewhere."""

    def match(self, outcome: Outcome) -> bool:
        """True if the outcome meets one of the conditions."""
        failure = outcome.failure
        if failure is None:
            return self.statuses[outcome.status] == 1
        return failure.origin == "upstream" and failure.code in self.codes

    def __repr__(self) -> str:
        return f"<Conditions {', '.join(map(str, self.words))}>"
