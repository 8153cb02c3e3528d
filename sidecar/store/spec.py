"""The `stores` section: what several processes share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from sidecar.core.spec import Model
from sidecar.core.units import Duration


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://")):
        raise ValueError("is not the address of a Redis; write it such as redis://127.0.0.1:6379/0 or rediss://…")
    return value


class RedisSpec(Model):
    """Redis or Valkey, shared with other sidecars."""

    url: Annotated[str, AfterValidator(_redis_url), Field(repr=False)]
    """`redis://user:password@host:port/database`, or `rediss://` for TLS."""
    timeout: Duration = 0.05
    """Longest wait of a request for Redis.  After a fault Redis is not used until a probe succeeds."""


class StoreSpec(Model):
    """Store that several processes share."""

    redis: RedisSpec | None
    """Redis or Valkey that has the counts; each process leases parts of them."""
