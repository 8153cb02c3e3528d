"""aiocache's Redis cache, held right: bytes in and out, a small pool that waits for its turn, and no retries.

Its defaults are none of these: JSON that refuses bytes, a hundred connections and then an error, and redis-py's
retries, which hold a caller for seconds when Redis refuses connections.  redis-py is imported here, when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sidecar.cache.spec import RedisSpec

CONNECTIONS: Final = 8


def connect(spec: RedisSpec, namespace: str) -> Any:
    """aiocache's Redis cache, bytes in and out, with a small pool that waits for its turn and never retries."""
    from aiocache.backends.redis import RedisCache  # type: ignore[import-untyped]
    from aiocache.serializers import NullSerializer  # type: ignore[import-untyped]
    from redis.asyncio import BlockingConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    url = urlsplit(spec.url)
    more: dict[str, Any] = {"timeout": spec.timeout, "retry": Retry(NoBackoff(), 0), "socket_timeout": spec.timeout}
    if url.username:
        more["username"] = unquote(url.username)
    return RedisCache(
        serializer=NullSerializer(encoding=None),
        namespace=namespace,
        timeout=None,  # ours ends the whole of a task, at a tenth of the cost
        endpoint=url.hostname or "127.0.0.1",
        port=url.port or 6379,
        db=int(url.path.strip("/") or 0),
        password=unquote(url.password) if url.password else None,
        ssl=url.scheme == "rediss",
        create_connection_timeout=spec.timeout,
        pool_max_size=CONNECTIONS,
        connection_pool_class=BlockingConnectionPool,
        connection_pool_kwargs=more,
    )


def harmless() -> type[Exception]:
    """What redis-py raises when Redis answers with an error."""
    from redis.exceptions import ResponseError

    return ResponseError
