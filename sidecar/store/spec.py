"""The `stores` section: what several processes share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

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


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("is not an absolute path; write it such as /var/lib/sidecar/quotas.db")
    return value


class StoreSpec(Model):
    """Store of counts: a Redis that several processes share, or a file of this machine."""

    redis: RedisSpec | None = None
    """Redis or Valkey that has the counts; each process leases parts of them."""
    file: Annotated[str, AfterValidator(_path)] | None = None
    """Absolute path of a database of SQLite for quotas, which is made if it is missing.  All processes of this machine
    may use it; it must be on a local disk that outlives the process."""

    @model_validator(mode="after")
    def _has_one_kind(self) -> StoreSpec:
        if (self.redis is None) == (self.file is None):
            raise ValueError("must be either `redis: {url: ...}` or `file: PATH`")
        return self
