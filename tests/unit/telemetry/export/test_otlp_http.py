"""Tests of exporters' HTTP sessions: address and host name of their connections."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from sidecar.telemetry.export.otlp_http import Session
from sidecar.telemetry.pipeline import look_up_in_thread
from tests.support.authority import Authority


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.hosts.append(self.headers.get_all("host"))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(params=["http", "https"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Run a collector on 127.0.0.1; yield its URL by name, certificates to trust, and the Host fields of requests."""
    ca = Authority(tmp_path / "ca")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.hosts = []  # type: ignore[attr-defined]
    if request.param == "https":
        server.socket = ca.server(ca.sign("collector.test")).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    port = server.server_address[1]
    yield f"{request.param}://collector.test:{port}/v1/traces", ca.ca_file, server.hosts  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_collector_is_reached_at_the_next_address_under_its_own_name(
    collector: tuple[str, str, list[list[str]]],
) -> None:
    url, trusted, hosts = collector
    asked: list[str] = []

    def look_up(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.2", "127.0.0.1"]

    with Session(look_up) as session:
        session.verify = trusted
        with pytest.raises(requests.ConnectionError):
            session.request("POST", url, data=b"x")
        assert session.request("POST", url, data=b"x").status_code == 200
        assert session.request("POST", url, data=b"x").status_code == 200
    assert asked == ["collector.test"] * 3
    assert hosts == [[url.split("/")[2]]] * 2


def test_a_certificate_for_another_name_is_refused(collector: tuple[str, str, list[list[str]]]) -> None:
    url, trusted, hosts = collector
    if url.startswith("https"):
        with Session(lambda name: ["127.0.0.1"]) as session:
            session.verify = trusted
            with pytest.raises(requests.exceptions.SSLError):
                session.request("POST", url.replace("collector", "other"), data=b"x")
        assert hosts == []


def test_a_name_that_cannot_be_looked_up_is_a_failed_connection() -> None:
    def look_up(name: str) -> list[str]:
        raise OSError("the name does not exist")

    with Session(look_up) as session, pytest.raises(requests.ConnectionError, match="the name does not exist"):
        session.request("POST", "http://collector.test/v1/traces", data=b"x")


def test_a_proxy_gets_the_name() -> None:
    def look_up(name: str) -> list[str]:
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as proxy, Session(look_up) as session:
        session.proxies = {"http": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        head: list[bytes] = []

        def serve() -> None:
            client, _ = proxy.accept()
            with client:
                head.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        session.request("POST", "http://collector.test/v1/traces", data=b"")
        thread.join()
    assert head[0].startswith(b"POST http://collector.test/v1/traces ")


async def test_threads_look_up_on_the_loop_and_not_without_it() -> None:
    class Names:
        async def look_up(self, name: str) -> list[str]:
            return [name, threading.current_thread().name]

    own = threading.current_thread().name
    look_up = look_up_in_thread(Names(), asyncio.get_running_loop())  # type: ignore[arg-type]
    assert await asyncio.to_thread(look_up, "a") == ["a", own]
    closed = asyncio.new_event_loop()
    closed.close()
    with pytest.raises(OSError, match="closed"):
        look_up_in_thread(Names(), closed)("a")  # type: ignore[arg-type]
