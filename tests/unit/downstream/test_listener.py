"""Tests of listeners: limits, binding, answers of their own."""

from __future__ import annotations

import asyncio
import resource
import socket
from types import SimpleNamespace

import pytest

from sidecar.config.process_spec import ListenerSpec
from sidecar.core import metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.closing import LingeringClose
from sidecar.downstream.listener import Listener, match_traced
from tests.support.loop import settle, virtual
from tests.support.service import ScriptedService, after
from tests.unit.downstream.front import GET, Front, always, post

OK = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello"))


@virtual
async def test_connections_are_limited() -> None:
    front = Front(OK, {"max_connections": 2})
    first, second, third = front.connect(), front.connect(), front.connect()
    answer = await third.answer()
    assert (answer.status, answer.get("x-sidecar-reason"), answer.get("retry-after")) == (503, "overloaded", "1")
    await settle()
    assert third.is_eof
    first.transport.close()
    await settle()
    fourth = front.connect()
    fourth.write(GET)
    assert (await fourth.answer()).status == 200
    second.transport.close()
    fourth.transport.close()
    await settle()
    assert front.is_empty


@pytest.mark.parametrize(
    ("head", "status", "allow"),
    [
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", 200, True),
        (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n", 200, True),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 200, True),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 405, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 418, False),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n", 418, False),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n", 418, False),
    ],
)
@virtual
async def test_max_forwards_and_the_server_as_a_whole_are_answered_here(head: bytes, status: int, allow: bool) -> None:
    front = Front(always(lambda x: Outcome(418)))
    front.listener.match = lambda x: None if x.path == b"*" else front.route  # type: ignore[assignment,return-value]
    client = front.connect()
    client.write(head + b"\r\n")
    answer = await client.answer()
    assert (answer.status, bool(answer.get("allow"))) == (status, allow)
    assert front.bugs == []


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
@pytest.mark.parametrize(
    ("target", "lines"),
    [
        (b"/", b"Max-Forwards: 0\r\nHost: b\r\n"),
        (b"/", b'Max-Forwards: 0\r\nHost: a","status":200,"x":"b\r\nContent-Length: x\r\n'),
        (b"/", b"Max-Forwards: 0\r\nContent-Length: 1, 2\r\n"),
        (b"/", b"Max-Forwards: 0\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        (b"/", b"Max-Forwards: 0\r\nTransfer-Encoding: rot13\r\n"),
        (b"/", b"Max-Forwards: 0\r\nMax-Forwards: 1\r\nHost: a\r\n"),
        (b"/", b"Max-Forwards: 0\r\nExpect: nothing\r\n"),
        (b"nowhere", b"Max-Forwards: 0\r\n"),
        (b'http://a"/', b"Max-Forwards: 0\r\n"),
        (b"*", b"Max-Forwards: 0\r\nHost: b\r\n"),
        (b"*", b"Host: b\r\n"),
    ],
)
@virtual
async def test_a_head_is_valid_as_a_whole_before_it_is_answered_here(
    method: bytes, target: bytes, lines: bytes
) -> None:
    front = Front(always(lambda x: Outcome(418)))
    for host in (b"Host: a\r\n", b'Host: a"\r\n'):
        client = front.connect()
        client.write(b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, host, lines))
        assert (await client.answer()).status in (400, 417, 501)
    client = front.connect()
    client.write(b'%b / HTTP/1.1\r\nMax-Forwards: 0\r\nHost: a"\r\n\r\n' % method)
    assert (await client.answer()).status == 400
    assert front.bugs == []


@virtual
async def test_the_body_of_a_request_at_its_last_hop_is_not_read_as_a_request() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 99\r\n\r\n" + GET)
    assert (await client.answer()).status == 200
    await settle()
    assert (client.rest, client.is_eof) == (b"", True)


