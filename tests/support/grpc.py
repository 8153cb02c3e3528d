"""Answers of gRPC for tests without a transport, as the upstream side hands them on."""

from __future__ import annotations

from typing import Any

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Outcome
from sidecar.upstream.grpc.answer import read_status
from tests.support.service import exchange

HEAD: Headers = [(b"content-type", b"application/grpc")]


def call(path: str = "/shop.Orders/Place", **facts: Any) -> Exchange:
    """Return a call of gRPC."""
    return exchange("POST", path, {"content-type": "application/grpc"}, is_grpc=True, grpc_timeout=True, **facts)


def trailers(code: int, **more: str) -> Headers:
    """Return trailers with a status; `more` are fields, with `_` for `-`."""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    return [(b"grpc-status", b"%d" % code), *fields]


def trailers_only(code: int, **more: str) -> Outcome:
    """Return an answer that is all in its head."""
    return judged(Outcome(200, [*HEAD, *trailers(code, **more)]))


def whole(code: int, content: bytes = b"", **more: str) -> Outcome:
    """Return an answer that came in one read, with its trailers."""
    body = Body()
    if content:
        body.feed(content)
    body.finish(trailers(code, **more))
    return judged(Outcome(200, list(HEAD), stream=body))


def streaming(body: Body) -> Outcome:
    """Return an answer whose body still comes."""
    return judged(Outcome(200, list(HEAD), stream=body))


def judged(outcome: Outcome, *, had_little_time: bool = False) -> Outcome:
    """Return an outcome with the verdict of its status."""
    read_status(outcome, lambda: had_little_time)
    return outcome
