"""What a policy file says of retries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Method, Size
from sidecar.expression.spec import ResponseWhen

Methods = Annotated[tuple[Method, ...], Field(strict=False, min_length=1)]


class BackoffSpec(Model):
    """How long to wait before the next try."""

    base: Duration = 0.025
    """The first wait; each one more doubles it (Envoy: 25ms)."""
    max: Duration = 0.25
    """The longest wait (Envoy: ten times the base)."""
    jitter: Literal["full", "equal", "none"] = "full"
    """`full`: between nothing and the wait; `equal`: between a half and the whole; `none`: the wait."""


class RetryAfterSpec(Model):
    """What to do about Retry-After."""

    max: DurationOrZero = 5.0
    """Waited for up to this; an answer that asks for more is passed on."""


class WhenSpec(Model):
    """A condition on an answer, for what a status does not say."""

    when: ResponseWhen
    """Such as `response.status == 200 && response.body.error == 'busy'`; a body is read up to 64 KiB."""


class Spec(Block):
    """Try again."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries in all, the first included (SRE book ch. 21: three)."""
    on: Annotated[tuple[Condition | WhenSpec, ...], Field(strict=False, min_length=1)] = (
        "connect_failure",
        "reset",
        "timeout",
        502,
        503,
        504,
    )
    """What is worth another try."""
    methods: Methods = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
    """Methods that may be sent twice.  POST and PATCH besides where the request bears an Idempotency-Key."""
    backoff: BackoffSpec = BackoffSpec()
    retry_after: RetryAfterSpec = RetryAfterSpec()
    max_body: Size = 64 * 1024
    """A longer request body is streamed, and not retried once it has been sent (Linkerd: 64 KiB)."""
