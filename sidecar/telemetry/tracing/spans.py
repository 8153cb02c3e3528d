"""OpenTelemetry spans of a request that has ended: one server span, and one client span for each attempt.

Rules:

1. Spans are `ReadableSpan` of the SDK, made from the exchange and its attempts by the stable HTTP conventions.
   Attributes that the conventions do not define are named `sidecar.*`.
2. The span of an attempt is a child of the server span.  It has the attempt's number, its reason, the remaining retry
   budget and the state of the breaker.  A hedge links to the first attempt.  A request that was answered by the fetch
   of another request links to that request.  Notes of stages become events.
3. A part of an aggregated answer has a span of its own between the server span and its attempts.
4. Spans have no secrets: secret query values are redacted, and User-Agent is the only header field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL, URL_PATH, URL_QUERY, URL_SCHEME
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sidecar.core import events
from sidecar.core.exchange import HTTP_VERSIONS, Attempt, Exchange, Part
from sidecar.core.outcome import GRPC_STATUSES, Outcome, grpc_code
from sidecar.grpc.status import split_path
from sidecar.telemetry.export.scrub import scrub_query, split_authority
from sidecar.telemetry.metrics.durations import METHODS, is_error
from sidecar.telemetry.tracing.tracer import Trace

OK: Final = 200
"""Verdict on a gRPC answer with the status OK."""
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
RPC_GRPC_STATUS_CODE: Final = "rpc.grpc.status_code"
UNSET: Final = Status(StatusCode.UNSET)
RECORDED: Final = TraceFlags(TraceFlags.SAMPLED)
"""Flag that the SDK's processors require; OTLP does not transfer it, and attempts had the correct flag on the wire."""
NANO: Final = 1_000_000_000

Attributes = dict[str, Any]


class Outbox(Protocol):
    """Bounded queue of spans (`export.otlp.SpanQueue`)."""

    def admit(self, count: int) -> bool:
        """True if there is room for `count` spans; if not, they are counted as dropped."""

    def put(self, spans: list[ReadableSpan]) -> None:
        """Queue the spans of one request."""


class SpanMaker:
    """Maker of the spans of kept requests; the `Sink` of the tracer."""

    def __init__(
        self,
        outbox: Outbox,
        resource: Resource,
        scope: InstrumentationScope,
        now: Callable[[], float],
        wall: Callable[[], float],
        limits: SpanLimits | None = None,
    ) -> None:
        """`limits` are those of the environment; None for the defaults, which these spans never reach."""
        self._outbox = outbox
        self._resource = resource
        self._scope = scope
        self._now = now
        self._wall = wall
        self._limits = limits

    def put(self, x: Exchange, trace: Trace, outcome: Outcome, reason: str, seconds: float) -> None:
        """Make and queue the spans of a request, unless the queue has no room for all of them."""
        if not self._outbox.admit(len(x.attempts) + 1 + (0 if x.parts is None else count_spans(x.parts))):
            return
        offset = self._wall() - self._now()
        started = x.arrived or self._now() - seconds
        self._outbox.put(list(_Request(self, x, trace, started + seconds, offset).spans(outcome, reason, started)))

    def span(self, **parts: Any) -> ReadableSpan:
        """Return a span, cut to the limits; `parts` are arguments of `ReadableSpan`."""
        limits = self._limits
        if limits is not None:
            parts["attributes"] = BoundedAttributes(
                limits.max_span_attributes, parts["attributes"], max_value_len=limits.max_span_attribute_length
            )
            longest, of_event = limits.max_attribute_length, limits.max_event_attributes
            of_link = limits.max_link_attributes
            events = [
                Event(e.name, BoundedAttributes(of_event, e.attributes, max_value_len=longest), e.timestamp)
                for e in parts.get("events", ())
            ]
            links = [
                Link(link.context, BoundedAttributes(of_link, link.attributes, max_value_len=longest))
                for link in parts.get("links", ())
            ]
            parts["events"] = BoundedList.from_seq(limits.max_events, events)
            parts["links"] = BoundedList.from_seq(limits.max_links, links)
        return ReadableSpan(resource=self._resource, instrumentation_scope=self._scope, **parts)


