"""A request head as an `Exchange`: what the bytes say, and what of it concerns only this connection.  No I/O.

Everything that a lenient proxy lets become a smuggling vector ends here with 400 and a closed connection (RFC 9112 2.2,
3, 5 and 6): see also `core/http1.py` for the grammar.  The Host of the message is the one authority there is: an
absolute target replaces it (RFC 9112 3.2.2), a second one is an error.

Dot segments, percent-encoded ones too, are removed before routing, and the upstream gets the path as it was routed:
a rule for `/admin` cannot be walked around with `/public/../admin`.  Nothing else of a path is touched: doubled slashes
and `%2F` mean what the service says they mean.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from typing import Final

from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.headers import FOR_CACHES, HOP_BY_HOP
from sidecar.core.http1 import HOST, Invalid, body_length
from sidecar.core.message import Headers, Selection

FORWARDED: Final = frozenset(
    (
        b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-prefix", b"x-forwarded-server", b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-by",
        b"x-forwarded-client-cert", b"x-real-ip",
    )
)  # fmt: skip
"""What only a trusted proxy may say.  Also with underscores: to CGI, WSGI and their like both are `X_FORWARDED_FOR`."""
MASKED: Final = frozenset((b"content_length", b"transfer_encoding"))
"""What the same servers would take for the framing; dropped, since no two parsers must differ on that."""
JOINED: Final = {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"}
CLAIMS: Final = FORWARDED | {
    b"".join(pieces)
    for name in FORWARDED
    for pieces in product(*((b"-", b"_") if part == b"-" else (part,) for part in re.split(rb"(-)", name)))
}
SPECIAL: Final = Selection(HOP_BY_HOP | CLAIMS | MASKED | {
    b"host", b"content-length", b"expect", b"x-request-id", b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms",
    b"grpc-timeout", b"x-sidecar-attempt", b"x-criticality", b"max-forwards",
}, FOR_CACHES)  # fmt: skip
"""Fields that the edge reads; all others pass."""
ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
DOT: Final = 0x2E
PERCENT: Final = 0x25
QUESTION: Final = 0x3F
"""As numbers: looking for bytes, CPython first tries to take them for one, and fails (0.3 us)."""
DOTS: Final = re.compile(rb"/(?:\.|%2[eE]){1,2}(?=/|\Z)")
REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
NUMBER: Final = re.compile(rb"\d{1,9}")
GRPC_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""The timeout's unit in the gRPC over HTTP/2 protocol."""
VIA: Final = {10: b"via: 1.0 sidecar\r\n", 11: b"via: 1.1 sidecar\r\n"}
"""RFC 9110 7.6.3: a gateway must send it upstream."""

ORDINARY: Final = {b"close", b"keep-alive", b"upgrade", b"te", b""}
"""What `Connection` mostly names: options, and fields that are hop-by-hop anyway."""


class LastHop(Exception):  # noqa: N818 - a message that ends here
    """A request that goes no further, by its Max-Forwards."""

    def __init__(self, x: Exchange) -> None:
        super().__init__(repr(x))
        self.x = x


Networks = tuple[IPv4Network | IPv6Network, ...]


class Peer:
    """Who is at the other end of a downstream connection."""

    __slots__ = ("address", "authority", "forwarding", "is_trusted", "scheme", "trusted")

    def __init__(self, address: str, scheme: bytes, trusted: Networks = ()) -> None:
        self.address = address
        """IP address; empty on a Unix socket."""
        self.authority: bytes | None = None
        """The Host of its last request."""
        self.scheme = scheme
        self.trusted = trusted
        self.is_trusted = _is_within(address, trusted)
        own = b"x-forwarded-for: %b\r\n" % address.encode() if address else b""
        own += b"x-forwarded-proto: %b\r\n" % scheme
        self.forwarding = {version: own + via for version, via in VIA.items()}
        """The header lines for a request that brings none to be believed."""


def read_request(
    method: bytes, target: bytes, version: int, data: bytes, start: int, end: int, peer: Peer, now: float
) -> tuple[Exchange, int | None, bool]:
    """The exchange of a parsed head with its field lines in `data[start:end]`, the length of its body (bytes,
    `CHUNKED`,
    None for no body), and whether the connection may be kept.  Raises `Invalid` with the status to answer."""
    lines, special, speaks_to_caches = SPECIAL.take(data, start, end)
    x = Exchange(method, target, None, lines)
    x.speaks_to_caches = speaks_to_caches
    x.version = version
    x.scheme = peer.scheme
    x.client_address = peer.address
    x.arrived = now
    x.forwarding = peer.forwarding[version]
    keep_alive = version == 11
    length = None
    if len(special) == 1 and special[0][0] == b"host":
        x.authority = special[0][1]
    else:
        length, keep_alive = _read_special(x, special, peer, now)
    if x.authority != peer.authority:  # else it has passed already, and most clients ask for one host only
        if HOST.fullmatch(x.authority) is None and (version == 11 or x.authority):
            raise Invalid("Host is not a host name" if x.authority else "Host is missing")
        peer.authority = x.authority if version == 11 else None
    if target[0] == 47 and method != b"CONNECT":  # "/", the origin form
        if QUESTION in target:
            x.path, _, x.query = target.partition(b"?")
    else:
        _read_target(x, method, target)
    x.has_escapes = PERCENT in target
    if (x.has_escapes or DOT in x.path) and (x.path.find(b"/.") >= 0 or x.path.find(b"/%2") >= 0):
        x.path = normalised(x.path)
    return x, length, keep_alive


