"""gRPC calls and the answers to them: every refusal, failure and foreign answer as a gRPC status.

Rules:

1. A refusal or failure is an answer of trailers only: HTTP 200 with `grpc-status` and `grpc-message` in its head
   (gRPC over HTTP/2, "Responses").  Its fields `x-sidecar-reason` and, where a time is known,
   `grpc-retry-pushback-ms` are those of a problem document in gRPC's words.
2. The status of a failure is `Failure.grpc`.  A limit of concurrency or rate is RESOURCE_EXHAUSTED, as are a request
   and a head that are too large.
3. An answer of another content type, such as a gateway's page or a fallback, has the status that clients take it for.
4. An answer that breaks off ends with trailers that say so.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from sidecar.core.message import Headers
from sidecar.core.outcome import (
    BAD_REQUEST,
    FAILURES,
    RESOURCE_EXHAUSTED_STATUS,
    UNIMPLEMENTED_STATUS,
    Failure,
    Outcome,
    grpc_verdict,
)
from sidecar.grpc.status import CONTENT_TYPE, is_grpc, status_fields, status_from_http
from sidecar.grpc.web import TEXT, encode_text, trailer_frame
from sidecar.http2.heads import Head
from sidecar.telemetry.plain import Masks

LIMITS: Final = frozenset(("concurrency", "rate_limit", "quota"))
"""Blocks whose refusals are RESOURCE_EXHAUSTED."""
REJECTIONS: Final = {
    405: UNIMPLEMENTED_STATUS,
    413: RESOURCE_EXHAUSTED_STATUS,
    414: RESOURCE_EXHAUSTED_STATUS,
    431: RESOURCE_EXHAUSTED_STATUS,
}
"""Codes of requests that the sidecar rejects with these statuses; other rejections are INTERNAL, as in gRPC's table."""
HEAD: Final = (b"content-type", CONTENT_TYPE)
KEPT: Final = frozenset(
    (
        b"x-sidecar-reason", b"x-sidecar-fallback", b"x-request-id", b"vary", b"access-control-allow-origin",
        b"access-control-allow-credentials", b"access-control-expose-headers",
    )
)  # fmt: skip
"""Fields of a foreign answer that are passed on; the others describe its body."""
LONGEST_PUSHBACK: Final = 2**31 - 1
"""Largest `grpc-retry-pushback-ms`, a signed number of 32 bits (gRFC A6): clients take a larger one for no number."""
LONGEST_MESSAGE: Final = 1024
"""Characters of a message that are sent."""


def read_call(head: Head) -> int:
    """Return the number of attempts that the caller of a gRPC method has made before; -1 for another request."""
    if head.method != b"POST":
        return -1
    lines = b"\n" + head.lines.lower()
    if not is_grpc(_value(lines, b"\ncontent-type:")):
        return -1
    previous = _value(lines, b"\ngrpc-previous-rpc-attempts:")
    return int(previous) if previous.isdigit() and len(previous) < 4 else 0


def _value(lines: bytes, mark: bytes) -> bytes:
    at = lines.find(mark)
    return b"" if at < 0 else lines[at + len(mark) : lines.index(b"\r\n", at)].strip(b" \t")


def code_of(outcome: Outcome) -> int:
    """Return the gRPC status of a refusal or failure."""
    failure, refusal = outcome.failure, outcome.refusal
    assert failure is not None
    if refusal.policy in LIMITS and failure.origin == "gateway":
        return RESOURCE_EXHAUSTED_STATUS
    if failure is BAD_REQUEST or outcome.status == 405:
        return REJECTIONS.get(outcome.status, failure.grpc)
    return failure.grpc


def message_of(outcome: Outcome, details: Masks | None) -> str:
    """Return the message of a refusal or failure.  It has details of upstream and policy unless `details` is None."""
    failure, refusal = outcome.failure, outcome.refusal
    assert failure is not None
    detail = refusal.detail or (outcome.whole_cause if details is not None else "")
    if detail and details is not None:
        detail = details.text(detail)
    return f"{failure.title}: {detail}"[:LONGEST_MESSAGE] if detail else failure.title


def make_status(outcome: Outcome, details: Masks | None, web: bytes = b"") -> Outcome:
    """Return the answer of trailers only for a refusal or failure; `details` are those of `make_problem`.

    `web` is `Exchange.web`.
    """
    failure, refusal = outcome.failure, outcome.refusal
    assert failure is not None
    code = code_of(outcome)
    fields: Headers = [
        HEAD,
        *status_fields(code, message_of(outcome, details)),
        (b"x-sidecar-reason", failure.code.encode()),
        *[field for field in outcome.headers if field[0] in KEPT],
    ]
    if refusal.retry_after is not None:
        pushback = min(max(1, ceil(refusal.retry_after * 1000)), LONGEST_PUSHBACK)
        fields.append((b"grpc-retry-pushback-ms", b"%d" % pushback))
    answer = _trailers_only(fields, code, outcome)
    return in_web_form(answer, web) if web else answer


def in_web_form(answer: Outcome, web: bytes) -> Outcome:
    """Return an answer of trailers only in the form of gRPC-Web.

    Its status is in the body, where scripts can read it.
    """
    trailers = [field for field in answer.headers if field[0].startswith(b"grpc-")]
    frame = trailer_frame(trailers)
    headers = [(b"content-type", web + b"+proto"), *[field for field in answer.headers[1:] if field not in trailers]]
    found = Outcome(
        200,
        headers,
        encode_text(frame) if web == TEXT else frame,
        failure=answer.failure,
        refusal=answer.refusal,
        cause=answer.cause,
    )
    found.verdict = answer.verdict
    return found


def as_grpc(outcome: Outcome) -> Outcome:
    """Return the answer to a call: the outcome itself if it is one of gRPC, else trailers only.

    The body of a foreign answer is discarded.
    """
    lines = outcome.call_lines
    if lines is not None and lines is outcome.raw and outcome.parsed is None:
        return outcome
    if is_grpc(outcome.header(b"content-type") or b"") and outcome.status == 200:
        return outcome
    code = status_from_http(outcome.status)
    fields: Headers = [
        HEAD,
        *status_fields(code, f"the answer was HTTP {outcome.status} and not gRPC"),
        *[field for field in outcome.headers if field[0] in KEPT],
    ]
    outcome.discard()
    return _trailers_only(fields, code, outcome)


def _trailers_only(fields: Headers, code: int, outcome: Outcome) -> Outcome:
    answer = Outcome(200, fields, failure=outcome.failure, refusal=outcome.refusal, cause=outcome.cause)
    answer.verdict = grpc_verdict(code)
    answer.sensitive = outcome.sensitive
    return answer


def broken_trailers(failure: Failure, cause: str, details: Masks | None) -> Headers:
    """Return the trailers of an answer that has broken off."""
    known = FAILURES.get(failure.code, failure)
    text = failure.title
    if cause and details is not None:
        text = f"{text}: {details.text(cause)}"[:LONGEST_MESSAGE]
    return [*status_fields(known.grpc, text), (b"x-sidecar-reason", failure.code.encode())]
