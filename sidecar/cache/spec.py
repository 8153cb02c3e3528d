"""The `caches` section: the stores that `cache` blocks name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Size


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://")):
        raise ValueError("is not the address of a Redis; write it such as redis://127.0.0.1:6379/0 or rediss://…")
    return value


class MemorySpec(Model):
    """Memory of a cache, in this process."""

    max_size: Annotated[Size, Field(ge=64 * 1024)] = 64 * 2**20
    """Memory for all entries, their overhead included."""


class RedisSpec(Model):
    """Redis behind the memory, shared with other sidecars."""

    url: Annotated[str, AfterValidator(_redis_url), Field(repr=False)]
    """`redis://user:password@host:port/database`, or `rediss://` for TLS."""
    timeout: Duration = 0.05
    """Longest wait of a request for Redis.  After a fault Redis is not used until a probe succeeds."""


class CacheSpec(Model):
    """Store for responses."""

    memory: MemorySpec = MemorySpec.built_in()
    """First tier, in this process."""
    redis: RedisSpec | None = None
    """Second tier, shared with other sidecars; without it the cache is in memory alone."""
