"""HTTP/2 to upstreams: the `h2` library as a server that misbehaves on command, and Node and nginx where they are."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from h2.errors import ErrorCodes

from chaos.parts import websocket as ws
from chaos.parts.http import Message
from chaos.parts.servers import Connection as PlainConnection
from chaos.parts.servers import Server
from chaos.parts.websocket import Frame
from sidecar.process.children import tied_to_parent
from tests.e2e.test_http2 import FACTS, curl, facts, has_http2
from tests.support.authority import Authority
from tests.support.h2_server import Connection, H2Server, Request, echo
from tests.support.process import NOTHING, Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 2**20
needs_curl = pytest.mark.skipif(not has_http2(), reason="there is no curl that speaks HTTP/2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar")) as running:
        yield running


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


def policy(url: str, blocks: dict[str, Any] | None = None, **upstream: Any) -> dict[str, Any]:
    app = {"endpoints": [url], "protocol": "http2", **upstream}
    return policies(
        listeners={"inbound": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
        upstreams={"app": app},
        routes=[route("app", **(blocks or {}))],
    )


async def ask(sidecar: Sidecar, target: str, **more: Any) -> tuple[int, Any]:
    answer = await sidecar.fetch("GET", target, **more)
    return answer.status, answer.body


# ----- versions


def behave(connection: Connection, request: Request) -> None:
    if request.path == "/app/large":
        connection.answer(request, bytes(MIB))
    elif request.path == "/app/trailers":
        connection.answer(request, b"body", end=False)
        connection.trail(request, [(b"x-sum", b"1")])
    elif request.path == "/app/head":
        connection.answer(request, fields=[(b"content-length", b"7")])
    else:
        echo(connection, request)


async def test_http1_to_http2(shared: Sidecar) -> None:
    async with H2Server(behave) as server, shared.under(policy(server.url)) as sidecar:
        answer = await sidecar.fetch("POST", "/app/x?y=z", b"hello", cookie="a=b; c=d", x_a="1")
        found = json.loads(answer.body)
        fields = dict(found["fields"])
        assert (fields[":method"], fields[":path"], fields[":scheme"]) == ("POST", "/app/x?y=z", "http")
        assert fields[":authority"] == "localhost"
        assert (fields["cookie"], fields["x-a"], fields["content-length"]) == ("a=b; c=d", "1", "5")
        assert not {"host", "connection", "transfer-encoding", "te"} & set(fields)
        assert found["body"] == "hello"
        assert answer.get("content-length") == str(len(answer.body))
        answer = await sidecar.fetch("GET", "/app/large")
        assert len(answer.body) == MIB
        answer = await sidecar.fetch("HEAD", "/app/head")
        assert (answer.status, answer.get("content-length")) == (200, "7")
        async with sidecar.client() as client:
            answer = await client.request("GET", "/app/trailers", te="trailers", connection="te")
        assert answer.body == b"body"
        assert len(server.connections) == 1
        assert server.errors == 0


@needs_curl
async def test_http2_to_http2(shared: Sidecar, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(MIB))
    async with H2Server(behave) as server, shared.under(policy(server.url)) as sidecar:
        url = f"http://{sidecar.inbound}/app"
        assert facts(await curl("--http2-prior-knowledge", "-w", FACTS, f"{url}/large")) == ("2", "200", str(MIB))
        out = await curl("--http2-prior-knowledge", "--data-binary", f"@{upload}", f"{url}/x")
        assert len(json.loads(out)["body"]) == MIB
        out = await curl("--http2-prior-knowledge", "-v", "--stderr", "-", f"{url}/trailers")
        assert b"x-sum: 1" in out
        assert server.errors == 0


@pytest.mark.parametrize("alpn", [["h2"], ["http/1.1"], []])
async def test_alpn_selects_the_version(shared: Sidecar, ca: Authority, alpn: list[str]) -> None:
    context = ca.server(ca.sign("localhost", "127.0.0.1"))
    if alpn:
        context.set_alpn_protocols(alpn)
    upstream: dict[str, Any] = {"protocol": "auto", "tls": {"ca": ca.ca_file}}
    if alpn == ["h2"]:
        async with H2Server(echo, context) as server, shared.under(policy(server.url, **upstream)) as sidecar:
            found = json.loads((await sidecar.fetch("GET", "/app/x")).body)
            assert dict(found["fields"])[":scheme"] == "https"
        return

    async def app(connection: PlainConnection, _: Message) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with Server(app, tls=context) as server:
        async with shared.under(policy(server.url, **upstream)) as sidecar:
            assert await ask(sidecar, "/app/x") == (200, b"hi")
        async with shared.under(policy(server.url, **{**upstream, "protocol": "http2"})) as sidecar:
            answer = await sidecar.fetch("GET", "/app/x")
            assert (answer.status, answer.get("x-sidecar-reason")) == (502, "connect_failure")


# ----- misbehaviour


MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "line break": [(b"x-a", b"b\r\nset-cookie: c=d")],
    "line feed": [(b"x-a", b"b\nc: d")],
    "nul": [(b"x-a", b"b\x00c")],
    "upper case": [(b"X-A", b"b")],
    "colon": [(b"x:a", b"b")],
    "pseudo-header": [(b":path", b"/")],
    "second status": [(b":status", b"201")],
    "connection": [(b"connection", b"keep-alive")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "lengths": [(b"content-length", b"3"), (b"content-length", b"4")],
    "length": [(b"content-length", b"2")],
}


@needs_curl
async def test_malformed_answers_never_reach_a_client(shared: Sidecar) -> None:
    def malformed(connection: Connection, request: Request) -> None:
        kind = request.path.rpartition("/")[2].replace("%20", " ")
        connection.answer(request, b"abc", MALFORMED[kind])

    async with H2Server(malformed) as server, shared.under(policy(server.url)) as sidecar:
        for kind in MALFORMED:
            path = f"/app/{kind.replace(' ', '%20')}"
            answer = await sidecar.fetch("GET", path)
            assert (kind, answer.status, answer.get("x-sidecar-reason")) == (kind, 502, "protocol_error")
            assert not answer.get("set-cookie")
            out = await curl("--http2-prior-knowledge", "-w", FACTS, f"http://{sidecar.inbound}{path}")
            assert facts(out)[1] == "502"


async def test_a_goaway_storm_loses_no_call(shared: Sidecar) -> None:
    seen: dict[str, int] = {}

    def storm(connection: Connection, request: Request) -> None:
        if connection.answered > 40:
            return  # it came after the GOAWAY
        seen[request.path] = seen.get(request.path, 0) + 1
        echo(connection, request)
        if connection.answered == 40:
            connection.go_away(request.stream)

    async with H2Server(storm) as server, shared.under(policy(server.url)) as sidecar:

        async def load(worker: int) -> list[int]:
            async with sidecar.client() as client:
                return [(await client.request("POST", f"/app/{worker}/{number}", b"x")).status for number in range(40)]

        found = await asyncio.gather(*[load(worker) for worker in range(16)])
    assert {status for each in found for status in each} == {200}
    assert set(seen.values()) == {1}, "none was processed twice"
    assert len(server.connections) >= 16


async def test_a_reset_after_a_whole_answer_keeps_the_answer(shared: Sidecar) -> None:
    def early(connection: Connection, request: Request) -> None:
        connection.answer(request, b"whole")
        connection.flush()
        frame = b"\x00\x00\x04\x03\x00" + request.stream.to_bytes(4, "big") + bytes(4)
        connection.transport.write(frame)

    async with H2Server(early) as server, shared.under(policy(server.url)) as sidecar:
        for _ in range(20):
            assert await ask(sidecar, "/app/x") == (200, b"whole")
        assert len(server.connections) == 1


async def test_refused_streams_are_repeated_elsewhere(shared: Sidecar) -> None:
    def refusing(connection: Connection, request: Request) -> None:
        if connection.server.connections.index(connection) == 0:
            connection.reset(request, ErrorCodes.REFUSED_STREAM)
        else:
            echo(connection, request)

    async with H2Server(refusing) as server, shared.under(policy(server.url)) as sidecar:
        answer = await sidecar.fetch("POST", "/app/x", b"hello")
        assert (answer.status, json.loads(answer.body)["connection"]) == (200, 1)


async def test_a_client_that_leaves_resets_its_stream(shared: Sidecar) -> None:
    def hold(connection: Connection, request: Request) -> None:
        if request.path == "/app/quick":
            echo(connection, request)

    async with H2Server(hold) as server, shared.under(policy(server.url)) as sidecar:
        async with sidecar.client() as client:
            await client.send(b"GET /app/slow HTTP/1.1\r\nHost: a\r\n\r\n")
            while not (server.connections and server.connections[0].requests):
                await asyncio.sleep(0.01)
            linger = struct.pack("ii", 1, 0)  # a reset, because an end alone may be half of the connection's
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        while not server.connections[0].resets:
            await asyncio.sleep(0.01)
        assert server.connections[0].resets == [(1, ErrorCodes.CANCEL)]
        assert (await ask(sidecar, "/app/quick"))[0] == 200
        assert len(server.connections) == 1


async def test_a_black_hole_is_left_within_one_attempt(shared: Sidecar) -> None:
    def hole(connection: Connection, request: Request) -> None:
        if connection.server.connections.index(connection) == 0 and request.path == "/app/hole":
            connection.transport.pause_reading()  # from now on nothing is heard of it
        elif not connection.transport.is_reading():
            return
        else:
            echo(connection, request)

    blocks = {"timeout": {"attempt": "2s", "request": "10s"}}
    async with H2Server(hole) as server, shared.under(policy(server.url, blocks)) as sidecar:
        lost = asyncio.create_task(sidecar.fetch("GET", "/app/hole"))
        while not (server.connections and not server.connections[0].transport.is_reading()):
            await asyncio.sleep(0.01)
        found = []
        while not found or found[-1] != 1:  # those before the PING is overdue share the fate of the first
            answer = await sidecar.fetch("GET", "/app/x")
            found.append(json.loads(answer.body).get("connection") if answer.status == 200 else -1)
        assert (await lost).status == 504
        assert len(server.connections) == 2


async def test_a_websocket_is_refused_clearly(shared: Sidecar) -> None:
    async with H2Server(echo) as server, shared.under(policy(server.url)) as sidecar, sidecar.client() as client:
        answer = await client.request(
            "GET",
            "/app/ws",
            connection="Upgrade",
            upgrade="websocket",
            sec_websocket_version="13",
            sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert (answer.status, answer.get("x-sidecar-reason")) == (503, "no_endpoint")
        assert b"WebSocket" in answer.body


async def test_a_server_of_http1_is_named(shared: Sidecar, tmp_path: Path) -> None:
    async def app(connection: PlainConnection, request: Message) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with Server(app) as server, shared.under(policy(server.url)) as sidecar:
        answer = await sidecar.fetch("GET", "/app/x")
        assert (answer.status, answer.get("x-sidecar-reason")) == (502, "connect_failure")


async def test_health_checks_speak_http2(shared: Sidecar) -> None:
    healthy = True

    def checked(connection: Connection, request: Request) -> None:
        if request.path == "/healthz" and not healthy:
            connection.h2.send_headers(request.stream, [(b":status", b"503")], end_stream=True)
        else:
            echo(connection, request)

    check = {"path": "/healthz", "interval": "100ms", "unhealthy_after": 1, "healthy_after": 1}
    upstream = {"health_check": check, "panic": "fail_fast"}
    async with H2Server(checked) as server, shared.under(policy(server.url, **upstream)) as sidecar:
        assert (await ask(sidecar, "/app/x"))[0] == 200
        healthy = False
        while (await ask(sidecar, "/app/x"))[0] != 503:
            await asyncio.sleep(0.05)
        healthy = True
        while (await ask(sidecar, "/app/x"))[0] != 200:
            await asyncio.sleep(0.05)


# ----- other servers


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, preexec_fn=tied_to_parent()
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


NODE = """
const http2 = require('http2');
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  let size = 0;
  stream.on('error', () => {});
  stream.on('data', data => { size += data.length; });
  stream.on('end', () => {
    if (headers[':path'] === '/app/large') {
      stream.respond({':status': 200});
      stream.end(Buffer.alloc(1048576));
    } else {
      stream.respond({':status': 200}, {waitForTrailers: true});
      stream.on('wantTrailers', () => stream.sendTrailers({'x-sum': '1'}));
      stream.end(String(size));
    }
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="there is no Node")
@needs_curl
async def test_node(shared: Sidecar, tmp_path: Path) -> None:
    script, upload = tmp_path / "server.js", tmp_path / "upload"
    script.write_text(NODE)
    upload.write_bytes(bytes(MIB))
    async with running("node", str(script)) as process:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with shared.under(policy(f"http://127.0.0.1:{port}")) as sidecar:
            url = f"http://{sidecar.inbound}/app"
            for version in ("--http1.1", "--http2-prior-knowledge"):
                assert await curl(version, "--data-binary", f"@{upload}", f"{url}/x") == str(MIB).encode()
                assert facts(await curl(version, "-w", FACTS, f"{url}/large"))[1:] == ("200", str(MIB))
            assert b"x-sum: 1" in await curl("--http2-prior-knowledge", "-v", "--stderr", "-", f"{url}/x")


@pytest.mark.skipif(not shutil.which("nginx"), reason="there is no nginx")
@needs_curl
async def test_nginx_that_goes_away_often(shared: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(MIB))
    path = tmp_path / "nginx.sock"
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"""
daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f;
  uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
  server {{
    listen unix:{path} http2; keepalive_requests 20;
    location /app/large {{ alias {tmp_path}/large; }}
    location / {{ return 200 "hello"; }}
  }}
}}
"""
    )
    async with running("nginx", "-p", str(tmp_path), "-e", "stderr", "-c", str(config)):
        while not path.exists():
            await asyncio.sleep(0.02)
        async with shared.under(policy(f"unix:{path}")) as sidecar:

            async def load() -> set[int]:
                async with sidecar.client() as client:
                    return {(await client.request("POST", "/app/x", b"x")).status for _ in range(50)}

            assert set.union(*await asyncio.gather(*[load() for _ in range(8)])) == {200}
            assert facts(await curl("-w", FACTS, f"http://{sidecar.inbound}/app/large"))[1:] == ("200", str(MIB))


async def test_a_websocket_to_an_upstream_of_http2(shared: Sidecar) -> None:
    frames = Frame(ws.TEXT, b"hello", masked=True).encode() + Frame(ws.BINARY, bytes(200_000), masked=True).encode()
    async with H2Server(echo, has_sockets=True) as server, shared.under(policy(server.url)) as sidecar:
        async with sidecar.client() as client:
            await client.send(ws.handshake("/app/chat"))
            answer = await client.response()
            assert (answer.status, answer.get("sec-websocket-accept")) == (101, ws.accept(ws.KEY))
            await client.send(frames)
            assert await asyncio.wait_for(client.reader.readexactly(len(frames)), 60) == frames
            close = Frame(ws.CLOSE, b"\x03\xe8", masked=True).encode()
            await client.send(close)
            assert await asyncio.wait_for(client.reader.readexactly(len(close)), 60) == close
        (connection,) = server.connections
        (request,) = connection.requests.values()
        assert (request.get(b":method"), request.get(b"sec-websocket-key"), request.path) == (
            b"CONNECT", b"", "/app/chat",
        )  # fmt: skip
        while connection.h2.open_inbound_streams:
            await asyncio.sleep(0.05)
        assert connection.resets == []
