"""Service of finite capacity: workers, a bounded queue, a duration of its work, and calls to other services.

1. A request holds a worker from the start of its work to its response, calls included, as in a server with a thread a
   request.  So a slow dependency uses up the workers of its callers.
2. The queue is first in, first out, and does not notice that a client has left.  Work for such clients sustains an
   overload.
3. A request that meets a full queue gets 503 at once.
4. It speaks HTTP/1.1, HTTP/2 and gRPC on one port; a call's 503 is UNAVAILABLE.  Or it speaks plain TCP (`plain`).

Commands: `wire` (where its calls go), `slow`, `answer` (a fault in its responses), `inside` (a fault in its process),
`goaway` (its connections of HTTP/2 end), `undo`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from chaos.faults.answer import AnswerFault
from chaos.faults.inside import Inside
from chaos.parts import plain
from chaos.parts.http import Fields, MalformedError, Message, response, take
from chaos.parts.http2 import START, ServiceSide
from chaos.parts.issuer import active, key_set
from chaos.parts.part import PartEnv, split
from chaos.parts.pooled_client import SERVER_FIRST, Answer, PooledClient

CONTEXT: Final = ("x-request-id", "x-class", "x-write-id", "x-criticality", "x-sidecar-attempt", "idempotency-key")
"""Fields of a request that the service passes on with its calls, as it would a trace context."""
DEADLINE: Final = "x-request-timeout-ms"
SAMPLE_EVERY: Final = 0.25
"""Seconds between two samples."""
PRICE: Final = b"\x0a\x03tea\x10\xfa\x01"
"""Message `shop.Price` of protobuf: sku `tea`, 250 cents."""
CONTENTS: Final[dict[str, Callable[[], bytes]]] = {"keys": key_set, "active": active, "price": lambda: PRICE}
"""Contents of responses, by their names in a scenario."""
BACKLOG: Final = 512
COLD: Final = 4.0
"""Factor by which work takes longer after a start."""


@dataclass(frozen=True)
class Call:
    """Call to another service; calls are made one after the other, and one that is not optional fails the response.

    - `retries`: naive ones, at once and without a budget.
    - `tcp`: side that speaks first in plain TCP; empty for HTTP.
    """

    to: str
    path: str
    method: str = "GET"
    timeout: float = 10.0
    retries: int = 0
    optional: bool = False
    grpc: bool = False
    tcp: str = ""


@dataclass(frozen=True)
class Work:
    """Cost of the requests under a path.

    - `median`: seconds that a worker is busy, calls apart; `spread`: sigma of their logarithm, 0 for always the same.
    - `body`: bytes of the response; `answer`: its content, one of `CONTENTS`, empty for one of that size.
    """

    path: str
    median: float
    spread: float = 0.0
    calls: tuple[Call, ...] = ()
    body: int = 64
    cache_control: str = ""
    answer: str = ""


class Answering(Protocol):
    """Connection or stream of a request, as the service answers it."""

    def reply(self, status: int, body: bytes, fields: Fields) -> None:
        """Send the whole answer."""

    async def misbehave(self, fault: AnswerFault, body: bytes) -> int:
        """Answer as a fault says; return the status that the service meant, 0 for none."""


@dataclass
class Job:
    """Request on its way through the service.

    - `arrived`, `started`: instants; `started` is 0 until a worker has taken it.
    """

    message: Message
    connection: Answering
    arrived: float
    started: float = 0.0


class ServiceConnection(asyncio.Protocol):
    """Connection of one client: one request after the other, or HTTP/2.

    - `side`: the connection as one of HTTP/2; None for HTTP/1.1.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = bytearray()
        self.is_busy = False
        self.side: ServiceSide | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.service.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.pop(self, None)

    def data_received(self, data: bytes) -> None:
        if self.side is not None:
            self.side.receive(data)
            return
        self.buffer += data
        if self.buffer.startswith(START):
            self.side = ServiceSide(self.service, self.transport)
            self.side.receive(bytes(self.buffer))
        else:
            self._next()

    def _next(self) -> None:
        if self.is_busy or not self.buffer:
            return
        try:
            message = take(self.buffer)
        except MalformedError:
            self.transport.write(response(400, b"malformed", [("connection", "close")]))
            self.transport.close()
            return
        if message is not None:
            self.is_busy = True
            self.service.arrive(message, self)

    def reply(self, status: int, body: bytes, fields: Fields) -> None:
        self.answer(response(status, body, fields))

    async def misbehave(self, fault: AnswerFault, body: bytes) -> int:
        return await fault.answer(self, body)

    def answer(self, data: bytes) -> None:
        """Send the complete response and start the next request."""
        self.is_busy = False
        if not self.transport.is_closing():
            self.transport.write(data)
            self._next()


