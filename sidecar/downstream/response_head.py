"""Writer of response heads, and of problem documents for refusals and failures (RFC 9457).  No I/O."""

from __future__ import annotations

import json
from http import HTTPStatus
from json.encoder import encode_basestring_ascii
from math import ceil
from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid
from sidecar.core.outcome import Failure, Outcome, Refusal, failed
from sidecar.downstream.grpc.answers import make_status
from sidecar.telemetry.plain import Masks

PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, PHRASES.get(status, "").encode()) for status in range(100, 600)
}
LENGTHS: Final = tuple([b"content-length: %d\r\n" % size for size in range(1024)])
"""Content-Length of short bodies, by their size in bytes: formatting costs more than a look-up."""
PROBLEM: Final = (b"content-type", b"application/problem+json")
UNMASKED: Final = Masks({})
"""Masks of policies without environment variables."""
DOCUMENTS: Final[dict[tuple[object, ...], bytes]] = {}
"""Problem documents that differ in nothing but value and request ID, which they lack, by what they tell.  Under a flood
of refused requests, encoding them anew would cost more than all the rest of each request."""
MOST_DOCUMENTS: Final = 256
"""Most documents that are kept; all are dropped for one more."""
LONGEST_DOCUMENT: Final = 2048
"""Longest document in bytes that is kept."""


def encode_head(outcome: Outcome, framing: bytes, date: bytes) -> bytes:
    """Return the head of a response.

    `framing` has complete field lines.  `date` is added to responses without a Date field (RFC 9110 6.6.1).
    """
    if outcome.parsed is None:
        return b"%b%b%b\r\n" % (STATUS_LINES[outcome.status], outcome.raw, framing)
    if outcome.header(b"date") is None:
        framing = b"date: %b\r\n%b" % (date, framing)
    return b"%b%b%b\r\n" % (STATUS_LINES[outcome.status], outcome.lines, framing)


def make_rejection(failure: Failure, error: Invalid) -> Outcome:
    """Return the outcome for a request that is invalid or late, with the status of `error`."""
    cause = str(error)
    outcome = failed(failure, Refusal(detail=f"{cause[:1].upper()}{cause[1:]}."), cause)
    outcome.status = outcome.verdict = error.status
    return outcome


def make_problem(x: Exchange | None, outcome: Outcome, details: Masks | None = UNMASKED) -> Outcome:
    """Return the response for a failure: a problem document with the reason, the refusing policy and the time to retry.

    `x` is None if the request could not be parsed.  With `details`, the document also has the failed endpoint, the
    error text and the position of the policy in its file; values of environment variables are replaced by their masks.
    With None it has none of these.  A call of gRPC gets a status instead.
    """
    if x is not None and x.route is not None and (added := x.route.problem_fields(x)):
        outcome.headers = [*outcome.headers, *added]
    if x is not None and x.is_grpc:
        return make_status(outcome, details, x.web)
    failure = outcome.failure
    assert failure is not None
    refusal = outcome.refusal
    body = _document(x, outcome, failure, details)
    if refusal.value is not None:
        body = b'%b, "value": %b}' % (body[:-1], json.dumps(refusal.value).encode())
    if x is not None and x.request_id:
        body = b'%b, "request_id": %b}' % (body[:-1], encode_basestring_ascii(x.request_id.decode("latin-1")).encode())
    headers = [PROBLEM, (b"x-sidecar-reason", failure.code.encode()), *outcome.headers]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(refusal.retry_after))))
    return Outcome(outcome.status, headers, body, failure=failure, refusal=refusal, cause=outcome.cause)


def _document(x: Exchange | None, outcome: Outcome, failure: Failure, details: Masks | None) -> bytes:
    """Return a problem document without value and request ID."""
    refusal = outcome.refusal
    detail = refusal.detail or (outcome.cause if details is not None else "")
    route = None if x is None or x.route is None else x.route.name
    if x is not None and x.attempts and failure.origin == "upstream":
        return _encode(x, outcome, failure, details, detail, route)
    told = (failure.code, outcome.status, detail, route, refusal.policy, refusal.where, refusal.limit, details)
    body = DOCUMENTS.get(told)
    if body is None:
        body = _encode(x, outcome, failure, details, detail, route)
        if len(DOCUMENTS) >= MOST_DOCUMENTS:
            DOCUMENTS.clear()
        if len(body) <= LONGEST_DOCUMENT:
            DOCUMENTS[told] = body
    return body


def _encode(
    x: Exchange | None, outcome: Outcome, failure: Failure, details: Masks | None, detail: str, route: str | None
) -> bytes:
    """Return a problem document without value and request ID, encoded anew."""
    refusal = outcome.refusal
    document: dict[str, Any] = {
        "type": f"urn:sidecar:problem:{failure.code}",
        "title": failure.title,
        "status": outcome.status,
    }
    if detail:
        document["detail"] = detail if details is None else details.text(detail)
    if route is not None:
        document["route"] = route
    if x is not None and x.attempts and failure.origin == "upstream":
        last = x.attempts[-1]
        document["upstream"] = last.upstream
        if details is not None:
            document["endpoint"] = details.text(last.endpoint)
        document["attempts"] = len(x.attempts)
    if refusal.policy:
        document["policy"] = refusal.policy
    if refusal.where and details is not None:
        document["where"] = refusal.where
    if refusal.limit is not None:
        document["limit"] = refusal.limit
    return json.dumps(document).encode()
