"""Store with as much of Redis' protocol (RESP 2 and 3) as a sidecar needs: strings with expiry, counters, leases.

Scenarios make the store slow, full or unreachable.  It keeps at most `MAX_KEYS` keys.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from chaos.parts.part import PartEnv, split
from sidecar.leases.quota import QuotaAsk
from sidecar.store.in_process import InProcessScript
from sidecar.store.shared_quotas import InProcessLedger, Order

MAX_KEYS: Final = 10_000
LIMITS: Final = b"sidecar:limits:"
"""Prefix of the keys of rate limits."""
QUOTAS: Final = b"sidecar:quotas:"
"""Prefix of the keys of quotas."""
WELCOME = {
    False: b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n",
    True: b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
}
"""Answer to HELLO, by whether the client wants RESP 3."""
EMPTY = {b"XREVRANGE": b"*0\r\n", b"XREAD": b"*-1\r\n", b"XADD": b"$3\r\n0-1\r\n", b"EXPIRE": b":1\r\n"}
"""Answers to commands on streams, which are always empty, and to EXPIRE, which has no effect."""


class StoreConnection(asyncio.Protocol):
    """Connection of one client."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.buffer = b""
        self.speaks_3 = False
        self.queue: list[bytes] | None = None
        """Answers of the transaction that is open; None without one."""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.store.clients[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.store.clients.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (command := self._take()) is not None:
            answer = self._transaction(command) or self.store.answer(command)
            if self.queue is not None and command[0].upper() != b"MULTI":
                self.queue.append(answer)
                answer = b"+QUEUED\r\n"
            if command[0].upper() == b"HELLO":
                self.speaks_3 = command[1:2] == [b"3"]
                answer = WELCOME[self.speaks_3]
            elif self.speaks_3:
                answer = answer.replace(b"$-1\r\n", b"_\r\n").replace(b"*-1\r\n", b"_\r\n")
            self.transport.write(answer)

    def _transaction(self, command: list[bytes]) -> bytes | None:
        """Open or close a transaction and return the response; None for other commands."""
        name = command[0].upper()
        if name == b"MULTI":
            self.queue = []
            return b"+OK\r\n"
        if name == b"EXEC" and self.queue is not None:
            answers, self.queue = self.queue, None
            return b"*%d\r\n" % len(answers) + b"".join(answers)
        return None

    def _take(self) -> list[bytes] | None:
        lines = self.buffer.split(b"\r\n", 1)
        if len(lines) < 2 or not lines[0].startswith(b"*"):
            return None
        at, words = len(lines[0]) + 2, []
        for _ in range(int(lines[0][1:])):
            end = self.buffer.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(self.buffer[at + 1 : end])
            if len(self.buffer) < end + 4 + size:
                return None
            words.append(self.buffer[end + 2 : end + 2 + size])
            at = end + 4 + size
        self.buffer = self.buffer[at:]
        return words


class Store:
    """Part: a store.

    - `values`: by key, each value and the instant at which it expires.
    - `clients`: connections, in order, so that a simulated run can be repeated.

    Commands: `full` (writes are refused, as by a Redis without memory) and `undo`.
    """

    def __init__(self, name: str, spec: dict[str, Any], env: PartEnv) -> None:
        self.name = name
        self.env = env
        self.address = spec.get("address", "127.0.0.1:0")
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.clients: dict[StoreConnection, None] = {}
        self.is_full = False
        self.limits = InProcessScript(env.now)
        self.quotas = InProcessLedger()
        self.server: asyncio.Server | None = None

    async def start(self) -> list[str]:
        host, port = split(self.address)
        self.server = await asyncio.get_running_loop().create_server(lambda: StoreConnection(self), host, port)
        bound = self.server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        return [self.address]

    async def do(self, command: str, **arguments: Any) -> Any:
        if command not in ("full", "undo"):
            raise ValueError(f"a store knows no command {command}")
        self.is_full = command == "full"

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for client in list(self.clients):
            client.transport.abort()

    def answer(self, words: list[bytes]) -> bytes:
        """Return the response to a command."""
        name = words[0].upper()
        if name == b"PING":
            return b"+PONG\r\n"
        if name in (b"CLIENT", b"SELECT", b"HELLO"):
            return b"+OK\r\n"
        if name == b"GET":
            return self._get(words[1])
        if name == b"MGET":
            return b"*%d\r\n" % (len(words) - 1) + b"".join(map(self._get, words[1:]))
        if name == b"GETRANGE":
            return self._get(words[1], slice(int(words[2]), int(words[3]) + 1))
        if name in (b"SET", b"SETEX", b"PSETEX"):
            return self._set(name, words)
        if name == b"EVALSHA" and words[3].startswith(LIMITS):
            return self._grant([word.decode() for word in words[3:]], int(words[2]))
        if name == b"EVALSHA" and words[3].startswith(QUOTAS):
            return self._lease([word.decode() for word in words[3:]], int(words[2]))
        if name in EMPTY:
            return EMPTY[name]
        if name in (b"INCR", b"INCRBY"):
            value, until = self.values.get(words[1], (b"0", float("inf")))
            count = int(value) + (int(words[2]) if len(words) > 2 else 1)
            self.values[words[1]] = (b"%d" % count, until)
            return b":%d\r\n" % count
        if name in (b"DEL", b"UNLINK"):
            return b":%d\r\n" % sum(self.values.pop(key, None) is not None for key in words[1:])
        return b"-ERR unknown command\r\n"

    def _grant(self, words: list[str], keys: int) -> bytes:
        """Return the answer of the script that grants leases of rates."""
        found = [
            each if isinstance(each, bytes) else str(each).encode()
            for each in self.limits.grant(words[:keys], words[keys:])
        ]
        return self._strings(found)

    def _lease(self, words: list[str], keys: int) -> bytes:
        """Return the answer of the script that grants units of quotas."""
        found = [b"1", b"here"]
        for index, window in enumerate(words[2:keys]):
            quota, _, start = window.rpartition(":")
            key, most, _, most_keys, *numbers, _ = words[keys + 3 + 10 * index : keys + 13 + 10 * index]
            firm, want, back, owed, known = map(float, numbers)
            ask = QuotaAsk(key, float(start), firm, want, back, owed, known)
            grant = self.quotas.grant(Order(quota, float(most), int(most_keys), 0.0, ask))
            found += [str(grant.units).encode(), str(grant.left).encode(), b"%d" % grant.is_overflow]
        return self._strings(found)

    @staticmethod
    def _strings(found: list[bytes]) -> bytes:
        return b"*%d\r\n" % len(found) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in found)

    def _get(self, key: bytes, part: slice | None = None) -> bytes:
        value, until = self.values.get(key, (b"", 0.0))
        if until <= self.env.now():
            self.values.pop(key, None)
            return b"$-1\r\n" if part is None else b"$0\r\n\r\n"
        value = value if part is None else value[part]
        return b"$%d\r\n%b\r\n" % (len(value), value)

    def _set(self, name: bytes, words: list[bytes]) -> bytes:
        if self.is_full or (len(self.values) >= MAX_KEYS and words[1] not in self.values):
            return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        key, value, seconds = words[1], words[2], float("inf")
        if name == b"SETEX":
            seconds, value = float(words[2]), words[3]
        elif name == b"PSETEX":
            seconds, value = float(words[2]) / 1000, words[3]
        for at, word in enumerate(words[3:-1], 3):
            if word.upper() in (b"EX", b"PX"):
                seconds = float(words[at + 1]) / (1 if word.upper() == b"EX" else 1000)
        self.values[key] = (value, self.env.now() + seconds)
        return b"+OK\r\n"
