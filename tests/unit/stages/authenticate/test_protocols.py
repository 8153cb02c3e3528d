"""Fields about the caller in every way in which a client can send fields: no client names its caller itself.

gRPC-Web and REST are in `tests/e2e/test_transcoding.py`, plain requests over real sockets in `tests/e2e/test_http2.py`.
"""

from __future__ import annotations

import json
import re

import pytest

from chaos.parts.websocket import KEY, accept
from sidecar.http2 import frames as f
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.loop import settle, virtual
from tests.support.proxy import HANDSHAKE, Client, Proxy, Service
from tests.unit.http2.peer import POST, data, headers

POLICIES = f"""\
version: 1
listeners: {{inbound: {{address: "127.0.0.1:8080"}}}}
upstreams: {{app: {{endpoints: ["http://127.0.0.1:9000"]}}}}
identities:
  corporate: {{jwt: {{issuer: "{ISSUER}", audiences: [orders], keys: {{inline: [{json.dumps(jwk(key()))}]}}}}}}
routes:
  - name: app
    upstream: app
    authenticate: {{any_of: [corporate], forward: {{caller: x-caller, claims: {{tenant: x-tenant}}}}}}
"""
SPOOFED = [(b"x-caller", b"root"), (b"x_caller", b"root"), (b"x-tenant", b"root"), (b"x.tenant", b"root")]
SWITCHED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept(KEY)}\r\n\r\n"
).encode()


def lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % each for each in fields)


def credentials() -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + sign(key())


async def deliver(
    *parts: bytes, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
) -> tuple[bytes, Client]:
    """Return what the upstream gets of a client that sends these bytes, and the client."""
    proxy = Proxy(POLICIES, service := Service(answer))
    client = proxy.connect()
    for each in parts:
        client.write(each)
        await settle(20)
    assert proxy.bugs == []
    return b"".join(bytes(each.received) for each in service.connections), client


def named(received: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields about the caller, in any spelling, wherever they stand."""
    return [(a.lower(), b) for a, b in re.findall(rb"(?i)(x[-_.](?:caller|tenant)): *([^\r\n]*)", received)]


TOLD = [(b"x-caller", b"alice"), (b"x-tenant", b"acme")]


@virtual
async def test_the_handshake_of_an_upgrade() -> None:
    asked = HANDSHAKE[:-2] + lines([*SPOOFED, credentials()]) + b"\r\n"
    received, client = await deliver(asked, asked, answer=SWITCHED)
    assert named(received.partition(b"\r\n\r\n")[0]) == TOLD
    assert client.received.startswith(b"HTTP/1.1 101 ")
    assert (await deliver(HANDSHAKE[:-2] + lines(SPOOFED) + b"\r\n"))[0] == b"", "without a token"


@virtual
async def test_an_extended_connect() -> None:
    connect = [
        (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":authority", b"a"),
        (b":path", b"/chat"), (b"sec-websocket-version", b"13"),
    ]  # fmt: skip
    start = f.PREFACE + f.settings([])
    for _ in range(2):
        received, _ = await deliver(start + headers(1, [*connect, *SPOOFED, credentials()], False), answer=SWITCHED)
        assert received.startswith(b"GET /chat HTTP/1.1\r\n")
        assert named(received) == TOLD
    received, client = await deliver(start + headers(1, [*connect, *SPOOFED], False))
    assert received == b""
    assert b"401" in client.received


@pytest.mark.parametrize("is_known", [False, True])
@virtual
async def test_trailers_of_a_chunked_request(is_known: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + lines([credentials()]) + b"\r\n"
    rest = b"2\r\nhi\r\n0\r\n" + lines([*SPOOFED, (b"x-checksum", b"1")]) + b"\r\n"
    received, _ = await deliver(*([head, rest] * (1 + is_known)))
    assert named(received) == TOLD * (1 + is_known)
    assert received.count(b"x-checksum: 1\r\n") == 1 + is_known, "others pass"


@virtual
async def test_trailers_of_http2() -> None:
    start = f.PREFACE + f.settings([])
    received, _ = await deliver(
        start + headers(1, [*POST, credentials()], False), data(1, b"hi"), headers(1, [*SPOOFED, (b"x-checksum", b"1")])
    )
    assert named(received) == TOLD
    assert received.count(b"x-checksum: 1\r\n") == 1
