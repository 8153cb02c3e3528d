"""Signs of pressure: responses of a working upstream that asks for less load."""

from __future__ import annotations

from sidecar.core.outcome import RESOURCE_EXHAUSTED_STATUS, Outcome


def is_pressure(outcome: Outcome) -> bool:
    """True if the response shows a working upstream that asks for less load."""
    return outcome.failure is None and (
        outcome.verdict in (429, RESOURCE_EXHAUSTED_STATUS)
        or (outcome.verdict == 503 and outcome.header(b"retry-after") is not None)
    )
