"""Spec of the block `mirror`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, Share, Size

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _name(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError("is not the name of a header field")
    return value.lower()


def _pointer(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError(f"is not a JSON pointer (RFC 6901); write it such as /{value}")
    return value


class CompareSpec(Model):
    """Comparison of the upstream's response with that to the copy: statuses, fields, and bodies."""

    headers: Annotated[tuple[Annotated[str, AfterValidator(_name)], ...], Field(strict=False, max_length=50)] = (
        "content-type",
    )
    """Fields whose values must be equal."""
    ignore: Annotated[tuple[Annotated[str, AfterValidator(_pointer)], ...], Field(strict=False, max_length=200)] = ()
    """JSON pointers to values that may differ, with everything below them: `/timestamp`, `/items/*/id`."""
    noise: bool = False
    """True: a compared request is sent a third time, to the route's own upstream.  A value that differs between its two
    responses is noise and does not count (Twitter's Diffy).  Only safe methods are sent twice."""
    max_body: Annotated[Size, Field(le=2**20)] = 64 * 1024
    """Longest body that is compared, in bytes; of longer ones only status and fields are.  Other requests go on while
    long ones are compared."""


class Spec(Block):
    """Copies of requests for another upstream, and what becomes of the responses.

    A copy never delays or changes the request itself, and nothing of it counts for the route's own policies.  In
    `observe` nothing is sent, and the copies that would be are counted.
    """

    upstream: Annotated[str, Field(min_length=1)]
    """Upstream that gets the copies, with its own connections, breaker and limits."""
    share: Share = 1.0
    """Share of the requests that are copied."""
    writes: bool = False
    """True: requests with unsafe methods are copied too.  Their effects then happen twice."""
    timeout: Duration = 5.0
    """Time after which a copy is given up, and a comparison that waits for the end of the route's own response."""
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Copies in flight or waiting to be compared; while there are as many, requests are not copied."""
    max_body: Size = 64 * 1024
    """Longest body of a request that is copied, in bytes."""
    compare: CompareSpec | None = None
    """Comparison of the responses; without it, those to copies are discarded."""


EXAMPLES: Final[tuple[Any, ...]] = (
    {"upstream": "other", "share": "10%"},
    {"upstream": "other", "compare": {"headers": ["content-type", "etag"], "ignore": ["/timestamp"], "noise": True}},
)
