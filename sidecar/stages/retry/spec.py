"""Spec of the block `retry`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Method, Size
from sidecar.expression.spec import ResponseWhen

Methods = Annotated[tuple[Method, ...], Field(strict=False, min_length=1)]


class BackoffSpec(Model):
    """Wait before the next attempt."""

    base: Duration = 0.025
    """First wait; each further wait is twice as long (Envoy: 25ms)."""
    max: Duration = 0.25
    """Longest wait (Envoy: ten times the base)."""
    jitter: Literal["full", "equal", "none"] = "full"
    """Randomness of a wait: `full` waits for a random part of it, `equal` for a half at least, `none` for all of it."""


class RetryAfterSpec(Model):
    """Treatment of a Retry-After of the upstream."""

    max: DurationOrZero = 5.0
    """Longest Retry-After that is waited for; a response that asks for more is passed on."""


class WhenSpec(Model):
    """Condition on a response, for errors that its status does not show."""

    when: ResponseWhen
    """Expression such as `response.status == 200 && response.body.error == 'busy'`; a body is read up to 64 KiB."""


class Spec(Block):
    """Sends a request again if that may help."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts in all, the first included (SRE book ch. 21: three)."""
    on: Annotated[tuple[Condition | WhenSpec, ...], Field(strict=False, min_length=1)] = (
        "connect_failure",
        "reset",
        "timeout",
        502,
        503,
        504,
    )
    """Failures, statuses and conditions that are worth another attempt.  Calls of gRPC are repeated for the gRPC
    statuses that are named here."""
    methods: Methods = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
    """Methods that may be sent twice.  POST and PATCH may be too if the request has an Idempotency-Key."""
    backoff: BackoffSpec = BackoffSpec.built_in()
    retry_after: RetryAfterSpec = RetryAfterSpec.built_in()
    stop_when_useless: bool = False
    """Stops retrying while it does not help: if of at least 20 retried requests of the route in the last 30 seconds
    fewer than one in twenty was rescued.  Once fewer than 20 are left in that time, requests are retried again."""
    max_body: Size = 64 * 1024
    """Longest request body that is kept for a retry (Linkerd: 64 KiB).  A longer one is streamed, and its request is
    not retried once it has been sent."""


EXAMPLES: Final = (
    {"max_attempts": 3, "on": ["connect_failure", "reset", 503], "backoff": {"base": "25ms", "max": "250ms"}},
    {"max_attempts": 2, "on": [{"when": "response.status == 429"}], "methods": ["GET", "POST"]},
    {"max_attempts": 2, "stop_when_useless": True},
)