def _read_target(x: Exchange, method: bytes, target: bytes) -> None:
    if method == b"CONNECT":
        raise Invalid("CONNECT is not served here", 501)
    if target == b"*":
        if method != b"OPTIONS":
            raise Invalid("the target `*` is for OPTIONS alone")
        return
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise Invalid("the target is neither a path nor an http URI")
    if HOST.fullmatch(match[2]) is None:
        raise Invalid("the target's authority is not a host name")
    x.authority = match[2]
    x.path = match[3] or (b"*" if method == b"OPTIONS" and match[4] is None else b"/")
    x.query = match[4]


def _read_special(x: Exchange, special: Headers, peer: Peer, now: float) -> tuple[int | None, bool]:
    hosts = connection = 0
    named: set[bytes] = set()
    upgrade = b""
    forwarded: Headers = []
    again: Headers = []
    for name, value in special:
        if name == b"host":
            hosts += 1
            x.authority = value
        elif name == b"connection":
            connection = 1
            named.update(token.strip(b" \t").lower() for token in value.split(b","))
        elif name in CLAIMS:
            forwarded.append((name, value))
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                x.request_id = value
        elif name in (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"):
            if NUMBER.fullmatch(value):
                x.deadline = min(x.deadline, now + int(value) / 1000)
        elif name == b"grpc-timeout":
            x.grpc_timeout = True
            if value[-1:] in GRPC_UNITS and NUMBER.fullmatch(value[:-1]):
                x.deadline = min(x.deadline, now + int(value[:-1]) * GRPC_UNITS[value[-1:]])
        elif name == b"x-sidecar-attempt":
            if NUMBER.fullmatch(value):
                x.marked_attempt = max(0, int(value) - 1)
        elif name == b"x-criticality":
            x.criticality = CRITICALITIES.get(value.decode("latin-1").lower(), x.criticality)
            again.append((name, value))
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Invalid("the only expectation that can be met is 100-continue", 417)
            x.expects_continue = x.version == 11
        elif name == b"te":
            x.accepts_trailers = b"trailers" in value.lower()
        elif name == b"upgrade":
            upgrade = value.lower()
        elif name == b"max-forwards":
            again.append((name, _count_forwards(x, value)))
    if again:
        x.lines += b"".join([b"%b: %b\r\n" % field for field in again])
    if hosts > 1:
        raise Invalid("there is more than one Host")
    length = body_length(special, x.version)
    if named - ORDINARY:
        x.headers = [field for field in x.headers if field[0] not in named]
    if b"upgrade" in named and upgrade == b"websocket" and x.method == b"GET" and not length and x.version == 11:
        x.upgrade = upgrade
    if not length:
        x.expects_continue = False
    if forwarded and peer.is_trusted:
        x.forwarding, x.client_address = _join_forwarded(forwarded, peer, x.version)
    if connection:
        return length, b"close" not in named and (x.version == 11 or b"keep-alive" in named)
    return length, x.version == 11


def _count_forwards(x: Exchange, value: bytes) -> bytes:
    """RFC 9110 7.6.2: for TRACE and OPTIONS each hop counts down, and at zero the message goes no further."""
    if x.method not in (b"TRACE", b"OPTIONS") or not NUMBER.fullmatch(value):
        return value
    if int(value) == 0:
        raise LastHop(x)
    return b"%d" % (int(value) - 1)


def _join_forwarded(forwarded: Headers, peer: Peer, version: int) -> tuple[bytes, str]:
    """Our line for what a trusted peer said, and the client's address: the last one that no trusted proxy has."""
    lists: dict[bytes, list[bytes]] = {}
    for name, value in forwarded:
        lists.setdefault(name, []).append(value)
    chain = b", ".join([*lists.get(b"x-forwarded-for", []), peer.address.encode()])
    lines = [b"x-forwarded-for: %b\r\n" % chain]
    lines.append(b"x-forwarded-proto: %b\r\n" % lists.get(b"x-forwarded-proto", [peer.scheme])[-1])
    lines += [b"%b: %b\r\n" % pair for pair in forwarded if pair[0] not in JOINED]
    if standard := lists.get(b"forwarded"):
        node = b'"[%b]"' % peer.address.encode() if ":" in peer.address else peer.address.encode()
        lines.append(b"forwarded: %b, for=%b;proto=%b\r\n" % (b", ".join(standard), node, peer.scheme))
    client = peer.address
    for hop in reversed([part.strip().decode("latin-1") for part in chain.split(b",")]):
        client = hop
        if not _is_within(hop, peer.trusted):
            break
    return b"".join(lines) + VIA[version], client


def _is_within(address: str, networks: Networks) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)


def normalised(path: bytes) -> bytes:
    """The path without dot segments (RFC 3986 5.2.4), plain or percent-encoded."""
    if DOTS.search(path) is None:
        return path
    output: list[bytes] = []
    segments = path.split(b"/")[1:]
    for index, segment in enumerate(segments):
        plain = segment.replace(b"%2e", b".").replace(b"%2E", b".")
        if plain == b"..":
            if output:
                output.pop()
        elif plain != b".":
            output.append(segment)
            continue
        if index == len(segments) - 1:
            output.append(b"")
    return b"/" + b"/".join(output)
