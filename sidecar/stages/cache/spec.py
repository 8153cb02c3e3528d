"""What a `cache` block may say."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sidecar.cache.intake import Limits
from sidecar.cache.rfc.freshness import Rules
from sidecar.cache.rfc.key import KeyRule
from sidecar.core.env import BuildContext
from sidecar.core.http1 import TOKEN
from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, DurationOrZero, Share, Size
from sidecar.expression.spec import RequestWhen


def _field_name(value: str) -> str:
    if re.fullmatch(TOKEN, value.encode("ascii", "replace")) is None:
        raise ValueError("is not the name of a header field; write it such as accept-language")
    return value.lower()


FieldName = Annotated[str, AfterValidator(_field_name)]


class KeySpec(Model):
    """What tells requests apart beside the URI."""

    headers: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=16)] = ()
    """Request fields whose values belong to the key."""
    ignore_query: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Query parameters that do not: names, or beginnings such as `utm_*`."""


class CoalesceSpec(Model):
    """Waiting for an answer that another request is fetching already."""

    max_waiters: Annotated[int, Field(ge=0)] = 10_000
    """Requests that wait for one call; more go on alone."""
    timeout: Duration = 5.0
    """After which a request goes on alone (nginx's `proxy_cache_lock_timeout`)."""


class Spec(Block):
    """What is stored, for how long, and what may be served stale."""

    when: RequestWhen | None = None
    """A condition on the head of the request, such as `!('authorization' in request.headers)`; all without it."""
    store: str = "default"
    """One of `caches`."""
    ttl: Duration | None = None
    """Freshness of an answer that says nothing itself; without it such an answer is not reused."""
    heuristic: Share = 0.0
    """Freshness as a share of the time since Last-Modified, where neither the answer nor `ttl` says it."""
    stale_while_revalidate: DurationOrZero = 0.0
    """How long an answer is used beyond its freshness while a new one is fetched; what the answer itself says wins."""
    stale_if_error: DurationOrZero = 0.0
    """How long beyond its freshness it stands in for a failure; what the answer itself says wins."""
    keep: DurationOrZero = 3600.0
    """How long beyond its freshness it is kept for validation and for `fallback: [stale]`."""
    max_body: Size = 2**20
    """Longer bodies are not stored."""
    set_cookie: Literal["refuse", "store"] = "refuse"
    """Whether an answer with Set-Cookie may be stored, cookie and all."""
    request_directives: Literal["honor", "ignore"] = "honor"
    """Whether a client may ask for a newer answer than the one in store."""
    targeted_fields: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=8)] = ("cdn-cache-control",)
    """Fields that speak to this cache instead of Cache-Control, the first valid one counts (RFC 9213)."""
    key: KeySpec = KeySpec()
    """What an answer is stored under."""
    coalesce: CoalesceSpec = CoalesceSpec()
    """One call for all who wait for the same answer."""

    @property
    def limits(self) -> Limits:
        """What is stored, and for how long."""
        targets = tuple(name.encode() for name in self.targeted_fields)
        rules = Rules(
            self.ttl,
            self.heuristic,
            self.stale_while_revalidate,
            self.stale_if_error,
            self.set_cookie == "store",
            targets,
        )
        return Limits(rules, self.max_body, self.keep)

    def rule(self, ctx: BuildContext) -> KeyRule:
        """How keys are made: all routes under one block share their answers."""
        return KeyRule(":".join(ctx.owner), self.key.headers, self.key.ignore_query)
