"""Conditions on an outcome, as `retry.on` and `circuit_breaker.failures` list them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.core.outcome import GRPC_STATUSES, Outcome, grpc_code, grpc_verdict

STATUS_CLASSES: Final = {f"{n}xx": range(n * 100, n * 100 + 100) for n in range(1, 6)}
"""Range of statuses of each class, by the name that policy files use."""
HTTP_WORDS: Final = ("connect_failure", "reset", "timeout", "protocol_error", *STATUS_CLASSES)
"""Names of failures and of classes of statuses."""
GRPC_WORDS: Final = GRPC_STATUSES[1:]
"""Names of gRPC statuses that are not OK."""
CONDITION_WORDS: Final = HTTP_WORDS + GRPC_WORDS
"""Names that a list of conditions may contain besides status numbers."""
FAILURES_OF: Final = {
    "unavailable": ("connect_failure", "reset"),
    "deadline_exceeded": ("timeout",),
    "internal": ("protocol_error",),
}
"""Failures that a gRPC client sees as one of these statuses."""
FAULTS: Final = tuple(
    grpc_verdict(code) for code in range(len(GRPC_STATUSES)) if grpc_verdict(code) > max(STATUS_CLASSES["5xx"])
)
"""Verdicts on answers of gRPC that are failures of the upstream."""


class Conditions:
    """Compiled list of conditions such as `[connect_failure, reset, timeout, 5xx, 429]`.

    `connect_failure` covers refused connections and connect timeouts.  Statuses are compared only for responses of the
    upstream, so a 503 that the sidecar makes never matches.  `5xx` covers the gRPC statuses that are failures of the
    upstream (`outcome.GRPC_FAULTS`).  The name of a gRPC status covers what its client sees as this status:
    `unavailable` covers `connect_failure` and `reset`, `deadline_exceeded` covers `timeout`, `internal` covers
    `protocol_error`.
    """

    __slots__ = ("codes", "grpc_codes", "statuses", "words")

    def __init__(self, words: Iterable[str | int]) -> None:
        self.words = tuple(words)
        """Conditions as written in the policy file."""
        codes: set[str] = set()
        grpc_codes: set[int] = set()
        statuses = bytearray(1000)
        for word in self.words:
            if word in STATUS_CLASSES:
                for status in STATUS_CLASSES[str(word)]:
                    statuses[status] = 1
                if word == "5xx":
                    for status in FAULTS:
                        statuses[status] = 1
            elif isinstance(word, int):
                statuses[word] = 1
            elif word in GRPC_WORDS:
                code = GRPC_STATUSES.index(word)
                grpc_codes.add(code)
                statuses[grpc_verdict(code)] = 1
                codes.update(FAILURES_OF.get(word, ()))
            else:
                codes.add(word)
        if "connect_failure" in codes:
            codes.add("connect_timeout")
        self.codes = frozenset(codes)
        """Codes of the failures that match."""
        self.grpc_codes = frozenset(grpc_codes)
        """Codes of the gRPC statuses that are named."""
        self.statuses = bytes(statuses)
        """One byte for each verdict: 1 if it matches, else 0."""

    def match(self, outcome: Outcome) -> bool:
        """True if the outcome matches one of the conditions."""
        failure = outcome.failure
        if failure is None:
            return self.statuses[outcome.verdict] == 1
        return failure.origin == "upstream" and failure.code in self.codes

    def names(self, outcome: Outcome) -> bool:
        """True if the name of the outcome's gRPC status is listed; for a failure, that of the status its client
        sees."""
        code = grpc_code(outcome.verdict) if outcome.failure is None else outcome.failure.grpc
        return code in self.grpc_codes

    def __repr__(self) -> str:
        return f"<Conditions {', '.join(map(str, self.words))}>"
