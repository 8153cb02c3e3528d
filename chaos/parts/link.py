"""Link: a TCP relay in front of one address, with the faults on the wire that are in force there.

Rules:

1. Pieces pass in order, each after its delay.
2. Reading stops while more than `MAX_QUEUED` bytes wait, so that a link is as bounded as a socket.

Commands: `target` (where it leads), `toxic` (a fault begins), `undo` (a fault ends).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast

from chaos.faults.answer import reset
from chaos.faults.tcp import LISTENING, Direction, Toxic
from chaos.parts.part import PartEnv, split
from chaos.parts.port import Port, make_port

MAX_QUEUED: Final = 256 * 1024
"""Bytes queued for one direction of a connection."""


class Side(asyncio.Protocol):
    """Side of a relayed connection.

    - `direction`: which way the bytes go that are read here.
    - `transport`: None until this side is connected.
    - `queue`: pieces with the instant at which each is due; None is the end.
    - `queued_bytes`, `passed_bytes`: bytes in `queue`, and bytes written to the other side so far.
    - `due`: instant before which no further piece passes.
    """

    def __init__(self, relay: Relay, direction: Direction) -> None:
        self.relay = relay
        self.direction = direction
        self.transport: asyncio.Transport | None = None
        self.other: Side
        self.queue: deque[tuple[float, bytes | None]] = deque()
        self.queued_bytes = self.passed_bytes = 0
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        link = self.relay.link
        pieces, now = [data], link.env.now()
        self.due = max(self.due, now)
        gap = 0.0
        for toxic in link.toxics_on(self.relay, self.direction):
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
                case "reset" | "truncate" if self.passed_bytes + len(data) > toxic.after:
                    self.relay.cut(toxic.kind, self, data[: max(0, toxic.after - self.passed_bytes)])
                    return
        for piece in pieces:
            self.enqueue(self.due, piece)
            self.due += gap
        self.pass_on()

    def enqueue(self, due: float, piece: bytes | None) -> None:
        """Queue a piece until it is due."""
        self.queue.append((due, piece))
        self.queued_bytes += 0 if piece is None else len(piece)
        if self.queued_bytes > MAX_QUEUED and self.transport is not None:
            self.transport.pause_reading()

    def pass_on(self) -> None:
        """Write the due pieces to the other side; called again once that is connected or a fault has ended."""
        link = self.relay.link
        while self.queue:
            due, piece = self.queue[0]
            if self.other.transport is None or link.is_blocking(self.relay, self.direction):
                return
            wait = due - link.env.now()
            if wait > 1e-4:
                if self.timer is None:
                    self.timer = asyncio.get_running_loop().call_later(wait, self._timer_fired)
                return
            self.queue.popleft()
            if piece is None:
                self.other.transport.close()
                return
            self.queued_bytes -= len(piece)
            self.passed_bytes += len(piece)
            self.other.transport.write(piece)
        if self.transport is not None and self.queued_bytes < MAX_QUEUED and not self.transport.is_closing():
            self.transport.resume_reading()

    def _timer_fired(self) -> None:
        self.timer = None
        self.pass_on()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.relay.lost(self, exc)


class Relay:
    """One relayed connection: `front` faces the client, `back` the target."""

    def __init__(self, link: Link) -> None:
        self.link = link
        link.count += 1
        self.number = link.count
        self.front = Side(self, "up")
        self.back = Side(self, "down")
        self.front.other, self.back.other = self.back, self.front
        link.relays[self] = None
        self.task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        host, port = split(self.link.target)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.back, host, port)
        except OSError:
            if self.front.transport is not None:
                reset(self.front.transport)
            self.link.relays.pop(self, None)
            return
        if self.front.transport is None or self.front.transport.is_closing():
            self.close()
        else:
            self.front.pass_on()

    def lost(self, side: Side, exc: Exception | None) -> None:
        """End the other side as this one has ended, after all queued pieces."""
        other = side.other
        self.link.relays.pop(self, None)
        if other.transport is None or other.transport.is_closing():
            return
        if any(toxic.kind == "half_open" for toxic in self.link.toxics_on(self, side.direction)):
            self.link.relays[self] = None  # the other side gets no notice
            return
        if exc is not None:
            reset(other.transport)
            return
        late = sum(t.by for t in self.link.toxics_on(self, side.direction) if t.kind == "slow_close")
        side.enqueue(max(side.due, self.link.env.now() + late), None)
        side.pass_on()

    def cut(self, kind: str, side: Side, data: bytes) -> None:
        """Reset or close both sides, after a last piece of what `side` has read."""
        for each in (self.front, self.back):
            if each.transport is None:
                continue
            if each is side.other and data and not each.transport.is_closing():
                each.transport.write(data)
            if kind == "reset":
                reset(each.transport)
            else:
                each.transport.close()
        self.link.relays.pop(self, None)

    def close(self) -> None:
        """Abort both sides."""
        self.task.cancel()
        for side in (self.front, self.back):
            if side.transport is not None:
                side.transport.abort()
        self.link.relays.pop(self, None)


class Link:
    """Part: a TCP relay with faults.

    - `target`: address to which connections are relayed.
    - `toxics`: faults in force.
    - `relays`: connections, in order, so that a simulated run can be repeated.
    """

    def __init__(self, name: str, spec: dict[str, Any], env: PartEnv) -> None:
        self.name = name
        self.env = env
        self.target: str = spec["target"]
        self.toxics: dict[str, Toxic] = {}
        self.relays: dict[Relay, None] = {}
        self.count = 0
        self.port: Port = make_port(lambda: Relay(self).front, spec.get("host", "127.0.0.1"))

    async def start(self) -> list[str]:
        return [await self.port.open()]

    async def do(self, command: str, **arguments: Any) -> Any:
        if command == "target":
            self.target = arguments["target"]
        elif command == "toxic":
            await self._begin(arguments.pop("id"), Toxic(rng=self.env.rng, **arguments))
        elif command == "undo":
            await self._end(arguments["id"])
        else:
            raise ValueError(f"a link knows no command {command}")

    async def stop(self) -> None:
        await self.port.close()
        for relay in list(self.relays):
            relay.close()

    async def _begin(self, id: str, toxic: Toxic) -> None:
        self.toxics[id] = toxic
        toxic.newest = self.count if toxic.only_open else None
        if toxic.kind == "refuse":
            await self.port.close()
        elif toxic.kind == "backlog":
            await self.port.hang()
        if toxic.kind in (*LISTENING, "half_open", "reset"):
            for relay in list(self.relays):  # these faults strike open connections too
                if toxic.share < 1.0 and not toxic.acts(relay.number, toxic.direction):
                    continue
                if toxic.kind == "half_open":
                    if relay.back.transport is not None:
                        relay.back.transport.abort()
                elif toxic.kind == "reset" and not toxic.after:
                    relay.cut("reset", relay.back, b"")
                elif toxic.kind in LISTENING:
                    relay.close()

    async def _end(self, id: str) -> None:
        toxic = self.toxics.pop(id)
        if toxic.kind in LISTENING:
            await self.port.open()
        for relay in list(self.relays):
            if toxic.kind == "half_open" and (relay.back.transport is None or relay.back.transport.is_closing()):
                relay.close()
                continue
            relay.front.pass_on()
            relay.back.pass_on()

    def toxics_on(self, relay: Relay, direction: Direction) -> list[Toxic]:
        """Return the faults that strike one direction of a connection."""
        if not self.toxics:
            return []
        return [toxic for toxic in self.toxics.values() if toxic.acts(relay.number, direction)]

    def is_blocking(self, relay: Relay, direction: Direction) -> bool:
        """True while nothing passes in one direction of a connection."""
        return any(toxic.kind == "blackhole" for toxic in self.toxics_on(relay, direction))
