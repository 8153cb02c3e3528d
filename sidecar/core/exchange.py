"""Exchange: one request on its way through the stages, with the notes that stages make for telemetry.

Rules:

1. The downstream connection sets the attributes of a request once.  A stage that rewrites the request (`transform`)
   changes them for the stages further in and restores them afterwards (`RequestCopy`).
2. Each further attempt has a fork, with a copy of the attributes and the same list of attempts.
3. Objects of other packages (route, trace, shared fetch) are declared here as protocols.

`fork` names each attribute that it copies, so that type checker and compiler see them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.core.message import Headers, Message

if TYPE_CHECKING:
    from sidecar.core.body import Body
    from sidecar.core.metrics import Exemplar
    from sidecar.core.outcome import Outcome

NEVER: Final = float("inf")
"""Instant or duration in seconds that no clock reaches: no limit."""
SHORTEST_ANSWER: Final = 0.001
"""Shortest time of a response, in seconds.  With less time left no further attempt is started."""

SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Safe methods (RFC 9110 9.2.1)."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {b"PUT", b"DELETE"}
"""Idempotent methods (RFC 9110 9.2.2)."""

CRITICAL: Final = 0
DEFAULT: Final = 1
SHEDDABLE: Final = 2
NOT_STATED: Final = -1
CRITICALITIES: Final = {"critical": CRITICAL, "default": DEFAULT, "sheddable": SHEDDABLE}
"""Criticality by its name in a policy file; under overload the highest number is refused first."""


NOWHERE: Final[frozenset[str]] = frozenset()
"""Value of `Exchange.avoid` before the first attempt has failed."""
NO_FIELDS: Final[frozenset[bytes]] = frozenset()
"""Value of `Exchange.sensitive` without such fields."""
HTTP_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2"}
"""Values of `network.protocol.version` by `Exchange.version`."""


ABOUT_TOKENS: Final = frozenset(("exp", "iat", "nbf", "jti", "auth_time", "nonce", "at_hash", "c_hash"))
"""Claims about a token itself, which differ between two tokens of one caller (RFC 7519 4.1, OpenID Connect)."""


class Caller:
    """Authenticated caller of a request."""

    __slots__ = ("_digest", "claims", "credential", "forwarded", "id", "identity")

    def __init__(self, id: str, identity: str, claims: dict[str, Any], credential: bytes = b"") -> None:
        self.id = id
        """Name of the caller, such as the subject of a token or the owner of an API key."""
        self.identity = identity
        """Name of the identity in the policy file that vouches for the caller."""
        self.claims = claims
        """Claims or attributes by name, as JSON values."""
        self.credential = credential
        """Name in lower case of the header field with the verified credential; empty without one."""
        self.forwarded: tuple[object, bytes] | None = None
        """Settings and field lines that were last made for this caller (`stages.authenticate`); None before the first
        request."""
        self._digest = b""

    def digest(self) -> bytes:
        """Return a digest in hex; callers with different digests never share a cached response.

        Two tokens of one caller have the same digest if they differ only in claims about the token itself.
        """
        if not self._digest:
            lasting = {name: value for name, value in self.claims.items() if name not in ABOUT_TOKENS}
            text = json.dumps([self.identity, self.id, lasting], sort_keys=True)
            self._digest = blake2b(text.encode(), digest_size=16).hexdigest().encode()
        return self._digest

    def __repr__(self) -> str:
        return f"<Caller {self.id} of {self.identity}>"


class RequestMetrics:
    """Instruments for the requests of one route.  A class, because compiled code calls a protocol more slowly."""

    __slots__ = ()

    def record(self, method: bytes, status: int, reason: str, seconds: float) -> None:
        """Count a completed request; `reason` is the code of its failure, empty for a response."""
        raise NotImplementedError

    def exemplify(self, method: bytes, status: int, reason: str, exemplar: Exemplar) -> None:
        """Attach a trace to the histogram bucket of a completed request."""
        raise NotImplementedError

    def of_http2(self) -> RequestMetrics:
        """Return the instruments for the route's requests over HTTP/2."""
        raise NotImplementedError


