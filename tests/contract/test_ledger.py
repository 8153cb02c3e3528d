"""Ledger of an exchange: wherever it is aborted and by which side, all that it took is given back.

A script is an exchange in steps: pieces of the request, the upstream's accept, pieces of the answer.  Each test plays a
script once for each of its steps, and injects one fault there: a side disconnects, time passes, a reload or a drain
starts.  The rest of the script goes on as far as it can.  Then these are counted: requests in flight, permits, places
in queues, probes, waiters, connections, buffered bytes, budgets, tasks.

The counts are read from outside: bytes of clients and upstreams, gauges, and the admin listener's state.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, NamedTuple

import pytest

from sidecar.config.files import Source, digest
from sidecar.config.load import Loaded, load
from sidecar.control.reload import Control, PolicySource
from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.downstream.server import Server
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.no_telemetry import NoMetrics, NoTelemetry
from sidecar.simulation.transport import Address
from tests.support.loop import run, settle, virtual, virtual_env
from tests.support.proxy import HANDSHAKE, Client
from tests.support.transports import Wire

INBOUND = ("127.0.0.1", 8080)
POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:8080", slow_clients: {buffer: 64KiB}}}
upstreams:
  app:
    endpoints: ["http://10.0.0.1:80", "http://10.0.0.2:80"]
    circuit_breaker: {per: endpoint, consecutive_failures: 3, open_for: 1s, jitter: 0%}
    connections: {max: 4, idle_timeout: 10s}
    retry_budget: {ratio: 20%, min_per_second: 3, window: 10s}
  spare: {endpoints: ["http://10.0.0.3:80"], connections: {idle_timeout: 10s}}
routes:
  - name: shaped
    match: {path_prefix: /shaped}
    upstream: app
    timeout: {request: 3s, attempt: 1s}
    transform: {request: {body: {template: {a: 1}}}, response: {body: {wrap: /data}}}
    concurrency: {max: 1}
    retry: {max_attempts: 2, on: [reset, connect_failure, 503], backoff: {base: 10ms, jitter: none}}
  - name: events
    match: {path_prefix: /events}
    upstream: app
    timeout: {request: off}
    concurrency: {max: 1}
    circuit_breaker: {consecutive_failures: 2, open_for: 1s, jitter: 0%, half_open: {probes: 1}}
  - name: all
    match: {path_prefix: /}
    upstream: app
    timeout: {request: 3s, attempt: 1s}
    fallback: [stale, {upstream: spare}, {response: {status: 503, json: {}}}]
    cache: {stale_while_revalidate: 60s, coalesce: {timeout: 1s}}
    concurrency: {max: 1, queue: 1, queue_timeout: 200ms}
    transform: {request: {headers: {set: {x-a: b}}}, response: {headers: {remove: [server]}}}
    hedge: {after: 100ms}
    retry: {max_attempts: 2, on: [reset, connect_failure, 503], backoff: {base: 10ms, jitter: none}}
    circuit_breaker: {consecutive_failures: 2, open_for: 1s, jitter: 0%, half_open: {probes: 1}}
    fault: {latency: {fixed: 1ms, share: 100%}}
"""
CHANGED = POLICIES.replace("queue: 1,", "queue: 3,").replace("open_for: 1s", "open_for: 2s")
REMOVED = """version: 1
listeners: {inbound: {address: "127.0.0.1:8080", slow_clients: {buffer: 64KiB}}}
upstreams: {other: {endpoints: ["http://10.0.0.4:80"], connections: {idle_timeout: 10s}}}
routes: [{name: other, match: {path_prefix: /other}, upstream: other}]
"""
BETWEEN = 0.002
"""Seconds between two steps; longer than the injected latency."""
QUIET = 15.0
"""Seconds after which no request is in flight, whatever the fault, and every budget's window is empty."""
LONG = 40.0
"""Seconds after which every idle connection has been closed."""


@cache
def load_once(text: bytes) -> Loaded:
    """Return loaded policies, which are immutable and cached, since loading them dominates the time of a run."""
    return load([Source("p.yaml", text)], {})


