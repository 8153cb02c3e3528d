"""What a test file may say.

policies: payments.yaml                      # beside it; without this the file of the same name, or the directory
tests:
  - name: a payment that fails once is tried again
    request: {path: /payments/7}
    upstream: [503, {status: 200, json: {id: 7}}]
    expect: {answer: {status: 200, json: {id: 7}}, attempts: 2}
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from sidecar.core.spec import Model
from sidecar.core.units import Duration, DurationOrZero

FAILURES: Final = ("connect_failure", "connect_timeout", "reset", "cut", "timeout", "protocol_error")
Method = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
Headers = dict[str, str]
Status = Annotated[int, Field(ge=200, le=599)]


class ContentSpec(Model):
    """A body: at most one of these."""

    json_: Annotated[Any, Field(alias="json")] = None
    """As a JSON value; the media type is application/json unless `headers` say otherwise."""
    form: dict[str, str] | None = None
    """As the fields of a form."""
    body: str | None = None
    """As a text."""

    @model_validator(mode="after")
    def _is_one(self) -> ContentSpec:
        if len({"json_", "form", "body"} & self.model_fields_set) > 1:
            raise ValueError("has more than one of json, form and body; keep one of them")
        return self


def _target(path: str) -> str:
    if not path.startswith(("/", "http://", "https://")):
        raise ValueError("is neither a path nor a URL; write it such as /orders/7 or http://orders/orders/7")
    return path


class RequestSpec(ContentSpec):
    """What a client sends."""

    method: Method = "GET"
    path: Annotated[str, AfterValidator(_target)]
    """With its query: `/orders/7?expand=items`; or a whole URL."""
    headers: Headers = Field(default_factory=dict)


def _from_word(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"status": value}
    if isinstance(value, str):
        if value not in FAILURES:
            raise ValueError(
                f"is no answer; write a status, {{status: 200, json: ...}} or one of {', '.join(FAILURES)}"
            )
        return {"fail": value}
    return value


class AnswerSpec(ContentSpec):
    """What an upstream does; written short as a status (`503`) or a failure (`reset`)."""

    status: Status = 200
    headers: Headers = Field(default_factory=dict)
    after: DurationOrZero = 0.0
    """How long it takes."""
    fail: Literal["connect_failure", "connect_timeout", "reset", "cut", "timeout", "protocol_error"] | None = None
    """Instead of an answer: the connection is refused or never made, is reset once the request is there or (`cut`) in
    the middle of the answer's body, nothing ever comes (`timeout`), or what comes is not HTTP."""
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How many times in a row."""
    upstream: str | None = None
    """The upstream that must be asked for it."""


Answer = Annotated[AnswerSpec, BeforeValidator(_from_word), WithJsonSchema({"type": ["object", "integer", "string"]})]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class SeenSpec(ContentSpec):
    """What an upstream must have been asked.  What is not named may be anything."""

    upstream: str | None = None
    method: Method | None = None
    path: str | None = None
    """With its query."""
    headers: dict[str, str | None] = Field(default_factory=dict)
    """Values; null for a field that must not be there."""


class ReceivedSpec(ContentSpec):
    """What the client must get.  What is not named may be anything."""

    status: Status | None = None
    headers: dict[str, str | None] = Field(default_factory=dict)
    """Values; null for a field that must not be there."""
    reason: str | None = None
    """Of a refusal: `breaker_open`, `overloaded`, ...; empty for an answer of the service."""


class TookSpec(Model):
    """How long it must take."""

    min: DurationOrZero = 0.0
    max: Duration = float("inf")


Seen = Annotated[tuple[SeenSpec, ...], BeforeValidator(_listed), Field(strict=False)]


class ExpectSpec(Model):
    """What must have happened.  What is not named may be anything; what upstreams were asked is never left open: it is
    as often as there are answers."""

    answer: ReceivedSpec | None = None
    answers: dict[str, int] | None = None
    """How many answers of each status, for a step of several requests."""
    upstream: Seen | None = None
    """The requests that reached an upstream, in turn; one alone stands for all of them."""
    attempts: Annotated[int, Field(ge=0)] | None = None
    """Tries of one request, those included that never left."""
    route: str | None = None
    took: TookSpec | None = None
    cache: str | None = None
    """What the cache did: `hit`, `miss`, `stale`, ..."""
    retry_stopped: str | None = None
    """Why there was no further try: `budget`, `method`, ..."""
    breakers: dict[str, Literal["closed", "open", "half_open", "forced_open", "forced_closed"]] = Field(
        default_factory=dict
    )
    """States by the name of the route or upstream that the breaker stands under, or the URL of its endpoint."""


class StepSpec(Model):
    """A request and what comes of it, or time that passes."""

    wait: Duration | None = None
    """Time passes before the request, if there is one."""
    request: RequestSpec | None = None
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The same again, one after the other; each meets the same answers."""
    at_once: Annotated[int, Field(ge=1, le=10_000)] = 1
    """As many at the same time; they share the answers."""
    listener: str | None = None
    """Where it comes in; `inbound`, or the only one, unless given."""
    upstream: Annotated[tuple[Answer, ...], BeforeValidator(_listed), Field(strict=False)] = ()
    """The upstreams' answers, in the order in which they are asked."""
    expect: ExpectSpec = ExpectSpec()


class TestSpec(StepSpec):
    """An example: one step, or several."""

    __test__ = False  # it is not one of pytest's

    name: Annotated[str, Field(min_length=1)]
    steps: tuple[StepSpec, ...] = Field(default=(), strict=False)
    seed: int = 0
    """Of all that is left to chance, such as jitter and the share of injected faults."""

    @model_validator(mode="after")
    def _has_steps(self) -> TestSpec:
        if (self.request is None) == (not self.steps):
            raise ValueError("needs a request, or steps with requests, and not both")
        return self


class FileSpec(Model):
    """A test file."""

    policies: str | None = None
    """A policy file or a directory, beside this file."""
    environ: dict[str, str] = Field(default_factory=dict)
    """For `${NAME}` in the policies."""
    tests: Annotated[tuple[TestSpec, ...], Field(strict=False, min_length=1)]
