"""Random traffic on streams: whatever both sides do, every exchange ends once and nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from sidecar.core import events
from sidecar.core.body import Body
from sidecar.core.outcome import CLIENT_CLOSED
from sidecar.core.promise import Run
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.http2.session import FIRST_GOAWAY
from tests.support.loop import settle, virtual
from tests.unit.http2.peer import OK, headers
from tests.unit.upstream.back import Sink, get, start, upload
from tests.unit.upstream.http2.back import Http2Server, StreamBack

STEPS = 120


class Play:
    """One upstream with random clients and servers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.back = StreamBack(
            Limits(max_streams=self.random.choice((1, 3, 100)), frame_burst=1e9, reset_burst=1e9),
            connections={"max": self.random.choice((1, 2, 50)), "idle_timeout": "5s"},
        )
        self.upstream = self.back.upstream()
        self.runs: list[Run] = []
        self.uploads: list[Body] = []
        self.sinks: list[Sink] = []
        self.read: set[int] = set()

    def server(self) -> Http2Server | None:
        alive = [server for server in self.back.servers if not server.is_lost and not server.transport.is_closing()]
        return self.random.choice(alive) if alive else None

    # ----- clients

    def send(self) -> None:
        x = get(self.random.choice((b"GET", b"POST", b"HEAD")), body=self.random.choice((b"", b"x" * 100_000)))
        x.attempt_timeout = self.random.choice((0.3, 2.0))
        if self.random.random() < 0.3:
            x.deadline = x.caller_deadline = self.back.env.now() + 0.05
        self.runs.append(start(self.upstream, x))

    def upload(self) -> None:
        x, body, _ = upload(attempt_timeout=2.0, idle_timeout=0.5, expects_continue=self.random.random() < 0.2)
        self.uploads.append(body)
        self.runs.append(start(self.upstream, x))

    def feed(self) -> None:
        if self.uploads:
            self.random.choice(self.uploads).feed(b"x" * self.random.choice((1, 1000, 70_000)))

    def end_upload(self) -> None:
        if self.uploads:
            body = self.uploads.pop()
            if self.random.random() < 0.7:
                body.finish([(b"x-a", b"b")] if self.random.random() < 0.5 else None)
            else:
                body.fail(CLIENT_CLOSED)

    def leave(self) -> None:
        running = [run for run in self.runs if not run.has_ended]
        if running:
            self.random.choice(running).cancel()

    def take(self) -> None:
        for run in self.runs:
            if run.value is not None and run.value.stream is not None and id(run) not in self.read:
                self.read.add(id(run))
                if self.random.random() < 0.3:
                    run.value.discard()
                else:
                    self.sinks.append(Sink(run.value))
                return

    def block(self) -> None:
        if self.sinks:
            sink = self.random.choice(self.sinks)
            self.random.choice((sink.stream.pause, sink.stream.resume))()

    # ----- servers

    def answer(self) -> None:
        if (server := self.server()) is not None and server.session.streams:
            stream = self.random.choice(list(server.session.streams.values()))
            size = self.random.choice((0, 10, 300_000))
            if not stream.has_sent_head:
                server.answer(stream, b"x" * size, end=self.random.random() < 0.6)
            elif self.random.random() < 0.5:
                server.send(stream, b"y" * size, self.random.random() < 0.5)
            else:
                server.trail(stream, b"x-t: 1\r\n")

    def break_stream(self) -> None:
        if (server := self.server()) is not None and server.session.streams:
            stream = self.random.choice(list(server.session.streams.values()))
            if self.random.random() < 0.3:
                server.say(headers(stream.id, [*OK, (b"x-a", b"b\x00")]))
            else:
                server.reset(stream, self.random.choice((e.NO_ERROR, e.REFUSED_STREAM, e.CANCEL, e.INTERNAL_ERROR)))

    def go_away(self) -> None:
        if (server := self.server()) is not None:
            last = server.asked[-1].id if server.asked else 0
            server.say(f.goaway(self.random.choice((FIRST_GOAWAY, last, max(0, last - 2))), e.NO_ERROR))

    def cut(self) -> None:
        if (server := self.server()) is not None:
            self.random.choice((server.transport.abort, server.transport.close))()

    def turn_deaf(self) -> None:
        if (server := self.server()) is not None:
            server.is_deaf = True

    def step(self) -> None:
        self.random.choice(
            [self.send] * 8
            + [self.upload] * 3
            + [self.feed] * 6
            + [self.end_upload] * 3
            + [self.answer] * 14
            + [self.take] * 5
            + [self.block] * 3
            + [self.leave, self.break_stream, self.break_stream, self.go_away, self.cut, self.turn_deaf]
        )()


@pytest.mark.parametrize("seed", range(40))
@virtual
async def test_no_traffic_leaves_anything_behind(seed: int) -> None:
    play = Play(seed)
    for _ in range(STEPS):
        play.step()
        if play.random.random() < 0.7:
            await settle(play.random.choice((1, 3, 10)))
        else:
            await asyncio.sleep(play.random.choice((0.01, 0.1)))
        pool = play.back.pool
        assert len(pool.carriers) + pool.opening <= 2 * pool.max_size, "as many again may be on their way out"
    for sink in play.sinks:
        sink.stream.resume()
    for body in play.uploads:
        body.finish()
    await asyncio.sleep(3)
    for run in play.runs:
        if run.value is not None and run.value.stream is not None and id(run) not in play.read:
            Sink(run.value)
    await asyncio.sleep(60)
    assert all(run.has_ended for run in play.runs)
    (endpoint,) = play.upstream.endpoints.members
    assert endpoint.in_flight == 0
    assert play.back.pool.streams == 0
    assert play.back.pool.size == 0, "idle connections have ended"
    assert not play.back.pool.deadlines.entries
    assert play.back.pool.describe()["waiting"] == 0
    assert not [event for event, _ in play.back.env.events if event == events.BUG]
