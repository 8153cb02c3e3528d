"""Upstream's end of virtual connections: answers each attempt as a `Behaviour` says.

A connection carries one request after the other.  A failure ends it: a refusal on an open connection closes it without
an answer, so that the sidecar connects anew and is refused then.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import Final, Protocol, cast

from sidecar.core.env import Env
from sidecar.core.exchange import NEVER
from sidecar.core.outcome import CONNECT_FAILURE, CONNECT_TIMEOUT
from sidecar.replay.fit import Answer
from sidecar.replay.record import REFUSED
from sidecar.simulation.transport import Address

NUMBER: Final = b"x-replay-number"
"""Field with the number of a recorded request."""
_number: Final = re.compile(NUMBER + rb": (\d+)\r\n").search
BODILESS: Final = frozenset((204, 205, 304))
"""Statuses of answers without a body."""
UNKNOWN: Final = -1
"""Number of a request that lost its number on the way."""


class Behaviour(Protocol):
    """Behaviour of upstreams: that of a record, or the known truth of a test."""

    def refuses(self, endpoint: str, at: float, rng: random.Random) -> str:
        """Return the reason for which a new connection fails; empty for one that is made."""

    def draw(
        self, route: str, endpoint: str, at: float, rng: random.Random, *, is_again: bool, is_new: bool, in_flight: int
    ) -> Answer:
        """Return the behaviour towards one attempt, beside so many others in flight at the endpoint."""


class Peers:
    """All upstreams of one run.

    - `routes`: recorded route of each request in flight, by its number.
    - `attempts`: number of attempts so far of each request in flight.
    - `in_flight`: number of attempts at each endpoint that have no answer yet.
    """

    def __init__(self, env: Env, behaviour: Behaviour, urls: dict[Address, str], seed: int) -> None:
        """`urls`: URLs of the endpoints by their addresses."""
        self.env = env
        self.behaviour = behaviour
        self.rng = random.Random(f"peers:{seed}")
        self.start = env.now()
        self.routes: dict[int, str] = {}
        self.attempts: dict[int, int] = {}
        self.in_flight: Counter[str] = Counter()
        self._urls = urls
        self._refusals: dict[str, int] = {}

    async def accept(self, address: Address) -> asyncio.Protocol:
        """Return the upstream's end of a new connection.  Raises `OSError` for one that is refused."""
        endpoint = self._urls.get(address, "")
        if self._refusals.get(endpoint, 0):
            self._refusals[endpoint] -= 1
            reason = CONNECT_FAILURE.code
        else:
            reason = self.behaviour.refuses(endpoint, self.env.now() - self.start, self.rng)
        if reason == CONNECT_TIMEOUT.code:
            await self.env.future()
        if reason:
            raise ConnectionRefusedError(111, "Connection refused")
        return PeerConnection(self, endpoint)

    def refuse_next(self, endpoint: str) -> None:
        """Refuse the next connection to an endpoint."""
        self._refusals[endpoint] = self._refusals.get(endpoint, 0) + 1

    def answer_to(self, number: int, endpoint: str, *, is_new: bool) -> Answer:
        """Return the behaviour towards an attempt of the request with a number."""
        made = self.attempts.get(number, 0)
        if number in self.routes:
            self.attempts[number] = made + 1
        at = self.env.now() - self.start
        route = self.routes.get(number, "")
        others = self.in_flight[endpoint]
        return self.behaviour.draw(route, endpoint, at, self.rng, is_again=made > 0, is_new=is_new, in_flight=others)

    def end(self, number: int) -> None:
        """Forget a request that has ended."""
        self.routes.pop(number, None)
        self.attempts.pop(number, None)


class PeerConnection(asyncio.Protocol):
    """Upstream's end of one connection."""

    def __init__(self, peers: Peers, endpoint: str) -> None:
        self._peers = peers
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._is_new = True
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.find(b"\r\n\r\n") < 0:
            return
        head, self._buffer = self._buffer, b""
        found = _number(head)
        answer = self._peers.answer_to(UNKNOWN if found is None else int(found[1]), self._endpoint, is_new=self._is_new)
        if answer.reason in REFUSED and not self._is_new:
            self._peers.refuse_next(self._endpoint)
        self._is_new = False
        self._is_busy = True
        self._peers.in_flight[self._endpoint] += 1
        if answer.seconds == NEVER:
            return
        if answer.seconds > 0 and answer.reason not in REFUSED:
            self._peers.env.call_later(answer.seconds, self._send, answer, head[:5] == b"HEAD ")
        else:
            self._send(answer, head[:5] == b"HEAD ")

    def _send(self, answer: Answer, is_head: bool) -> None:
        """Send the answer, or fail."""
        self._end()
        transport = self._transport
        if transport is None:
            return
        if answer.reason in REFUSED:
            transport.close()
        elif answer.reason == "protocol_error":
            transport.write(b"this is not HTTP\r\n\r\n")
        elif answer.reason:
            transport.abort()
        elif is_head or answer.status in BODILESS:
            transport.write(b"HTTP/1.1 %d -\r\n%b\r\n" % (answer.status, b"content-length: 2\r\n" if is_head else b""))
        else:
            transport.write(b"HTTP/1.1 %d -\r\ncontent-length: 2\r\n\r\nok" % answer.status)

    def _end(self) -> None:
        """Count an attempt no more that has its answer, or that the sidecar has given up."""
        if self._is_busy:
            self._is_busy = False
            self._peers.in_flight[self._endpoint] -= 1