class Upstream(Wire):
    """Connection of the proxy to an endpoint, which closes once the proxy has."""

    def __init__(self, asked: list[Upstream]) -> None:
        """`asked`: connections on which something has arrived, the one with the latest bytes at the end."""
        super().__init__()
        self._asked = asked

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self in self._asked:
            self._asked.remove(self)
        self._asked.append(self)

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class Stand:
    """Sidecar as `sidecar run` composes it, in virtual time, with its clients and upstreams."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.env = virtual_env()
        self.store = StateStore()
        self.recorded: list[Exchange] = []
        self.server = Server(
            self.env, lambda x, *_: self.recorded.append(x), NoTelemetry(), loop.network.socket
        )  # fmt: skip
        self.sources = [Source("p.yaml", POLICIES.encode())]
        origin = PolicySource("p.yaml", {}, lambda _: self.sources, lambda _: digest(self.sources), self._at_once)
        self.control = Control(self.env, self.store, origin, self.server, metrics=lambda _: NoMetrics())
        self.states: dict[Any, Any] = {}
        """All state objects so far, those that a reload has retired included."""
        self.clients: list[Client] = []
        self.upstreams: list[Upstream] = []
        self.asked: list[Upstream] = []
        self.connecting: list[asyncio.Future[None]] = []
        self._accept_client = loop.network.accept
        loop.network.accept = self._accept

    async def _at_once(self, function: Callable[[], Any]) -> Any:
        return load_once(self.sources[0].text) if getattr(function, "func", None) is load else function()

    async def start(self) -> None:
        await self.reload(POLICIES)
        self.server.start()
        await settle()
        self.clients = [await self.connect(), await self.connect()]

    async def connect(self) -> Client:
        client = Client()
        await self.loop.create_connection(lambda: client, *INBOUND)
        return client

    async def reload(self, text: str) -> None:
        self.sources = [Source("p.yaml", text.encode())]
        done = await self.control.reload("request")
        assert done.result == "applied", done.problems
        self.states |= {(key, id(state)): state for key, state in self.store.objects().items()}

    async def _accept(self, address: Address) -> asyncio.BaseProtocol:
        if address == INBOUND:
            return await self._accept_client(address)
        future: asyncio.Future[None] = self.loop.create_future()
        self.connecting.append(future)
        await future
        upstream = Upstream(self.asked)
        self.upstreams.append(upstream)
        return upstream

    def accept(self, error: Exception | None = None) -> None:
        """Accept the connections that are being opened, or refuse them with `error`."""
        for future in self.connecting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self.connecting.clear()

    def ledger(self) -> dict[str, float]:
        """Return all that exchanges have taken and not given back, by name; empty if nothing is held."""
        meter = self.env.meter
        accounts = {
            "requests under way": meter.value(metrics.REQUESTS_ACTIVE),
            "permits": meter.value(metrics.CONCURRENCY_ACTIVE),
            "requests in a queue": meter.value(metrics.QUEUE_LENGTH),
            "waiters of fetches": meter.value(metrics.CACHE_WAITERS),
            "bytes for slow clients": meter.value(metrics.SLOW_CLIENT_BYTES),
            "connections being opened": meter.value(metrics.POOL_CONNECTIONS, state="opening"),
            "connections in use": meter.value(metrics.POOL_CONNECTIONS, state="active"),
        }
        for (key, _), state in self.states.items():
            described = state.describe() if hasattr(state, "describe") else {}
            name = " ".join(key)
            if key[0] == "endpoints":
                for endpoint in described["endpoints"]:
                    accounts[f"in flight to {endpoint['url']}"] = endpoint["in_flight"]
            elif key[0] == "pools":
                for url, pool in described["pools"].items():
                    accounts[f"waiting for {url}"] = pool["waiting"]
            elif key[0] == "breaker":
                accounts[f"probes of {name}"] = described.get("probes", {}).get("under_way", 0)
            elif key[0] == "concurrency":
                accounts[f"held of {name}"] = described["active"] + sum(described["waiting"].values())
            elif key[0] == "cache":
                accounts[f"fetches of {name}"] = described["filling"]
                accounts[f"bytes of fetches of {name}"] = described["filling_bytes"]
        return {name: value for name, value in accounts.items() if value}

    def budgets(self) -> dict[tuple[str, ...], Any]:
        """Return the tokens of every retry budget that is in force."""
        return {
            key: state.describe()["tokens"] for key, state in self.store.objects().items() if key[0] == "retry_budget"
        }


class Step(NamedTuple):
    """Step of a script."""

    text: str
    take: Callable[[Stand], None]
    seconds: float = BETWEEN
    """Seconds that pass after the step."""


def say(data: bytes, client: int = 0) -> Step:
    """Step: a client sends a piece."""
    return Step(f"client {client} sends {data[:20]!r}", lambda stand: stand.clients[client].write(data))


def accept() -> Step:
    return Step("the upstream accepts", lambda stand: stand.accept())


def answer(data: bytes, which: int = -1) -> Step:
    """Step: the upstream sends a piece, by default on the connection with the latest request."""

    def take(stand: Stand) -> None:
        asked = [each for each in stand.asked if not each.is_lost]
        if asked and which < len(asked):
            asked[which].write(data)

    return Step(f"the upstream sends {data[:20]!r}", take)


def wait(seconds: float) -> Step:
    return Step(f"{seconds} s pass", lambda _: None, seconds)


def hang_up() -> Step:
    """Step: the upstream closes the connection with the latest request."""

    def take(stand: Stand) -> None:
        for each in stand.asked[-1:]:
            each.transport.close()

    return Step("the upstream hangs up", take)


def pause() -> Step:
    return Step("the client stops reading", lambda stand: stand.clients[0].transport.pause_reading())


def resume() -> Step:
    return Step("the client reads on", lambda stand: stand.clients[0].transport.resume_reading())


HEAD = [say(b"GE"), say(b"T /x HTTP/1.1\r"), say(b"\nHost: a\r\nX-B: c\r\n"), say(b"\r\n")]
GET = say(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
OTHER = say(b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n", 1)
OK = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
PIECES = [answer(b"HTTP/1.1 200 OK\r\nContent-Le"), answer(b"ngth: 4\r\n\r\n"), answer(b"ab"), answer(b"cd")]
CHUNKED = [
    answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), answer(b"4\r\nab"), answer(b"cd\r\n"),
    answer(b"2\r\nef\r\n0\r\n"), answer(b"X-T: 1\r\n"), answer(b"\r\n"),
]  # fmt: skip
FRESH = [
    answer(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1\r\nContent-Length: 4\r\n\r\n"),
    answer(b"ab"),
    answer(b"cd"),
]
FAILED = [answer(b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\n"), answer(b"no"), answer(b"no")]
UPLOAD = [
    say(b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), say(b"11170\r\n" + b"x" * 35_000),
    say(b"x" * 35_000), accept(), say(b"\r\n2\r\nab"), say(b"\r\n0\r\n"), say(b"X-T: 1\r\n"), say(b"\r\n"),
]  # fmt: skip

SCRIPTS: dict[str, list[Step]] = {
    "a request": [*HEAD, accept(), *PIECES, GET, *PIECES],
    "a chunked answer": [GET, accept(), *CHUNKED],
    "an upload": [*UPLOAD, *CHUNKED],
    "an answer before the upload's end": [
        *UPLOAD[:4], answer(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\n"), answer(b"no"), *UPLOAD[4:],
    ],
    "an upload that waits for 100": [
        say(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 70002\r\n\r\n"), accept(),
        answer(b"HTTP/1.1 100 Continue\r\n\r\n"), say(b"x" * 70_000), say(b"xx"), OK,
    ],
    "a small upload": [say(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab"), say(b"cd"), accept(), OK],
    "an early hint": [GET, accept(), answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), *PIECES],
    "a retry": [GET, accept(), *FAILED, wait(0.02), accept(), *PIECES],
    "two failures and a fallback": [GET, accept(), *FAILED, wait(0.02), accept(), *FAILED, accept(), *PIECES],
    "a hedge": [GET, accept(), wait(0.15), accept(), *PIECES[:1], answer(b"HTTP/1.1 200 OK\r\n", 0), *PIECES[1:]],
    "a probe": [
        GET, accept(), *FAILED, wait(0.02), accept(), *FAILED, accept(), OK, wait(1.1), GET, accept(), *PIECES,
    ],
    "a place in the queue": [GET, OTHER, accept(), *PIECES, accept(), OK],
    "a shared fetch": [GET, say(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 1), accept(), *FRESH],
    "an uncacheable shared fetch": [GET, say(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 1), accept(), OK, accept(), OK],
    "a refresh in the background": [GET, accept(), *FRESH, wait(2.0), GET, accept(), *FRESH, GET],
    "a slow reader": [
        GET, accept(), pause(), answer(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n"),
        *[answer(b"x" * 100_000)] * 3, resume(), *[answer(b"x" * 100_000)] * 3,
    ],
    "a stream": [
        say(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"), accept(),
        answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"), answer(b"data: 1\n\n"),
        wait(2.0), answer(b"data: 2\n\n"), wait(5.0), answer(b"data: 3\n\n"), hang_up(),
    ],
    "a WebSocket": [
        say(HANDSHAKE[:20]), say(HANDSHAKE[20:]), accept(),
        answer(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        ),
        say(b"\x81\x82\0\0\0"), say(b"\0hi"), answer(b"\x81\x02"), answer(b"hi"), wait(5.0), say(b"\x88\x80\0\0\0\0"),
        answer(b"\x88\0"), hang_up(),
    ],
    "a refused WebSocket": [say(HANDSHAKE), accept(), *FAILED, wait(0.02), accept(), *FAILED, accept(), OK],
    "bodies that are read": [
        say(b"POST /shaped HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"),
        say(b"}"), accept(), answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"),
        answer(b"["), answer(b"]"),
    ],
    "a deadline": [GET, accept(), wait(1.1), accept(), wait(2.0)],
    "pipelined requests": [
        say(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 3), accept(), *PIECES, accept(), OK, accept(), OK,
    ],
}  # fmt: skip


async def leave(stand: Stand, how: str) -> None:
    for client in stand.clients:
        getattr(client.transport, how)()


async def break_upstreams(stand: Stand, how: str) -> None:
    stand.accept(ConnectionRefusedError("refused"))
    for upstream in stand.upstreams:
        getattr(upstream.transport, how)()


async def drain(stand: Stand) -> None:
    stand.env.spawn(stand.server.drain(5.0))


Fault = Callable[[Stand], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "the clients abort": lambda stand: leave(stand, "abort"),
    "the clients close": lambda stand: leave(stand, "close"),
    "the clients half-close": lambda stand: leave(stand, "write_eof"),
    "the upstream aborts": lambda stand: break_upstreams(stand, "abort"),
    "the upstream closes": lambda stand: break_upstreams(stand, "close"),
    "time passes": lambda stand: asyncio.sleep(1.0),
    "much time passes": lambda stand: asyncio.sleep(20.0),
    "a reload changes the route": lambda stand: stand.reload(CHANGED),
    "a reload removes the route": lambda stand: stand.reload(REMOVED),
    "a drain begins": drain,
}


async def play(script: list[Step], fault: Fault | None = None, at: int = -1) -> Stand:
    """Play a script; the fault comes before the step `at`, or after the last one."""
    stand = Stand()
    await stand.start()
    for number, step in enumerate(script):
        if number == at and fault is not None:
            await fault(stand)
        step.take(stand)
        await asyncio.sleep(step.seconds)
    if at == len(script) and fault is not None:
        await fault(stand)
    return stand


async def check(stand: Stand, where: str) -> None:
    """Assert that all counts are those of an idle sidecar."""
    resume().take(stand)
    await asyncio.sleep(QUIET)
    assert (where, stand.ledger()) == (where, {})
    assert (where, stand.budgets()) == (where, dict.fromkeys(stand.budgets(), 30.0))
    live = sum(not each.is_lost for each in stand.upstreams)
    assert (where, stand.env.meter.value(metrics.POOL_CONNECTIONS, state="idle")) == (where, live)
    if not stand.server.listeners["inbound"].is_draining:
        assert (where, await ask_once_more(stand)) == (where, True)
    for client in stand.clients:
        client.transport.close()
    await asyncio.sleep(LONG)
    assert (where, stand.ledger()) == (where, {})
    assert (where, stand.server.open_connections) == (where, 0)
    assert (where, stand.env.meter.value(metrics.POOL_CONNECTIONS)) == (where, 0)
    assert (where, [each for each in stand.upstreams if not each.is_lost]) == (where, [])
    assert (where, len(asyncio.all_tasks())) == (where, 1), "the task of this test is the only one"
    assert (where, len({id(x) for x in stand.recorded})) == (where, len(stand.recorded)), "each is recorded once"
    assert (where, stand.env.emitted(events.BUG)) == (where, [])


async def ask_once_more(stand: Stand) -> bool:
    """True if the sidecar still answers: no gauge would show a place that was lost and is counted nowhere."""
    client = await stand.connect()
    stand.clients.append(client)
    client.write(b"GET /other/again HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(BETWEEN)
    stand.accept()
    await asyncio.sleep(BETWEEN)
    OK.take(stand)
    await asyncio.sleep(BETWEEN)
    return client.received.startswith(b"HTTP/1.1 200 ") and client.received.endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_an_exchange_took_is_given_back(script: str, fault: str) -> None:
    steps = SCRIPTS[script]

    async def one(at: int) -> None:
        where = f"{fault} at step {at}: {steps[at].text if at < len(steps) else 'the end'}"
        await check(await play(steps, FAULTS[fault], at), where)

    for at in range(len(steps) + 1):
        run(one(at))


REQUEST = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"


@pytest.mark.parametrize(
    "fault", ["the clients abort", "the clients half-close", "the upstream aborts", "the upstream closes"]
)
@pytest.mark.parametrize("side", ["request", "response"])
def test_all_is_given_back_after_any_byte(side: str, fault: str) -> None:
    def script(at: int) -> list[Step]:
        if side == "request":
            return [say(REQUEST[:at]), say(REQUEST[at:]), accept(), answer(RESPONSE)]
        return [say(REQUEST), accept(), answer(RESPONSE[:at]), answer(RESPONSE[at:])]

    async def one(at: int) -> None:
        stand = await play(script(at), FAULTS[fault], 1 if side == "request" else 3)
        await check(stand, f"{fault} after byte {at} of the {side}")

    for at in range(1, len(REQUEST if side == "request" else RESPONSE)):
        run(one(at))


@pytest.mark.parametrize("seed", range(8))
def test_all_is_given_back_after_two_faults(seed: int) -> None:
    """Two faults strike, at two steps or at one."""
    choices = random.Random(seed)

    async def one(name: str, faults: list[str], places: list[int]) -> None:
        steps = SCRIPTS[name]

        async def both(stand: Stand) -> None:
            await FAULTS[faults[0]](stand)
            for step in steps[places[0] : places[1]]:
                step.take(stand)
                await asyncio.sleep(step.seconds)
            await FAULTS[faults[1]](stand)

        stand = await play(
            [*steps[: places[0]], Step("both", lambda _: None, 0.0), *steps[places[1] :]], both, places[0]
        )
        await check(stand, f"{name}: {faults} at steps {places}")

    for _ in range(40):
        name = choices.choice(list(SCRIPTS))
        places = sorted(choices.randrange(len(SCRIPTS[name]) + 1) for _ in range(2))
        run(one(name, choices.choices(list(FAULTS), k=2), places))


# ----- tests of the scripts and of the ledger itself

STATUS = re.compile(rb"HTTP/1.1 (\d+)")
STATUSES: dict[str, list[list[int]]] = {
    "a request": [[200, 200], []],
    "an answer before the upload's end": [[413], []],
    "an upload that waits for 100": [[100, 200], []],
    "an early hint": [[103, 200], []],
    "a place in the queue": [[200], [200]],
    "a shared fetch": [[200], [200]],
    "an uncacheable shared fetch": [[200], [200]],
    "a refresh in the background": [[200, 200, 200], []],
    "a probe": [[200, 200], []],
    "a WebSocket": [[101], []],
    "a deadline": [[503], []],
    "pipelined requests": [[200, 200, 200], []],
}
"""Statuses that the two clients get when nothing disturbs a script; by default the first one gets a 200."""


@pytest.mark.parametrize("script", SCRIPTS)
@virtual
async def test_an_exchange_that_nothing_disturbs_is_answered(script: str) -> None:
    stand = await play(SCRIPTS[script])
    statuses = [[int(status) for status in STATUS.findall(client.received)] for client in stand.clients]
    assert statuses == STATUSES.get(script, [[200], []])
    await check(stand, "nothing happens")


IN_USE: list[tuple[str, int, dict[str, float]]] = [
    ("a request", 4, {"requests under way": 1, "permits": 1, "connections being opened": 1}),
    ("a request", 6, {"connections in use": 1, "in flight to http://10.0.0.1:80": 1}),
    ("a place in the queue", 3, {"requests under way": 2, "permits": 1, "requests in a queue": 1}),
    ("a hedge", 4, {"requests under way": 1, "permits": 1, "connections in use": 2}),
    ("a hedge", 5, {"in flight to http://10.0.0.1:80": 1, "in flight to http://10.0.0.2:80": 1}),
    ("a probe", 15, {"probes of breaker route all": 1}),
    ("a shared fetch", 3, {"waiters of fetches": 1, "fetches of cache default": 1}),
    ("a shared fetch", 5, {"bytes of fetches of cache default": 2}),
    ("a refresh in the background", 9, {"permits": 1, "fetches of cache default": 1}),
    ("an upload", 2, {"bytes for slow clients": 35_000}),
    ("a stream", 5, {"requests under way": 1, "permits": 1, "connections in use": 1}),
    ("a WebSocket", 7, {"requests under way": 1, "permits": 1, "connections in use": 1}),
]
"""Resources in use after so many steps of a script."""


@pytest.mark.parametrize(("script", "steps", "least"), IN_USE)
@virtual
async def test_the_ledger_sees_what_is_in_use(script: str, steps: int, least: dict[str, float]) -> None:
    stand = await play(SCRIPTS[script][:steps])
    found = stand.ledger()
    assert {name: found.get(name) for name in least} == least
    for client in stand.clients:
        client.transport.abort()
    await check(stand, "the script stops")
