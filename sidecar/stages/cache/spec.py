"""Spec of the block `cache`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from sidecar.cache.rfc.storing import CREDENTIALS
from sidecar.core.message import TOKEN
from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, DurationOrZero, Share, Size
from sidecar.expression.spec import RequestWhen


def _field_name(value: str) -> str:
    if re.fullmatch(TOKEN, value.encode("ascii", "replace")) is None:
        raise ValueError("is not the name of a header field; write it such as accept-language")
    return value.lower()


FieldName = Annotated[str, AfterValidator(_field_name)]


class KeySpec(Model):
    """Parts of a request, beside its URI, that belong to the key of its response."""

    headers: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=16)] = ()
    """Request fields whose values belong to the key, with those of their twins (`X_Tenant` for `x-tenant`)."""
    ignore_query: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Query parameters that do not belong to the key: names, or prefixes such as `utm_*`."""


class CoalesceSpec(Model):
    """Bounds for requests that wait for a fetch in flight."""

    max_waiters: Annotated[int, Field(ge=0)] = 10_000
    """Requests that wait for one fetch, at most; further ones make a fetch of their own."""
    timeout: Duration = 5.0
    """Longest wait, after which a request makes a fetch of its own (nginx: `proxy_cache_lock_timeout`)."""


class Spec(Block):
    """Stores responses and reuses them, stale ones included."""

    when: RequestWhen | None = None
    """Condition on the head of the request, such as `!('authorization' in request.headers)`; by default all
    requests."""
    store: str = "default"
    """Name of the cache, one of `caches`."""
    ttl: Duration | None = None
    """Freshness of a response that states none; without it, such a response is not reused.  See `credentials`."""
    heuristic: Share = 0.0
    """Freshness as a share of the time since Last-Modified, if neither the response nor `ttl` states it."""
    stale_while_revalidate: DurationOrZero = 0.0
    """Time beyond freshness in which a response is used while a new one is fetched; its own directive wins."""
    stale_if_error: DurationOrZero = 0.0
    """Time beyond freshness in which a response may replace a failure; its own directive wins."""
    keep: DurationOrZero = 3600.0
    """Time beyond freshness for which a response is kept, for validation and for `fallback: [stale]`."""
    max_body: Size = 2**20
    """Longest body that is stored."""
    set_cookie: Literal["refuse", "store"] = "refuse"
    """Treatment of responses with Set-Cookie: `store` stores them, cookie included."""
    credentials: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=100)] = CREDENTIALS
    """Request fields that count as credentials, beside Authorization.  The response to a request with a credential is
    not stored if it says nothing about shared caches, whatever `ttl` and `heuristic` are.  Fields in `key.headers` do
    not count."""
    request_directives: Literal["honor", "ignore"] = "honor"
    """Treatment of Cache-Control in requests; `ignore` keeps clients from demanding a newer response."""
    targeted_fields: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=8)] = ("cdn-cache-control",)
    """Fields that replace Cache-Control for this cache; the first valid one counts (RFC 9213)."""
    shared: bool = False
    """True if authenticated callers share answers, those that RFC 9111 3.5 allows: the answer must say `public`,
    `s-maxage` or `must-revalidate`.  By default each caller has answers of its own.  Without `authenticate` the key has
    no effect."""
    key: KeySpec = KeySpec.built_in()
    """Parts of a request, beside its URI, that belong to the key of its response."""
    coalesce: CoalesceSpec = CoalesceSpec.built_in()
    """Bounds for requests that wait for the fetch of another request for the same response."""


EXAMPLES: Final = (
    {"ttl": "30s", "stale_while_revalidate": "10s"},
    {"key": {"headers": ["accept-language"]}},
)
