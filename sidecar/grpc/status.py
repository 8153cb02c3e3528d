"""gRPC statuses in messages of HTTP/2, and the mapping between them and HTTP statuses.

Rules:

1. `grpc-status` is a decimal number.  A value that is no known code stands for UNKNOWN (gRPC over HTTP/2, "Responses").
2. `grpc-message` is UTF-8, percent-encoded.  An invalid encoding is no error: the text is kept as it is.
3. An HTTP answer without `grpc-status` has the code of the table in gRPC's `http-grpc-status-mapping.md`.
4. The HTTP status of a code is the one in the comments of `google/rpc/code.proto`.
"""

from __future__ import annotations

import re
from math import inf
from typing import Final

from sidecar.core.message import Headers, get
from sidecar.core.outcome import (
    GRPC_STATUSES,
    INTERNAL_STATUS,
    UNAVAILABLE_STATUS,
    UNIMPLEMENTED_STATUS,
    UNKNOWN_STATUS,
    Outcome,
)

CONTENT_TYPE: Final = b"application/grpc"
"""Content type of requests and answers; `+proto` or another message format may follow."""
FROM_HTTP: Final = {
    400: INTERNAL_STATUS,
    401: 16,
    403: 7,
    404: UNIMPLEMENTED_STATUS,
    429: UNAVAILABLE_STATUS,
    502: UNAVAILABLE_STATUS,
    503: UNAVAILABLE_STATUS,
    504: UNAVAILABLE_STATUS,
}
"""Codes of HTTP answers that have no `grpc-status`; all other statuses stand for UNKNOWN."""
TO_HTTP: Final = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
"""HTTP statuses by code."""
LONGEST_PUSHBACK: Final = 10
"""Most digits of `grpc-retry-pushback-ms`, a signed number of 32 bits."""
UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")
"""Octets of a `grpc-message` that are percent-encoded."""
ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
SERVICE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
"""Full name of a service, such as `shop.Orders`."""
METHOD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Name of a method, such as `Place`."""


def is_grpc(content_type: bytes) -> bool:
    """True for the content type of gRPC; `application/grpc-web` is another protocol."""
    lower = content_type[:17].lower()
    return lower[:16] == CONTENT_TYPE and lower[16:] in (b"", b"+", b";", b" ")


def parse_status(value: bytes) -> int:
    """Return the code in a `grpc-status` field."""
    if value == b"0":
        return 0
    if value.isdigit() and len(value) <= 2:
        code = int(value)
        if code < len(GRPC_STATUSES):
            return code
    return UNKNOWN_STATUS


def status_from_http(status: int) -> int:
    """Return the code that a gRPC client takes an HTTP answer without `grpc-status` for."""
    return FROM_HTTP.get(status, UNKNOWN_STATUS)


def status_to_http(code: int) -> int:
    """Return the HTTP status of a code."""
    return TO_HTTP[code]


def encode_message(text: str) -> bytes:
    """Return the value of `grpc-message` for a text."""
    return UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """Return the text of a `grpc-message`; octets that are not UTF-8 become U+FFFD."""
    return ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), value).decode("utf-8", "replace")


def status_fields(code: int, message: str = "") -> Headers:
    """Return the fields that end an answer: `grpc-status`, and `grpc-message` unless it is empty."""
    fields: Headers = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    return fields


def parse_pushback(value: bytes) -> float | None:
    """Return the seconds of `grpc-retry-pushback-ms`; None if the server asks for no retry.

    A value that is no number has the meaning of a negative one (gRFC A6).
    """
    if value.isdigit() and len(value) <= LONGEST_PUSHBACK:
        return int(value) / 1000
    return None


def asked_wait(outcome: Outcome) -> float | None:
    """Return the seconds of an answer's `grpc-retry-pushback-ms`, in its head or its trailers.

    The result is infinite if the server asks for no retry, and None if the answer has no such field.
    """
    value = outcome.header(b"grpc-retry-pushback-ms")
    if value is None and outcome.stream is not None:
        value = get(outcome.stream.trailers, b"grpc-retry-pushback-ms")
    if value is None:
        return None
    seconds = parse_pushback(value)
    return inf if seconds is None else seconds


def split_path(path: bytes) -> tuple[str, str] | None:
    """Return service and method of a path such as `/shop.Orders/Place`; None for another path."""
    service, slash, method = path[1:].rpartition(b"/")
    if not slash or not method or not service or path[:1] != b"/":
        return None
    return service.decode("latin-1"), method.decode("latin-1")
