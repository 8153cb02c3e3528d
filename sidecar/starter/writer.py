"""Policy file that the facts about a service give: few blocks, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.starter.facts import Facts, Operation, Peer

COLUMN: Final = 64
"""Column of the comments."""
DEFAULT_PORT: Final = 8000
INBOUND: Final = 8080
OUTBOUND: Final = 15001


def write_policy(facts: Facts) -> str:
    """Return the policy file of a service."""
    return "\n".join(_lines(facts)) + "\n"


def _line(text: str, reason: str = "") -> str:
    return f"{text:<{COLUMN - 1}} # {reason}" if reason else text


def _lines(facts: Facts) -> Iterator[str]:
    peers = list(facts.peers.values())
    inbound = INBOUND if facts.port != INBOUND else INBOUND + 1
    yield f"# First policy of {facts.name}, from {facts.source}."
    yield "# It is yours now: read it, change it, and check it with `sidecar check`."
    yield "version: 1"
    yield _line(f"service: {facts.name}", "its name in traces, metrics and logs")
    yield ""
    yield "listeners:"
    if facts.entry_place:
        where = f"{facts.entry_place} leads to port {facts.port}, past the sidecar"
        yield f"  # {where}: write {inbound} there, and where callers name it."
    yield _line(f'  inbound: {{address: "0.0.0.0:{inbound}"}}', f"what others send to {facts.name}")
    if peers:
        reason = f"what {facts.name} sends: its HTTP_PROXY, or its base URLs"
        yield _line(f'  outbound: {{address: "127.0.0.1:{OUTBOUND}"}}', reason)
    yield _line('admin: {address: "127.0.0.1:9901"}', "probes, metrics and the live page; 0.0.0.0 for other hosts")
    yield ""
    yield "upstreams:"
    yield "  app:"
    port = facts.port or DEFAULT_PORT
    yield _line(
        f'    endpoints: ["http://127.0.0.1:{port}"]',
        facts.port_place or "no file states the port; write the right one",
    )
    if facts.is_http2:
        yield _line("    protocol: http2", "gRPC, or HTTP/2 without TLS")
    if facts.health and not facts.is_http2:
        yield _line(f"    health_check: {{path: {quoted(facts.health)}}}", facts.health_place)
    yield _line("    concurrency: {max: 100, queue: 50, queue_timeout: 100ms}", "more at once is refused here, quickly")
    for peer in peers:
        yield from _upstream(peer)
    yield ""
    yield "routes:"
    for operation in facts.operations:
        yield from _operation(operation)
    yield _line("  - name: app", "all other requests" if facts.operations else "no match: every request")
    yield "    listener: inbound"
    yield "    upstream: app"
    yield _line("    timeout: {request: 10s}", "then the caller gets 504; its own sidecar repeats, not this one")
    for peer in peers:
        yield from _outbound(peer)
    if facts.left_out:
        yield ""
        yield "# Not in this policy:"
        yield from (f"#   {each}" for each in facts.left_out)


def _upstream(peer: Peer) -> Iterator[str]:
    yield f"  {peer.name}:"
    yield _line(f'    endpoints: ["{peer.scheme}://{peer.host}:{peer.port}"]', peer.place)
    if peer.is_http2:
        yield _line("    protocol: http2", "gRPC")
    yield _line("    retry_budget: {ratio: 20%}", "an outage is not made worse by repetitions")
    yield _line("    circuit_breaker: {}", "its defaults; a dead peer costs no waiting")


def _operation(operation: Operation) -> Iterator[str]:
    yield _line(f"  - name: {operation.name}", operation.place)
    yield "    listener: inbound"
    key = "path_regex" if operation.is_pattern else "path"
    yield f"    match: {{{key}: {quoted(operation.path)}, methods: [{', '.join(operation.methods)}]}}"
    yield "    upstream: app"
    if operation.streams:
        yield _line("    timeout: {request: off, idle: 5m}", "a stream of events may last")
    else:
        yield _line("    timeout: {request: 10s}", "what its slowest honest request takes, and some more")


def _outbound(peer: Peer) -> Iterator[str]:
    yield f"  - name: {peer.name}"
    yield "    listener: outbound"
    yield _line(f"    match: {{host: {quoted(peer.host)}}}", "what the service asks for")
    yield f"    upstream: {peer.name}"
    yield _line("    timeout: {request: 3s, attempt: 1s}", "two attempts and their pause fit in")
    if peer.is_http2:
        yield "    # no retry: which methods of gRPC may be repeated is for you to say (`retry: {on: [unavailable]}`)"
    else:
        yield _line("    retry: {max_attempts: 2}", "reads once more; writes only if they were never sent")


def quoted(text: str) -> str:
    """Return a text as a scalar in quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
