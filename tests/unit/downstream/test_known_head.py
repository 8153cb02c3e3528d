"""Heads of requests that come again: each exchange is the one that reading the head makes."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.downstream.request_head import SPECIAL, KnownHead, Peer, can_repeat, read_request

HOST = b"host: a.test\r\n"


def attributes(x: Exchange) -> dict[str, object]:
    return {name: value for name in dir(x) if name[:2] != "__" and not callable(value := getattr(x, name, None))}


def read(peer: Peer, target: bytes, lines: bytes, now: float) -> tuple[Exchange, Headers]:
    kept, special, speaks_to_caches = SPECIAL.take(lines, 0, len(lines))
    return read_request(b"POST", target, 11, kept, special, speaks_to_caches, peer, now)[0], special


@pytest.mark.parametrize("target", [b"/", b"/a%20b?c=d", b"/a/../b"])
@pytest.mark.parametrize("lines", [b"", b"te: trailers\r\n", b"cookie: a=b\r\nx: y\r\n"])
@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1"])
def test_a_head_that_comes_again_makes_the_same_exchange(target: bytes, lines: bytes, address: str) -> None:
    peer = Peer(address, b"https", (ip_network("10.0.0.0/8"),), protocol=20)
    peer.certificate = {"subject": ()}
    first, special = read(peer, target, HOST + lines, 1.0)
    assert can_repeat(b"POST", target, special)
    again = KnownHead(first).read(peer, 2.0)
    assert attributes(again) == attributes(read(peer, target, HOST + lines, 2.0)[0])
    assert again.attempts is not first.attempts


@pytest.mark.parametrize(
    "lines",
    [
        HOST, b"te: trailers\r\nte: trailers\r\n", b"grpc-timeout: 1S\r\n", b"x-request-timeout-ms: 5\r\n",
        b"x-forwarded-for: 192.0.2.7\r\n", b"x-sidecar-hops: a\r\n", b"content-length: 1\r\n",
        b"x-criticality: low\r\n",
    ],
)  # fmt: skip
def test_what_depends_on_instant_or_peer_is_read_each_time(lines: bytes) -> None:
    lines = HOST + lines
    assert not can_repeat(b"POST", b"/", SPECIAL.take(lines, 0, len(lines))[1])


@pytest.mark.parametrize(("method", "target"), [(b"CONNECT", b"/"), (b"OPTIONS", b"*"), (b"GET", b"http://b.test/")])
def test_other_targets_are_read_each_time(method: bytes, target: bytes) -> None:
    assert not can_repeat(method, target, [(b"host", b"a.test")])
