"""Status of an answer to a call of gRPC: the verdict by which breaker, ejection and retries judge it.

Rules:

1. The status is `grpc-status` in the head of an answer of trailers only, else in the trailers, however late.  A status
   in the head of an answer with content moves to its trailers, and counts if they have none.
2. An answer that is not gRPC's counts as the status that a gRPC client takes it for (`sidecar.grpc.status`).  One of
   trailers only without a content type gets that of gRPC: grpclib answers unknown methods like this.
3. A complete answer without a status counts as UNKNOWN, and gets this status in its trailers: no client mistakes it for
   a success.
4. An answer with more than one status counts as UNKNOWN, and gets this status alone: clients would differ in what they
   read.
5. DEADLINE_EXCEEDED is not charged to an upstream that had less time than it usually takes, by its caller's deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from sidecar.core.body import COMPLETE, OPEN, Body
from sidecar.core.message import Headers, get_all
from sidecar.core.outcome import (
    DEADLINE_EXCEEDED_STATUS,
    STATUS_TO_COME,
    UNKNOWN_STATUS,
    Failure,
    Outcome,
    grpc_verdict,
)
from sidecar.grpc.status import CONTENT_TYPE, is_grpc, parse_status, status_fields, status_from_http

NO_STATUS: Final = "the upstream's answer ended without a status"
"""Message of an answer that had no status."""
MANY_STATUSES: Final = "the upstream's answer had more than one status"
"""Message of an answer that had several."""
GOOD: Final = [(b"grpc-status", b"0")]
"""Trailers of most answers."""
STATUS_FIELDS: Final = (b"grpc-status", b"grpc-message", b"grpc-status-details-bin")
"""Fields that are sent with a status."""


def read_status(outcome: Outcome, had_little_time: Callable[[], bool]) -> None:
    """Set the verdict on an answer, now or once its trailers are there.

    `had_little_time` is called for DEADLINE_EXCEEDED: True if the caller's deadline left too little time.
    """
    stream = outcome.stream
    lines = outcome.call_lines
    has_call_head = lines is not None and lines is outcome.raw and outcome.parsed is None
    if has_call_head and stream is not None and stream.state == COMPLETE and stream.trailers == GOOD:
        stream.verdict = outcome.verdict
        return
    early: Headers = []
    if not has_call_head and outcome.header(b"grpc-status") is not None:
        if stream is None and not outcome.body:
            fields, code = _one_status(outcome.headers)
            if outcome.status == 200 and outcome.header(b"content-type") is None:
                fields = [(b"content-type", CONTENT_TYPE), *fields]
            outcome.headers = fields
            outcome.verdict = _verdict(code, had_little_time)
            return
        early = [field for field in outcome.headers if field[0] in STATUS_FIELDS]
        outcome.headers = [field for field in outcome.headers if field[0] not in STATUS_FIELDS]
    if not has_call_head and (outcome.status != 200 or not is_grpc(outcome.header(b"content-type") or b"")):
        outcome.verdict = grpc_verdict(status_from_http(outcome.status))
    elif stream is None:
        outcome.stream = stream = Body()
        if outcome.body:
            stream.feed(outcome.body)
            outcome.body = b""
        stream.finish()
        _read_trailers(stream, had_little_time, early, None)
        outcome.verdict = stream.verdict
    elif stream.state == OPEN:
        outcome.verdict = STATUS_TO_COME
        stream.on_close(partial(_read_trailers, stream, had_little_time, early))
    elif stream.state == COMPLETE:
        _read_trailers(stream, had_little_time, early, None)
        outcome.verdict = stream.verdict


def _read_trailers(stream: Body, had_little_time: Callable[[], bool], early: Headers, broken: Failure | None) -> None:
    """Set the verdict that the trailers of a body bring.  `early` are the status fields that its head had."""
    if broken is not None:
        return
    trailers = stream.trailers
    if early and not get_all(trailers, b"grpc-status"):
        trailers = [*[field for field in trailers if field[0] not in STATUS_FIELDS], *early]
    stream.trailers, code = _one_status(trailers)
    stream.verdict = _verdict(code, had_little_time)


def _one_status(fields: Headers) -> tuple[Headers, int]:
    """Return fields with exactly one status, and its code."""
    values = get_all(fields, b"grpc-status")
    if len(values) == 1:
        return fields, parse_status(values[0])
    rest = [field for field in fields if field[0] not in STATUS_FIELDS]
    return [*rest, *status_fields(UNKNOWN_STATUS, MANY_STATUSES if values else NO_STATUS)], UNKNOWN_STATUS


def _verdict(code: int, had_little_time: Callable[[], bool]) -> int:
    if code == DEADLINE_EXCEEDED_STATUS and had_little_time():
        return code
    return grpc_verdict(code)
