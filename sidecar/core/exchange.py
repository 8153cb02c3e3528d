"""One request on its way through: its facts, and the notes that stages leave for telemetry.

The defaults are class attributes: an exchange sets only what differs, which keeps making one cheap.
Facts are set by the edge; a stage that rewrites the request (`transform`) replaces them for the stages within it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.message import Headers, Message

if TYPE_CHECKING:
    from sidecar.core.body import Body
    from sidecar.core.promise import Run

NEVER: Final = float("inf")

SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""RFC 9110 9.2.1."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {b"PUT", b"DELETE"}
"""RFC 9110 9.2.2."""

CRITICAL: Final = 0
DEFAULT: Final = 1
SHEDDABLE: Final = 2
"""How much a request matters: under pressure the highest number goes first."""
CRITICALITIES: Final = {"critical": CRITICAL, "default": DEFAULT, "sheddable": SHEDDABLE}


class Attempt:
    """One try upstream, as metrics, spans and the access log report it.  Times are seconds of `env.now`."""

    __slots__ = (
        "answered", "cause", "ended", "endpoint", "number", "reason", "span_id", "started", "status", "upstream", "why",
    )  # fmt: skip

    def __init__(self, number: int, started: float) -> None:
        self.number = number
        self.started = started
        self.answered = 0.0
        """When the response's head was there; 0.0 until then."""
        self.ended = 0.0
        self.upstream = ""
        self.endpoint = ""
        self.status = 0
        self.reason = ""
        """The failure's code; empty for a response."""
        self.cause = ""
        """What happened, in the words of the operating system or the parser."""
        self.why = "first"
        """`first`, `retry:<reason or status>` or `hedge`."""
        self.span_id = 0
        """What the upstream was told as its parent span (64 bits); 0 where tracing is off."""


SHARED: Final = (
    "route", "version", "scheme", "authority", "query", "body", "stream", "forwarding", "client_address", "request_id",
    "captures", "upgrade", "expects_continue", "accepts_trailers", "interim", "arrived", "deadline", "attempt_timeout",
    "timeout_header", "grpc_timeout", "idle_timeout", "criticality", "marked_attempt", "is_hedge", "is_counted",
    "avoid", "attempts", "retry_stopped", "refused_by", "cache", "stale", "trace", "trace_lines",
)  # fmt: skip
"""What a fork begins with.  By name, since `copy.copy` knows nothing of a compiled class."""


class Exchange(Message):
    """A request and what is known about it."""

    route: Any = None
    """The compiled route it was matched to (`sidecar.control.compiler.Route`); pinned for the whole exchange."""
    version = 11
    """10 or 11, as the client said it."""
    scheme = b"http"
    authority = b""
    """The Host field or the authority of an absolute target, without user information."""
    path = b"/"
    """As it came, percent-encoded; never empty."""
    query: bytes | None = None
    """Without the question mark; None where there was none."""
    has_escapes = True
    """May path or query be percent-encoded?  The edge has seen whether something is."""
    body = b""
    stream: Body | None = None
    """The request's body where it had not arrived whole; `body` is then empty."""
    forwarding = b""
    """Whole header lines that the edge adds on the way upstream (Via, X-Forwarded-*)."""
    client_address = ""
    request_id = b""
    captures: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed in place
    """What the path's template captured."""
    upgrade: bytes | None = None
    """`websocket` where the request asks for it."""
    expects_continue = False
    """Did the client send `Expect: 100-continue` and is still to hear whether to send its body?"""
    accepts_trailers = False
    """Did it say `TE: trailers`?"""
    interim: Callable[[int, bytes], None] | None = None
    """Takes status and field lines of an interim response (1xx) that the upstream sends before its answer."""
    arrived = 0.0
    deadline = NEVER
    """The instant (`env.now`) by which the last byte of the response must be out."""
    attempt_timeout = NEVER
    """Seconds for one try."""
    timeout_header = b"x-request-timeout-ms"
    """Field that tells the upstream how many milliseconds are left; empty where none is sent."""
    grpc_timeout = False
    """Did the request bear a `grpc-timeout`, to be written anew?"""
    idle_timeout = NEVER
    """Seconds between two pieces of a body."""
    criticality = DEFAULT
    attempt = 1
    """The number of this try, the first is 1; a retry or hedge works on a fork with its own."""
    why = "first"
    marked_attempt = 0
    """How many tries someone before us has made already, by the mark that the request bore."""
    is_hedge = False
    is_counted = False
    """Has it been deposited in the retry budget as a first attempt?"""
    avoid: frozenset[str] = frozenset()
    """Endpoints already tried: the balancer goes elsewhere where it can."""
    attempts: list[Attempt]
    """Shared by all forks, in the order in which they started."""
    retry_stopped = ""
    """Why there was no further retry: `budget`, `deadline`, `attempts`, `body`, `method`, `retry_after`, `marked`."""
    refused_by = ""
    speaks_to_caches = True
    """May one of its fields be of `sidecar.core.headers.FOR_CACHES`?  The edge has seen whether one is."""
    errand: Any = None
    """What it does for others at the moment (`sidecar.cache.fill.Flight`).  When its client has left, `go_on(run)` is
    asked: is the run to go on for them?"""
    cache = ""
    stale: Any = None
    """`stale()`: what the cache still has, an Outcome; left by the cache where it has something, for `fallback`."""
    trace: Any = None
    """Its place in a trace (`sidecar.telemetry.tracing.tracer.Trace`), shared by all forks; None where tracing is off.
    A stage that does something worth telling says `if x.trace is not None: x.trace.note(event, **facts)`."""
    trace_lines = b""
    """Whole header lines that tell the upstream of this try about the trace."""

    def __init__(self, method: bytes, path: bytes, headers: Headers | None = None, lines: bytes = b"") -> None:
        """Fields are given as `headers`, or as `lines` that the grammar has accepted: end-to-end fields only, the edge
        has taken off what belongs to the connection."""
        self.method = method
        self.path = path
        self._headers = headers
        self._lines = lines
        self.attempts = []

    def fork(self, attempt: int, why: str) -> Exchange:
        """The same request for another try: facts and `attempts` shared, everything set later its own."""
        twin = Exchange(self.method, self.path, self._headers, self._lines)
        for name in SHARED:
            setattr(twin, name, getattr(self, name))
        twin.attempt = attempt
        twin.why = why
        return twin

    def abandon(self, run: Run[Any]) -> bool:
        """The client is gone: end the request's run, unless it goes on for others.  Was it ended?"""
        if self.errand is not None and self.errand.go_on(run):
            return False
        run.cancel()
        return True

    def facts(self) -> tuple[Any, ...]:
        """What a stage may rewrite for the stages within, to be restored when they have answered."""
        return (
            self.method, self.path, self.query, self.authority, self._headers, self._lines, self.body, self.stream,
            self.expects_continue,
        )  # fmt: skip

    def restore(self, facts: tuple[Any, ...]) -> None:
        """Make the request what it was."""
        (
            self.method, self.path, self.query, self.authority, self._headers, self._lines, self.body, self.stream,
            self.expects_continue,
        ) = facts  # fmt: skip

    @property
    def is_retry(self) -> bool:
        """Did the request arrive marked as a retry of someone else's?"""
        return self.marked_attempt > 0

    @property
    def target(self) -> bytes:
        """Path and query as they go on the wire."""
        return self.path if self.query is None else self.path + b"?" + self.query

    @property
    def is_replayable(self) -> bool:
        """Can the body be sent once more?"""
        return self.stream is None or self.stream.is_replayable

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode('latin-1')} {self.target.decode('latin-1')} attempt {self.attempt}>"
