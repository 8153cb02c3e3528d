"""Format of test files.

policies: payments.yaml                      # relative to this file; by default the file of the same name
tests:
  - name: a payment that fails once is retried
    request: {path: /payments/7}
    upstream: [503, {status: 200, json: {id: 7}}]
    expect: {answer: {status: 200, json: {id: 7}}, attempts: 2}
  - name: a call of gRPC that fails once is repeated
    request: {grpc: {service: shop.Orders, method: Get, message: {name: shops/1/orders/7}}}
    upstream: [UNAVAILABLE, {message: {state: PAID}}]
    expect: {answer: {grpc_status: OK, message: {state: PAID}}, attempts: 2}
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from sidecar.core.outcome import GRPC_STATUSES
from sidecar.core.spec import Model
from sidecar.core.units import Duration, DurationOrZero
from sidecar.grpc.status import METHOD_NAME, SERVICE_NAME

FAILURES: Final = ("connect_failure", "connect_timeout", "reset", "cut", "timeout", "protocol_error")
Method = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
Headers = dict[str, str]
Status = Annotated[int, Field(ge=200, le=599)]
GRPC_NAMES: Final = tuple(name.upper() for name in GRPC_STATUSES)
"""Names of gRPC's status codes, by code."""


def _grpc_status(name: str) -> str:
    """Return the name of a gRPC status.  Raises `ValueError` for another word."""
    if name not in GRPC_NAMES:
        raise ValueError(f"is not a gRPC status; write one of {', '.join(GRPC_NAMES)}")
    return name


GrpcStatus = Annotated[str, AfterValidator(_grpc_status)]


class ContentSpec(Model):
    """Body of a message: at most one of its three forms."""

    json_: Annotated[Any, Field(alias="json")] = None
    """Body as a JSON value; the media type is application/json, unless `headers` has another one."""
    form: dict[str, str] | None = None
    """Body as the fields of a form."""
    body: str | None = None
    """Body as text."""

    @model_validator(mode="after")
    def _is_one(self) -> ContentSpec:
        if len({"json_", "form", "body"} & self.model_fields_set) > 1:
            raise ValueError("has more than one of json, form and body; keep one of them")
        return self


def _is_one_form_of_messages(fields: set[str]) -> None:
    """Raise `ValueError` if both `message` and `messages` are given."""
    if {"message", "messages"} <= fields:
        raise ValueError("has both message and messages; keep one of them")


class MessageContentSpec(ContentSpec):
    """Body of a message of HTTP, or the messages of a call of gRPC: at most one of its five forms."""

    message: dict[str, Any] | None = None
    """Only message of the call, as JSON; fields without a value are left out."""
    messages: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] | None = None
    """Messages of a stream, as JSON."""

    @model_validator(mode="after")
    def _has_one_kind(self) -> MessageContentSpec:
        _is_one_form_of_messages(self.model_fields_set)
        if self.has_messages and {"json_", "form", "body"} & self.model_fields_set:
            raise ValueError("has messages of gRPC and a body of HTTP; keep one of them")
        return self

    @property
    def has_messages(self) -> bool:
        """True if messages of gRPC are given."""
        return self.message is not None or self.messages is not None

    @property
    def all_messages(self) -> tuple[dict[str, Any], ...]:
        """Messages that are given, in order."""
        return (self.messages or ()) if self.message is None else (self.message,)


def _target(path: str) -> str:
    """Return a path or URL unchanged.  Raises `ValueError` for anything else."""
    if not path.startswith(("/", "http://", "https://")):
        raise ValueError("is neither a path nor a URL; write it such as /orders/7 or http://orders/orders/7")
    return path


def _client(address: str) -> str:
    """Return an IP address in its usual form.  Raises `ValueError`."""
    try:
        return str(ip_address(address))
    except ValueError:
        raise ValueError("is not an IP address; write it such as 10.0.0.1") from None


class CallerSpec(Model):
    """Caller of a request, with credentials that the test makes: a signed token, an opaque token or an API key."""

    identity: str
    """Name of the identity that vouches for the caller."""
    id: str = "tester"
    """Name of the caller."""
    claims: dict[str, Any] = Field(default_factory=dict)
    """Further claims, which also replace those that a token has anyway, such as `exp`."""