class MatchedRoute(Protocol):
    """Route of an exchange: what telemetry and error responses use of it."""

    @property
    def name(self) -> str:
        """Name of the route in the policy file."""

    @property
    def upstream(self) -> str:
        """Name of the route's upstream."""

    @property
    def template(self) -> str:
        """Path, prefix or pattern that the route matches; empty if it matches every path."""

    @property
    def policies(self) -> Collection[str]:
        """Names of the blocks that apply to the route, those of its upstream included."""

    @property
    def metrics(self) -> RequestMetrics:
        """Instruments that record the route's requests."""

    def problem_fields(self, x: Exchange) -> Headers:
        """Return the fields that a policy of the route adds to problem documents."""


class CapturingRule(Protocol):
    """Rule of a route that may capture parts of a path."""

    def capture(self, path: bytes) -> dict[str, str]:
        """Return the captures of a path that the rule matches, decoded, by their names."""


class RequestTrace(Protocol):
    """Place of a request in a distributed trace; all forks share it."""

    trace_id: bytes
    """Trace ID, 32 hex digits."""

    @property
    def span_id(self) -> int:
        """ID of the server span, 64 bits."""

    @property
    def is_sampled(self) -> bool:
        """True if the caller or the sampler requested that the spans are recorded."""

    @property
    def kept(self) -> str:
        """Reason for which the spans are recorded; empty if they are not, and until the request has ended."""

    def note(self, event: str, /, **facts: object) -> None:
        """Add an event with attributes to the server span."""

    def attempt(self, x: Exchange, attempt: Attempt) -> None:
        """Start the span of an attempt, and set `x.trace_lines` to the fields that propagate it to the upstream."""

    def link(self, other: RequestTrace) -> None:
        """Link the server span to that of another request, whose fetch produced this response."""


class Cancellable(Protocol):
    """Operation of a request that can be cancelled."""

    def cancel(self) -> None: ...


class Supersedable(Protocol):
    """Call whose outcome a stage can replace while it runs (`sidecar.engine.pipeline`)."""

    def supersede(self, ticket: object, outcome: Outcome) -> None:
        """Abandon what runs behind the stage with this ticket, and continue with `outcome`."""


class SharedFetch(Protocol):
    """Fetch whose response several requests wait for (single-flight)."""

    def detach_client(self, call: Cancellable) -> bool:
        """Take over the call of a request whose client has left.  False if no other request waits for the fetch."""


class Attempt:
    """Attempt at the upstream, as metrics, spans and the access log report it."""

    answered = 0.0
    """Instant at which the head of the response was complete; 0.0 until then."""
    ended = 0.0
    """Instant of the last byte or of the failure; 0.0 until then."""
    upstream = ""
    """Name of the upstream."""
    endpoint = ""
    """URL of the endpoint."""
    status = 0
    """Status of the response; 0 for a failure."""
    verdict = 0
    """Verdict on the response (`Outcome.verdict`): for HTTP its status; 0 for a failure."""
    reason = ""
    """Code of the failure; empty for a response."""
    cause = ""
    """Error text of the operating system or the parser; empty without one."""
    why = "first"
    """Reason of the attempt: `first`, `retry:<reason or status>`, `hedge`, `fallback` or `revalidate`."""
    span_id = 0
    """ID of the attempt's span, which the upstream gets as its parent, 64 bits; 0 if tracing is off."""

    def __init__(self, number: int, started: float) -> None:
        self.number = number
        """Number of the attempt within its request; the first is 1."""
        self.started = started
        """Instant of the start (`env.now`)."""


class Part:
    """Part of an aggregated answer, as metrics, spans and the access log report it."""

    ended = 0.0
    """Instant of its end; 0.0 while it runs."""
    outcome: Outcome | None = None
    """Outcome of its request; None without one."""
    reason = ""
    """Reason of its failure: code of a failure, status of a response, or word of `aggregate`; empty for a success."""

    def __init__(self, name: str, x: Exchange | None, result: str, started: float) -> None:
        self.name = name
        """Name in the policy file; that of an item of a list has its number: `order[3]`."""
        self.x = x
        """Request of the part; None if none was made."""
        self.result = result
        """Result: `ok`, `failed`, `stale`, `substituted`, `skipped`, `duplicate` or `cancelled`."""
        self.started = started
        """Instant of its start."""