@virtual
async def test_a_connection_is_counted_once_in_all_its_forms() -> None:
    front = Front(ScriptedService(after(1, 413)))
    first, second = front.connect(), front.connect()
    first.write(post(b"x" * 100_000, sent=1))
    await settle()
    assert (front.server.open_connections, front.listener.active) == (2, 1)
    await asyncio.sleep(1.5)
    assert isinstance(next(iter(front.listener.connections - {second.connection})), LingeringClose)
    assert (front.server.open_connections, front.listener.active) == (2, 0)
    first.transport.close()
    second.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_a_successor_of_a_connection_drains_with_the_listener() -> None:
    class Plain:
        expires = 0.0
        drained = 0

        def expire(self, now: float) -> None: ...
        def abort(self) -> None: ...
        def drain(self) -> None:
            self.drained += 1

    front = Front(OK)
    first, second, third = Plain(), Plain(), Plain()
    assert front.listener.admit(first, None)
    front.listener.replace(first, second)
    assert second.drained == 0
    front.listener.drain()
    assert second.drained == 1
    front.listener.replace(second, third)
    assert third.drained == 1
    front.listener.replace(first, second)
    assert front.listener.connections == {third}, "what is not there is not replaced"
    front.listener.forget(second)
    assert front.server.open_connections == 1
    front.listener.forget(third)
    assert front.is_empty


@virtual
async def test_a_scarce_descriptor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front(OK)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    sock = SimpleNamespace(fileno=lambda: 1000)
    client = front.connect(socket=sock)
    assert (await client.answer()).status == 503
    assert front.env.meter.value(metrics.REFUSALS, policy="limits", reason="overloaded") == 1
    assert front.is_empty


@virtual
async def test_a_path_without_a_route_is_404_and_without_the_method_405() -> None:
    front = Front(OK)
    front.listener.match = lambda x: None
    front.listener._allowed = lambda x: [b"GET", b"HEAD"] if x.path == b"/known" else []
    client = front.connect()
    client.write(b"POST /known HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    answer = await client.answer()
    assert (answer.status, answer.get("allow"), answer.get("x-sidecar-reason")) == (405, "GET, HEAD", "no_route")
    answer = await client.answer()
    assert (answer.status, answer.get("allow")) == (404, "")
    assert b"the listener test" in answer.body


@virtual
async def test_a_traced_match_begins_the_trace_first() -> None:
    calls: list[str] = []

    def begin(x: Exchange) -> None:
        calls.append("begin")

    def match(x: Exchange) -> None:
        calls.append("match")

    match_traced(begin, match)(Exchange(b"GET", b"/", []))
    assert calls == ["begin", "match"]


async def test_binding_names_the_address_that_is_taken() -> None:
    front = Front(OK)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = ListenerSpec.model_validate({"address": f"127.0.0.1:{port}"})
        listener = Listener("second", spec, front.server)
        with pytest.raises(OSError, match=rf"listener second cannot listen on 127.0.0.1:{port}: address"):
            await listener.bind(None)
    front.server.abort()


async def test_a_successor_takes_over_the_sockets() -> None:
    front = Front(OK)
    spec = ListenerSpec.model_validate({"address": "127.0.0.1:0"})
    first = Listener("a", spec, front.server)
    assert first.share() is None
    await first.bind(None)
    second = Listener("a", spec.model_copy(update={"trusted_proxies": ()}), front.server)
    await second.bind(first)
    assert second.addresses == first.addresses
    first.stop_accepting()
    host, port = second.addresses[0].split(":")
    socket.create_connection((host, int(port))).close()  # waits in the queue: nothing accepts yet
    second.stop_accepting()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    front.server.abort()


async def test_a_listener_that_is_closed_before_it_accepts_starts_nothing() -> None:
    front = Front(OK)
    listener = Listener("a", ListenerSpec.model_validate({"address": "127.0.0.1:0"}), front.server)
    await listener.bind(None)
    tasks: list[asyncio.Task[None]] = []
    spawn = front.env.spawn
    front.env.spawn = lambda coroutine: tasks.append(spawn(coroutine))
    listener.accept()
    listener.stop_accepting()
    await asyncio.gather(*tasks)
    assert len(tasks) == 1
    front.server.abort()


def test_a_connection_that_another_worker_hands_over_to_a_draining_listener_gets_one_answer() -> None:
    """The other worker has accepted it before it knew of the drain."""

    async def run() -> bytes:
        front = Front(OK)
        front.listener.drain()
        ours, client = socket.socketpair()
        ours.setblocking(False)
        client.setblocking(False)
        loop, received = asyncio.get_running_loop(), b""
        with client:
            front.listener.take(ours)
            await loop.sock_sendall(client, GET)
            while piece := await loop.sock_recv(client, 4096):
                received += piece
        return received

    received = asyncio.run(run())
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received.lower()
