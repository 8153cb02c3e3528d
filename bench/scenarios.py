"""What is asked of each peer, and how one asking is measured."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Final, NamedTuple

from bench import certificates, load, machine
from bench.load import Generate
from bench.peers import LOGGED, PROMPT, TALK, TLS_BOTH, TLS_DOWNSTREAM, TLS_UPSTREAM, TRACED, VARIANTS


class Scenario(NamedTuple):
    """One kind of load."""

    name: str
    title: str
    target: str
    connections: int
    idle: int = 0
    """Keep-alive connections that have sent one request each and then stay silent beside the load."""
    peers: tuple[str, ...] = ()
    """Who takes part; empty: everyone."""
    unique: bool = False
    """Is each request another one, by its query?"""
    variant: str = ""
    """What its processes are set up for beside the demo's route, one of `bench.peers.VARIANTS`."""
    load: Generate | None = None
    """What loads it; None for the generator of the run."""
    base: Scenario | None = None
    """The same without what is to be measured, asked of each peer in turn with it."""

    def of(self, name: str) -> bool:
        """Does that peer take part?"""
        return name in self.peers or not self.peers


SMALL: Final = "/orders/small"
SECURE: Final = "/secure/small"
PROXIES: Final = ("sidecar", "envoy", "haproxy", "nginx")
COMPARED: Final = ("sidecar", "pure", "envoy", "nginx")
RETRYING: Final = ("sidecar", "envoy")
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
        "traced", "small answers, 1 % traced (nginx: none), 32 connections", SMALL, 32, peers=COMPARED, variant=TRACED
    ),
    Scenario(
        "logged", "small answers, a line of the access log for each, 32 connections", SMALL, 32,
        peers=COMPARED, variant=LOGGED,
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
    Scenario("idle", "small answers, 32 connections beside 1 000 idle ones", SMALL, 32, idle=1000, peers=PROXIES),
    Scenario(
        "stored", "small answers, each of them stored in the cache, 32 connections", "/cached/small", 32,
        peers=COMPARED, unique=True, base=UNSTORED,
    ),
)  # fmt: skip
"""`stored` is the last, since it fills the caches and the memory of those that have one."""


class Sample(NamedTuple):
    """One measurement of one peer."""

    per_second: float
    p50: float
    """Microseconds."""
    p99: float
    cpu: float
    """Microseconds of CPU that the peer's process used for a request."""
    errors: float
    """Share of the requests that did not get a good answer."""
    resident: float
    """Bytes, while the load ran out."""
    idle: float
    """Bytes by which an idle connection made it grow; 0 where there were none."""
    times: float = 0.0
    """How many times the CPU of a request of the base it is; 0 where there is none."""


def measure(scenario: Scenario, pid: int, port: int, seconds: float, generate: Generate) -> Sample:
    """Load one peer and see what it used."""
    _, core = machine.cores()
    generate = scenario.load or generate
    url = f"{'https' if VARIANTS[scenario.variant].has_tls else 'http'}://127.0.0.1:{port}{scenario.target}"
    with ExitStack() as stack:
        before = machine.resident_bytes(pid)
        for _ in range(scenario.idle):
            stack.enter_context(hold(port, scenario.target))
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
    """The CPU of a request, `cpu` as it was measured alone, as a multiple of that of the base's."""
    if generate is not load.wrk:
        return cpu / measure(base, pid, port, seconds, generate).cpu
    _, core = machine.cores()
    paths = base.target, scenario.target
    return load.in_turn(f"http://127.0.0.1:{port}", paths, scenario.connections, 2 * seconds, core, pid)


def hold(port: int, target: str, *, has_tls: bool = False) -> socket.socket:
    """A connection that has had one answer and keeps still."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    if has_tls:
        sock = certificates.client_context().wrap_socket(sock)
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"port {port}: no good answer to {target}")
    return sock


def wait_until_up(port: int, target: str, within: float = 15.0, *, has_tls: bool = False) -> bool:
    """Until it answers well; False when it does not come to that."""
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        try:
            hold(port, target, has_tls=has_tls).close()
        except (OSError, RuntimeError):
            time.sleep(0.05)
        else:
            return True
    return False
