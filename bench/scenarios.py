"""Scenarios of the benchmark, and the measurement of one peer under one of them."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Final, NamedTuple

from bench import calls, certificates, load, machine
from bench.load import Generate
from bench.peers import (
    HTTP2,
    LIMITED,
    LOGGED,
    PARTS,
    PROMPT,
    TALK,
    TLS_BOTH,
    TLS_DOWNSTREAM,
    TLS_UPSTREAM,
    TOKENS,
    TRACED,
    TRANSCODED,
    VARIANTS,
)


class Scenario(NamedTuple):
    """Load that is put on each peer."""

    name: str
    title: str
    target: str
    connections: int
    idle: int = 0
    """Keep-alive connections that have sent one request each and then stay silent beside the load."""
    peers: tuple[str, ...] = ()
    """Names of the peers that are measured; empty: all."""
    unique: bool = False
    """True if each request has a query of its own."""
    variant: str = ""
    """Name in `bench.peers.VARIANTS` of the additions to the demo's route."""
    load: Generate | None = None
    """Load generator; None: that of the run."""
    base: Scenario | None = None
    """Scenario without the feature to be measured, run in turns with this one; None if there is none."""

    def of(self, name: str) -> bool:
        """True if the peer of that name is measured."""
        return name in self.peers or not self.peers


SMALL: Final = "/orders/small"
SECURE: Final = "/secure/small"
UNARY: Final = "/bench.Shop/Get"
PROXIES: Final = ("sidecar", "envoy", "haproxy", "nginx")
COMPARED: Final = ("sidecar", "pure", "envoy", "nginx")
RETRYING: Final = ("sidecar", "envoy")
CALLING: Final = ("sidecar", "pure", "envoy")
GATHERING: Final = ("sidecar", "pure", "aiohttp")
FRESH: Final = 11_000
"""Tokens that come in turn: more than the sidecar keeps, so that each is forgotten before it comes again."""
UNSTORED: Final = Scenario("unstored", "the same without a cache", SMALL, 32, unique=True)
SCENARIOS: Final = (
    Scenario("small", "small answers, 32 connections", SMALL, 32),
    Scenario("single", "small answers, 1 connection", SMALL, 1),
    Scenario("large", "64 KiB answers, 32 connections", "/orders/large", 32),
    Scenario(
        "failing", "one answer in ten a 503, 32 connections", "/orders/failing", 32, peers=PROXIES, load=load.own
    ),
    Scenario(
        "prompt", "one answer in ten a 503 and a back-off of 1 ms at most, 32 connections", "/prompt/failing", 32,
        peers=RETRYING, variant=PROMPT, load=load.own,
    ),
    Scenario("cache", "small answers from the cache, 32 connections", "/cached/small", 32, peers=COMPARED),
    Scenario(
        "parts", "one answer made of three small ones, 32 connections", "/page/small", 32,
        peers=GATHERING, variant=PARTS,
    ),
    Scenario(
        "traced", "small answers, 1 % traced (nginx: none), 32 connections", SMALL, 32, peers=COMPARED, variant=TRACED
    ),
    Scenario(
        "logged", "small answers, a line of the access log for each, 32 connections", SMALL, 32,
        peers=COMPARED, variant=LOGGED,
    ),
    Scenario(
        "limited", "small answers under a limit that lets all pass, 32 connections", "/limited/small", 32,
        peers=CALLING, variant=LIMITED,
    ),
    Scenario(
        "known", "small answers to a caller whose token was seen before, 32 connections", "/known/small", 32,
        peers=CALLING, variant=TOKENS, load=load.with_tokens(1),
    ),
    Scenario(
        "fresh", "small answers, each to a token of RS256 that was not seen before, 32 connections", "/known/small", 32,
        peers=CALLING, variant=TOKENS, load=load.with_tokens(FRESH),
    ),
    Scenario(
        "tls_downstream", "small answers, TLS towards clients, 32 connections", SMALL, 32,
        peers=COMPARED, variant=TLS_DOWNSTREAM,
    ),
    Scenario(
        "tls_upstream", "small answers, TLS towards the upstream, 32 connections", SECURE, 32,
        peers=COMPARED, variant=TLS_UPSTREAM,
    ),
    Scenario(
        "tls_both", "small answers, TLS on both sides, 32 connections", SECURE, 32, peers=COMPARED, variant=TLS_BOTH
    ),
    Scenario(
        "messages", "WebSocket messages there and back, 32 sessions", "/talk/messages", 32,
        peers=COMPARED, variant=TALK, load=load.messages,
    ),
    Scenario(
        "events", "server-sent events, 200 a second on each of 32 streams", "/talk/events", 32,
        peers=COMPARED, variant=TALK, load=load.events,
    ),
    Scenario(
        "unary", "calls of gRPC with one message, 4 connections with 8 streams each", UNARY, 4,
        peers=COMPARED, variant=HTTP2, load=load.over_http2("unary", 8),
    ),
    Scenario(
        "unary_single", "calls of gRPC with one message, 32 connections with one stream each", UNARY, 32,
        peers=COMPARED, variant=HTTP2, load=load.over_http2("unary", 1),
    ),
    Scenario(
        "http2_to_http1", "small answers, HTTP/2 to HTTP/1.1, 4 connections with 8 streams each", SMALL, 4,
        peers=COMPARED, variant=HTTP2, load=load.over_http2("get", 8),
    ),
    Scenario(
        "http1_to_http2", "small answers, HTTP/1.1 to HTTP/2, 32 connections", "/http2/small", 32,
        peers=CALLING, variant=HTTP2,
    ),
    Scenario(
        "transcoded", "a GET that is a call of gRPC, 1.2 KB of JSON, 32 connections", "/v1/shops/7/orders/1", 32,
        peers=CALLING, variant=TRANSCODED,
    ),
    Scenario(
        "list", "messages of gRPC of 1 KiB, 100 in each answer, 4 connections with 8 streams each",
        "/bench.Shop/List", 4, peers=COMPARED, variant=HTTP2, load=load.over_http2("list", 8),
    ),
    Scenario(
        "watch", "messages of gRPC of 1 KiB, 200 a second on each of 32 streams, 4 connections", "/bench.Shop/Watch", 4,
        peers=CALLING, variant=HTTP2, load=load.over_http2("watch", 8),
    ),
    Scenario(
        "goaway", "calls of gRPC, the upstream ends each connection after a second", "/bench.Leaving/Get", 4,
        peers=CALLING, variant=HTTP2, load=load.over_http2("unary", 8),
    ),
    Scenario(
        "http2_idle", "calls of gRPC, 4 connections with 8 streams beside 1 000 idle ones of HTTP/2", UNARY, 4,
        idle=1000, peers=COMPARED, variant=HTTP2, load=load.over_http2("unary", 8),
    ),
    Scenario("idle", "small answers, 32 connections beside 1 000 idle ones", SMALL, 32, idle=1000, peers=PROXIES),
    Scenario(
        "stored", "small answers, each of them stored in the cache, 32 connections", "/cached/small", 32,
        peers=COMPARED, unique=True, base=UNSTORED,
    ),
)  # fmt: skip
"""Scenarios in the order of a run: `stored` is the last, since it fills the caches and memory of peers with a cache."""