class PlainConnection(ServiceConnection):
    """Connection of one client that speaks plain TCP: one line after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.service.tcp == SERVER_FIRST:
            self.transport.write(plain.GREETING)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        if self.is_busy:
            return
        try:
            message = plain.take_request(self.buffer)
        except MalformedError:
            self.transport.abort()
            return
        if message is not None:
            self.is_busy = True
            self.service.arrive(message, self)

    def reply(self, status: int, body: bytes, fields: Fields) -> None:
        self.answer(plain.answer(status))


class Service:
    """Part: a service.

    - `workers`, `queue`: capacity; `busy`: workers in use; `waiting`: requests in the queue.
    - `tcp`: side that speaks first in plain TCP; empty for HTTP.
    - `slowdown`, `extra`: factor and seconds by which work takes longer.
    - `cold_until`: instant until which work takes `COLD` times as long.
    - `peers`: addresses of the services that it calls.
    - `keeps_retries`: True if it retries its calls itself.
    - `answers`: faults in its responses; `inside`: faults in its process; `leaving`: tasks that end its connections.
    - `connections`, `tasks`: in order, so that a simulated run can be repeated.
    """

    def __init__(self, name: str, spec: dict[str, Any], env: PartEnv) -> None:
        self.name = name
        self.env = env
        self.workers: int = spec["workers"]
        self.queue: int = spec["queue"]
        self.warm_up: float = spec.get("warm_up", 0.0)
        self.work = [
            Work(**{**each, "calls": tuple(Call(**call) for call in each.get("calls", ()))}) for each in spec["work"]
        ]
        self.address: str = spec.get("address", "127.0.0.1:0")
        self.tcp: str = spec.get("tcp", "")
        self.busy = 0
        self.slowdown = 1.0
        self.extra = 0.0
        self.waiting: deque[Job] = deque()
        self.connections: dict[ServiceConnection, None] = {}
        self.client = PooledClient()
        self.peers: dict[str, list[str]] = {}
        self.turn = 0
        self.keeps_retries = True
        self.answers: dict[str, AnswerFault] = {}
        self.inside = Inside(self)
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.server: asyncio.Server | None = None
        self.tasks: dict[asyncio.Task[None], None] = {}
        self.cold_until = 0.0

    async def start(self) -> list[str]:
        loop = asyncio.get_running_loop()
        host, port = split(self.address)
        connection = PlainConnection if self.tcp else ServiceConnection
        self.server = await loop.create_server(lambda: connection(self), host, port, backlog=BACKLOG)
        bound = self.server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        self.cold_until = self.env.now() + self.warm_up
        self._spawn(self._sample())
        return [self.address]

    async def do(self, command: str, **arguments: Any) -> Any:
        if command == "wire":
            self.peers = arguments["peers"]
            self.keeps_retries = arguments["keeps_retries"]
        elif command == "slow":
            self.slowdown, self.extra = arguments.get("times", 1.0), arguments.get("by", 0.0)
        elif command == "answer":
            name = arguments.pop("id")
            self.answers[name] = AnswerFault(rng=self.env.rng, **arguments)
        elif command == "goaway":
            self.leaving[arguments["id"]] = self._spawn(self._leave(arguments["every"]))
        elif command == "undo":
            if (task := self.leaving.pop(arguments["id"], None)) is not None:
                task.cancel()
            elif self.answers.pop(arguments["id"], None) is None:
                self.inside.undo(arguments["id"])
        elif command == "inside":
            self.inside.begin(**arguments)
        else:
            raise ValueError(f"a service knows no command {command}")

    async def stop(self) -> None:
        self.waiting.clear()
        for task in self.tasks:
            task.cancel()
        if self.server is not None:
            self.server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        self.client.close()
        self.inside.undo_all()

    def freeze(self, frozen: bool) -> None:
        """Stop or continue, as by SIGSTOP and SIGCONT; for the virtual loop."""
        server: Any = self.server
        if frozen:
            server.hang()
        else:
            server.resume()
        self.inside.freeze(frozen)

    # ----- a request

    def arrive(self, message: Message, connection: Answering) -> None:
        """Begin a request, queue it or refuse it."""
        job = Job(message, connection, self.env.now())
        if self.busy < self.workers:
            self._begin(job)
        elif len(self.waiting) < self.queue:
            self.waiting.append(job)
        else:
            self._finish(job, 503, "queue full")

    def _begin(self, job: Job) -> None:
        self.busy += 1
        self._spawn(self._serve(job))

    async def _serve(self, job: Job) -> None:
        try:
            job.started = self.env.now()
            work = self._work_of(job.message.target)
            if work is None:
                self._finish(job, 404, "no such path")
                return
            await asyncio.sleep(self._seconds(work))
            await self.inside.wait()
            for call in work.calls:
                answer = await self._call(call, job)
                if not answer.is_good and not call.optional:
                    self._finish(job, 503 if answer.status in (429, 503) else 502, f"{call.to}: {answer.reason}")
                    return
            await self.inside.wait()
            await self._answer(job, work)
        finally:
            self.busy -= 1
            if self.waiting and self.busy < self.workers:
                self._begin(self.waiting.popleft())

    def _work_of(self, target: str) -> Work | None:
        return next((work for work in self.work if target.startswith(work.path)), None)

    def _seconds(self, work: Work) -> float:
        seconds = work.median * (self.env.rng.lognormvariate(0.0, work.spread) if work.spread else 1.0)
        cold = COLD if self.env.now() < self.cold_until else 1.0
        return seconds * self.slowdown * cold + self.extra

    async def _call(self, call: Call, job: Job) -> Answer:
        fields = {name: value for name, value in job.message.fields if name in CONTEXT}
        fields["x-caller"] = self.name.partition(".")[0]
        addresses = self.peers[call.to]
        answer = Answer(0, "not sent")
        for _ in range(1 + (call.retries if self.keeps_retries else 0)):
            if left := job.message.get(DEADLINE):
                fields[DEADLINE] = str(max(1, int(left) - int((self.env.now() - job.arrived) * 1000)))
            self.turn += 1
            address = addresses[self.turn % len(addresses)]
            answer = await self.client.fetch(
                address, call.method, call.path, call.to, fields, b"{}" if call.method == "POST" else b"", call.timeout,
                is_call=call.grpc, tcp=call.tcp,
            )  # fmt: skip
            if answer.is_good:
                break
        return answer

    async def _answer(self, job: Job, work: Work) -> None:
        fields = [("cache-control", work.cache_control)] if work.cache_control else []
        body = CONTENTS[work.answer]() if work.answer else json.dumps({"service": self.name}).encode().ljust(work.body)
        for fault in self.answers.values():
            if fault.strikes(job.message):
                status = await job.connection.misbehave(fault, body)
                self._report(job, status)
                return
        self._finish(job, 200, "", body, fields)

    def _finish(self, job: Job, status: int, why: str, body: bytes = b"", fields: Fields | None = None) -> None:
        job.connection.reply(status, body or json.dumps({"error": why}).encode(), fields or [])
        self._report(job, status)

    def _report(self, job: Job, status: int) -> None:
        message, now = job.message, self.env.now()
        about = [message.get(name) for name in ("x-class", "x-request-id", "x-write-id", "x-caller")]
        self.env.report(("call", self.name, message.target, *about, job.arrived, job.started, now, status))

    async def _leave(self, every: float) -> None:
        """End all connections of HTTP/2 again and again."""
        while True:
            await asyncio.sleep(every)
            for connection in list(self.connections):
                if connection.side is not None:
                    connection.side.go_away()

    # ----- samples

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            self.env.report(("sample", self.name, self.env.now(), self.busy, len(self.waiting), len(self.connections)))

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
        return task
