"""A link: a TCP relay in front of one address, and the faults on the wire that are in force there.

Pieces pass in order, each after its delay; reading stops while more than `MOST_HELD` bytes wait, so that a link is as
bounded as a socket.  Commands: `target`, `toxic`, `undo`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from chaos.faults.answer import reset
from chaos.faults.tcp import LISTENING, Direction, Toxic
from chaos.parts.part import World, split
from chaos.parts.port import Port, make_port

MOST_HELD = 256 * 1024


class End(asyncio.Protocol):
    """One of the two sides of a relayed connection."""

    def __init__(self, pair: Pair, direction: Direction) -> None:
        self.pair = pair
        self.direction = direction
        """Which way goes what is read here."""
        self.transport: asyncio.Transport | None = None
        self.other: End
        self.way: deque[tuple[float, bytes | None]] = deque()
        self.held = self.passed = 0
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.is_deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        link = self.pair.link
        pieces, now = [data], link.world.now()
        self.due = max(self.due, now)
        gap = 0.0
        for toxic in link.toxics_on(self.pair, self.direction):
            match toxic.kind:
                case "latency":
                    self.due = max(self.due, now + toxic.delay())
                case "bandwidth":
                    self.due += len(data) / toxic.rate
                case "slice":
                    pieces = [data[at : at + toxic.size] for at in range(0, len(data), toxic.size)]
                    gap = toxic.by
                case "corrupt":
                    pieces = [toxic.corrupt(piece) for piece in pieces]
                case "reset" | "truncate" if self.passed + len(data) > toxic.after:
                    self.pair.end(toxic.kind, self, data[: max(0, toxic.after - self.passed)])
                    return
        for piece in pieces:
            self._hold(self.due, piece)
            self.due += gap
        self._move()

    def _hold(self, due: float, piece: bytes | None) -> None:
        self.way.append((due, piece))
        self.held += 0 if piece is None else len(piece)
        if self.held > MOST_HELD and self.transport is not None:
            self.transport.pause_reading()

    def _move(self) -> None:
        """Pass on what is due."""
        link = self.pair.link
        while self.way:
            due, piece = self.way[0]
            if self.other.transport is None or link.holds(self.pair, self.direction):
                return  # `moved` calls again
            wait = due - link.world.now()
            if wait > 1e-4:
                if self.timer is None:
                    self.timer = asyncio.get_running_loop().call_later(wait, self._due)
                return
            self.way.popleft()
            if piece is None:
                self.other.transport.close()
                return
            self.held -= len(piece)
            self.passed += len(piece)
            self.other.transport.write(piece)
        if self.transport is not None and self.held < MOST_HELD and not self.transport.is_closing():
            self.transport.resume_reading()

    def _due(self) -> None:
        self.timer = None
        self._move()

    def moved(self) -> None:
        """Faults have changed, or the other side is there."""
        self._move()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.pair.lost(self, exc)


class Pair:
    """A relayed connection."""

    def __init__(self, link: Link) -> None:
        self.link = link
        link.count += 1
        self.number = link.count
        self.front = End(self, "up")
        self.back = End(self, "down")
        self.front.other, self.back.other = self.back, self.front
        link.pairs.add(self)
        self.task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        host, port = split(self.link.target)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.back, host, port)
        except OSError:
            if self.front.transport is not None:
                reset(self.front.transport)
            self.link.pairs.discard(self)
            return
        if self.front.transport is None or self.front.transport.is_closing():
            self.close()
        else:
            self.front.moved()

    def lost(self, end: End, exc: Exception | None) -> None:
        """One side has ended: so does the other, in its time."""
        other = end.other
        self.link.pairs.discard(self)
        if other.transport is None or other.transport.is_closing():
            return
        if any(toxic.kind == "half_open" for toxic in self.link.toxics_on(self, end.direction)):
            self.link.pairs.add(self)  # it hears nothing
            return
        if exc is not None:
            reset(other.transport)
            return
        late = sum(t.by for t in self.link.toxics_on(self, end.direction) if t.kind == "slow_close")
        end._hold(max(end.due, self.link.world.now() + late), None)
        end._move()

    def end(self, kind: str, end: End, data: bytes) -> None:
        """Reset or cut off, after a first part of the data."""
        for each in (self.front, self.back):
            if each.transport is None:
                continue
            if each is end.other and data and not each.transport.is_closing():
                each.transport.write(data)
            if kind == "reset":
                reset(each.transport)
            else:
                each.transport.close()
        self.link.pairs.discard(self)

    def close(self) -> None:
        self.task.cancel()
        for end in (self.front, self.back):
            if end.transport is not None:
                end.transport.abort()
        self.link.pairs.discard(self)


class Link:
    """The part."""

    def __init__(self, name: str, spec: dict[str, Any], world: World) -> None:
        self.name = name
        self.world = world
        self.target: str = spec["target"]
        self.toxics: dict[str, Toxic] = {}
        self.pairs: set[Pair] = set()
        self.count = 0
        self.port: Port = make_port(lambda: Pair(self).front, spec.get("host", "127.0.0.1"))

    async def start(self) -> list[str]:
        return [await self.port.open()]

    async def do(self, command: str, **arguments: Any) -> Any:
        if command == "target":
            self.target = arguments["target"]
        elif command == "toxic":
            await self._begin(arguments.pop("id"), Toxic(rng=self.world.rng, **arguments))
        elif command == "undo":
            await self._end(arguments["id"])
        else:
            raise ValueError(f"a link knows no command {command}")

    async def stop(self) -> None:
        await self.port.close()
        for pair in list(self.pairs):
            pair.close()

    async def _begin(self, id: str, toxic: Toxic) -> None:
        self.toxics[id] = toxic
        if toxic.kind == "refuse":
            await self.port.close()
        elif toxic.kind == "backlog":
            await self.port.hang()
        if toxic.kind in (*LISTENING, "half_open", "reset"):
            for pair in list(self.pairs):  # connections that are open end too, or lose their other side
                if toxic.share < 1.0 and not toxic.acts(pair.number, toxic.direction):
                    continue
                if toxic.kind == "half_open":
                    if pair.back.transport is not None:
                        pair.back.transport.abort()
                elif toxic.kind == "reset" and not toxic.after:
                    pair.end("reset", pair.back, b"")
                elif toxic.kind in LISTENING:
                    pair.close()

    async def _end(self, id: str) -> None:
        toxic = self.toxics.pop(id)
        if toxic.kind in LISTENING:
            await self.port.open()
        for pair in list(self.pairs):
            if toxic.kind == "half_open" and (pair.back.transport is None or pair.back.transport.is_closing()):
                pair.close()
                continue
            pair.front.moved()
            pair.back.moved()

    def toxics_on(self, pair: Pair, direction: Direction) -> list[Toxic]:
        """What acts on a connection, one way."""
        if not self.toxics:
            return []
        return [toxic for toxic in self.toxics.values() if toxic.acts(pair.number, direction)]

    def holds(self, pair: Pair, direction: Direction) -> bool:
        """Does nothing pass?"""
        return any(toxic.kind == "blackhole" for toxic in self.toxics_on(pair, direction))