class Sample(NamedTuple):
    """Measurement of one peer."""

    per_second: float
    p50: float
    """Median latency in microseconds."""
    p99: float
    cpu: float
    """Microseconds of CPU that the peer's process used for a request."""
    errors: float
    """Share of the requests without a good response."""
    resident: float
    """Resident bytes at the end of the load."""
    idle: float
    """Bytes by which an idle connection made the peer grow; 0 without idle connections."""
    times: float = 0.0
    """CPU of a request as a multiple of that of the base; 0 without a base."""


def measure(scenario: Scenario, pid: int, port: int, seconds: float, generate: Generate) -> Sample:
    """Load one peer and return its latencies, CPU and memory."""
    _, core = machine.cores()
    generate = scenario.load or generate
    url = f"{'https' if VARIANTS[scenario.variant].has_tls else 'http'}://127.0.0.1:{port}{scenario.target}"
    with ExitStack() as stack:
        before = machine.resident_bytes(pid)
        for _ in range(scenario.idle):
            stack.enter_context(hold(port, SMALL, is_http2=VARIANTS[scenario.variant].is_http2))
        grown = machine.resident_bytes(pid) - before
        used = machine.cpu_seconds(pid)
        seen = generate(url, scenario.connections, seconds, core, unique=scenario.unique)
        used = machine.cpu_seconds(pid) - used
        resident = machine.resident_bytes(pid)
    cpu = used / seen.requests * 1e6
    return Sample(
        per_second=seen.requests / seen.seconds,
        p50=seen.p50,
        p99=seen.p99,
        cpu=cpu,
        errors=seen.errors / seen.requests,
        resident=resident,
        idle=grown / scenario.idle if scenario.idle else 0.0,
        times=0.0 if scenario.base is None else times(scenario, scenario.base, cpu, pid, port, seconds, generate),
    )


def times(
    scenario: Scenario, base: Scenario, cpu: float, pid: int, port: int, seconds: float, generate: Generate
) -> float:  # fmt: skip
    """Return the CPU of a request (`cpu` when measured alone) as a multiple of that of the base scenario."""
    if generate is not load.wrk:
        return cpu / measure(base, pid, port, seconds, generate).cpu
    _, core = machine.cores()
    paths = base.target, scenario.target
    return load.in_turn(f"http://127.0.0.1:{port}", paths, scenario.connections, 2 * seconds, core, pid)


def hold(port: int, target: str, *, has_tls: bool = False, is_http2: bool = False) -> socket.socket:
    """Return a connection that has had one answer and stays idle."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    if has_tls:
        sock = certificates.client_context().wrap_socket(sock)
    if is_http2:
        is_good = calls.ask(sock, target) == 200
    else:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        is_good = sock.recv(65536).startswith(b"HTTP/1.1 200")
    if not is_good:
        sock.close()
        raise RuntimeError(f"port {port}: no good answer to {target}")
    return sock


def wait_until_up(port: int, target: str, within: float = 15.0, **how: bool) -> bool:
    """Wait until the target is answered with 200; False if that takes longer than `within` seconds.

    `how`: arguments of `hold`.
    """
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        try:
            hold(port, target, **how).close()
        except (OSError, RuntimeError):
            time.sleep(0.05)
        else:
            return True
    return False
