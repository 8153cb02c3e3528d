"""Tests of the server: sweep, drain, and the swap of listeners."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.core import metrics
from sidecar.core.outcome import Outcome
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from sidecar.routing.router import Router
from tests.support.loop import settle, virtual
from tests.support.service import HANG, ScriptedService, after
from tests.unit.downstream.front import GET, Front, always, streamed

PATIENCE = 60.0
OK = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello"))


@virtual
async def test_drain_closes_idle_connections_and_lets_requests_end() -> None:
    front = Front(ScriptedService(after(1, 200)))
    idle, busy, late = front.connect(), front.connect(), front.connect()
    busy.write(GET)
    late.write(GET[:10])
    await settle()
    front.listener.drain()
    await settle()
    assert idle.is_eof
    assert not busy.is_eof
    late.write(GET[10:])
    await asyncio.sleep(1.5)
    for client in (busy, late):
        answer = await client.answer()
        assert (answer.status, answer.get("connection"), client.is_eof) == (200, "close", True)
        client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_drain_closes_a_connection_after_the_answer_that_has_begun() -> None:
    outcome, body, _ = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    front.listener.drain()
    body.feed(b"hello")
    body.finish()
    assert (await client.answer()).body == b"hello"
    await settle()
    assert client.is_eof
    assert not client.is_lost, "it may have sent another request already, and must be able to read this answer"
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_drain_aborts_connections_after_its_timeout() -> None:
    front = Front(ScriptedService(HANG))
    client = front.connect()
    client.write(GET)
    await settle()
    assert await front.server.drain(3.0) == 1
    await settle()
    assert client.is_lost
    assert front.is_empty


@virtual
async def test_silent_and_slow_clients_expire() -> None:
    front = Front(OK, {"header_timeout": "3s", "idle_timeout": "10s"})
    silent, slow, idle = front.connect(), front.connect(), front.connect()
    idle.write(GET)
    for byte in GET[:-2]:
        slow.write(bytes((byte,)))
        await asyncio.sleep(0.2)
        if slow.is_closed:
            break
    assert silent.is_eof
    assert (await slow.answer()).status == 408
    assert (await idle.answer()).status == 200
    assert not idle.is_eof
    await asyncio.sleep(10)
    assert idle.is_eof
    assert idle.rest == b""


@virtual
async def test_a_bug_in_one_connection_does_not_stop_the_sweep() -> None:
    class Broken:
        expires = 0.0
        is_aborted = False

        def expire(self, now: float) -> None:
            raise RuntimeError("a bug")

        def drain(self) -> None: ...

        def abort(self) -> None:
            self.is_aborted = True

    front = Front(OK, {"header_timeout": "1s"})
    broken = Broken()
    front.listener.admit(broken, None)
    client = front.connect()
    await asyncio.sleep(3)
    assert broken.is_aborted
    assert front.bugs
    assert client.is_closed


@virtual
async def test_the_sweep_renews_the_date() -> None:
    front = Front(OK)
    client = front.connect()
    dates = []
    for _ in range(3):
        client.write(GET)
        dates.append((await client.answer()).get("date"))
        await asyncio.sleep(5)
    assert len(set(dates)) == 3


async def bind(server: Server, **addresses: str) -> dict[str, Listener]:
    return await server.prepare({name: ListenerSpec.model_validate({"address": a}) for name, a in addresses.items()})


def snapshot(**listeners: Listener) -> Any:
    spec = SimpleNamespace(
        listeners={name: listener.spec for name, listener in listeners.items()},
        limits=LimitsSpec(),
        telemetry=None,
        service="shop",
    )
    return SimpleNamespace(spec=spec, listeners=dict.fromkeys(listeners, Router([])))


def is_accepting(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_a_reload_binds_what_is_new_and_drains_what_is_dropped() -> None:
    front = Front(OK)
    server = front.server
    del server.listeners["test"]
    bound = await bind(server, a="127.0.0.1:0", b="127.0.0.3:0")
    server.apply(snapshot(**bound), bound)
    await settle()
    first, dropped = bound["a"], bound["b"]
    assert server.listeners == bound
    bound = await bind(server, a="127.0.0.1:0", c="127.0.0.2:0")
    assert set(bound) == {"c"}, "what has not changed is left alone"
    assert is_accepting(dropped.addresses[0]), "nothing is closed before the swap"
    server.apply(snapshot(a=first, **bound), bound)
    await settle()
    assert server.listeners == {"a": first, **bound}
    assert (dropped.is_draining, is_accepting(dropped.addresses[0])) == (True, False)
    assert server.describe()["b"] == {
        "addresses": dropped.addresses,
        "tls": False,
        "certificates": None,
        "connections": 0,
        "http2": {"connections": 0, "streams": 0},
        "slow_client_bytes": 0,
        "draining": True,
    }
    assert await server.drain(0) == 0
    assert not any(is_accepting(listener.addresses[0]) for listener in server.listeners.values())


async def test_a_changed_listener_keeps_what_is_buffered_for_slow_clients_in_its_account() -> None:
    front = Front(OK)
    server = front.server
    del server.listeners["test"]
    bound = await bind(server, a="127.0.0.1:0")
    server.apply(snapshot(**bound), bound)
    old = bound["a"]
    old.slow.buffered = 1000
    spec = {"address": "127.0.0.1:0", "via": "other", "slow_clients": {"buffer_total": "1500B"}}
    bound = await server.prepare({"a": ListenerSpec.model_validate(spec)})
    server.apply(snapshot(**bound), bound)
    new = bound["a"]
    assert new is not old
    assert not new.slow.is_full
    new.slow.buffered += 500
    assert (new.slow.is_full, old.slow.is_full) == (True, True), "reloads do not multiply the bound"
    shown = server.describe()["a"]
    assert (shown["draining"], shown["slow_client_bytes"]) == (False, 1500), "it is the listener in force that is shown"
    assert await server.drain(0) == 0


async def test_listeners_that_are_not_applied_are_closed() -> None:
    front = Front(OK)
    bound = await bind(front.server, a="127.0.0.1:0")
    address = bound["a"].addresses[0]
    assert is_accepting(address)
    front.server.abandon(bound)
    assert not is_accepting(address)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="listener b"):
        await bind(front.server, a=address, b=f"127.0.0.1:{taken.getsockname()[1]}")
    assert not is_accepting(address), "nothing is left bound"
    front.server.abort()


def test_a_connection_is_accepted_or_left_to_the_next_process_when_a_drain_begins() -> None:
    uvloop = pytest.importorskip("uvloop")  # a server of asyncio drops what it has accepted just before its end

    async def drain(turns: int, *, is_handed_over: bool) -> None:
        """Drain a listener, some turns of the loop after a client has connected."""
        front = Front(OK)
        server = front.server
        del server.listeners["test"]
        bound = await bind(server, a="127.0.0.1:0")
        server.apply(snapshot(**bound), bound)
        bound["a"].match = lambda x: front.route
        await settle()
        waiting = bound["a"].listening[0].dup()
        host, port = bound["a"].addresses[0].split(":")
        with waiting, socket.create_connection((host, int(port))) as client:
            client.sendall(GET)
            if is_handed_over:
                sock, _ = waiting.accept()
                sock.setblocking(False)
                bound["a"].take(sock)
            await settle(turns)
            draining = asyncio.create_task(served(front))
            await asyncio.wait([draining], timeout=0.05)  # longer than it takes, if it waits for nobody
            try:
                waiting.accept()[0].close()
            except BlockingIOError:
                is_accepted = True
            else:
                is_accepted = False
        assert await draining == is_accepted

    async def served(front: Front) -> int:
        """Drain a server; return the number of requests that were answered until the end of the drain."""
        await front.server.drain(PATIENCE, is_gentle=True)
        return len(front.records)

    async def drain_all() -> None:
        for turns in range(8):
            for is_handed_over in (False, True):
                await drain(turns, is_handed_over=is_handed_over)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(drain_all())


async def test_listeners_that_are_applied_during_a_drain_are_closed() -> None:
    front = Front(OK)
    server = front.server
    del server.listeners["test"]
    bound = await bind(server, a="127.0.0.1:0")
    assert await server.drain(0) == 0
    server.apply(snapshot(**bound), bound)
    await settle()
    assert not is_accepting(bound["a"].addresses[0])
    assert not server.listeners


@virtual
async def test_gauges_count_connections_and_requests_by_listener() -> None:
    front = Front(ScriptedService(HANG))
    front.server._register_gauges("test", b"http")
    client = front.connect()
    front.connect()
    client.write(GET)
    await settle()
    meter = front.env.meter
    assert meter.value(metrics.CONNECTIONS, listener="test") == 2
    assert meter.value(metrics.REQUESTS_ACTIVE, listener="test") == 1
    front.server.draining_listeners.add(front.server.listeners.pop("test"))
    assert meter.value(metrics.CONNECTIONS, listener="test") == 2, "a dropped listener keeps its name"
