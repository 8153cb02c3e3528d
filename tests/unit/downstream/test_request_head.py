"""Tests of request heads as exchanges: authority, target, fields of the connection, trusted proxies."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from sidecar.config.process_spec import LimitsSpec
from sidecar.core.exchange import CRITICAL, DEFAULT, NEVER, NOT_STATED, SHEDDABLE, Exchange
from sidecar.core.http1 import CHUNKED, Invalid
from sidecar.core.outcome import LOOP
from sidecar.downstream.listener import Limits
from sidecar.downstream.request_head import (
    LastHop,
    Peer,
    Trust,
    hop_name,
    read_ordinary,
    read_request,
    remove_dot_segments,
    split_request,
)

NOW = 1000.0
LIMITS = Limits(LimitsSpec.built_in().model_copy(update={"max_header_bytes": 1 << 16, "max_list_members": 1 << 16}))
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def read(
    lines: bytes = b"", start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n", peer: Peer | None = None
) -> tuple[Exchange, int | None, bool]:
    data = start + b"\r\n" + host + lines + b"\r\n"
    head = read_ordinary(data) or split_request(data, LIMITS)
    assert head is not None
    method, target, version, _, kept, special, speaks_to_caches = head
    peer = peer or Peer("192.0.2.1", b"http")
    return read_request(method, target, version, kept, special, speaks_to_caches, peer, NOW)


@pytest.mark.parametrize(
    ("target", "authority", "path", "query"),
    [
        (b"/", b"a", b"/", None),
        (b"/a/b", b"a", b"/a/b", None),
        (b"/a?b=c&d", b"a", b"/a", b"b=c&d"),
        (b"/a?", b"a", b"/a", b""),
        (b"/a?b?c", b"a", b"/a", b"b?c"),
        (b"//a//b", b"a", b"//a//b", None),
        (b"/a%2Fb", b"a", b"/a%2Fb", None),
        (b"http://b/c", b"b", b"/c", None),
        (b"http://b", b"b", b"/", None),
        (b"http://b?c", b"b", b"/", b"c"),
        (b"HTTPS://b:8443/c?d", b"b:8443", b"/c", b"d"),
        (b"http://[::1]:80/", b"[::1]:80", b"/", None),
        (b"http://b/../c", b"b", b"/c", None),
    ],
)
def test_the_target(target: bytes, authority: bytes, path: bytes, query: bytes | None) -> None:
    x, length, keep = read(start=b"GET %b HTTP/1.1" % target)
    assert (x.authority, x.path, x.query) == (authority, path, query)
    assert (length, keep, x.headers) == (None, True, [])


@pytest.mark.parametrize("target", [b"*", b"http://a"])
def test_options_for_the_server_as_a_whole(target: bytes) -> None:
    x, *_ = read(start=b"OPTIONS %b HTTP/1.1" % target)
    assert (x.path, x.query) == (b"*", None)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (b"/a", b"/a"),
        (b"/.", b"/"),
        (b"/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/../../b", b"/b"),
        (b"/a/b/../../c/", b"/c/"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/a/%2E/b", b"/a/b"),
        (b"/a/...", b"/a/..."),
        (b"/a/.b", b"/a/.b"),
        (b"/a/b..", b"/a/b.."),
        (b"/a//../b", b"/a/b"),
        (b"/public/../admin", b"/admin"),
        (b"/a%2f..%2fb", b"/a%2f..%2fb"),
    ],
)
def test_dot_segments_are_removed(path: bytes, plain: bytes) -> None:
    assert remove_dot_segments(path) == plain
    assert read(start=b"GET %b HTTP/1.1" % path)[0].path == plain


@pytest.mark.parametrize(
    ("start", "lines", "keep"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: x, CLOSE\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1", b"X: close\r\n", True),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"GET / HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
        (b"GET / HTTP/1.2", b"", True),
    ],
)
def test_the_connection_is_kept_as_the_client_asks(start: bytes, lines: bytes, keep: bool) -> None:
    assert read(lines, start)[2] is keep


def test_hop_by_hop_fields_are_dropped() -> None:
    x, *_ = read(
        b"Connection: X-Private, Upgrade\r\nX-Private: a\r\nKeep-Alive: b\r\nProxy-Authorization: c\r\nUpgrade: h2c\r\n"
        b"Trailer: d\r\nProxy-Connection: e\r\nTE: gzip\r\nAccept: f\r\n"
    )
    assert x.headers == [(b"accept", b"f")]
    assert x.upgrade is None
    assert not x.accepts_trailers


def test_spelling_and_order_are_kept() -> None:
    x, *_ = read(b"B: 1\r\nConnection: keep-alive\r\nA:2 \r\nb:  3\r\n")
    assert x.lines == b"B: 1\r\nA:2 \r\nb:  3\r\n"
    assert x.headers == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]


def test_framing() -> None:
    assert read(b"Content-Length: 7\r\n")[1] == 7
    assert read(b"Transfer-Encoding: chunked\r\n")[1] == CHUNKED
    assert read(b"X: y\r\n")[1] is None


@pytest.mark.parametrize(
    ("lines", "expects"),
    [
        (b"Content-Length: 5\r\nExpect: 100-continue\r\n", True),
        (b"Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n", True),
        (b"Content-Length: 0\r\nExpect: 100-continue\r\n", False),
        (b"Expect: 100-continue\r\n", False),
    ],
)
def test_expectations(lines: bytes, expects: bool) -> None:
    x, *_ = read(lines)
    assert x.expects_continue is expects
    assert x.header(b"expect") is None


@pytest.mark.parametrize(
    ("lines", "start", "upgrade"),
    [
        (b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"GET / HTTP/1.1", b"websocket"),
        (b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", b"GET / HTTP/1.1", b"websocket"),
        (b"Upgrade: websocket\r\n", b"GET / HTTP/1.1", None),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"GET / HTTP/1.1", None),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"POST / HTTP/1.1", None),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"GET / HTTP/1.0", None),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", b"GET / HTTP/1.1", None),
    ],
)
def test_upgrades(lines: bytes, start: bytes, upgrade: bytes | None) -> None:
    assert read(lines, start)[0].upgrade == upgrade


@pytest.mark.parametrize(
    ("lines", "deadline"),
    [
        (b"", NEVER),
        (b"X-Request-Timeout-Ms: 250\r\n", NOW + 0.25),
        (b"X-Envoy-Expected-Rq-Timeout-Ms: 1000\r\n", NOW + 1),
        (b"X-Request-Timeout-Ms: 500\r\nX-Envoy-Expected-Rq-Timeout-Ms: 300\r\n", NOW + 0.3),
        (b"grpc-timeout: 2S\r\n", NOW + 2),
        (b"grpc-timeout: 100m\r\n", NOW + 0.1),
        (b"grpc-timeout: 1H\r\n", NOW + 3600),
        (b"grpc-timeout: 100\r\n", NEVER),
        (b"grpc-timeout: \r\n", NEVER),
        (b"X-Request-Timeout-Ms: -1\r\n", NEVER),
        (b"X-Request-Timeout-Ms: 1e3\r\n", NEVER),
        (b"X-Request-Timeout-Ms: 99999999999\r\n", NEVER),
    ],
)
def test_the_deadline(lines: bytes, deadline: float) -> None:
    x, *_ = read(lines)
    assert x.deadline == pytest.approx(deadline)
    assert x.headers == []


@pytest.mark.parametrize(
    ("lines", "criticality"),
    [
        (b"", NOT_STATED),
        (b"critical", CRITICAL),
        (b"Sheddable", SHEDDABLE),
        (b"default", DEFAULT),
        (b"whatever", NOT_STATED),
    ],
)
def test_criticality_is_read_and_passed_on(lines: bytes, criticality: int) -> None:
    x, *_ = read(b"X-Criticality: %b\r\n" % lines if lines else b"", peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert x.stated_criticality == criticality
    assert x.header(b"x-criticality") == (lines or None)


@pytest.mark.parametrize(
    ("value", "attempt"), [(b"1", 0), (b"2", 1), (b"5", 4), (b"0", 0), (b"x", 0), (b"-1", 0), (b"9" * 20, 0)]
)
def test_the_number_of_the_attempt(value: bytes, attempt: int) -> None:
    x, *_ = read(b"X-Sidecar-Attempt: %b\r\n" % value)
    assert (x.marked_attempt, x.header(b"x-sidecar-attempt")) == (attempt, None)


@pytest.mark.parametrize(
    ("value", "request_id"),
    [(b"abc-1", b"abc-1"), (b"x" * 128, b"x" * 128), (b"x" * 129, b""), (b"a b", b""), (b"", b"")],
)
def test_the_request_id(value: bytes, request_id: bytes) -> None:
    assert read(b"X-Request-Id: %b\r\n" % value)[0].request_id == request_id


@pytest.mark.parametrize(
    ("start", "value", "onward"),
    [
        (b"OPTIONS / HTTP/1.1", b"5", b"4"),
        (b"TRACE / HTTP/1.1", b"1", b"0"),
        (b"GET / HTTP/1.1", b"0", b"0"),
        (b"OPTIONS / HTTP/1.1", b"x", b"x"),
    ],
)
def test_max_forwards_counts_down(start: bytes, value: bytes, onward: bytes) -> None:
    assert read(b"Max-Forwards: %b\r\n" % value, start)[0].header(b"max-forwards") == onward


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
def test_max_forwards_0_is_the_last_hop(method: bytes) -> None:
    with pytest.raises(LastHop) as last:
        read(b"Max-Forwards: 0\r\n", b"%b /a HTTP/1.1" % method)
    assert (last.value.x.method, last.value.x.path) == (method, b"/a")


def forwarding(x: Exchange) -> dict[str, str]:
    lines = x.forwarding.decode().split("\r\n")[:-1]
    return dict(line.split(": ", 1) for line in lines)


def test_forwarded_fields_about_the_client() -> None:
    x, *_ = read()
    assert forwarding(x) == {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "http", "via": "1.1 sidecar"}
    assert x.client_address == "192.0.2.1"
    x, *_ = read(start=b"GET / HTTP/1.0", peer=Peer("2001:db8::1", b"https"))
    assert forwarding(x) == {"x-forwarded-for": "2001:db8::1", "x-forwarded-proto": "https", "via": "1.0 sidecar"}
    x, *_ = read(peer=Peer("", b"http"))
    assert forwarding(x) == {"x-forwarded-proto": "http", "via": "1.1 sidecar"}


CLAIMS = (
    b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nForwarded: for=203.0.113.9\r\n"
    b"X-Real-IP: 203.0.113.9\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Client-Cert: By=x\r\n"
)


def test_forwarded_fields_of_others_are_dropped() -> None:
    for peer in (Peer("192.0.2.1", b"http"), Peer("192.0.2.1", b"http", TRUSTED)):
        x, *_ = read(CLAIMS + CLAIMS.replace(b"-", b"_"), peer=peer)
        assert forwarding(x)["x-forwarded-for"] == "192.0.2.1"
        assert x.client_address == "192.0.2.1"
        assert b"203.0.113.9" not in x.forwarding + x.lines
        assert x.headers == []


def test_forwarded_fields_of_a_trusted_proxy_are_extended() -> None:
    x, *_ = read(CLAIMS, peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert forwarding(x) == {
        "x-forwarded-for": "203.0.113.9, 10.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "h",
        "x-real-ip": "203.0.113.9",
        "x-forwarded-port": "443",
        "x-forwarded-client-cert": "By=x",
        "forwarded": "for=203.0.113.9, for=10.0.0.1;proto=http",
        "via": "1.1 sidecar",
    }
    assert x.client_address == "203.0.113.9"


@pytest.mark.parametrize(
    ("said", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 10.1.1.1", "203.0.113.9"),
        (b"203.0.113.9,10.1.1.1,2001:db8::5", "203.0.113.9"),
        (b"10.9.9.9", "10.9.9.9"),
        (b"unknown", "unknown"),
        (b"203.0.113.7:50001", "203.0.113.7"),
        (b"[2001:db9::1]:443", "2001:db9::1"),
        (b"[2001:db9::1]", "2001:db9::1"),
        (b"2001:DB9:0::1", "2001:db9::1"),
        (b'"[2001:db9::1]:443"', "2001:db9::1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"::ffff:203.0.113.7", "203.0.113.7"),
        (b"203.0.113.7:50001, 10.1.1.1:443", "203.0.113.7"),
        (b"203.0.113.7:50001, [2001:db8::5]:443, [::ffff:10.1.1.1]:1", "203.0.113.7"),
        (b"203.0.113.7:x, 10.1.1.1", "203.0.113.7"),
        (b"203.0.113.7, 10.1.1.1:", "203.0.113.7"),
        (b" , 203.0.113.7 ,", "203.0.113.7"),
        (b"203.0.113.777:80", "203.0.113.777:80"),
        (b"[zz]:80", "[zz]:80"),
        (b"6.6.6.6, unknown, 10.1.1.1", "unknown"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(said: bytes, client: str) -> None:
    x, *_ = read(b"X-Forwarded-For: %b\r\n" % said, peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert x.client_address == client


def test_the_chain_goes_on_as_it_came_with_the_address_of_the_proxy() -> None:
    x, *_ = read(b"X-Forwarded-For: 203.0.113.7:50001\r\n", peer=Peer("::ffff:10.0.0.1", b"http", TRUSTED))
    assert forwarding(x)["x-forwarded-for"] == "203.0.113.7:50001, 10.0.0.1"


@pytest.mark.parametrize(
    ("said", "client", "chain"),
    [
        (b"for=203.0.113.7", "203.0.113.7", "203.0.113.7, 10.0.0.1"),
        (b'For="[2001:db9::1]:443";proto=https, for=10.1.1.1', "2001:db9::1", "2001:db9::1, 10.1.1.1, 10.0.0.1"),
        (b'for="203.0.113.7:50001" ; by=10.0.0.9', "203.0.113.7", "203.0.113.7, 10.0.0.1"),
        (b"for=unknown", "unknown", "10.0.0.1"),
        (b"for=_gazonk, for=10.1.1.1", "_gazonk", "10.0.0.1"),
        (b'for="a,b;c=d", for=203.0.113.7', "203.0.113.7", "10.0.0.1"),
        (b'for="203.0.113.7', "203.0.113.7", "203.0.113.7, 10.0.0.1"),
        (b", ;", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_forwarded_counts_where_nothing_else_is_said(said: bytes, client: str, chain: str) -> None:
    x, *_ = read(b"Forwarded: %b\r\n" % said, peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert (x.client_address, forwarding(x)["x-forwarded-for"]) == (client, chain)


def test_x_forwarded_for_counts_before_forwarded() -> None:
    lines = b"Forwarded: for=6.6.6.6;proto=https;host=b\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: http\r\n"
    x, *_ = read(lines, peer=Peer("10.0.0.1", b"https", TRUSTED))
    assert (x.client_address, x.scheme, x.host) == ("203.0.113.7", b"http", b"b")


@pytest.mark.parametrize(
    ("hops", "protos", "scheme", "told"),
    [
        ("", "https", b"https", "https"),
        ("203.0.113.7", "https", b"https", "https"),
        ("203.0.113.7, 10.1.1.1", "https, http", b"https", "https"),
        ("203.0.113.7, 10.1.1.1", "http, https", b"http", "http"),
        ("6.6.6.6, 203.0.113.7", "https, http", b"http", "http"),
        ("203.0.113.7", "https, http", b"http", "http"),
        ("203.0.113.7", "WSS", b"https", "WSS"),
        ("203.0.113.7", "ws", b"http", "ws"),
        ("203.0.113.7", "gopher", b"http", "http"),
        ("203.0.113.7", ",", b"http", "http"),
    ],
)
def test_the_scheme_is_that_of_the_client(hops: str, protos: str, scheme: bytes, told: str) -> None:
    lines = f"X-Forwarded-For: {hops}\r\nX-Forwarded-Proto: {protos}\r\n".encode()
    x, *_ = read(lines, peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert (x.scheme, forwarding(x)["x-forwarded-proto"]) == (scheme, told)


@pytest.mark.parametrize("host", [b"b/c", b"a b", b"@", b"x" * 300])
def test_a_host_that_is_none_is_not_the_clients(host: bytes) -> None:
    x, *_ = read(b"X-Forwarded-Host: %b\r\n" % host, peer=Peer("10.0.0.1", b"http", TRUSTED))
    assert (x.public_authority, x.host) == (b"", b"a")


@pytest.mark.parametrize(("via", "line"), [("edge", "1.1 edge"), ("", None)])
def test_via_has_a_name_or_none(via: str, line: str | None) -> None:
    for lines in (b"", b"X-Forwarded-For: 203.0.113.7\r\n"):
        x, *_ = read(lines + b"Via: 1.0 fred\r\n", peer=Peer("10.0.0.1", b"http", trust=Trust(TRUSTED, via=via)))
        assert forwarding(x).get("via") == line
        assert x.header(b"via") == b"1.0 fred", "those before us stay"


@pytest.mark.parametrize(
    ("hops", "loops"),
    [
        (b"me", True),
        (b"a, me , b", True),
        (b"a\r\nX-Sidecar-Hops: me", True),
        (b"a, b", False),
        (b"mean, ame", False),
        (b", ".join([b"a"] * 32), False),
        (b", ".join([b"a"] * 33), True),
        (b"a\r\nX-Sidecar-Hops: " + b", ".join([b"a"] * 32), True),
    ],
)
def test_loops(hops: bytes, loops: bool) -> None:
    peer = Peer("192.0.2.1", b"http", trust=Trust(hop=b"me", via=""))
    lines = b"X-Sidecar-Hops: %b\r\n" % hops
    if not loops:
        x, *_ = read(lines, peer=peer)
        assert forwarding(x)["x-sidecar-hops"] == "me"
        assert x.joined(b"x-sidecar-hops") == hops
        return
    with pytest.raises(LastHop) as last:
        read(lines, b"GET /a/../b HTTP/1.1", peer=peer)
    assert last.value.failure is LOOP
    assert last.value.x.path == b"/b", "the whole head was read"
    with pytest.raises(Invalid):
        read(lines, peer=peer, host=b"Host: a b\r\n")


def test_each_listener_of_each_process_has_a_name_of_its_own() -> None:
    names = {hop_name(process, name) for process in (b"1" * 16, b"2" * 16) for name in ("inbound", "outbound")}
    assert len(names) == 4
    assert hop_name(b"1" * 16, "inbound") in names


def test_a_forwarded_field_is_read_in_linear_time() -> None:
    for value in (b'"' * 30_000, b'\\"' * 15_000, b",;" * 15_000, b"for=" * 7_000, b"[" * 30_000, b"1." * 15_000):
        read(b"Forwarded: for=%b\r\nX-Forwarded-For: %b\r\n" % (value, value), peer=Peer("10.0.0.1", b"http", TRUSTED))


def test_forwarded_by_an_ipv6_proxy() -> None:
    x, *_ = read(b"Forwarded: for=a\r\n", peer=Peer("2001:db8::1", b"https", TRUSTED))
    assert forwarding(x)["forwarded"] == 'for=a, for="[2001:db8::1]";proto=https'


def test_the_host_is_checked_anew_when_it_changes() -> None:
    peer = Peer("192.0.2.1", b"http")
    for host, good in ((b"a", True), (b"a", True), (b"b/c", False), (b"a", True), (b"", False)):
        if good:
            assert read(host=b"Host: %b\r\n" % host, peer=peer)[0].authority == host
        else:
            with pytest.raises(Invalid):
                read(host=b"Host: %b\r\n" % host, peer=peer)
    assert read(host=b"", start=b"GET / HTTP/1.0", peer=peer)[0].authority == b""
    with pytest.raises(Invalid):
        read(host=b"", peer=peer)


@pytest.mark.parametrize(
    ("kwargs", "status"),
    [
        ({"lines": b"Host: b\r\n"}, 400),
        ({"start": b"CONNECT a:1 HTTP/1.1"}, 501),
        ({"start": b"CONNECT / HTTP/1.1"}, 501),
        ({"start": b"GET * HTTP/1.1"}, 400),
        ({"lines": b"Expect: x\r\n"}, 417),
        ({"lines": b"Transfer-Encoding: gzip, chunked\r\n"}, 501),
    ],
)
def test_a_rejected_head_says_why(kwargs: dict[str, Any], status: int) -> None:
    with pytest.raises(Invalid) as error:
        read(**kwargs)
    assert error.value.status == status
    assert len(str(error.value)) > 10


@pytest.mark.parametrize("name", [b"content_length", b"Transfer_Encoding"])
def test_framing_fields_with_underscores_are_dropped(name: bytes) -> None:
    x, length, _ = read(lines=name + b": chunked\r\nContent-Length: 5\r\nX_Y: z\r\n")
    assert (length, x.headers) == (5, [(b"x_y", b"z")])