class Exchange(Message):
    """Request with its attributes, its attempts and its state in the stages."""

    __slots__ = (
        "_captures", "accepts_trailers", "arrived", "attempt", "attempt_timeout", "attempts", "authority", "avoid",
        "body", "cache", "call", "caller", "caller_deadline", "captured_by", "captured_path", "client_address",
        "client_certificate", "criticality", "deadline", "expects_continue", "forwarding", "grpc_timeout",
        "has_escapes", "idle_timeout", "interim", "is_counted", "is_grpc", "is_hedge", "is_inner", "is_unverified",
        "marked_attempt", "method", "min_deadline", "parts", "path", "public_authority", "query", "refused_by",
        "replaced", "request_id", "rest_method", "retry_stopped", "route", "scheme", "sensitive", "shared_fetch",
        "speaks_to_caches", "stale", "stated_criticality", "stream", "timeout_header", "trace", "trace_lines",
        "upgrade", "version", "web", "why",
    )  # fmt: skip

    def __init__(self, method: bytes, path: bytes, headers: Headers | None = None, lines: bytes = b"") -> None:
        """Take the end-to-end fields as `headers`, or as `lines` that match the grammar."""
        self.method = method
        self.parsed = headers
        self.raw = lines
        self.route: MatchedRoute | None = None
        """Route that the request was matched to; it stays the same for the whole exchange.  None before matching."""
        self.version = 11
        """HTTP version of the request: 10 for HTTP/1.0, 11 for HTTP/1.1, 20 for HTTP/2."""
        self.scheme = b"http"
        """Scheme of the request, `http` or `https`: that of the connection unless a trusted proxy states another."""
        self.authority = b""
        """Host field or authority of an absolute target, without user information; the Host for the upstream."""
        self.public_authority = b""
        """Host that the client requested, if a trusted proxy states another than `authority`; else empty."""
        self.path = path
        """Path as received, percent-encoded; never empty."""
        self.query: bytes | None = None
        """Query without its question mark; None if the target has none."""
        self.has_escapes = True
        """False if neither path nor query is percent-encoded."""
        self.body = b""
        """Body that had arrived completely with the head of the request."""
        self.stream: Body | None = None
        """Body that was still arriving; `body` is then empty.  None for a body that had arrived completely."""
        self.forwarding = b""
        """Complete field lines that the sidecar adds for the upstream (Via, X-Forwarded-*)."""
        self.client_address = ""
        """IP address of the client."""
        self.request_id = b""
        """Value of X-Request-Id."""
        self.captured_by: CapturingRule | None = None
        """Rule that the path has matched; None before matching."""
        self.captured_path = b""
        """Canonical path (`sidecar.core.uri`) that the rule has matched."""
        self._captures: dict[str, str] | None = None
        self.upgrade: bytes | None = None
        """Protocol that the request asks to upgrade to, always `websocket`; None without an upgrade."""
        self.expects_continue = False
        """True while the client waits for a 100 before it sends the body."""
        self.accepts_trailers = False
        """True if the request has `TE: trailers`."""
        self.interim: Callable[[int, bytes], None] | None = None
        """Function that sends status and field lines of an interim response (1xx) to the client; None for HTTP/1.0."""
        self.arrived = 0.0
        """Instant (`env.now`) of the first byte."""
        self.deadline = NEVER
        """Instant by which the last byte of the response must be sent."""
        self.caller_deadline = NEVER
        """Deadline that the caller has set.  `deadline` is earlier if the policy allows less time."""
        self.min_deadline = 0.0
        """Seconds from the arrival to the earliest deadline that the request itself may set; 0 for a trusted peer."""
        self.attempt_timeout = NEVER
        """Timeout of one attempt in seconds."""
        self.timeout_header = b"x-request-timeout-ms"
        """Name of the field that gives the upstream the time left in milliseconds; empty to send none."""
        self.grpc_timeout = False
        """True if the upstream gets the time left in `grpc-timeout` too: a call of gRPC, or the request had one."""
        self.is_grpc = False
        """True for a call of gRPC: over HTTP/2 with its content type, or translated to one."""
        self.rest_method = b""
        """Method by which a call that a stage has translated may be repeated; empty for other requests."""
        self.web = b""
        """Content type of gRPC-Web that the client gets, without message format; empty for other calls."""
        self.idle_timeout = NEVER
        """Longest time between two pieces of a body, in seconds."""
        self.criticality = DEFAULT
        """Criticality, one of `CRITICALITIES`."""
        self.stated_criticality = NOT_STATED
        """Criticality that a field of the request names; `NOT_STATED` if it names none."""
        self.caller: Caller | None = None
        """Authenticated caller; None for an anonymous request, and on a route without `authenticate`."""
        self.client_certificate: dict[str, Any] | None = None
        """Verified certificate of the client, as `SSLObject.getpeercert` returns it; None without one."""
        self.is_unverified = False
        """True if the credentials were refused, but the request goes on because `authenticate` has `mode: observe`."""
        self.attempt = 1
        """Number of this attempt, the first is 1; a fork has its own."""
        self.why = "first"
        """Reason of this attempt, see `Attempt.why`."""
        self.marked_attempt = 0
        """Number of attempts that a caller has made before this one, as stated by the request; 0 if it states none."""
        self.is_hedge = False
        """True for a fork that a hedge has started."""
        self.is_counted = False
        """True once the request has been counted in the retry budget."""
        self.avoid = NOWHERE
        """URLs of the endpoints of earlier attempts; the balancer prefers others."""
        self.attempts: list[Attempt] = []
        """Attempts in the order in which they started; all forks share the list."""
        self.retry_stopped = ""
        """Reason for no further retry: `marked`, `method`, `attempts`, `body`, `retry_after`, `deadline` or `budget`;
        else empty."""
        self.refused_by = ""
        """Name of the block whose refusal a fallback has replaced, or that has ended a session; empty without one."""
        self.replaced: Outcome | None = None
        """Failure or bad response that a fallback has replaced; None without one."""
        self.speaks_to_caches = True
        """False if no field matters to caches: none is in `sidecar.core.message.FOR_CACHES`, and none has a name that
        may be a twin of another."""
        self.shared_fetch: SharedFetch | None = None
        """Fetch that this request makes for itself and for others; None without one, and once it has ended."""
        self.cache = ""
        """Result of the cache: `hit`, `stale`, `revalidated`, `coalesced`, `miss` or `bypass`; empty without one."""
        self.stale: Callable[[], Outcome] | None = None
        """Function that makes a response from the stale one in the cache; None if the cache has none."""
        self.trace: RequestTrace | None = None
        """Place of the request in a trace; None if tracing is off."""
        self.is_inner = False
        """True for a request that the sidecar makes itself on behalf of another, such as a part of its answer."""
        self.parts: list[Part] | None = None
        """Parts of an aggregated answer, in the order of their start; None for every other request."""
        self.sensitive = NO_FIELDS
        """Names of the fields that came as never indexed (RFC 7541 7.1.3), and go on like that.

        Trailers of both directions are among them: for a name, to be never indexed is right in either.
        """
        self.call: Supersedable | None = None
        """Running call, for a stage that may supersede what runs behind it; else None."""
        self.trace_lines = b""
        """Complete field lines that propagate the trace to the upstream in this attempt."""

    def fork(self, attempt: int, why: str) -> Exchange:
        """Return a copy of the request for another attempt, with the same list of attempts.

        `has_escapes` and `speaks_to_caches` are not copied, because the fork's target and fields may be changed.
        """
        twin = Exchange(self.method, self.path, self.parsed, self.raw)
        twin.attempt = attempt
        twin.why = why
        twin.attempts = self.attempts
        twin.route = self.route
        twin.version = self.version
        twin.scheme = self.scheme
        twin.authority = self.authority
        twin.public_authority = self.public_authority
        twin.query = self.query
        twin.body = self.body
        twin.stream = self.stream
        twin.forwarding = self.forwarding
        twin.client_address = self.client_address
        twin.request_id = self.request_id
        twin.captured_by = self.captured_by
        twin.captured_path = self.captured_path
        twin._captures = self._captures
        twin.upgrade = self.upgrade
        twin.expects_continue = self.expects_continue
        twin.accepts_trailers = self.accepts_trailers
        twin.interim = self.interim
        twin.arrived = self.arrived
        twin.deadline = self.deadline
        twin.caller_deadline = self.caller_deadline
        twin.min_deadline = self.min_deadline
        twin.attempt_timeout = self.attempt_timeout
        twin.timeout_header = self.timeout_header
        twin.grpc_timeout = self.grpc_timeout
        twin.is_grpc = self.is_grpc
        twin.rest_method = self.rest_method
        twin.web = self.web
        twin.idle_timeout = self.idle_timeout
        twin.criticality = self.criticality
        twin.stated_criticality = self.stated_criticality
        twin.caller = self.caller
        twin.client_certificate = self.client_certificate
        twin.is_unverified = self.is_unverified
        twin.marked_attempt = self.marked_attempt
        twin.is_hedge = self.is_hedge
        twin.is_counted = self.is_counted
        twin.avoid = self.avoid
        twin.retry_stopped = self.retry_stopped
        twin.refused_by = self.refused_by
        twin.replaced = self.replaced
        twin.cache = self.cache
        twin.stale = self.stale
        twin.is_inner = self.is_inner
        twin.trace = self.trace
        twin.trace_lines = self.trace_lines
        twin.sensitive = self.sensitive
        return twin

    def make_inner(
        self, method: bytes, path: bytes, query: bytes | None, lines: bytes, now: float, deadline: float
    ) -> Exchange:
        """Return a request of the sidecar's own on behalf of this one, with its own target, fields and attempts.

        Client, caller, host, criticality and ids are those of this request.  It has no route, no body, and no place for
        interim responses.  It arrives `now`, and this request is its caller, which sets the `deadline`.
        """
        inner = Exchange(method, path, None, lines)
        inner.is_inner = True
        inner.scheme = self.scheme
        inner.authority = self.authority
        inner.public_authority = self.public_authority
        inner.query = query
        inner.forwarding = self.forwarding
        inner.client_address = self.client_address
        inner.request_id = self.request_id
        inner.arrived = now
        inner.deadline = deadline
        inner.caller_deadline = deadline
        inner.timeout_header = self.timeout_header
        inner.criticality = self.criticality
        inner.stated_criticality = self.stated_criticality
        inner.caller = self.caller
        inner.client_certificate = self.client_certificate
        inner.is_unverified = self.is_unverified
        inner.marked_attempt = self.marked_attempt
        inner.speaks_to_caches = self.speaks_to_caches
        inner.sensitive = self.sensitive
        inner.trace = self.trace
        return inner

    def abandon(self, call: Cancellable) -> bool:
        """Cancel the call of a request whose client has left.  False if it continues for other requests, which share
        its fetch."""
        if self.shared_fetch is not None and self.shared_fetch.detach_client(call):
            return False
        call.cancel()
        return True

    def shorten_deadline(self, seconds: float) -> None:
        """Limit the request to `seconds` from its arrival, as its caller asks, but to no less than `min_deadline`."""
        self.caller_deadline = min(self.caller_deadline, self.arrived + max(seconds, self.min_deadline))
        self.deadline = min(self.deadline, self.caller_deadline)

    @property
    def captures(self) -> dict[str, str]:
        """Values of the captures in the route's path template, by name; found at the first access."""
        found = self._captures
        if found is None:
            rule = self.captured_by
            found = self._captures = {} if rule is None else rule.capture(self.captured_path)
        return found

    @captures.setter
    def captures(self, values: dict[str, str]) -> None:
        self._captures = values

    @property
    def is_retry(self) -> bool:
        """True if the caller has marked the request as a retry."""
        return self.marked_attempt > 0

    @property
    def is_preflight(self) -> bool:
        """True for a CORS preflight, which announces another request (Fetch standard, "CORS-preflight request")."""
        return (
            self.method == b"OPTIONS"
            and self.header(b"access-control-request-method") is not None
            and self.header(b"origin") is not None
        )

    @property
    def host(self) -> bytes:
        """Authority of the target URI (RFC 9110 7.1), as the client requested it."""
        return self.public_authority or self.authority

    @property
    def target(self) -> bytes:
        """Path and query in the form of a request line."""
        return self.path if self.query is None else self.path + b"?" + self.query

    @property
    def is_replayable(self) -> bool:
        """True if the body can be sent again."""
        return self.stream is None or self.stream.is_replayable

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode('latin-1')} {self.target.decode('latin-1')} attempt {self.attempt}>"


class RequestCopy:
    """Copy of the attributes of a request that a stage may change for the stages further in."""

    __slots__ = (
        "authority", "body", "expects_continue", "forwarding", "method", "parsed", "path", "query", "raw", "stream",
    )  # fmt: skip

    def __init__(self, x: Exchange) -> None:
        self.method = x.method
        self.path = x.path
        self.query = x.query
        self.authority = x.authority
        self.forwarding = x.forwarding
        self.parsed = x.parsed
        self.raw = x.raw
        self.body = x.body
        self.stream = x.stream
        self.expects_continue = x.expects_continue

    def restore(self, x: Exchange) -> None:
        """Set these attributes of the request back to the copied values."""
        x.method = self.method
        x.path = self.path
        x.query = self.query
        x.authority = self.authority
        x.forwarding = self.forwarding
        x.parsed = self.parsed
        x.raw = self.raw
        x.body = self.body
        x.stream = self.stream
        x.expects_continue = self.expects_continue