class CallSpec(Model):
    """Call of gRPC, sent over HTTP/2."""

    service: Annotated[str, Field(pattern=f"^{SERVICE_NAME.pattern}$")]
    """Full name of the service, such as `shop.Orders`."""
    method: Annotated[str, Field(pattern=f"^{METHOD_NAME.pattern}$")]
    message: dict[str, Any] | None = None
    """Message of the request as JSON; by default an empty one."""
    messages: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] | None = None
    """Messages of a stream from the client, as JSON."""

    @model_validator(mode="after")
    def _is_one(self) -> CallSpec:
        _is_one_form_of_messages(self.model_fields_set)
        return self

    @property
    def path(self) -> str:
        """Path of the request."""
        return f"/{self.service}/{self.method}"

    @property
    def all_messages(self) -> tuple[dict[str, Any], ...]:
        """Messages of the request, in order."""
        return (self.message or {},) if self.messages is None else self.messages


class RequestSpec(ContentSpec):
    """Request of a client, over HTTP/1.1, or call of gRPC."""

    method: Method = "GET"
    path: Annotated[str, AfterValidator(_target)] = "/"
    """Path with its query, such as `/orders/7?expand=items`; or a whole URL."""
    grpc: CallSpec | None = None
    """Call of gRPC, in place of method, path and body."""
    websocket: Annotated[tuple[Any, ...], Field(strict=False)] | None = None
    """Messages that a client sends over a WebSocket, as JSON values; then it ends its stream with an empty message, as
    `translate` with `streams: websocket` reads it."""
    headers: Headers = Field(default_factory=dict)
    client: Annotated[str, AfterValidator(_client)] = "192.0.2.2"
    """IP address of the client; clients in `trusted_proxies` of a listener are trusted."""
    caller: CallerSpec | None = None

    @model_validator(mode="after")
    def _has_a_target(self) -> RequestSpec:
        given = {"method", "path", "json_", "form", "body"} & self.model_fields_set
        if self.grpc is None and "path" not in given:
            raise ValueError("needs a path, or a call in grpc")
        if self.grpc is not None and (given or self.websocket is not None):
            raise ValueError("has grpc beside a method, a path or a body; a call has its own, so leave them out")
        if self.websocket is not None and given != {"path"}:
            raise ValueError("has websocket beside a method or a body; a WebSocket needs a path alone")
        return self


