"""Captured services in network namespaces of their own; prints what their clients saw as one JSON document.

Run as root: `unshare -n python -m tests.e2e.captured DIRECTORY PROGRAM`, where PROGRAM is `nft` or `iptables`.  The
servers are in a second namespace, behind a pair of virtual interfaces.  Clients run as another user than the sidecar,
whose connections the rules exempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from sidecar.commands import main
from tests.support.authority import Authority
from tests.support.h2_server import Connection, H2Server, echo
from tests.support.process import Sidecar, policies

HERE, THERE = "10.77.0.1", "10.77.0.2"
HERE6, THERE6 = "fd77::1", "fd77::2"
HTTP, ROUTED, HTTP2, TLS, OTHER_TLS, BANNER, CLOSED, SKIPPED = 8000, 8001, 8002, 8443, 8444, 8025, 8099, 8005
NOBODY = 65534
BULK = 2_000_000
PATIENCE = 20.0
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


def run_capture(*arguments: str) -> None:
    """Run `sidecar capture` in this process, whose start is paid once."""
    done = CliRunner().invoke(main, ["capture", *arguments])
    assert done.exit_code == 0, done.output


# ----- the servers, in the second namespace


async def answer_http(name: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = name + b" via" if b"via:" in head.lower() else name
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    writer.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, as servers of SMTP do, then echo until the client's end, and say good-bye."""
    writer.write(b"220 hello\r\n")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"221 bye\r\n")
    writer.close()


async def serve(cert: str, key: str) -> None:
    run("ip", "link", "set", "lo", "up")
    print("up", flush=True)
    sys.stdin.readline()
    run("ip", "addr", "add", f"{THERE}/24", "dev", "there")
    run("ip", "addr", "add", f"{THERE6}/64", "dev", "there", "nodad")
    run("ip", "link", "set", "there", "up")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    servers = [(HTTP, b"original", None), (ROUTED, b"routed", None), (SKIPPED, b"skipped", None)]
    secured = [(TLS, b"one", context), (OTHER_TLS, b"other", context)]
    for port, name, tls in [*servers, *secured]:
        for host in (THERE, THERE6):
            await asyncio.start_server(partial(answer_http, name), host, port, ssl=tls)
    for host in (THERE, THERE6):
        await asyncio.start_server(greet, host, BANNER)
    h2 = H2Server(echo)
    await asyncio.get_running_loop().create_server(lambda: Connection(h2), THERE, HTTP2)
    print("listening", flush=True)
    await asyncio.Event().wait()


# ----- the clients


