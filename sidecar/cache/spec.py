"""The `caches` section: the stores that `cache` blocks name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sidecar.core.spec import Model
from sidecar.core.units import Size
from sidecar.store.spec import RedisSpec


class MemorySpec(Model):
    """Memory of a cache, in this process."""

    max_size: Annotated[Size, Field(ge=64 * 1024)] = 64 * 2**20
    """Memory for all entries, their overhead included."""


class CacheSpec(Model):
    """Store for responses."""

    memory: MemorySpec = MemorySpec.built_in()
    """First tier, in this process."""
    redis: RedisSpec | None = None
    """Second tier, shared with other sidecars; without it the cache is in memory alone."""
    store: str | None = None
    """Name of a store of `stores` whose Redis is the second tier, in place of `redis`."""
