"""A service with finite capacity: so many workers, a bounded queue, a time that its work takes, and calls to others.

A worker is held from the start of a request's work to its answer, calls included, as in a server with a thread for each
request: that is how a slow dependency fells its callers.  The queue is first in, first out and does not notice that a
client has left: work for nobody is what keeps an overload alive.  What comes to a full queue gets 503 at once.

Commands: `wire` (where its calls go), `slow`, `http` and the faults of the process (see `chaos.faults`); `undo`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

from chaos.faults.answer import AnswerFault
from chaos.faults.inside import Inside
from chaos.parts.client import Answer, Client
from chaos.parts.http import Fields, MalformedError, Message, response, take
from chaos.parts.part import World, split

CONTEXT = ("x-request-id", "x-class", "x-write-id", "x-criticality", "x-sidecar-attempt", "idempotency-key")
"""What a well-behaved service passes on with its calls, as it does with trace contexts."""
DEADLINE = "x-request-timeout-ms"
SAMPLE_EVERY = 0.25
BACKLOG = 512


@dataclass(frozen=True)
class Call:
    """A call to another service, in a row with the others; the answer fails with it unless it is optional."""

    to: str
    path: str
    method: str = "GET"
    timeout: float = 10.0
    retries: int = 0
    """Naive ones, at once, without a budget."""
    optional: bool = False


@dataclass(frozen=True)
class Work:
    """What the requests under a path cost."""

    path: str
    median: float
    """Seconds."""
    spread: float = 0.0
    """Sigma of the logarithm: 0 for always the same."""
    calls: tuple[Call, ...] = ()
    body: int = 64
    """Bytes of the answer."""
    cache_control: str = ""


@dataclass
class Job:
    message: Message
    connection: Connection
    arrived: float
    started: float = 0.0
    fields: Fields = field(default_factory=dict)


class Connection(asyncio.Protocol):
    """One client: a request after the other."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = bytearray()
        self.is_busy = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.service.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.next()

    def next(self) -> None:
        if self.is_busy or not self.buffer:
            return
        try:
            message = take(self.buffer)
        except MalformedError:
            self.transport.write(response(400, b"malformed", connection="close"))
            self.transport.close()
            return
        if message is not None:
            self.is_busy = True
            self.service.arrive(message, self)

    def answer(self, data: bytes) -> None:
        """The whole answer; a client that has left is not noticed."""
        self.is_busy = False
        if not self.transport.is_closing():
            self.transport.write(data)
            self.next()


class Service:
    """The part."""

    def __init__(self, name: str, spec: dict[str, Any], world: World) -> None:
        self.name = name
        self.world = world
        self.workers: int = spec["workers"]
        self.places: int = spec["queue"]
        self.start_time: float = spec.get("warm_up", 0.0)
        self.work = [
            Work(**{**each, "calls": tuple(Call(**call) for call in each.get("calls", ()))}) for each in spec["work"]
        ]
        self.address: str = spec.get("address", "127.0.0.1:0")
        self.busy = 0
        self.slowdown = 1.0
        self.extra = 0.0
        self.waiting: deque[Job] = deque()
        self.connections: set[Connection] = set()
        self.client = Client()
        self.peers: dict[str, list[str]] = {}
        self.turn = 0
        self.keeps_retries = True
        self.answers: dict[str, AnswerFault] = {}
        self.inside = Inside(self)
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.cold_until = 0.0

    async def start(self) -> list[str]:
        loop = asyncio.get_running_loop()
        host, port = split(self.address)
        self.server = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG)
        bound = self.server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        self.cold_until = self.world.now() + self.start_time
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
            self.answers[name] = AnswerFault(rng=self.world.rng, **arguments)
        elif command == "undo":
            if self.answers.pop(arguments["id"], None) is None:
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
        """What SIGSTOP is on the virtual loop."""
        server: Any = self.server
        if frozen:
            server.hang()
        else:
            server.resume()
        self.inside.freeze(frozen)

    # ----- a request

    def arrive(self, message: Message, connection: Connection) -> None:
        job = Job(message, connection, self.world.now())
        if self.busy < self.workers:
            self._begin(job)
        elif len(self.waiting) < self.places:
            self.waiting.append(job)
        else:
            self._finish(job, 503, "queue full")

    def _begin(self, job: Job) -> None:
        self.busy += 1
        self._spawn(self._serve(job))

    async def _serve(self, job: Job) -> None:
        try:
            job.started = self.world.now()
            work = self._work_of(job.message.first[1])
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
        seconds = work.median * (self.world.rng.lognormvariate(0.0, work.spread) if work.spread else 1.0)
        cold = 4.0 if self.world.now() < self.cold_until else 1.0
        return seconds * self.slowdown * cold + self.extra

    async def _call(self, call: Call, job: Job) -> Answer:
        fields = {name: job.message.fields[name] for name in CONTEXT if name in job.message.fields}
        fields["x-caller"] = self.name.partition(".")[0]
        addresses = self.peers[call.to]
        answer = Answer(0, "not sent")
        for _ in range(1 + (call.retries if self.keeps_retries else 0)):
            left = job.message.fields.get(DEADLINE)
            if left is not None:
                fields[DEADLINE] = str(max(1, int(left) - int((self.world.now() - job.arrived) * 1000)))
            self.turn += 1
            address = addresses[self.turn % len(addresses)]
            answer = await self.client.fetch(
                address, call.method, call.path, call.to, fields, b"{}" if call.method == "POST" else b"", call.timeout
            )
            if answer.is_good:
                break
        return answer

    async def _answer(self, job: Job, work: Work) -> None:
        fields = {"cache_control": work.cache_control} if work.cache_control else {}
        body = json.dumps({"service": self.name}).encode().ljust(work.body)
        for fault in self.answers.values():
            if fault.strikes(job.message.first[1], job.message.fields):
                status = await fault.answer(job.connection, body)
                self._report(job, status)
                return
        self._finish(job, 200, "", body, fields)

    def _finish(self, job: Job, status: int, why: str, body: bytes = b"", fields: Fields | None = None) -> None:
        job.connection.answer(response(status, body or json.dumps({"error": why}).encode(), **(fields or {})))
        self._report(job, status)

    def _report(self, job: Job, status: int) -> None:
        fields = job.message.fields
        about = [fields.get(name, "") for name in ("x-class", "x-request-id", "x-write-id", "x-caller")]
        now = self.world.now()
        self.world.report(("call", self.name, job.message.first[1], *about, job.arrived, job.started, now, status))

    # ----- beside the requests

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            self.world.report(
                ("sample", self.name, self.world.now(), self.busy, len(self.waiting), len(self.connections))
            )

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
