"""Retries as several proxies state them: the words of `retry_on`, methods, and a bound on attempts."""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.source import Part

IDEMPOTENT: Final = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
ALL_METHODS: Final = [*IDEMPOTENT, "POST", "PATCH"]
MOST_ATTEMPTS: Final = 10
FAULTS: Final = ["connect_failure", "reset", "timeout"]
RETRY_ON: Final[dict[str, list[Any]]] = {
    "5xx": [*FAULTS, "5xx"], "gateway-error": [*FAULTS, 502, 503, 504], "reset": FAULTS,
    "connect-failure": ["connect_failure"], "refused-stream": ["connect_failure"], "retriable-4xx": [409],
    "cancelled": ["cancelled"], "deadline-exceeded": ["deadline_exceeded"], "internal": ["internal"],
    "resource-exhausted": ["resource_exhausted"], "unavailable": ["unavailable"],
}  # fmt: skip
"""Outcomes that each word of Envoy's and Istio's conditions stands for.

A refused stream was never processed: it goes out again at once here, and is no `reset`, which may have had an effect.
"""
BY_STATUS: Final = "retriable-status-codes"


def repeats_every_method(product: str) -> str:
    """Return the comment on the methods of a proxy that repeats all of them."""
    return f"{product} repeats every method; take out what must not run twice"


def bounded(part: Part | None, attempts: int) -> int:
    """Return a number of attempts, at most `MOST_ATTEMPTS`; `part` is where more of them are reported."""
    if attempts > MOST_ATTEMPTS and part is not None:
        part.differ(f"at most {MOST_ATTEMPTS} attempts are made here")
    return min(attempts, MOST_ATTEMPTS)


def outcomes(text: str, part: Part | None, statuses: list[int]) -> list[Any]:
    """Return the outcomes of words such as `5xx,reset,503`; unknown words of `part` are reported.

    `statuses` are those of the word `retriable-status-codes`.
    """
    found: list[Any] = []
    for word in (each.strip() for each in text.split(",")):
        if word == BY_STATUS:
            found += statuses
        elif word.isascii() and word.isdigit():
            found.append(int(word[:6]))
        elif word in RETRY_ON:
            found += RETRY_ON[word]
        elif word and part is not None:
            part.findings.lose(part.line, part.name, f"`{word}` has no equal here")
    return list(dict.fromkeys(found))
