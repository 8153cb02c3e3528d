"""Model of the `cache` block of a policy file."""

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
    """Differences between requests that count, beside the URI."""

    headers: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=16)] = ()
    """Request fields whose values belong to the key, and those of their twins (`X_Tenant` for `x-tenant`) with them."""
    ignore_query: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Query parameters that do not belong to the key: names, or prefixes such as `utm_*`."""


class CoalesceSpec(Model):
    """Bounds for requests that wait for a fetch in flight."""

    max_waiters: Annotated[int, Field(ge=0)] = 10_000
    """Requests that wait for one fetch; further ones make a fetch of their own."""
    timeout: Duration = 5.0
    """Longest wait; then a request makes a fetch of its own (nginx: `proxy_cache_lock_timeout`)."""


class Spec(Block):
    """Answers that are stored, for how long, and which may be used stale."""

    when: RequestWhen | None = None
    """Condition on the head of the request, such as `!('authorization' in request.headers)`; without it all
    requests."""
    store: str = "default"
    """Name of the cache, one of `caches`."""
    ttl: Duration | None = None
    """Freshness of an answer that states none; without it such an answer is not reused.  See `credentials`."""
    heuristic: Share = 0.0
    """Freshness as a share of the time since Last-Modified, if neither the answer nor `ttl` states it."""
    stale_while_revalidate: DurationOrZero = 0.0
    """Use beyond freshness while a new answer is fetched; the answer's own directive wins."""
    stale_if_error: DurationOrZero = 0.0
    """Use beyond freshness in place of a failure; the answer's own directive wins."""
    keep: DurationOrZero = 3600.0
    """Time beyond freshness for which an answer is kept, for validation and for `fallback: [stale]`."""
    max_body: Size = 2**20
    """Longest body that is stored."""
    set_cookie: Literal["refuse", "store"] = "refuse"
    """`store` allows answers with Set-Cookie to be stored, cookie included."""
    credentials: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=100)] = CREDENTIALS
    """Request fields, beside Authorization, that make an answer one user's if it says nothing about shared caches: it
    is then not stored, whatever `ttl` and `heuristic` say.  A field in `key.headers` is not counted."""
    request_directives: Literal["honor", "ignore"] = "honor"
    """`ignore` keeps clients from asking for a newer answer than the stored one."""
    targeted_fields: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=8)] = ("cdn-cache-control",)
    """Fields that replace Cache-Control for this cache; the first valid one counts (RFC 9213)."""
    key: KeySpec = KeySpec.built_in()
    """Differences between requests that count, beside the URI."""
    coalesce: CoalesceSpec = CoalesceSpec.built_in()
    """Bounds for requests that wait for the same answer, which is fetched once for all of them."""


EXAMPLES: Final = (
    {"ttl": "30s", "stale_while_revalidate": "10s"},
    {"key": {"headers": ["accept-language"]}},
)
