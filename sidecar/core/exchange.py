"""Exchange: one request on its way through the stages, with the notes that stages leave for telemetry.

Rules:

1. The downstream connection sets the facts of a request once.  A stage that rewrites the request (`transform`) changes
   them for the stages further in and restores them afterwards (`RequestFacts`).
2. A further attempt works on a fork, which shares the facts and the list of attempts with its original.
3. What other packages hang on an exchange (route, trace, shared fetch, stale response) is known here by a protocol.

Defaults stand in the class body, so that a new exchange stores only what differs from them.  A fork costs one new
object and one assignment a fact: each is named in `fork`, so a type checker and a compiler see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.core.message import Headers, Message

if TYPE_CHECKING:
    from sidecar.core.body import Body
    from sidecar.core.metrics import Exemplar
    from sidecar.core.outcome import Outcome

NEVER: Final = float("inf")
"""The instant or duration, in seconds, that no clock reaches."""
SHORTEST_ANSWER: Final = 0.001
"""Seconds that any answer takes.  With less time left a further attempt is not worth starting."""

SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that change nothing (RFC 9110 9.2.1)."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {b"PUT", b"DELETE"}
"""Methods that may be repeated (RFC 9110 9.2.2)."""

CRITICAL: Final = 0
DEFAULT: Final = 1
SHEDDABLE: Final = 2
UNSAID: Final = -1
CRITICALITIES: Final = {"critical": CRITICAL, "default": DEFAULT, "sheddable": SHEDDABLE}
"""Ranks of a request by the word in a policy file; under pressure the highest number is refused first."""


class RequestMetrics:
    """Instruments that record the requests of one route.  A class, since a call through a protocol is dear."""

    __slots__ = ()

    def record(self, method: bytes, status: int, reason: str, seconds: float) -> None:
        """Count a request that has ended; `reason` is its failure's code, empty for a response."""
        raise NotImplementedError

    def exemplify(self, method: bytes, status: int, reason: str, exemplar: Exemplar) -> None:
        """Attach a trace to the bucket that the request was counted in."""
        raise NotImplementedError


class MatchedRoute(Protocol):
    """Route of an exchange, as telemetry and error responses see it."""

    @property
    def name(self) -> str:
        """Name in the policy file."""

    @property
    def upstream(self) -> str:
        """Name of its upstream."""

    @property
    def template(self) -> str:
        """Path, prefix or pattern that the route matches; empty if it matches every path."""

    @property
    def policies(self) -> Collection[str]:
        """Names of the blocks in its way, those of its upstream included."""

    @property
    def metrics(self) -> RequestMetrics:
        """Instruments that record its requests."""


class CapturingRule(Protocol):
    """Rule of a route, which may capture parts of a path."""

    def capture(self, path: bytes) -> dict[str, str]:
        """Return what is captured of a path that it matches, decoded."""


class RequestTrace(Protocol):
    """Place of a request in a distributed trace; all forks share it."""

    trace_id: bytes
    """32 hex digits."""

    @property
    def span_id(self) -> int:
        """Server span, 64 bits."""

    @property
    def is_sampled(self) -> bool:
        """True if the caller or the sampler asks for the spans."""

    @property
    def kept(self) -> str:
        """Why the spans are recorded; empty if they are not.  Known once the request has ended."""

    def note(self, event: str, /, **facts: object) -> None:
        """Add an event to the server span."""

    def attempt(self, x: Exchange, attempt: Attempt) -> None:
        """Give an attempt its span, and the exchange the fields that tell the upstream of it."""

    def link(self, other: RequestTrace) -> None:
        """Point to the request whose fetch brought this answer."""


class Cancellable(Protocol):
    """Something that runs for a request and can be given up."""

    def cancel(self) -> None: ...


class Supersedable(Protocol):
    """Call of a request that a stage can have go on with another outcome (`sidecar.engine.pipeline`)."""

    def supersede(self, ticket: object, outcome: Outcome) -> None:
        """Abandon what runs behind the stage that has the ticket."""


