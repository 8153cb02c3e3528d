"""HTTP/2 from clients, with curl (nghttp2) as the client: prior knowledge, ALPN, long bodies both ways, streams."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chaos.parts import websocket
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server, echoing
from tests.support.authority import Authority
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.process import NOTHING, Sidecar, policies, route

CURL = shutil.which("curl") or ""
NODE = shutil.which("node") or ""
CLIENT = Path(__file__).with_name("http2_client.mjs")


def has_http2() -> bool:
    return bool(CURL) and b"HTTP2" in subprocess.run([CURL, "--version"], capture_output=True, check=True).stdout


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not has_http2(), reason="there is no curl that speaks HTTP/2"),
]
MIB = 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar")) as running:
        yield running


async def app(connection: Connection, request: Message) -> None:
    if request.get("upgrade"):
        await websocket.echo(connection, request)
    elif request.target == "/app/large":
        await connection.send(response(200, bytes(4 * MIB)))
    else:
        await echoing(connection, request)


def policy(url: str, **listener: Any) -> dict[str, Any]:
    inbound = {"address": "127.0.0.1:0", **listener}
    return policies(
        listeners={"inbound": inbound}, upstreams={"app": {"endpoints": [url]}}, routes=[route("app", retry={})]
    )


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        CURL, "--silent", "--show-error", "--max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


FACTS = "\n%{http_version} %{http_code} %{size_download}"


def facts(out: bytes) -> tuple[str, str, str]:
    version, code, size = out.rsplit(b"\n", 1)[-1].decode().split()
    return version, code, size


async def test_prior_knowledge_and_http1_share_a_port(shared: Sidecar) -> None:
    async with Server(app) as server, shared.under(policy(server.url)) as sidecar:
        url = f"http://{sidecar.inbound.removeprefix('http://')}/app/x"
        out = await curl("--http2-prior-knowledge", "-w", FACTS, "-d", "hello", url)
        assert out.startswith(b"hello\n")
        assert facts(out)[:2] == ("2", "200")
        assert facts(await curl("--http1.1", "-w", FACTS, url))[:2] == ("1.1", "200")
        upgraded = await curl("--http2", "-w", FACTS, url)
        assert facts(upgraded)[:2] == ("1.1", "200"), "an upgrade to h2c is ignored (RFC 9113 3.1)"
        assert server.requests[0].get("host") == url.split("/")[2]
        assert server.requests[0].get("via") == "2.0 sidecar"


async def test_long_bodies_pass_both_ways(shared: Sidecar, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 16384)
    async with Server(app) as server, shared.under(policy(server.url)) as sidecar:
        base = f"http://{sidecar.inbound.removeprefix('http://')}/app"
        out = await curl("--http2-prior-knowledge", "--data-binary", f"@{body}", f"{base}/echo")
        assert out == body.read_bytes()
        out = await curl("--http2-prior-knowledge", "-w", FACTS, "-o", "/dev/null", f"{base}/large")
        assert facts(out) == ("2", "200", str(4 * MIB))


async def test_answers_count_by_their_size_over_both_versions_and_from_the_cache(shared: Sidecar) -> None:
    """Each answer of 4 MiB counts as 64 of 300; the route has a cache."""
    cost = {"name": "bytes", "max": 300, "per": "month", "cost": {"answer_size": "64KiB"}}
    async with Server(app) as server:
        whole = policy(server.url)
        whole["routes"][0] |= {"quota": [cost], "cache": {"ttl": "1h", "max_body": "8MiB"}}
        async with shared.under(whole) as sidecar:
            url = f"http://{sidecar.inbound.removeprefix('http://')}/app"
            wanted = ["-o", "/dev/null", "-w", "%header{ratelimit} %{http_code}"]
            for left, target, version in (
                (299, "large", "--http1.1"), (235, "large", "--http2-prior-knowledge"), (171, "x", "--http1.1"),
                (170, "large", "--http1.1"), (106, "x", "--http2-prior-knowledge"),
            ):  # fmt: skip
                said = (await curl(version, *wanted, f"{url}/{target}")).decode()
                assert said.startswith(f'"bytes";r={left * 65536};'), version
                assert said.endswith(" 200")
            assert len(server.requests) == 2, "all others were hits of the cache"


async def test_many_streams_share_a_connection(shared: Sidecar, tmp_path: Path) -> None:
    """Over TLS: some versions of curl fail to use a connection of prior knowledge again."""
    ca = Authority(tmp_path / "authority")
    async with Server(app) as server, shared.under(policy(server.url, tls=ca.sign("localhost"))) as sidecar:
        url = f"https://localhost:{sidecar.inbound.rsplit(':', 1)[1]}/app/[1-60]"
        facts = "%{http_version} %{http_code} %{num_connects}\n"
        out = await curl("--cacert", str(ca.ca_file), "-Z", "--parallel-max", "30", "-w", facts, url)
        lines = out.decode().split("\n")[:-1]
        assert [line[:5] for line in lines] == ["2 200"] * 60
        assert sum(int(line[6:]) for line in lines) == 1
        assert len(server.requests) == 60


async def test_failures_are_problem_documents(shared: Sidecar) -> None:
    async with Server(app) as server, shared.under(policy(server.url)) as sidecar:
        url = f"http://{sidecar.inbound.removeprefix('http://')}/none"
        out = await curl("--http2-prior-knowledge", url)
        assert json.loads(out)["status"] == 404


async def test_alpn_chooses_over_tls(shared: Sidecar, tmp_path: Path) -> None:
    ca = Authority(tmp_path / "authority")
    identity = ca.sign("localhost", "127.0.0.1")
    async with Server(app) as server, shared.under(policy(server.url, tls=identity)) as sidecar:
        port = sidecar.inbound.rsplit(":", 1)[1]
        url = f"https://localhost:{port}/app/large"
        trusted = ("--cacert", str(ca.ca_file), "-w", FACTS, "-o", "/dev/null", url)
        assert facts(await curl(*trusted)) == ("2", "200", str(4 * MIB))
        assert facts(await curl("--http1.1", *trusted)) == ("1.1", "200", str(4 * MIB))
    async with Server(app) as server, shared.under(policy(server.url, tls=identity, protocols=["http1"])) as sidecar:
        port = sidecar.inbound.rsplit(":", 1)[1]
        url = f"https://localhost:{port}/app/x"
        assert facts(await curl("--cacert", str(ca.ca_file), "-w", FACTS, url))[0] == "1.1"


async def test_no_client_names_its_caller_itself(shared: Sidecar) -> None:
    """Over HTTP/1.1, HTTP/2 and in the handshake of a WebSocket, in any spelling of the field."""
    signed = sign(key(), {"exp": time.time() + 600}).decode()
    jwt = {"issuer": ISSUER, "audiences": ["orders"], "keys": {"inline": [jwk(key())]}}
    guard = {"any_of": ["corporate"], "forward": {"caller": "x-caller"}}
    spoofed = {"x-caller": "root", "X_Caller": "root", "x.caller": "root"}
    async with Server(app) as server:
        rules = policy(server.url) | {"identities": {"corporate": {"jwt": jwt}}}
        rules["routes"] = [route("app", authenticate=guard)]
        async with shared.under(rules) as sidecar:
            address = sidecar.inbound.removeprefix("http://")
            fields = {"authorization": f"Bearer {signed}", **spoofed}
            options = [each for name, value in fields.items() for each in ("-H", f"{name}: {value}")]
            for version in ("--http1.1", "--http2-prior-knowledge"):
                for _ in range(2):  # the second time the token is known
                    assert facts(await curl(version, *options, "-w", FACTS, f"http://{address}/app/x"))[1] == "200"
            async with sidecar.client() as client:
                lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
                await client.send(websocket.handshake("/app/socket").replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n"))
                assert (await client.response()).status == 101
        assert len(server.requests) == 5
        for request in server.requests:
            told = [value for name, value in request.fields if re.fullmatch("x[-_.]caller", name)]
            assert told == ["alice"]


@pytest.mark.skipif(not NODE, reason="there is no node")
async def test_streams_and_websockets_of_node(shared: Sidecar) -> None:
    sent = websocket.Frame(websocket.TEXT, b"hello", masked=True).encode()
    async with Server(app) as server, shared.under(policy(server.url)) as sidecar:
        process = await asyncio.create_subprocess_exec(
            NODE, str(CLIENT), f"http://{sidecar.inbound}", sent.hex(), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    told = json.loads(out)
    assert told["answers"] == [[200, 4 * MIB if number % 2 else 200_000] for number in range(30)]
    assert told["connects"] is True
    assert told["message"] == [200, websocket.Frame(websocket.TEXT, b"hello").encode().hex()]


async def test_a_listener_of_http2_alone_over_tls(shared: Sidecar, tmp_path: Path) -> None:
    ca = Authority(tmp_path / "authority")
    tls = {"tls": ca.sign("localhost"), "protocols": ["http2"]}
    async with Server(app) as server, shared.under(policy(server.url, **tls)) as sidecar:
        url = f"https://localhost:{sidecar.inbound.rsplit(':', 1)[1]}/app/x"
        trusted = ("--cacert", str(ca.ca_file), "-w", FACTS, url)
        assert facts(await curl(*trusted))[:2] == ("2", "200")
        refused = await curl("--http1.1", *trusted)
        assert facts(refused)[1] == "505"
        assert b"HTTP/2 only" in refused
