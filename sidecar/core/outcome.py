"""What a service answers: a response, or a fault that is a value.

Rules:

1. Whatever an upstream or a policy does wrong is an `Outcome` with a `failure`; exceptions are bugs or cancellation.
2. `failure` is None for every real response, even a 503: whether a status is bad is for each policy to say
(`Conditions`).
3. `Failure.origin` says who is to blame and `Failure.sent` whether the upstream can have seen the request; the first
   decides what breakers, budgets and ejection learn, the second whether a retry of a non-idempotent request is safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from sidecar.core.message import Headers, Message

if TYPE_CHECKING:
    import asyncio

    from sidecar.core.body import Body

Origin = Literal["upstream", "gateway", "client"]


class Failure(NamedTuple):
    """One way in which a request can fail before or instead of a whole response."""

    code: str
    """The word for it in policies, metrics, spans, logs and `x-sidecar-reason`."""
    status: int
    """The status that the client gets if nothing better stands in."""
    origin: Origin
    sent: bool
    """Can the upstream have seen (a part of) the request?"""
    title: str


CONNECT_FAILURE: Final = Failure("connect_failure", 502, "upstream", False, "The upstream could not be reached")
CONNECT_TIMEOUT: Final = Failure("connect_timeout", 504, "upstream", False, "Connecting to the upstream took too long")
RESET: Final = Failure("reset", 502, "upstream", True, "The upstream closed the connection before its answer was whole")
STALE_CONNECTION: Final = Failure("reset", 502, "upstream", False, "The upstream had closed the idle connection")
TIMEOUT: Final = Failure("timeout", 504, "upstream", True, "The upstream did not answer in time")
PROTOCOL: Final = Failure("protocol_error", 502, "upstream", True, "The upstream's answer was not valid HTTP")
BREAKER_OPEN: Final = Failure("breaker_open", 503, "gateway", False, "The circuit breaker is open")
RATE_LIMITED: Final = Failure("rate_limited", 429, "gateway", False, "The rate limit is reached")
OVERLOADED: Final = Failure("overloaded", 503, "gateway", False, "Too many requests are in flight")
NO_ENDPOINT: Final = Failure("no_endpoint", 503, "gateway", False, "No endpoint of the upstream can take the request")
RETRY_BUDGET: Final = Failure("retry_budget", 503, "gateway", False, "The retry budget is spent")
DEADLINE: Final = Failure("timeout", 504, "gateway", False, "No time was left for the request")
TRANSFORM: Final = Failure("transform_failed", 502, "gateway", True, "The answer could not be transformed")
FAULT: Final = Failure("fault_injected", 503, "gateway", False, "A fault was injected by policy")
NO_ROUTE: Final = Failure("no_route", 404, "gateway", False, "No route matches the request")
DRAINING: Final = Failure("draining", 503, "gateway", False, "The sidecar is shutting down")
CLIENT_CLOSED: Final = Failure("client_closed", 499, "client", True, "The client went away")
CLIENT_TIMEOUT: Final = Failure("client_timeout", 408, "client", True, "The client did not send its request in time")
BAD_REQUEST: Final = Failure("bad_request", 400, "client", False, "The request is not valid HTTP")
INTERNAL: Final = Failure("internal_error", 500, "gateway", True, "The sidecar failed")

FAILURES: Final = {
    f.code: f
    for f in (
        CONNECT_FAILURE, CONNECT_TIMEOUT, RESET, TIMEOUT, PROTOCOL, BREAKER_OPEN, RATE_LIMITED, OVERLOADED, NO_ENDPOINT,
        RETRY_BUDGET, TRANSFORM, FAULT, NO_ROUTE, DRAINING, CLIENT_CLOSED, CLIENT_TIMEOUT, BAD_REQUEST, INTERNAL,
    )
}  # fmt: skip


class Refusal(NamedTuple):
    """Who refused, and what would have to change: the members of the problem document (RFC 9457)."""

    policy: str = ""
    """The block that refused, `circuit_breaker` say."""
    where: str = ""
    """`file:line` of that block."""
    detail: str = ""
    limit: float | None = None
    value: float | None = None
    retry_after: float | None = None
    """Seconds until another try may succeed, where that is known."""


NO_REFUSAL: Final = Refusal()


class Upgraded(Protocol):
    """A connection that has switched to another protocol and is no exchange's any more.  Whoever gets it takes it over
    or closes it."""

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Hand the connection to `protocol`: its transport, and what has arrived on it already; None if it is lost."""

    def close(self) -> None:
        """It is of no more use."""


class Outcome(Message):
    """A response or a failure.  `status` is always the one a client would see, so that most readers need nothing
    else."""

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
        """Fields are given as `headers`, or as `lines` that the grammar has accepted."""
        self.status = status
        if lines is None:
            self._headers = [] if headers is None else headers
            self._lines = b""
        else:
            self._headers = None
            self._lines = lines
        self.body = body
        self.stream = stream
        """The body where it had not arrived whole with the head; `body` is then empty."""
        self.tunnel: Upgraded | None = None
        """After a 101: the upstream connection, which now carries another protocol."""
        self.failure = failure
        self.refusal = refusal
        self.cause = cause
        """What happened in the words of the operating system or the parser, for logs; never sent to a client."""

    @property
    def reason(self) -> str:
        """The failure's code, or an empty string for a real response."""
        return "" if self.failure is None else self.failure.code

    @property
    def is_judged(self) -> bool:
        """May breakers, budgets and ejection learn from it?  Not from refusals of our own nor from clients that
        leave."""
        return self.failure is None or self.failure.origin == "upstream"

    def __repr__(self) -> str:
        size = "stream" if self.stream is not None else f"{len(self.body)} bytes"
        return f"<Outcome {self.status} {self.reason or 'response'} {size}>"


def failed(failure: Failure, refusal: Refusal = NO_REFUSAL, cause: str = "") -> Outcome:
    """An outcome for a failure, with the status of its row in the table."""
    return Outcome(failure.status, failure=failure, refusal=refusal, cause=cause)


ABANDONED: Final = failed(CLIENT_CLOSED)
"""What `settle` sees on cancellation or a bug: release, do not judge."""
