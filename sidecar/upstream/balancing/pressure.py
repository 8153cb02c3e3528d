"""Signs of pressure: responses of a working upstream that asks for less load.

Rules:

1. They are 429, 503 with `Retry-After` (RFC 9110 10.2.3), and RESOURCE_EXHAUSTED of gRPC.
2. UNAVAILABLE with a time in `grpc-retry-pushback-ms` is gRPC's 503 with `Retry-After` (gRFC A6).  A negative time only
   asks not to repeat this call.
3. 429 and 503 count for a call of gRPC too, which gets them from a proxy on its way.
"""

from __future__ import annotations

from math import inf
from typing import Final

from sidecar.core.outcome import RESOURCE_EXHAUSTED_STATUS, UNAVAILABLE_STATUS, Outcome, grpc_verdict
from sidecar.grpc.status import asked_wait

UNAVAILABLE: Final = grpc_verdict(UNAVAILABLE_STATUS)


def is_pressure(outcome: Outcome) -> bool:
    """True if the response shows a working upstream that asks for less load."""
    if outcome.failure is not None:
        return False
    status = outcome.status
    if status == 429 or outcome.verdict == RESOURCE_EXHAUSTED_STATUS:
        return True
    if status == 503:
        return outcome.header(b"retry-after") is not None
    if outcome.verdict != UNAVAILABLE:
        return False
    asked = asked_wait(outcome)
    return asked is not None and asked != inf


def is_refusal(outcome: Outcome) -> bool:
    """True if the upstream did not serve the request: 503, UNAVAILABLE of gRPC, or a sign of pressure."""
    return outcome.verdict in (503, UNAVAILABLE) or is_pressure(outcome)
