"""Outcome: the result of a request as a value, either a response or a failure.

Rules:

1. Every fault of an upstream or a policy is an `Outcome` with a `failure`.  Exceptions are bugs or cancellation.
2. `failure` is None for every response of the upstream, even a 503.  Each policy defines which statuses are bad
   (`Conditions`).  An answer of gRPC is judged by its `grpc-status`, also by a late one in its trailers (`verdict`).
3. `Failure.origin` is the party to blame.  Breakers, retry budgets and ejection count failures of the upstream only.
   Time that the client took is not charged to the upstream (`sidecar.upstream.response_times`).
4. `Failure.sent` decides which requests may be sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from sidecar.core.message import Headers, Message, parse_fields

if TYPE_CHECKING:
    import asyncio

    from sidecar.core.body import Body

Origin = Literal["upstream", "gateway", "client"]

# ----- gRPC

GRPC_STATUSES: Final = (
    "ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated",
)  # fmt: skip
"""Names of gRPC's status codes, by code."""
CANCELLED_STATUS: Final = 1
UNKNOWN_STATUS: Final = 2
DEADLINE_EXCEEDED_STATUS: Final = 4
PERMISSION_DENIED_STATUS: Final = 7
RESOURCE_EXHAUSTED_STATUS: Final = 8
UNIMPLEMENTED_STATUS: Final = 12
INTERNAL_STATUS: Final = 13
UNAVAILABLE_STATUS: Final = 14
UNAUTHENTICATED_STATUS: Final = 16
GRPC_FAULTS: Final = frozenset((2, 4, 13, 14, 15))
"""Codes that are failures of the upstream: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS."""
FAULT_VERDICTS: Final = 600
"""Verdict on a failure of the upstream with code 0; no HTTP status is as high."""
STATUS_TO_COME: Final = 99
"""Verdict on a gRPC answer whose status is still to come, in its trailers."""


def grpc_verdict(code: int) -> int:
    """Return the verdict on a gRPC answer: 200 for OK, from 600 on for a failure of the upstream, else the code."""
    if not code:
        return 200
    return FAULT_VERDICTS + code if code in GRPC_FAULTS else code


def grpc_code(verdict: int) -> int:
    """Return the gRPC code behind a verdict; -1 for the verdict on an HTTP answer."""
    if verdict >= FAULT_VERDICTS:
        return verdict - FAULT_VERDICTS
    return verdict if verdict < STATUS_TO_COME else -1


# ----- failures


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
    grpc: int = UNAVAILABLE_STATUS
    """Status code that a gRPC client gets."""


CONNECT_FAILURE: Final = Failure("connect_failure", 502, "upstream", False, "The upstream could not be reached")
CONNECT_TIMEOUT: Final = Failure("connect_timeout", 504, "upstream", False, "Connecting to the upstream took too long")
LOOKUP_TIMEOUT: Final = Failure(
    "connect_timeout", 504, "upstream", False, "Looking up the upstream's name took too long"
)
RESET: Final = Failure(
    "reset", 502, "upstream", True, "The upstream closed the connection before its response was complete"
)
STALE_CONNECTION: Final = Failure("reset", 502, "upstream", False, "The upstream had closed the idle connection")
TIMEOUT: Final = Failure(
    "timeout", 504, "upstream", True, "The upstream did not answer in time", DEADLINE_EXCEEDED_STATUS
)
PROTOCOL: Final = Failure(
    "protocol_error", 502, "upstream", True, "The upstream's response was not valid HTTP", INTERNAL_STATUS
)
BREAKER_OPEN: Final = Failure("breaker_open", 503, "gateway", False, "The circuit breaker is open")
OVERLOADED: Final = Failure("overloaded", 503, "gateway", False, "Too many requests are in flight")
UPSTREAM_OVERLOADED: Final = Failure(
    "overloaded", 503, "gateway", False, "The upstream accepts fewer requests at present"
)
RATE_LIMITED: Final = Failure(
    "rate_limited", 429, "gateway", False, "Too many requests in this time", RESOURCE_EXHAUSTED_STATUS
)
NO_ENDPOINT: Final = Failure("no_endpoint", 503, "gateway", False, "No endpoint of the upstream can take the request")
ENDPOINT_LEFT: Final = Failure(
    "no_endpoint", 503, "gateway", False, "The endpoint has left, and no other one can take the request"
)
SHORT_DEADLINE: Final = Failure(
    "timeout",
    504,
    "gateway",
    True,
    "The caller's deadline left the upstream less time than it usually takes",
    DEADLINE_EXCEEDED_STATUS,
)
DEADLINE: Final = Failure(
    "timeout", 504, "gateway", False, "No time was left for the request", DEADLINE_EXCEEDED_STATUS
)
TRANSFORM: Final = Failure(
    "transform_failed", 502, "gateway", True, "The response could not be transformed", INTERNAL_STATUS
)
ANSWER_TOO_LARGE: Final = Failure(
    "answer_too_large", 502, "gateway", True, "The answer is larger than the policy allows", INTERNAL_STATUS
)
PART_FAILED: Final = Failure("part_failed", 502, "gateway", True, "A required part of the answer failed")
FAULT: Final = Failure("fault_injected", 503, "gateway", False, "A fault was injected by policy")
NO_ROUTE: Final = Failure("no_route", 404, "gateway", False, "No route matches the request", UNIMPLEMENTED_STATUS)
ORIGIN_REFUSED: Final = Failure(
    "origin_refused", 403, "gateway", False, "Pages of this origin may not call this route", PERMISSION_DENIED_STATUS
)
UNAUTHENTICATED: Final = Failure(
    "unauthenticated", 401, "gateway", False, "The request is not authenticated", UNAUTHENTICATED_STATUS
)
BAD_CREDENTIALS: Final = Failure(
    "bad_credentials", 400, "gateway", False, "The request has ambiguous credentials", UNAUTHENTICATED_STATUS
)
UNVERIFIABLE: Final = Failure("unverifiable", 503, "gateway", False, "The credentials cannot be verified at present")
NO_CREDENTIALS: Final = Failure(
    "no_credentials", 503, "gateway", False, "The sidecar has no credentials for the upstream at present"
)
FORBIDDEN: Final = Failure("forbidden", 403, "gateway", False, "The request is not allowed", PERMISSION_DENIED_STATUS)
LOOP: Final = Failure("loop", 508, "gateway", False, "The request is in a loop of sidecars", INTERNAL_STATUS)
CLIENT_CLOSED: Final = Failure("client_closed", 499, "client", True, "The client went away", CANCELLED_STATUS)
CLIENT_TIMEOUT: Final = Failure(
    "client_timeout", 408, "client", True, "The client did not send its request in time", CANCELLED_STATUS
)
SLOW_READER: Final = Failure(
    "client_timeout", 408, "client", True, "The client did not read the response in time", CANCELLED_STATUS
)
BAD_REQUEST: Final = Failure("bad_request", 400, "client", False, "The request is not valid HTTP", INTERNAL_STATUS)
UNFIT_REQUEST: Final = Failure("bad_request", 400, "client", False, "The request does not fit its method", 3)
INTERNAL: Final = Failure("internal_error", 500, "gateway", True, "The sidecar failed", INTERNAL_STATUS)