class SharedFetch(Protocol):
    """Fetch whose answer other requests wait for."""

    def detach_client(self, call: Cancellable) -> bool:
        """Take over the call of a request whose client has left.  False if nobody waits for it."""


class Attempt:
    """One attempt at the upstream, as metrics, spans and the access log report it."""

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
    reason = ""
    """Code of the failure; empty for a response."""
    cause = ""
    """Failure in the words of the operating system or the parser."""
    why = "first"
    """`first`, `retry:<reason or status>`, `hedge`, `fallback` or `revalidate`."""
    span_id = 0
    """Parent span that the upstream was told, 64 bits; 0 if tracing is off."""

    def __init__(self, number: int, started: float) -> None:
        self.number = number
        """1 for the first attempt."""
        self.started = started
        """Instant (`env.now`)."""


class Exchange(Message):
    """One request, and what is known of it."""

    route: MatchedRoute | None
    """Route that the request was matched to; it stays the same for the whole exchange.  None before matching."""
    version = 11
    """10 for HTTP/1.0, 11 for HTTP/1.1, as the client said it."""
    scheme = b"http"
    """`http` or `https`, as the client asked: that of the connection unless a trusted proxy says otherwise."""
    authority = b""
    """Host field or authority of an absolute target, without user information.  The upstream gets it as its Host."""
    public_authority = b""
    """Host that the client asked for, if a trusted proxy says that it was another than `authority`; else empty."""
    path = b"/"
    """Path as it came, percent-encoded; never empty."""
    query: bytes | None = None
    """Query without its question mark; None if the target has none."""
    has_escapes = True
    """False if neither path nor query is percent-encoded."""
    body = b""
    """Body of a request that had arrived whole with its head."""
    stream: Body | None = None
    """Body that was still arriving; `body` is then empty."""
    forwarding = b""
    """Whole field lines that the sidecar adds on the way upstream (Via, X-Forwarded-*)."""
    client_address = ""
    """IP address of the client."""
    request_id = b""
    """Value of X-Request-Id."""
    captured_by: CapturingRule | None
    """Rule that the path has matched; None before matching."""
    captured_path = b""
    """Path as it was then, in the form in which paths are compared."""
    _captures: dict[str, str] | None = None
    upgrade: bytes | None = None
    """`websocket` for a request to upgrade to it."""
    expects_continue = False
    """True while the client waits for a 100 before it sends the body."""
    accepts_trailers = False
    """True if the request said `TE: trailers`."""
    interim: Callable[[int, bytes], None] | None = None
    """Passes status and field lines of an interim response (1xx) to the client; None if it cannot take any."""
    arrived = 0.0
    """Instant (`env.now`) of the first byte."""
    deadline = NEVER
    """Instant by which the last byte of the response must be out."""
    caller_deadline = NEVER
    """The same as the caller has set it; `deadline` is another instant where the policy allows less."""
    min_deadline = 0.0
    """Seconds from the arrival to the earliest deadline that the request itself may set; 0 for a trusted peer."""
    attempt_timeout = NEVER
    """Seconds for one attempt."""
    timeout_header = b"x-request-timeout-ms"
    """Name of the field that tells the upstream the milliseconds left; empty to send none."""
    grpc_timeout = False
    """True if the request had a `grpc-timeout`, which is then written anew."""
    idle_timeout = NEVER
    """Seconds between two pieces of a body."""
    criticality = DEFAULT
    """Rank under pressure, see `CRITICALITIES`."""
    said_criticality = UNSAID
    """Rank that the request itself names; `UNSAID` if it names none."""
    attempt = 1
    """Number of this attempt, the first is 1; a fork has its own."""
    why = "first"
    """Reason of this attempt, see `Attempt.why`."""
    marked_attempt = 0
    """Number of attempts that a caller has made before this one, by the mark on the request; 0 without a mark."""
    is_hedge = False
    """True for a fork that a hedge has started."""
    is_counted = False
    """True once the request has been deposited in the retry budget."""
    avoid: frozenset[str] = frozenset()
    """URLs of endpoints that were tried; the balancer takes others if it can."""
    attempts: list[Attempt]
    """Attempts in the order in which they started; all forks share the list."""
    retry_stopped = ""
    """Why no further retry was made: `marked`, `method`, `attempts`, `body`, `retry_after`, `deadline` or `budget`."""
    refused_by = ""
    """Name of the block whose refusal a fallback has replaced, or that has ended a session; empty without one."""
    replaced: Outcome | None = None
    """Failure or bad response that a fallback has replaced; None if none has."""
    speaks_to_caches = True
    """False if no field of the request is one of `sidecar.core.message.FOR_CACHES`, and none has a name that may be
    another one's twin."""
    shared_fetch: SharedFetch | None
    """Fetch that this request makes for itself and for others; None once it has ended."""
    cache = ""
    """Result of the cache: `hit`, `stale`, `revalidated`, `coalesced`, `miss` or `bypass`; empty without a cache."""
    stale: Callable[[], Outcome] | None = None
    """Makes the outdated response that the cache still has; None if it has none."""
    trace: RequestTrace | None
    """Place in a trace; None if tracing is off."""
    call: Supersedable | None
    """Call that is on its way in, for a stage that may supersede what runs behind it; else None."""
    trace_lines = b""
    """Whole field lines that tell the upstream of this attempt about the trace."""

    def __init__(self, method: bytes, path: bytes, headers: Headers | None = None, lines: bytes = b"") -> None:
        """Take end-to-end fields as `headers`, or as `lines` that the grammar has accepted."""
        self.method = method
        self.path = path
        self.parsed = headers
        self.raw = lines
        self.attempts = []
        # Here and not in the class body, where mypyc takes None for "not set" if the type is a protocol.
        self.route = None
        self.captured_by = None
        self.shared_fetch = None
        self.trace = None
        self.call = None

    def fork(self, attempt: int, why: str) -> Exchange:
        """Return the same request for another attempt.  What is set on it later stays its own; attempts are shared.

        What the downstream connection has seen of the fields and the target is not taken over, because a fork may ask
        for something else.
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
        twin.idle_timeout = self.idle_timeout
        twin.criticality = self.criticality
        twin.said_criticality = self.said_criticality
        twin.marked_attempt = self.marked_attempt
        twin.is_hedge = self.is_hedge
        twin.is_counted = self.is_counted
        twin.avoid = self.avoid
        twin.retry_stopped = self.retry_stopped
        twin.refused_by = self.refused_by
        twin.replaced = self.replaced
        twin.cache = self.cache
        twin.stale = self.stale
        twin.trace = self.trace
        twin.trace_lines = self.trace_lines
        return twin

    def abandon(self, call: Cancellable) -> bool:
        """End the call of a request whose client has left.  False if it goes on for requests that share its fetch."""
        if self.shared_fetch is not None and self.shared_fetch.detach_client(call):
            return False
        call.cancel()
        return True

    def shorten_deadline(self, seconds: float) -> None:
        """Take the time that the request itself allows, in seconds from its arrival, within what it may ask for."""
        self.caller_deadline = min(self.caller_deadline, self.arrived + max(seconds, self.min_deadline))
        self.deadline = min(self.deadline, self.caller_deadline)

    @property
    def captures(self) -> dict[str, str]:
        """Values of the names in the route's path template, found at the first access."""
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
        """True if the request arrived marked as a caller's retry."""
        return self.marked_attempt > 0

    @property
    def host(self) -> bytes:
        """Authority of the effective request URI (RFC 9110 7.1): that which the client asked for."""
        return self.public_authority or self.authority

    @property
    def target(self) -> bytes:
        """Path and query as they go on the wire."""
        return self.path if self.query is None else self.path + b"?" + self.query

    @property
    def is_replayable(self) -> bool:
        """True if the body can be sent again."""
        return self.stream is None or self.stream.is_replayable

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode('latin-1')} {self.target.decode('latin-1')} attempt {self.attempt}>"


class RequestFacts:
    """Facts of a request that a stage may change for the stages further in, as they were."""

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
        """Undo all changes of these facts."""
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
