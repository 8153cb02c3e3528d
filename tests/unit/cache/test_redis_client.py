"""Tests of the adapter to aiocache: keys, values and connections of a Redis."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.cache.codec import Record
from sidecar.cache.spec import RedisSpec
from sidecar.upstream.resolver import NameResolver, Queries, Resolver
from sidecar.upstream.spec import ResolveSpec
from sidecar.upstream.tls import ServerTlsSpec, build_context
from tests.support.authority import Authority
from tests.support.clock import remembering
from tests.support.loop import others_done
from tests.unit.cache.support import NOW, WALL, entry

pytest.importorskip("redis")

from sidecar.cache.redis_client import CONNECTIONS, RecordSerializer, RedisClient, Unreadable
from sidecar.cache.redis_tier import RedisTier


def serializer() -> RecordSerializer:
    return RecordSerializer(lambda: NOW, lambda: WALL, lambda: 2**20)


def client(url: str, names: Any = None) -> RedisClient:
    spec = RedisSpec.model_validate({"url": url, "timeout": "250ms" if names is None else "10s"})
    return RedisClient(spec, "sidecar:orders", lambda: NOW, lambda: WALL, names)


class OneName:
    """Resolver that gives one address for all names."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []

    async def look_up(self, name: str) -> list[str]:
        return [self.address]

    async def open_socket(self, host: str, port: int) -> socket.socket:
        self.asked.append(host)
        sock = socket.create_connection((self.address, port))
        sock.setblocking(False)
        return sock

    def with_settings(self, settings: Any) -> OneName:
        return self


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_names_are_looked_up_by_the_process_and_expected_in_certificates(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority(tmp_path / "ca")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(b"+PONG\r\n" * data.count(b"*"))
        writer.close()

    tls = build_context(ServerTlsSpec(**ca.sign("cache.test"))) if scheme == "rediss" else None
    monkeypatch.setenv("SSL_CERT_FILE", ca.ca_file)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        names = OneName("127.0.0.1")
        redis = client(f"{scheme}://cache.test:{server.sockets[0].getsockname()[1]}", names)
        assert await redis.raw("ping")
        assert names.asked == ["cache.test"]
        await redis.close()


def test_records_survive_serialization() -> None:
    one = entry()
    loaded = serializer().loads(serializer().dumps(Record(one, b"7/3")))
    assert isinstance(loaded, Record)
    assert (loaded.item.key, loaded.generation) == (one.key, b"7/3")


def test_counters_and_missing_keys_stay_what_they_are() -> None:
    assert serializer().loads(b"12") == b"12"
    assert serializer().loads(None) is None
    assert serializer().encoding is None, "aiocache would decode bytes"


@pytest.mark.parametrize("noise", [b"", b"-1", b"noise", b"SC\x02E"])
def test_other_bytes_are_a_value_and_no_exception(noise: bytes) -> None:
    assert isinstance(serializer().loads(noise), Unreadable)


def test_keys_have_the_namespace() -> None:
    assert client("redis://127.0.0.1").build_key("e:x") == "sidecar:orders:e:x"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://127.0.0.1", {"host": "127.0.0.1", "port": 6379, "db": 0, "username": None, "password": None}),
        ("redis://me:s%40crt@r:7/3", {"host": "r", "port": 7, "db": 3, "username": "me", "password": "s@crt"}),
    ],
)
def test_connections_are_few_wait_for_their_turn_and_are_not_retried(url: str, wanted: dict[str, object]) -> None:
    pool = client(url).client.connection_pool
    connection = pool.make_connection()
    assert {name: getattr(connection, name) for name in wanted} == wanted
    assert (pool.max_connections, pool.timeout, connection.socket_connect_timeout) == (CONNECTIONS, 0.25, 0.25)
    assert connection.retry.get_retries() == 0


def test_tls_is_used_where_the_address_asks_for_it() -> None:
    kinds = [type(client(url).client.connection_pool.make_connection()) for url in ("redis://a", "rediss://a")]
    assert [kind.__name__ for kind in kinds] == ["Connection", "SSLConnection"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_tier_that_waits_for_its_name_says_so(hangs: bool) -> None:
    silence = asyncio.get_running_loop().create_future()

    async def ask(*_: Any) -> Any:
        if hangs:
            await silence
        return [("127.0.0.1", 60.0)]

    env = remembering(asyncio.get_running_loop(), seed=None)
    names = NameResolver(Resolver(env.now, env.spawn, ask), Queries(), ResolveSpec.built_in())
    with socket.socket() as listener:  # accepts connections and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        spec = RedisSpec.model_validate({"url": f"redis://redis.test:{listener.getsockname()[1]}", "timeout": "50ms"})
        tier = RedisTier(spec, "c", replace(env, names=names), lambda kind, value: None, lambda: 2**20)
        async with asyncio.timeout(30):
            assert await tier.load(b"key", b"http://a/") == (None, None)
        assert ("the look-up of redis.test" in tier.describe()["last_error"]) is hangs
        tier.close()
        silence.cancel()
        await others_done()


async def test_a_look_up_that_hangs_is_left_with_the_command_that_needs_it() -> None:
    class Hanging(OneName):
        async def open_socket(self, host: str, port: int) -> socket.socket:
            self.asked.append(host)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    names = Hanging("")
    redis = client("redis://cache.test", names)
    command = asyncio.create_task(redis.raw("ping"))
    while not names.asked:
        await asyncio.sleep(0)
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    await redis.close()
