"""Connections to a Redis: the only module that imports redis-py, loaded if a Redis is configured.

These settings differ from its defaults:

- Pools are small, and commands wait for a connection.  By default a hundred are opened, then commands fail.
- Nothing is retried.  redis-py's retries hold a caller for seconds while Redis refuses connections, and a command that
  gives tokens back must not run twice.
- RESP2 is spoken.  A connection by RESP3 takes two more round trips, which count to `timeout`, and a server may tell it
  to relax its timeouts or to move to another address.
- The process's `NameResolver`, if it has one, opens the connections: redis-py would look names up in a thread.  The
  classes of connections override `_connect`, which redis-py leaves to each kind of connection, and its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha1
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, NoScriptError, ReadOnlyError, ResponseError

from sidecar.core.env import NameResolver
from sidecar.store.exchanges import PROBE_TIMEOUT
from sidecar.store.spec import RedisSpec

RefusedByRedis = ResponseError
"""Error with which Redis answers a command, for example because it is full."""
TIMES: Final = ("timeout", "socket_timeout", "socket_connect_timeout")
"""Settings of a pool with times: to wait for a connection, for an answer, and until it is connected."""
ConnectionPool = BlockingConnectionPool
"""Class of connection pools."""


def refuses_writes(error: RefusedByRedis) -> bool:
    """True if the error says that the server takes no writes at all.

    It is a replica or has lost its primary, as after a failover, or it cannot save itself (MISCONF), as on a full disk.
    Before version 7 a script's error has the code in its text.
    """
    text = str(error)
    return isinstance(error, (ReadOnlyError, ClusterDownError)) or "READONLY" in text or "MISCONF" in text


def pool_settings(spec: RedisSpec) -> dict[str, Any]:
    """Return the settings of a pool: times, retries, protocol, and the user's name if the URL has one."""
    settings: dict[str, Any] = {
        "timeout": spec.timeout,
        "socket_timeout": spec.timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if user := urlsplit(spec.url).username:
        settings["username"] = unquote(user)
    return settings


class RedisScript:
    """Script that runs in the Redis of one store.  The caller ends calls that take too long (`exchanges`)."""

    def __init__(self, spec: RedisSpec, text: str, names: NameResolver | None) -> None:
        """Connect when the script runs for the first time."""
        url = urlsplit(spec.url)
        kind: Any = SSLConnection if url.scheme == "rediss" else Connection
        pool = BlockingConnectionPool(
            connection_class=kind if names is None else connected_by(names, kind),
            max_connections=2,
            host=url.hostname or "127.0.0.1",
            port=url.port or 6379,
            db=int(url.path.strip("/") or 0),
            password=unquote(url.password) if url.password else None,
            **pool_settings(spec) | dict.fromkeys(TIMES, max(spec.timeout, PROBE_TIMEOUT)),
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._text = text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, keys: list[str], arguments: Sequence[str | bytes]) -> list[Any]:
        """Return what the script returns.  Raises an error of redis-py, or `OSError`."""
        try:
            found: list[Any] = await self._redis.evalsha(self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            found = await self._redis.eval(self._text, len(keys), *keys, *arguments)
        return found

    async def disconnect(self) -> None:
        """Close all connections, so that the next call looks the address up anew and may find another server."""
        with suppress(Exception):
            await self._redis.connection_pool.disconnect()

    async def close(self) -> None:
        """Close all connections for good."""
        with suppress(Exception):
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()


def connected_by(names: NameResolver, kind: Any) -> type[Connection]:
    """Return a subclass of a connection class, plain or TLS, whose sockets are opened by `names`."""

    class NamedConnection(kind):  # type: ignore[misc]
        async def _connect(self) -> None:
            self._socket = await names.open_socket(self.host, self.port)
            try:
                await super()._connect()
            except BaseException:
                self._socket.close()
                raise

        def _connection_arguments(self) -> dict[str, Any]:
            arguments = {**super()._connection_arguments(), "sock": self._socket}
            name = arguments.pop("host")
            del arguments["port"]
            return {**arguments, "server_hostname": name} if "ssl" in arguments else arguments

    return NamedConnection