def count_spans(parts: list[Part]) -> int:
    """Return the number of spans of parts, with their attempts and the parts of their parts."""
    count = len(parts)
    for part in parts:
        if part.x is not None:
            count += len(part.x.attempts) + (0 if part.x.parts is None else count_spans(part.x.parts))
    return count


class _Request:
    """Conversion of one request, or of one part of an aggregated answer, to spans."""

    def __init__(
        self,
        maker: SpanMaker,
        x: Exchange,
        trace: Trace,
        ended: float,
        offset: float,
        context: SpanContext | None = None,
    ) -> None:
        """`ended` is an instant of `Env.now`; adding `offset` to such an instant gives Unix time.

        `context` is that of the part's span; None for that of the server span.
        """
        self.maker = maker
        self.x = x
        self.trace = trace
        self.trace_id = int(trace.trace_id, 16)
        self.state = TraceState.from_header([trace.state.decode("latin-1")]) if trace.state else None
        self.ended = ended
        self.offset = offset
        self.method = METHODS.get(x.method, "_OTHER")
        parts = split_path(x.path) if x.is_grpc else None
        self.call = "" if parts is None else "/".join(parts)
        """Service and method of a gRPC call, such as `shop.Orders/Place`; else empty."""
        self.context = context or self.span_context(trace.span_id)

    def span_context(self, span_id: int, *, is_remote: bool = False) -> SpanContext:
        """Return the context of a span of this trace."""
        return SpanContext(self.trace_id, span_id, is_remote, RECORDED, self.state)

    def nanoseconds(self, instant: float) -> int:
        """Return an instant as Unix time in nanoseconds."""
        return int((instant + self.offset) * NANO)

    def spans(self, outcome: Outcome, reason: str, started: float) -> Iterator[ReadableSpan]:
        """Yield the spans of all attempts and parts, then the server span."""
        trace = self.trace
        parent = self.span_context(int(trace.parent_id, 16), is_remote=True) if trace.parent_id else None
        yield from self.inner_spans()
        attributes = self.request_attributes(outcome, reason)
        route = attributes.get(HTTP_ROUTE)
        name = "HTTP" if self.method == "_OTHER" else self.method
        name = f"{name} {route}" if route else name
        yield self.maker.span(
            name=self.call or name,
            context=self.context,
            parent=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            events=list(self.events(outcome, reason)),
            links=[self.link(other.trace_id, other.span_id, "coalesced") for other in trace.links or ()],
            status=_status(is_error(outcome.verdict, reason), outcome),
            start_time=self.nanoseconds(started),
            end_time=self.nanoseconds(self.ended),
        )

    def inner_spans(self) -> Iterator[ReadableSpan]:
        """Yield the spans of the attempts, and those of parts, at any depth."""
        for attempt in self.x.attempts:
            yield self.attempt_span(attempt)
        for part in self.x.parts or ():
            context = self.span_context(self.trace.draw())
            ended = part.ended or self.ended
            if part.x is not None:
                yield from _Request(self.maker, part.x, self.trace, ended, self.offset, context).inner_spans()
            yield self.part_span(part, context, ended)

    # ----- the request

    def request_attributes(self, outcome: Outcome, reason: str) -> Attributes:
        """Return the attributes of the server span."""
        x = self.x
        found: Attributes = {
            HTTP_REQUEST_METHOD: self.method,
            URL_PATH: x.path.decode("latin-1"),
            URL_SCHEME: x.scheme.decode(),
            NETWORK_PROTOCOL_VERSION: HTTP_VERSIONS[x.version],
            HTTP_RESPONSE_STATUS_CODE: outcome.status,
            "sidecar.kept": self.trace.kept,
            "sidecar.request.id": x.request_id.decode("latin-1"),
        }
        if self.method == "_OTHER":
            found[HTTP_REQUEST_METHOD_ORIGINAL] = x.method.decode("latin-1")
        if x.query is not None:
            found[URL_QUERY] = scrub_query(x.query.decode("latin-1"))
        if x.host:
            host, port = split_authority(x.host.decode("latin-1"), x.scheme == b"https")
            found[SERVER_ADDRESS], found[SERVER_PORT] = host, port
        if x.client_address:
            found[CLIENT_ADDRESS] = x.client_address
        if x.caller is not None:
            found["enduser.id"] = x.caller.id
        if agent := x.header(b"user-agent"):
            found[USER_AGENT_ORIGINAL] = agent.decode("latin-1")
        if x.route is not None:
            if x.route.template:
                found[HTTP_ROUTE] = x.route.template
            found["sidecar.route"], found["sidecar.upstream"] = x.route.name, x.route.upstream
        if self.call:
            self.add_call(found, outcome.verdict)
        if reason or outcome.verdict >= 500:
            found[ERROR_TYPE] = reason or outcome.label
        for name, value in (
            ("sidecar.cache", x.cache),
            ("sidecar.refused_by", outcome.refusal.policy or x.refused_by),
            ("sidecar.retry.stopped", x.retry_stopped),
        ):
            if value:
                found[name] = value
        if x.attempts:
            found["sidecar.attempts"] = len(x.attempts)
        return found

    def add_call(self, found: Attributes, verdict: int) -> None:
        """Add the attributes of a gRPC call, and its status if there is one."""
        service, _, method = self.call.rpartition("/")
        found[RPC_SYSTEM], found[RPC_SERVICE], found[RPC_METHOD] = "grpc", service, method
        code = 0 if verdict == OK else grpc_code(verdict) if verdict else -1
        if code >= 0:
            found[RPC_GRPC_STATUS_CODE] = code

    def events(self, outcome: Outcome, reason: str) -> Iterator[Event]:
        """Yield the events of the server span: the cache's decision, notes of stages, a refusal."""
        x = self.x
        if x.cache:
            decided = x.attempts[0].started if x.attempts else self.ended
            yield Event(events.CACHED, {"sidecar.cache": x.cache}, self.nanoseconds(decided))
        for note in self.trace.notes or ():
            yield Event(note.event, _facts(note.facts), self.nanoseconds(note.at))
        if outcome.refusal.policy:
            facts = {name: value for name, value in outcome.refusal._asdict().items() if value not in ("", None)}
            yield Event(events.REFUSED, _facts({**facts, "reason": reason}), self.nanoseconds(self.ended))

    # ----- its parts

    def part_span(self, part: Part, context: SpanContext, ended: float) -> ReadableSpan:
        """Return the span of a part, with this request's span as its parent."""
        found: Attributes = {"sidecar.part": part.name, "sidecar.part.result": part.result}
        x, outcome = part.x, part.outcome
        if x is not None:
            found[URL_PATH] = x.path.decode("latin-1")
            if x.route is not None:
                found["sidecar.route"], found["sidecar.upstream"] = x.route.name, x.route.upstream
            if x.cache:
                found["sidecar.cache"] = x.cache
        if outcome is not None and outcome.status:
            found[HTTP_RESPONSE_STATUS_CODE] = outcome.status
        if part.reason:
            found[ERROR_TYPE] = part.reason
        detail = None if outcome is None else outcome.refusal.detail or outcome.whole_cause or None
        return self.maker.span(
            name=f"part {part.name.partition('[')[0]}",
            context=context,
            parent=self.context,
            kind=SpanKind.INTERNAL,
            attributes=found,
            status=Status(StatusCode.ERROR, detail) if part.reason else UNSET,
            start_time=self.nanoseconds(part.started),
            end_time=self.nanoseconds(ended),
        )

    # ----- its attempts

    def attempt_span(self, attempt: Attempt) -> ReadableSpan:
        """Return the client span of an attempt."""
        first = self.x.attempts[0]
        links = []
        if attempt.why == "hedge" and attempt is not first and first.span_id:
            links = [self.link(self.trace.trace_id, first.span_id, "hedged")]
        is_bad = bool(attempt.reason) or attempt.status >= 400 or (attempt.verdict and grpc_code(attempt.verdict) > 0)
        return self.maker.span(
            name=self.call or ("HTTP" if self.method == "_OTHER" else self.method),
            context=self.span_context(attempt.span_id or self.trace.draw()),
            parent=self.context,
            kind=SpanKind.CLIENT,
            attributes=self.attempt_attributes(attempt),
            links=links,
            status=Status(StatusCode.ERROR, attempt.cause or None) if is_bad else UNSET,
            start_time=self.nanoseconds(attempt.started),
            end_time=self.nanoseconds(attempt.ended or self.ended),
        )

    def attempt_attributes(self, attempt: Attempt) -> Attributes:
        """Return the attributes of an attempt's span."""
        x = self.x
        found: Attributes = {
            HTTP_REQUEST_METHOD: self.method,
            URL_FULL: f"{attempt.endpoint}{x.path.decode('latin-1')}",
            "sidecar.upstream": attempt.upstream,
            "sidecar.endpoint": attempt.endpoint,
            "sidecar.attempt.why": attempt.why,
        }
        if x.query is not None:
            found[URL_FULL] += "?" + scrub_query(x.query.decode("latin-1"))
        scheme, separator, rest = attempt.endpoint.partition("://")
        if separator and not rest.startswith("/"):
            found[SERVER_ADDRESS], found[SERVER_PORT] = split_authority(rest, scheme == "https")
        if attempt.number > 1:
            found[HTTP_REQUEST_RESEND_COUNT] = attempt.number - 1
        if attempt.status:
            found[HTTP_RESPONSE_STATUS_CODE] = attempt.status
        if attempt.reason or attempt.status >= 400:
            found[ERROR_TYPE] = attempt.reason or str(attempt.status)
        if self.call:
            self.add_call(found, attempt.verdict)
            if not attempt.reason and attempt.verdict and (code := grpc_code(attempt.verdict)) > 0:
                found[ERROR_TYPE] = GRPC_STATUSES[code]
        if attempt.answered:
            found["sidecar.attempt.time_to_head"] = round(attempt.answered - attempt.started, 6)
        found.update(self.state_attributes(attempt))
        return found

    def state_attributes(self, attempt: Attempt) -> Attributes:
        """Return the attributes that stages noted for an attempt: remaining retry budget, state of the breaker."""
        found: Attributes = {}
        if self.x.route is not None and "circuit_breaker" in self.x.route.policies:
            found["sidecar.breaker.state"] = "closed"
        for note in self.trace.notes or ():
            if note.facts.get("attempt") == attempt.number:
                if note.event in (events.RETRIED, events.HEDGED):
                    found["sidecar.retry_budget.tokens"] = note.facts["tokens"]
                elif note.event == events.PROBED:
                    found["sidecar.breaker.state"] = "half_open"
        return found

    def link(self, trace_id: bytes, span_id: int, why: str) -> Link:
        """Return a link to another span, with its reason."""
        return Link(SpanContext(int(trace_id, 16), span_id, False, RECORDED), {"sidecar.link": why})


def _status(is_bad: bool, outcome: Outcome) -> Status:
    """Return the status of a span, with the cause of a failure."""
    return Status(StatusCode.ERROR, outcome.refusal.detail or outcome.whole_cause or None) if is_bad else UNSET


def _facts(facts: dict[str, Any]) -> Attributes:
    """Return the facts of a note as attributes `sidecar.*`, with values of types that OTLP has."""
    return {
        f"sidecar.{name}": value if isinstance(value, str | bool | int | float) else str(value)
        for name, value in facts.items()
        if value is not None
    }
