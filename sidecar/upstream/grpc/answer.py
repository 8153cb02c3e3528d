"""Status of an answer to a call of gRPC: the verdict by which breaker, ejection and retries judge it.

Rules:

1. The status is `grpc-status` in the head (an answer of trailers only), else in the trailers, however late.
2. An answer that is not gRPC's counts as the status that a gRPC client takes it for (`sidecar.grpc.status`).
3. A complete answer without a status counts as UNKNOWN, and gets this status in its trailers: no client mistakes it for
   a success.
4. DEADLINE_EXCEEDED is not charged to an upstream that had less time than it usually takes, by its caller's deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from sidecar.core.body import COMPLETE, OPEN, Body
from sidecar.core.message import get
from sidecar.core.outcome import (
    DEADLINE_EXCEEDED_STATUS,
    STATUS_TO_COME,
    UNKNOWN_STATUS,
    Failure,
    Outcome,
    grpc_verdict,
)
from sidecar.grpc.status import is_grpc, parse_status, status_fields, status_from_http

NO_STATUS: Final = "the upstream's answer ended without a status"
"""Message of an answer that had no status."""


def read_status(outcome: Outcome, had_little_time: Callable[[], bool]) -> None:
    """Set the verdict on an answer, now or once its trailers are there.

    `had_little_time` is called for DEADLINE_EXCEEDED: True if the caller's deadline left too little time.
    """
    stream = outcome.stream
    value = outcome.header(b"grpc-status")
    if value is not None:
        outcome.verdict = _verdict(parse_status(value), had_little_time)
    elif outcome.status != 200 or not is_grpc(outcome.header(b"content-type") or b""):
        outcome.verdict = grpc_verdict(status_from_http(outcome.status))
    elif stream is None:
        outcome.stream = stream = Body()
        if outcome.body:
            stream.feed(outcome.body)
            outcome.body = b""
        stream.finish(status_fields(UNKNOWN_STATUS, NO_STATUS))
        outcome.verdict = grpc_verdict(UNKNOWN_STATUS)
    elif stream.state == OPEN:
        outcome.verdict = STATUS_TO_COME
        stream.on_close(partial(_read_trailers, stream, had_little_time))
    elif stream.state == COMPLETE:
        _read_trailers(stream, had_little_time, None)
        outcome.verdict = stream.verdict


def _read_trailers(stream: Body, had_little_time: Callable[[], bool], broken: Failure | None) -> None:
    """Set the verdict that the trailers of a body bring."""
    if broken is not None:
        return
    value = get(stream.trailers, b"grpc-status")
    if value is None:
        stream.trailers = [*stream.trailers, *status_fields(UNKNOWN_STATUS, NO_STATUS)]
        stream.verdict = grpc_verdict(UNKNOWN_STATUS)
    else:
        stream.verdict = _verdict(parse_status(value), had_little_time)


def _verdict(code: int, had_little_time: Callable[[], bool]) -> int:
    if code == DEADLINE_EXCEEDED_STATUS and had_little_time():
        return code
    return grpc_verdict(code)
