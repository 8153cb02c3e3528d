"""Slow streams beside correct ones, on the same connection and on another: neither these nor the upstream suffer."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.http2 import frames as f
from tests.support.loop import virtual
from tests.support.proxy import Client, Proxy, Service
from tests.unit.downstream.http2.talk import end_of_frames
from tests.unit.http2.peer import GET, POST, Frame, data, headers, setting, split

POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"]}}
routes:
  - name: r
    match: {path_prefix: /}
    upstream: u
    timeout: {request: 3s, attempt: 1s}
    circuit_breaker: {failure_rate: 10%, min_calls: 5}
"""
SLOW = 60
"""Slow streams."""
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000


def frames(client: Client, number: int) -> list[Frame]:
    received = bytes(client.received)
    return [frame for frame in split(received[: end_of_frames(received)]) if frame.stream == number]


@pytest.mark.parametrize("kind", ["uploads", "downloads"])
@virtual
async def test_slow_streams_leave_correct_ones_alone(kind: str) -> None:
    proxy = Proxy(POLICIES, Service(LONG, after=0.01))
    shared, other = proxy.connect(), proxy.connect()
    for client in (shared, other):
        client.write(f.PREFACE + setting(f.INITIAL_WINDOW_SIZE, 0) + f.SETTINGS_ACK + f.window_update(0, 1 << 30))
    for number in range(1, 2 * SLOW, 2):
        shared.write(headers(number, GET) if kind == "downloads" else headers(number, POST, False) + data(number, b"a"))
    for number in range(2 * SLOW + 1, 2 * SLOW + 41, 2):
        for client in (shared, other):
            client.write(headers(number, GET) + f.window_update(number, 1 << 20))
        await asyncio.sleep(0.3)
        for client in (shared, other):
            found = frames(client, number)
            assert sum(len(frame.payload) for frame in found if frame.kind == f.DATA) == 100_000
            assert found[-1].kind == f.DATA
            assert found[-1].flags & f.END_STREAM
    assert proxy.breakers() == {"route:r": "closed"}
    assert proxy.bugs == []
