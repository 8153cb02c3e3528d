"""Outcome: the result of a request as a value, either a response or a failure.

Rules:

1. Every fault of an upstream or a policy is an `Outcome` with a `failure`.  Exceptions are bugs or cancellation.
2. `failure` is None for every response of the upstream, even a 503.  Each policy defines which statuses are bad
   (`Conditions`).
3. `Failure.origin` is the party to blame.  Breakers, retry budgets and ejection count failures of the upstream only.
   Time that the client took is not charged to the upstream (`sidecar.upstream.answer_times`).
4. `Failure.sent` decides which requests may be sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from sidecar.core.message import Headers, Message

if TYPE_CHECKING:
    import asyncio

    from sidecar.core.body import Body

Origin = Literal["upstream", "gateway", "client"]


class Failure(NamedTuple):
    """Kind of failure: how a request can end without a complete response of the upstream."""

    code: str
    """Name in policies, metrics, spans, logs and `x-sidecar-reason`."""
    status: int
    """Status that the client gets unless a fallback answers."""
    origin: Origin
    """Party to blame."""
    sent: bool
    """True if the upstream may have received the request or a part of it."""
    title: str
    """Description for the client, the `title` of a problem document (RFC 9457)."""


CONNECT_FAILURE: Final = Failure("connect_failure", 502, "upstream", False, "The upstream could not be reached")
CONNECT_TIMEOUT: Final = Failure("connect_timeout", 504, "upstream", False, "Connecting to the upstream took too long")
LOOKUP_TIMEOUT: Final = Failure(
    "connect_timeout", 504, "upstream", False, "Looking up the upstream's name took too long"
)
RESET: Final = Failure(
    "reset", 502, "upstream", True, "The upstream closed the connection before its response was complete"
)
STALE_CONNECTION: Final = Failure("reset", 502, "upstream", False, "The upstream had closed the idle connection")
TIMEOUT: Final = Failure("timeout", 504, "upstream", True, "The upstream did not answer in time")
PROTOCOL: Final = Failure("protocol_error", 502, "upstream", True, "The upstream's response was not valid HTTP")
BREAKER_OPEN: Final = Failure("breaker_open", 503, "gateway", False, "The circuit breaker is open")
OVERLOADED: Final = Failure("overloaded", 503, "gateway", False, "Too many requests are in flight")
NO_ENDPOINT: Final = Failure("no_endpoint", 503, "gateway", False, "No endpoint of the upstream can take the request")
SHORT_DEADLINE: Final = Failure(
    "timeout", 504, "gateway", True, "The caller's deadline left the upstream less time than it usually takes"
)
DEADLINE: Final = Failure("timeout", 504, "gateway", False, "No time was left for the request")
TRANSFORM: Final = Failure("transform_failed", 502, "gateway", True, "The response could not be transformed")
FAULT: Final = Failure("fault_injected", 503, "gateway", False, "A fault was injected by policy")
NO_ROUTE: Final = Failure("no_route", 404, "gateway", False, "No route matches the request")
UNAUTHENTICATED: Final = Failure("unauthenticated", 401, "gateway", False, "The request is not authenticated")
BAD_CREDENTIALS: Final = Failure("bad_credentials", 400, "gateway", False, "The request has ambiguous credentials")
UNVERIFIABLE: Final = Failure("unverifiable", 503, "gateway", False, "The credentials cannot be verified at present")
LOOP: Final = Failure("loop", 508, "gateway", False, "The request is in a loop of sidecars")
CLIENT_CLOSED: Final = Failure("client_closed", 499, "client", True, "The client went away")
CLIENT_TIMEOUT: Final = Failure("client_timeout", 408, "client", True, "The client did not send its request in time")
SLOW_READER: Final = Failure("client_timeout", 408, "client", True, "The client did not read the response in time")
BAD_REQUEST: Final = Failure("bad_request", 400, "client", False, "The request is not valid HTTP")
INTERNAL: Final = Failure("internal_error", 500, "gateway", True, "The sidecar failed")

FAILURES: Final = {
    f.code: f
    for f in (
        CONNECT_FAILURE, CONNECT_TIMEOUT, RESET, TIMEOUT, PROTOCOL, BREAKER_OPEN, OVERLOADED, NO_ENDPOINT, TRANSFORM,
        FAULT, NO_ROUTE, UNAUTHENTICATED, BAD_CREDENTIALS, UNVERIFIABLE, LOOP, CLIENT_CLOSED, CLIENT_TIMEOUT,
        BAD_REQUEST, INTERNAL,
    )
}  # fmt: skip
"""Failures by code.  `DEADLINE`, `LOOKUP_TIMEOUT`, `SHORT_DEADLINE`, `SLOW_READER` and `STALE_CONNECTION` are not
listed, because each shares the code of another."""


class Refusal(NamedTuple):
    """Reasons for a refusal: members of its problem document (RFC 9457)."""

    policy: str = ""
    """Name of the block, such as `circuit_breaker`."""
    where: str = ""
    """`file:line` of the block."""
    detail: str = ""
    """Description of this case in one sentence."""
    limit: float | None = None
    """Configured limit that was exceeded; None if there is no single one."""
    value: float | None = None
    """Value that exceeded the limit; None without a limit."""
    retry_after: float | None = None
    """Seconds until another request may succeed; None if unknown."""


NO_REFUSAL: Final = Refusal()
"""Refusal of an outcome that no policy has refused."""


class Upgraded(Protocol):
    """Upstream connection that carries another protocol after a 101.  The owner must take it over or close it."""

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Hand the connection to `protocol`.  Return its transport and the bytes already received; None if it is
        closed."""

    def close(self) -> None:
        """Close the connection."""


