"""Several services behind a whole proxy in virtual time, which answer by host and path.

services = Services({"users/users/7": answer(b'{"id": 7}'), "orders/orders": answer(b"[]", after=0.3)})
proxy = Proxy(POLICIES, services)
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from sidecar.simulation.transport import Address
from tests.support.proxy import Service
from tests.support.transports import Wire


class Answer(NamedTuple):
    """Answer of a service."""

    data: bytes
    after: float = 0.0
    """Seconds from the request to the answer."""
    is_reset: bool = False
    """True to close the connection in place of an answer."""
    then: tuple[tuple[float, bytes], ...] = ()
    """Pieces that follow, each with its seconds after the answer; an empty one resets the connection."""


def answer(body: bytes = b"{}", status: int = 200, after: float = 0.0, **fields: str) -> Answer:
    """Return an answer; underscores in the names of fields stand for dashes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return Answer(head.encode() + body, after)


HANG = Answer(b"", float("inf"))
"""Answer that never comes."""
RESET = Answer(b"", 0.0, True)
NOT_FOUND = answer(b'{"error": "not found"}', 404)


class Services(Service):
    """Services by their host; requests are remembered as `host/path`."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__()
        self.answers = answers
        self.hosts: dict[str, Host] = {}
        """Latest connection to each host."""
        self.split: int | None = None
        """Most bytes that arrive in one turn of the loop; None for all that were sent."""
        self.seen: list[str] = []
        """Hosts, paths and queries of all requests, in their order."""
        self.heads: list[bytes] = []
        """Heads and bodies of all requests."""
        self.active = 0
        """Requests without an answer."""
        self.peak = 0
        """Most requests without an answer at the same time."""

    async def accept(self, address: Address) -> asyncio.BaseProtocol:
        self.hosts[address[0]] = host = Host(self, address[0])
        return host

    def of(self, host: str) -> list[str]:
        """Return the requests of one host."""
        return [each for each in self.seen if each.startswith(f"{host}/")]


class Host(Wire):
    """Connection to one service."""

    def __init__(self, services: Services, name: str) -> None:
        super().__init__()
        self._services = services
        self._name = name
        self._timers: list[Any] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        services = self._services
        self.transport.split = services.split
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[: end + 4])
            length = next(
                (
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            if len(self.received) < end + 4 + length:
                return
            services.heads.append(bytes(self.received[: end + 4 + length]))
            del self.received[: end + 4 + length]
            target = head.split(b" ", 2)[1].decode()
            services.seen.append(self._name + target)
            key = self._name + target
            found = services.answers.get(key) or services.answers.get(key.partition("?")[0], NOT_FOUND)
            services.active += 1
            services.peak = max(services.peak, services.active)
            if found.after != float("inf"):
                loop = asyncio.get_running_loop()
                self._timers.append(loop.call_later(found.after, self._answer, found))

    def _answer(self, found: Answer) -> None:
        self._services.active -= 1
        if found.is_reset:
            self.transport.abort()
            return
        self.write(found.data)
        for seconds, piece in found.then:
            self._timers.append(asyncio.get_running_loop().call_later(seconds, self._go_on, piece))

    def _go_on(self, piece: bytes) -> None:
        if piece:
            self.write(piece)
        else:
            self.transport.abort()
