"""Heads as the grammar reads them, and the quick readers of ordinary heads, which must agree or refuse."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.http1 import Invalid, parse_request, parse_response
from sidecar.downstream import request_head
from sidecar.downstream.request_head import LONGEST, SPECIAL, RequestHead
from sidecar.upstream import response_head
from sidecar.upstream.response_head import MAX_HEAD_BYTES, UPGRADE_REQUIRED, ResponseHead, read_response

RequestReader = Callable[[bytes], RequestHead | None]
ResponseReader = Callable[[bytes, Callable[[], float]], ResponseHead | None]

REQUEST_READERS: dict[str, RequestReader] = {"remembering": request_head.take_request}
RESPONSE_READERS: dict[str, ResponseReader] = {"remembering": response_head.take_response}

try:
    from sidecar.engine.head import RequestHeads, take_response
except ModuleNotFoundError:
    IS_COMPILED = False
else:
    IS_COMPILED = True
    REQUEST_READERS["compiled"] = RequestHeads(
        request_head.READ | request_head.CLAIMS, request_head.FOR_CACHES, request_head.CLAIM_PREFIXES
    ).take
    RESPONSE_READERS["compiled"] = take_response
"""`IS_COMPILED` is True if the readers in C are built."""


def wall() -> float:
    """Return the zero of Unix time."""
    return 0.0


def request(data: bytes) -> RequestHead | None:
    """Return the first head in `data` by the grammar; None if it is invalid or incomplete."""
    try:
        parsed = parse_request(data, LONGEST)
    except Invalid:
        return None
    if parsed is None:
        return None
    method, target, version, start, end = parsed
    return method, target, version, end, *SPECIAL.take(data, start, end - 2)


def response(data: bytes) -> ResponseHead | None:
    """Return the first head in `data` by the grammar; None if it is invalid, incomplete or not ordinary."""
    try:
        parsed = parse_response(data, MAX_HEAD_BYTES)
        if parsed is None or parsed[0] < 200 or parsed[0] == UPGRADE_REQUIRED:
            return None
        status, version, start, end = parsed
        return status, end, *read_response(data, start, end - 2, version, wall)
    except Invalid:
        return None