def _from_word(value: Any) -> Any:
    """Return the mapping for the short form of a response."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"status": value}
    if isinstance(value, str):
        if value in GRPC_NAMES:
            return {"grpc_status": value}
        if value not in FAILURES:
            raise ValueError(
                f"is not an answer; write a status, {{status: 200, json: ...}}, a gRPC status such as UNAVAILABLE, "
                f"or one of {', '.join(FAILURES)}"
            )
        return {"fail": value}
    return value


class ResponseSpec(MessageContentSpec):
    """Response of an upstream; its short form is a status (`503`, `UNAVAILABLE`) or a failure (`reset`)."""

    status: Status = 200
    headers: Headers = Field(default_factory=dict)
    grpc_status: GrpcStatus | None = None
    """Status of an answer of gRPC, such as `UNAVAILABLE`; `OK` if it is left out and there are messages.  It stands in
    trailers behind the messages, or in the head without any."""
    grpc_message: str | None = None
    """Text of that status."""
    trailers: Headers = Field(default_factory=dict)
    """Further fields beside the gRPC status, such as `grpc-retry-pushback-ms`."""
    after: DurationOrZero = 0.0
    """Time from the request to the beginning of the response."""
    fail: Literal["connect_failure", "connect_timeout", "reset", "cut", "timeout", "protocol_error"] | None = None
    """Failure instead of a response.  `connect_failure`: the connection is refused.  `connect_timeout`: the connection
    is never established.  `reset`: the connection is reset after the request.  `cut`: the connection is reset in the
    middle of the response's body.  `timeout`: no response comes.  `protocol_error`: the response is not HTTP."""
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of successive attempts that get this response."""
    upstream: str | None = None
    """Upstream to which the attempt must go; by default any."""

    @model_validator(mode="after")
    def _is_one_protocol(self) -> ResponseSpec:
        given = self.model_fields_set
        if self.is_grpc and given & {"status", "json_", "form", "body"}:
            raise ValueError("has a gRPC status or messages, and a status or a body of HTTP; keep one of them")
        if not self.is_grpc and given & {"grpc_message", "trailers"}:
            raise ValueError("has grpc_message or trailers without a gRPC answer; add grpc_status")
        return self

    @property
    def is_grpc(self) -> bool:
        """True for an answer of gRPC."""
        return self.grpc_status is not None or self.has_messages


Answer = Annotated[ResponseSpec, BeforeValidator(_from_word), WithJsonSchema({"type": ["object", "integer", "string"]})]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class SeenSpec(MessageContentSpec):
    """Request that an upstream must have received; keys that are left out are not checked."""

    upstream: str | None = None
    method: Method | None = None
    path: str | None = None
    """Path with its query."""
    headers: dict[str, str | None] = Field(default_factory=dict)
    """Values of header fields by name; null for a field that must be absent.  One of several lines is enough, or all
    of them joined with `, `."""


class ReceivedSpec(MessageContentSpec):
    """Response that the client must receive; keys that are left out are not checked."""

    status: Annotated[int, Field(ge=101, le=599)] | None = None
    """Status of HTTP; 101 for a WebSocket that was opened."""
    grpc_status: GrpcStatus | None = None
    """Status of the call, as a client of gRPC sees it; a head of HTTP alone has one too."""
    grpc_message: str | None = None
    """Text of that status."""
    trailers: dict[str, str | None] = Field(default_factory=dict)
    """Values of trailers by name, which may stand in the head of an answer without messages; null for an absent one."""
    headers: dict[str, str | None] = Field(default_factory=dict)
    """Values of header fields by name; null for a field that must be absent.  One of several lines is enough, or all
    of them joined with `, `."""
    websocket: Annotated[tuple[Any, ...], Field(strict=False)] | None = None
    """Messages that the client receives over a WebSocket, as JSON values."""
    close: Annotated[int, Field(ge=1000, le=4999)] | None = None
    """Code of the Close frame with which the WebSocket ends, such as 1000, or 4000 and the gRPC status."""
    reason: str | None = None
    """Reason of a refusal, such as `breaker_open` or `overloaded`; empty for a response of the service."""


class TookSpec(Model):
    """Bounds for the time from sending the request to the end of the response."""

    min: DurationOrZero = 0.0
    max: Duration = float("inf")


Seen = Annotated[tuple[SeenSpec, ...], BeforeValidator(_listed), Field(strict=False)]


class ExpectSpec(Model):
    """Expectations of a step; keys that are left out are not checked.

    The number of attempts is always checked: it must be the number of responses of the step.
    """

    answer: ReceivedSpec | None = None
    answers: dict[str, int] | None = None
    """Number of responses of each status, for a step of several requests; calls have the name of their gRPC status."""
    upstream: Seen | None = None
    """Requests that must reach an upstream, in order; a single mapping holds for all of them."""
    attempts: Annotated[int, Field(ge=0)] | None = None
    """Number of attempts of each request and its parts, including attempts that never left the sidecar."""
    route: str | None = None
    took: TookSpec | None = None
    cache: str | None = None
    """Result of the cache: `hit`, `miss`, `stale`, ..."""
    retry_stopped: str | None = None
    """Reason why there was no further attempt: `budget`, `method`, ..."""
    breakers: dict[str, Literal["closed", "open", "half_open", "forced_open", "forced_closed"]] = Field(
        default_factory=dict
    )
    """State of each breaker, by the name of its route or upstream, or by the URL of its endpoint."""


class StepSpec(Model):
    """Request with its responses and expectations, or time that passes."""

    wait: Duration | None = None
    """Time that passes before the request."""
    request: RequestSpec | None = None
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of successive runs of the step; each run gets the same responses."""
    at_once: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of simultaneous requests; they share the responses."""
    listener: str | None = None
    """Listener of the request; by default `inbound`, or the only one."""
    upstream: Annotated[tuple[Answer, ...], BeforeValidator(_listed), Field(strict=False)] = ()
    """Responses of the upstreams, in the order of the attempts.  Parts of an answer run at the same time, so with
    `aggregate` each attempt gets the first response that names its upstream or none."""
    expect: ExpectSpec = ExpectSpec()


class TestSpec(StepSpec):
    """Test with a single step, or with several in `steps`."""

    __test__ = False  # pytest must not collect it

    name: Annotated[str, Field(min_length=1)]
    steps: tuple[StepSpec, ...] = Field(default=(), strict=False)
    seed: int = 0
    """Seed of random choices, such as jitter and the share of injected faults."""

    @model_validator(mode="after")
    def _has_steps(self) -> TestSpec:
        if (self.request is None) == (not self.steps):
            raise ValueError("needs either a request or steps with requests, not both")
        return self


class FileSpec(Model):
    """Test file."""

    policies: str | None = None
    """Policy file or directory, relative to this file; by default the file of the same name, or the directory."""
    descriptors: str | None = None
    """Descriptor set for the messages of gRPC, relative to this file; by default those of the routes' `translate`."""
    environ: dict[str, str] = Field(default_factory=dict)
    """Values for `${NAME}` in the policies."""
    tests: Annotated[tuple[TestSpec, ...], Field(strict=False, min_length=1)]
