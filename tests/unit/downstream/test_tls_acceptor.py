"""Tests of TLS acceptors: connections are counted and bounded before their handshake."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.outcome import Outcome
from sidecar.downstream import tls_acceptor
from sidecar.downstream.tls_acceptor import MAX_ACCEPTS_A_TURN, TlsAcceptor
from tests.support.loop import settle, virtual
from tests.support.transports import TransportPair
from tests.unit.downstream.front import GET, Client, Front, always

OK = always(lambda x: Outcome(200))


class FakeSocket:
    """Listening socket with a queue of clients, or of errors; also such a client."""

    def __init__(self) -> None:
        self.queue: deque[FakeSocket | OSError] = deque()
        self.is_closed = False

    def accept(self) -> tuple[FakeSocket, str]:
        if not self.queue:
            raise BlockingIOError
        first = self.queue.popleft()
        if isinstance(first, OSError):
            raise first
        return first, ""

    def fileno(self) -> int:
        return -1 if self.is_closed else 7

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def close(self) -> None:
        self.is_closed = True


class Harness:
    """Acceptor on a fake socket, on a loop whose handshakes end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.front = Front(OK, limits)
        self.socket = FakeSocket()
        self.read: Callable[[], None] | None = None
        self.handshakes: list[tuple[Callable[[], Any], dict[str, Any], asyncio.Future[None]]] = []
        monkeypatch.setattr(loop, "add_reader", self._add_reader)
        monkeypatch.setattr(loop, "remove_reader", self._remove_reader)
        monkeypatch.setattr(loop, "connect_accepted_socket", self._connect_accepted_socket)
        context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        sock: Any = self.socket
        self.acceptor = TlsAcceptor(self.front.listener, sock, context)

    def _add_reader(self, sock: FakeSocket, callback: Callable[[], None]) -> None:
        self.read = callback

    def _remove_reader(self, sock: FakeSocket) -> None:
        self.read = None

    async def _connect_accepted_socket(self, factory: Callable[[], Any], sock: FakeSocket, **options: Any) -> None:
        done = asyncio.get_running_loop().create_future()
        self.handshakes.append((factory, options, done))
        try:
            await done
        finally:
            sock.is_closed = True

    async def arrive(self, *clients: FakeSocket | OSError) -> None:
        self.socket.queue += clients
        assert self.read is not None
        self.read()
        await settle()


@virtual
async def test_connections_are_counted_and_bounded_before_their_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch, {"max_connections": 2, "header_timeout": "3s", "body_timeout": "4s"})
    await harness.acceptor.start_serving()
    clients = [FakeSocket() for _ in range(3)]
    await harness.arrive(*clients)
    assert harness.front.server.open_connections == 2
    assert [client.is_closed for client in clients] == [False, False, True]
    assert harness.front.env.meter.value(metrics.REFUSALS, policy="limits") == 1
    assert len(harness.handshakes) == 2
    _, options, _ = harness.handshakes[0]
    assert (options["ssl_handshake_timeout"], options["ssl_shutdown_timeout"]) == (3, 4)


@virtual
async def test_the_connection_takes_the_place_of_its_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch, {"max_connections": 1})
    await harness.acceptor.start_serving()
    await harness.arrive(FakeSocket())
    factory, _, done = harness.handshakes[0]
    client = Client()
    TransportPair(client, factory())
    done.set_result(None)
    await settle()
    assert harness.front.server.open_connections == len(harness.front.listener.connections) == 1
    client.write(GET)
    assert (await client.answer()).status == 200
    client.transport.close()
    await settle()
    assert harness.front.is_empty


@pytest.mark.parametrize(
    ("error", "failed"), [(ssl.SSLError("no shared cipher"), 1), (ConnectionResetError(), 1), (TimeoutError(), 1)]
)
@virtual
async def test_a_handshake_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch, error: OSError, failed: int) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    await harness.arrive(FakeSocket())
    harness.handshakes[0][2].set_exception(error)
    await settle()
    assert harness.front.env.meter.value(metrics.REFUSALS, policy="tls", reason="handshake") == failed
    assert harness.front.is_empty


@pytest.mark.parametrize("how", ["drain", "abort"])
@virtual
async def test_a_handshake_ends_with_the_listener(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    client = FakeSocket()
    await harness.arrive(client)
    getattr(harness.front.server if how == "abort" else harness.front.listener, how)()
    await settle()
    assert client.is_closed
    assert harness.front.is_empty
    assert harness.front.env.meter.value(metrics.REFUSALS, policy="tls") == 0


@virtual
async def test_one_turn_accepts_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    await harness.arrive(*[FakeSocket() for _ in range(MAX_ACCEPTS_A_TURN + 1)])
    assert harness.front.server.open_connections == MAX_ACCEPTS_A_TURN
    await harness.arrive()
    assert harness.front.server.open_connections == MAX_ACCEPTS_A_TURN + 1


@virtual
async def test_accepting_pauses_while_the_system_has_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    await harness.arrive(OSError(errno.EMFILE, "too many"), FakeSocket())
    assert (harness.read, harness.front.server.open_connections) == (None, 0)
    await asyncio.sleep(tls_acceptor.PAUSE_SECONDS)
    await harness.arrive()
    assert harness.front.server.open_connections == 1


@virtual
async def test_a_client_that_has_left_already_is_skipped_and_other_errors_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    await harness.arrive(ConnectionAbortedError())
    with pytest.raises(OSError, match="odd"):
        await harness.arrive(OSError(errno.EINVAL, "odd"))


@virtual
async def test_a_closed_acceptor_does_not_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch)
    await harness.acceptor.start_serving()
    await harness.arrive(OSError(errno.EMFILE, "too many"))
    harness.acceptor.close()
    assert harness.socket.is_closed
    await asyncio.sleep(2)
    assert harness.read is None
