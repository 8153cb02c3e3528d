"""Redis as an aiocache backend: the only module that imports aiocache, loaded if a cache has a Redis.

aiocache's `BaseCache` holds the connection pool, prefixes each key with the cache's namespace, and turns values into
bytes (by `RecordSerializer`) and seconds into Redis's expiry.  The connections are those of `sidecar.store.redis`.
These settings differ from aiocache's defaults:

- aiocache's timeout is off: it bounds one command, and the tier bounds a look-up of several (`RedisTier`).
- Values are read by `GETRANGE` in one transaction instead of `MGET`: as atomic and in one round trip, but no more
  than a bound is read of a huge value.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from aiocache.backends.redis import RedisCache
from aiocache.serializers import BaseSerializer

from sidecar.cache.codec import Record, decode, encode
from sidecar.core.env import NameResolver
from sidecar.store.redis import ConnectionPool, connected_by, pool_settings
from sidecar.store.spec import RedisSpec

CONNECTIONS: Final = 8
"""Connections of one cache."""
LONGEST_SMALL: Final = 4096
"""Bytes read of a counter or a purged prefix, at most; no URI has a longer prefix."""
ENTRIES: Final = "e:"
"""Prefix of the names of records."""


class Unreadable(NamedTuple):
    """Value in Redis that is neither a record nor a counter."""

    reason: str


class RecordSerializer(BaseSerializer):
    """Records as bytes (`sidecar.cache.codec`), and counters as Redis writes them."""

    DEFAULT_ENCODING = None
    """Encoding for aiocache; with None it does not decode the values of Redis."""

    def __init__(self, now: Callable[[], float], wall: Callable[[], float], largest: Callable[[], int]) -> None:
        """`largest` returns the bytes of the largest item of the cache."""
        super().__init__()
        self._largest = largest
        self._now = now
        self._wall = wall

    @property
    def longest(self) -> int:
        """Bytes of the longest record that is read: an item and its generation."""
        return self._largest() + LONGEST_SMALL

    def dumps(self, value: Record) -> Any:
        """Return a record as bytes."""
        return encode(value, self._now(), self._wall())

    def loads(self, value: Any) -> Record | bytes | Unreadable | None:
        """Return the record that the bytes encode, a counter as its digits, or None for a missing key."""
        if not isinstance(value, bytes):
            return None
        if len(value) > self.longest:
            return Unreadable(f"a record is longer than {self.longest} bytes")
        if value.isdigit():
            return value
        try:
            return decode(value, self._now(), self._wall())
        except ValueError as error:
            return Unreadable(str(error))


class RedisClient(RedisCache):
    """Connections to the Redis of one cache."""

    def __init__(
        self,
        spec: RedisSpec,
        namespace: str,
        now: Callable[[], float],
        wall: Callable[[], float],
        names: NameResolver | None = None,
        *,
        largest: Callable[[], int] = lambda: 2**24,
    ) -> None:
        """Connect when the first command is sent; `now`, `wall` and `names` are those of `Env`.

        `largest` returns the bytes of the largest item of the cache, which bounds how much of a record is read.
        """
        url = urlsplit(spec.url)
        super().__init__(
            serializer=RecordSerializer(now, wall, largest),
            namespace=namespace,
            timeout=None,
            endpoint=url.hostname or "127.0.0.1",
            port=url.port or 6379,
            db=int(url.path.strip("/") or 0),
            password=unquote(url.password) if url.password else None,
            ssl=url.scheme == "rediss",
            create_connection_timeout=spec.timeout,
            pool_max_size=CONNECTIONS,
            connection_pool_class=ConnectionPool,
            connection_pool_kwargs=pool_settings(spec),
        )
        self._names = names
        if names is not None:
            connections = self.client.connection_pool
            connections.connection_class = connected_by(names, connections.connection_class)

    async def _multi_get(self, keys: list[str], *args: Any, **kwargs: Any) -> list[bytes | None]:
        """Return the values of keys, one byte beyond their bound at most.

        The value is None if a key is missing or holds no string.  This replaces the backend's hook, which sends `MGET`.
        """
        records = self.build_key(ENTRIES)
        longest = self.serializer.longest
        async with self.client.pipeline() as pipeline:
            for key in keys:
                pipeline.getrange(key, 0, longest if key.startswith(records) else LONGEST_SMALL - 1)
            found = await pipeline.execute(raise_on_error=False)
        return [_value(value) for value in found]

    async def prefixes(self, numbers: range) -> list[bytes | None]:
        """Return the purged prefixes with these numbers, cut to a bound; None for those that are missing."""
        return await self._multi_get([self.build_key(f"x:{number}") for number in numbers])

    @property
    def is_name_awaited(self) -> bool:
        """True while connections wait for the look-up of the server's name."""
        return self._names is not None and self._names.is_awaited(self.endpoint)

    async def prove_primary(self) -> None:
        """Send a write that changes nothing and that a full Redis allows.  Raises Redis's error if it refuses."""
        await self.client.delete(self.build_key("probe"))

    async def disconnect(self) -> None:
        """Close all connections, so that the next command looks the address up anew and may find another server."""
        with suppress(Exception):
            await self.client.connection_pool.disconnect()

    async def _close(self, *args: Any, _conn: Any = None, **kwargs: Any) -> None:
        """Close all connections.  This replaces the backend's hook, which calls a deprecated method of redis-py."""
        await self.client.aclose()


def _value(value: Any) -> bytes | None:
    """Return the result of a `GETRANGE`; None for a key that holds no string.  Raises any other error."""
    if isinstance(value, Exception) and not str(value).startswith("WRONGTYPE"):
        raise value
    return value if isinstance(value, bytes) and value else None