class Outcome(Message):
    """Result of a request or of an attempt: a response or a failure.  A failure's `status` is the one that the client
    would get."""

    __slots__ = ("body", "cause", "failure", "refusal", "status", "stream", "tunnel")

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        stream: Body | None = None,
        failure: Failure | None = None,
        refusal: Refusal = NO_REFUSAL,
        cause: str = "",
        lines: bytes | None = None,
    ) -> None:
        """Take the end-to-end fields as `headers`, or as `lines` that match the grammar."""
        self.status = status
        if lines is None:
            self.parsed = [] if headers is None else headers
            self.raw = b""
        else:
            self.parsed = None
            self.raw = lines
        self.body = body
        """Body that had arrived completely with the head."""
        self.stream = stream
        """Body that was still arriving; `body` is then empty.  None for a body that had arrived completely."""
        self.tunnel: Upgraded | None = None
        """Upstream connection after a 101; None for every other response.  `stream` then has no content, and ends with
        the tunnel."""
        self.failure = failure
        """Failure; None for a response."""
        self.refusal = refusal
        """Refusal by a policy; `NO_REFUSAL` if none refused."""
        self.cause = cause
        """Error text of the operating system or the parser, for logs only; clients do not get it."""

    @property
    def reason(self) -> str:
        """Code of the failure; empty for a response."""
        return "" if self.failure is None else self.failure.code

    @property
    def whole_cause(self) -> str:
        """Error text of the failure, or of the error that broke the body off; empty without one."""
        return self.cause or ("" if self.stream is None else self.stream.cause)

    def discard(self) -> None:
        """Cancel the rest of the body, and close the connection after a 101."""
        if self.stream is not None:
            self.stream.cancel()
        if self.tunnel is not None:
            self.tunnel.close()

    def __repr__(self) -> str:
        size = "stream" if self.stream is not None else f"{len(self.body)} bytes"
        return f"<Outcome {self.status} {self.reason or 'response'} {size}>"


def failed(failure: Failure, refusal: Refusal = NO_REFUSAL, cause: str = "") -> Outcome:
    """Return the outcome of a failure, with the failure's status."""
    return Outcome(failure.status, failure=failure, refusal=refusal, cause=cause)


ABANDONED: Final = failed(CLIENT_CLOSED)
"""Outcome that `settle` gets after a cancellation or a bug: the stage releases what it holds and records nothing."""
