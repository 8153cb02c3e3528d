"""Ledger of streams: whatever frames a client of HTTP/2 sends, all that its exchanges took is given back.

The play is random: clients open streams of every kind, send some of their bodies, reset them, break the rules, close
windows, stop reading and disconnect, while an upstream answers in pieces or hangs up.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from tests.contract.test_ledger import BETWEEN, Stand, check
from tests.support.loop import virtual
from tests.support.proxy import Client
from tests.unit.http2.peer import data, headers, setting

STEPS = 120
FIELDS = [(b":scheme", b"http"), (b":authority", b"a")]
CALL = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"1S")]
SOCKET = [(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1\r\nContent-Length: 2\r\n\r\nhi",
    b"0\r\n\r\n",
    b"nonsense\r\n\r\n",
)


class Streams:
    """Client of HTTP/2 that writes frames, allowed or not."""

    def __init__(self, client: Client, choices: random.Random) -> None:
        self.client = client
        self.choices = choices
        self.next = 1
        self.open: list[int] = []
        """Streams whose request is not whole."""
        client.write(f.PREFACE + setting(f.INITIAL_WINDOW_SIZE, choices.choice((0, 100, 65535))) + f.SETTINGS_ACK)

    def any(self) -> int:
        """Return a stream whose request is not whole; begin some if there is none."""
        while not self.open:
            self.begin()
        return self.choices.choice(self.open)

    def begin(self) -> None:
        number, self.next = self.next, self.next + 2
        path = self.choices.choice((b"/x", b"/y", b"/shaped", b"/events"))
        method, more, is_end = self.choices.choice(
            [
                (b"GET", [], True), (b"GET", [], True), (b"HEAD", [], True), (b"POST", [], False),
                (b"PUT", [(b"content-length", b"4")], False), (b"POST", CALL, False), (b"POST", CALL, True),
                (b"PUT", [(b"expect", b"100-continue")], False), (b"CONNECT", SOCKET, False),
                (b"GET", [(b"Bad", b"x")], True), (b"POST", [(b"content-length", b"9")], True),
            ]
        )  # fmt: skip
        if not is_end:
            self.open.append(number)
        fields = [(b":method", method), *FIELDS, (b":path", path), *more]
        self.client.write(headers(number, fields, is_end))

    def send(self) -> None:
        size = self.choices.choice((0, 1, 4, 1000, 16384))
        self.client.write(data(self.any(), b"x" * size) * self.choices.choice((1, 1, 5)))

    def finish(self) -> None:
        number = self.any()
        self.open.remove(number)
        end = self.choices.choice(
            (data(number, b"", True), data(number, b"abcd", True), headers(number, [(b"x", b"y")]))
        )
        self.client.write(end)

    def reset(self) -> None:
        number = self.any()
        self.open.remove(number)
        self.client.write(f.rst_stream(number, e.CANCEL))

    def reset_any(self) -> None:
        if self.next > 1:
            self.client.write(f.rst_stream(self.choices.randrange(1, self.next, 2), e.CANCEL))

    def update(self) -> None:
        self.client.write(f.window_update(0, 1000))
        if self.next > 1:
            self.client.write(
                f.window_update(self.choices.randrange(1, self.next, 2), self.choices.choice((1, 70_000)))
            )

    def set(self) -> None:
        self.client.write(setting(f.INITIAL_WINDOW_SIZE, self.choices.choice((0, 1, 65535))))

    def pause(self) -> None:
        self.client.transport.pause_reading()

    def resume(self) -> None:
        self.client.transport.resume_reading()

    def break_rules(self) -> None:
        self.client.write(
            self.choices.choice((f.window_update(self.any(), 0), f.goaway(0, 0), data(0, b"x"), b"x" * 9))
        )

    def leave(self) -> None:
        self.choices.choice((self.client.transport.abort, self.client.transport.close))()


class Play:
    """Sidecar with such clients and an upstream."""

    def __init__(self, stand: Stand, seed: int) -> None:
        self.stand = stand
        self.choices = random.Random(seed)
        self.clients: list[Streams] = []

    async def join(self) -> None:
        client = await self.stand.connect()
        self.stand.clients.append(client)
        self.clients.append(Streams(client, self.choices))

    def upstream(self) -> None:
        self.stand.accept(ConnectionRefusedError() if self.choices.random() < 0.1 else None)
        alive = [each for each in self.stand.asked if not each.is_lost]
        if alive:
            asked = self.choices.choice(alive)
            if self.choices.random() < 0.1:
                self.choices.choice((asked.transport.abort, asked.transport.close))()
            else:
                asked.write(self.choices.choice(ANSWERS))

    async def step(self) -> None:
        alive = [each for each in self.clients if not each.client.is_lost and not each.client.is_eof]
        if len(alive) < 2:
            await self.join()
            return
        one = self.choices.choice(alive)
        self.choices.choice(
            [one.begin] * 10
            + [one.send] * 4
            + [one.finish] * 3
            + [one.update] * 2
            + [self.upstream] * 12
            + [one.reset, one.reset, one.reset_any, one.set, one.pause, one.resume, one.resume]
            + ([one.break_rules, one.leave] if self.choices.random() < 0.3 else [])
        )()
        await asyncio.sleep(self.choices.choice((0.0, BETWEEN, BETWEEN, 0.3)))


@pytest.mark.parametrize("seed", range(10))
@virtual
async def test_all_that_streams_took_is_given_back(seed: int) -> None:
    stand = Stand()
    await stand.start()
    play = Play(stand, seed)
    for _ in range(STEPS):
        await play.step()
    for streams in play.clients:
        streams.client.transport.close()
    await check(stand, f"seed {seed}")