FAILURES: Final = {
    f.code: f
    for f in (
        CONNECT_FAILURE, CONNECT_TIMEOUT, RESET, TIMEOUT, PROTOCOL, BREAKER_OPEN, OVERLOADED, RATE_LIMITED, NO_ENDPOINT,
        TRANSFORM, ANSWER_TOO_LARGE, PART_FAILED, FAULT, NO_ROUTE, ORIGIN_REFUSED, UNAUTHENTICATED, BAD_CREDENTIALS,
        UNVERIFIABLE, NO_CREDENTIALS, FORBIDDEN, LOOP, CLIENT_CLOSED, CLIENT_TIMEOUT, BAD_REQUEST, INTERNAL,
    )
}  # fmt: skip
"""Failures by code.  `DEADLINE`, `ENDPOINT_LEFT`, `LOOKUP_TIMEOUT`, `SHORT_DEADLINE`, `SLOW_READER`,
`STALE_CONNECTION`, `UNFIT_REQUEST` and `UPSTREAM_OVERLOADED` are not listed: each shares the code of another."""


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


NOT_MARKED: Final[frozenset[bytes]] = frozenset()
"""Names of no fields."""


class Outcome(Message):
    """Result of a request or of an attempt: a response or a failure.  A failure's `status` is the one that the client
    would get."""

    __slots__ = (
        "body", "call_lines", "cause", "failure", "refusal", "sensitive", "status", "stream", "tunnel", "verdict",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes = b"",
        lines: bytes | None = None,
        stream: Body | None = None,
        failure: Failure | None = None,
        refusal: Refusal = NO_REFUSAL,
        cause: str = "",
    ) -> None:
        """Take the end-to-end fields as `headers`, or as `lines` that match the grammar.

        The interpreter is slow to pass arguments by keyword, so the most common response is made without any.
        """
        self.status = status
        self.verdict = status
        """Status that policies judge by: `status`, or for an answer of gRPC the `grpc_verdict` on its code."""
        if lines is None:
            self.parsed = [] if headers is None else headers
            self.raw = b""
        else:
            self.parsed = None
            self.raw = lines
        self.call_lines: bytes | None = None
        """Field lines that are known to be those of an answer of gRPC with 200 and without a status; None for others.
        They say something about the outcome as long as they are its `raw` lines, and it has no `parsed` ones."""
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
        self.sensitive = NOT_MARKED
        """Names of the fields that came as never indexed (RFC 7541 7.1.3), and go on like that."""
        self.cause = cause
        """Error text of the operating system or the parser, for logs only; clients do not get it."""

    @property
    def reason(self) -> str:
        """Code of the failure; empty for a response."""
        return "" if self.failure is None else self.failure.code

    @property
    def label(self) -> str:
        """Name of the result: code of the failure, name of the gRPC status, or else the HTTP status."""
        if self.failure is not None:
            return self.failure.code
        code = grpc_code(self.verdict)
        return str(self.status) if code < 0 else GRPC_STATUSES[code]

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


def append_lines(outcome: Outcome, lines: bytes) -> None:
    """Append field lines to those of an outcome, whose list of pairs a cache may hold too."""
    if outcome.parsed is None:
        outcome.raw += lines
    else:
        outcome.parsed = [*outcome.parsed, *parse_fields(lines)]


def copy_streamed(outcome: Outcome) -> Outcome:
    """Return a copy of a streamed outcome, since the stages further in settle the original when its body ends."""
    if outcome.stream is None:
        return outcome
    headers = None if outcome.is_raw else list(outcome.headers)
    lines = outcome.lines if outcome.is_raw else None
    copy = Outcome(outcome.status, headers, stream=outcome.stream, cause=outcome.cause, lines=lines)
    copy.verdict = outcome.verdict
    copy.sensitive = outcome.sensitive
    return copy


ABANDONED: Final = failed(CLIENT_CLOSED)
"""Outcome that `settle` gets after a cancellation or a bug: the stage releases what it holds and records nothing."""