async def dial(host: str, port: int, **tls: Any) -> Stream:
    """Return a connection of a user whom no rule exempts: the kernel looks at who has made the socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    os.seteuid(NOBODY)
    try:
        sock = socket.socket(family)
    finally:
        os.seteuid(0)
    sock.setblocking(False)
    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (host, port)), PATIENCE)
    return await asyncio.open_connection(sock=sock, **tls)


async def ask(stream: Stream, host: str) -> str:
    reader, writer = stream
    writer.write(f"GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.lower().splitlines() if line.startswith("content-length"))
    body = (await reader.readexactly(int(length.split(":")[1]))).decode()
    return f"{head.split()[1]} {body}"


async def http1(host: str) -> list[str]:
    """Ask on one connection for a host with a route, and for one without."""
    stream = await dial(host, HTTP)
    found = [await ask(stream, "routed.test"), await ask(stream, "elsewhere.test")]
    stream[1].close()
    return found


async def slow_http1() -> str:
    """A request line that comes in two pieces, with a pause longer than the sniffing."""
    reader, writer = await dial(THERE, HTTP)
    writer.write(b"GET /a")
    await asyncio.sleep(0.5)
    writer.write(b"b HTTP/1.1\r\nHost: routed.test\r\nConnection: close\r\n\r\n")
    received = await reader.read(-1)
    writer.close()
    return received.rpartition(b"\r\n\r\n")[2].decode()


async def late_http1() -> str:
    """Ask on a connection that has been open, and silent, for longer than the sniffing."""
    stream = await dial(THERE, HTTP)
    await asyncio.sleep(0.5)
    found = await ask(stream, "routed.test")
    stream[1].close()
    return found


async def http2(host: str) -> str:
    command = ["curl", "-s", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}"]
    command += ["-H", f"Host: {host}", f"http://{THERE}:{HTTP2}/a"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, user=NOBODY)
    out, _ = await process.communicate()
    return out.decode().rpartition("}")[2].strip() if out.startswith(b"{") else out.decode()


async def tls(context: ssl.SSLContext, name: str, port: int) -> str:
    stream = await dial(THERE, port, ssl=context, server_hostname=name)
    found = await ask(stream, name)
    stream[1].close()
    return found


async def server_first(host: str, bulk: int = 0) -> list[Any]:
    """Read the greeting before sending anything, send, half-close and read the rest."""
    reader, writer = await dial(host, BANNER)
    greeting = await reader.readline()
    sent = b"x" * bulk + b"end\r\n"
    reading = asyncio.create_task(reader.read(-1))
    writer.write(sent)
    await writer.drain()
    writer.write_eof()
    received = await reading
    writer.close()
    return [greeting.decode().strip(), received == sent + b"221 bye\r\n"]


async def refused(host: str, port: int) -> str:
    """Return how a connection that leads nowhere ends."""
    try:
        reader, writer = await dial(host, port)
        data = await reader.read(10)
        writer.close()
    except ConnectionError as error:
        return type(error).__name__
    return f"closed after {len(data)} bytes"


async def check(directory: Path, program: str) -> dict[str, Any]:
    authority = Authority(directory / "authority")
    identity = authority.sign("one.test", "other.test")
    run("ip", "link", "set", "lo", "up")
    pipe = subprocess.PIPE
    command = ["unshare", "-n", sys.executable, "-m", __spec__.name, "serve", identity["cert"], identity["key"]]
    servers = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert servers.stdout is not None
    assert servers.stdin is not None
    try:
        await servers.stdout.readline()
        run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(servers.pid))
        run("ip", "addr", "add", f"{HERE}/24", "dev", "here")
        run("ip", "addr", "add", f"{HERE6}/64", "dev", "here", "nodad")
        run("ip", "link", "set", "here", "up")
        servers.stdin.write(b"\n")
        await servers.stdout.readline()
        return await look(directory, program, authority)
    finally:
        servers.kill()
        await servers.wait()


async def look(directory: Path, program: str, authority: Authority) -> dict[str, Any]:
    settings = {"original_destination": True, "capture": {"sniff_timeout": "100ms"}}
    policy = policies(
        listeners={
            "inbound": {"address": "127.0.0.1:0"},
            "outbound": {"address": "127.0.0.1:15001", **settings},
            "outbound6": {"address": "[::1]:15001", **settings},
        },
        upstreams={
            "routed": {"endpoints": [f"http://{THERE}:{ROUTED}"]},
            "other": {"endpoints": [f"http://{THERE}:{OTHER_TLS}"]},
        },
        routes=[
            {"name": listener, "listener": listener, "match": {"host": "routed.test"}, "upstream": "routed"}
            for listener in ("outbound", "outbound6")
        ],
    )
    policy["listeners"]["outbound"]["capture"] = {"sniff_timeout": "100ms", "server_names": {"other.test": "other"}}
    options = ["--uid", "0", "--skip-port", str(SKIPPED)] + (["--iptables"] if program == "iptables" else [])
    capture = partial(run_capture, *options)
    context = authority.client()
    async with Sidecar(policy, directory) as sidecar:
        path = str(sidecar.path)
        capture("--apply", path)
        once = run("nft", "list", "ruleset") if program == "nft" else run("iptables-save", "-t", "nat")
        capture("--apply", path)
        twice = run("nft", "list", "ruleset") if program == "nft" else run("iptables-save", "-t", "nat")
        found = {
            "is_idempotent": _rules(once) == _rules(twice),
            "http1": await http1(THERE),
            "http1_over_ipv6": await http1(THERE6),
            "slow_http1": await slow_http1(),
            "late_http1": await late_http1(),
            "http2": await http2("elsewhere.test"),
            "tls": [await tls(context, "one.test", TLS), await tls(context, "other.test", TLS)],
            "server_first": await server_first(THERE),
            "server_first6": await server_first(THERE6),
            "bulk": await server_first(THERE, BULK),
            "skipped": await ask(await dial(THERE, SKIPPED), "routed.test"),
            "loopback": await refused("127.0.0.1", 15001),
            "itself": await refused(HERE, 15001),
            "nobody_listens": await refused(THERE, CLOSED),
        }
        page = bytes((await sidecar.ask("/metrics")).body).decode()
        found["metrics"] = [line for line in page.splitlines() if line.startswith("sidecar_capture_")]
        found["ended"] = [each for each in sidecar.events if each["event"] == "capture.ended"]
        found["bugs"] = [each for each in sidecar.events if each["event"] == "bug"]
        capture("--undo", path)
        capture("--undo", path)
        left = run("nft", "list", "ruleset") if program == "nft" else run("iptables-save", "-t", "nat")
        found["is_undone"] = "sidecar" not in left.lower()
        run_capture("--apply", "--uid", "12345", *options[2:], path)
        found["loops"] = [await refused(THERE, BANNER), await ask(await dial(THERE, ROUTED), "elsewhere.test")]
        found["loop_log"] = [each["reason"] for each in sidecar.said("capture.refused")][2:]
        capture("--undo", path)
        found["undone"] = await ask(await dial(THERE, HTTP), "routed.test")
    return found


def _rules(text: str) -> list[str]:
    """Return the rules of a dump without comments and counters."""
    return [line for line in text.splitlines() if line[:1] not in "#:"]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(*sys.argv[2:]))
    else:
        print(json.dumps(asyncio.run(check(Path(sys.argv[1]), sys.argv[2]))))
