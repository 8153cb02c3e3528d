"""Request heads as `Exchange`s: the request's facts, without the fields that concern only the connection.  No I/O.

Rules:

1. What lenient proxies let become request smuggling is answered 400, and the connection is closed (RFC 9112 2.2, 3, 5
   and 6).  The grammar is in `core/http1.py`.
2. A request has one authority: its Host.  An absolute target replaces it (RFC 9112 3.2.2), a second Host is an error.
3. Dot segments, percent-encoded ones too, are removed before routing, and the upstream gets the path as it was routed:
   a rule for `/admin` cannot be bypassed with `/public/../admin`.  Nothing else of a path is changed: doubled slashes
   and `%2F` mean what the service says they mean.
4. Forwarded fields are believed from trusted proxies only, and replaced otherwise.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from typing import Final

from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.http1 import HOST, Invalid, body_length
from sidecar.core.message import FOR_CACHES, HOP_BY_HOP, Headers, Selection

FORWARDED: Final = frozenset(
    (
        b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-prefix", b"x-forwarded-server", b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-by",
        b"x-forwarded-client-cert", b"x-real-ip",
    )
)  # fmt: skip
"""Fields that only a trusted proxy may send."""
MASKED: Final = frozenset((b"content_length", b"transfer_encoding"))
"""Names that CGI and WSGI servers take for the framing, on which no two parsers may differ.  They are dropped."""
JOINED: Final = {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"}
"""Forwarded fields that are rewritten; a trusted proxy's others pass as they are."""
CLAIMS: Final = FORWARDED | {
    b"".join(pieces)
    for name in FORWARDED
    for pieces in product(*((b"-", b"_") if part == b"-" else (part,) for part in re.split(rb"(-)", name)))
}
"""The same with underscores too: CGI and WSGI servers read both spellings as `X_FORWARDED_FOR`."""
SPECIAL: Final = Selection(HOP_BY_HOP | CLAIMS | MASKED | {
    b"host", b"content-length", b"expect", b"x-request-id", b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms",
    b"grpc-timeout", b"x-sidecar-attempt", b"x-criticality", b"max-forwards",
}, FOR_CACHES)  # fmt: skip
"""Fields that are read here, and those for caches, which are noticed.  All others pass."""
ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
DOT: Final = 0x2E
PERCENT: Final = 0x25
QUESTION: Final = 0x3F
"""Numbers, because CPython's `bytes in bytes` first tries its operand as a number, which costs an exception."""
DOTS: Final = re.compile(rb"/(?:\.|%2[eE]){1,2}(?=/|\Z)")
REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
NUMBER: Final = re.compile(rb"\d{1,9}")
GRPC_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""Seconds of each unit of `grpc-timeout` (gRPC over HTTP/2)."""
VIA: Final = {10: b"via: 1.0 sidecar\r\n", 11: b"via: 1.1 sidecar\r\n"}
"""Via line by version of the request; a gateway must send one upstream (RFC 9110 7.6.3)."""
ORDINARY: Final = {b"close", b"keep-alive", b"upgrade", b"te", b""}
"""Tokens of `Connection` that name no field, or one that is hop-by-hop anyway."""


class LastHop(Exception):  # noqa: N818 - a request, not an error
    """Raised for a request that must not be forwarded, because its Max-Forwards is 0."""

    def __init__(self, x: Exchange) -> None:
        super().__init__(repr(x))
        self.x = x


Networks = tuple[IPv4Network | IPv6Network, ...]


class Peer:
    """Address and trust of a downstream peer."""

    __slots__ = ("address", "authority", "forwarding", "is_trusted", "scheme", "trusted_proxies")

    def __init__(self, address: str, scheme: bytes, trusted_proxies: Networks = ()) -> None:
        self.address = address
        """IP address; empty on a Unix socket."""
        self.authority: bytes | None = None
        """Host of the last HTTP/1.1 request, known to be valid; None before the first."""
        self.scheme = scheme
        """`http` or `https`."""
        self.trusted_proxies = trusted_proxies
        """Networks whose forwarded fields are believed."""
        self.is_trusted = _is_within(address, trusted_proxies)
        """True if the peer is in one of them."""
        own = b"x-forwarded-for: %b\r\n" % address.encode() if address else b""
        own += b"x-forwarded-proto: %b\r\n" % scheme
        self.forwarding = {version: own + via for version, via in VIA.items()}
        """Header lines about the client, by version of the request; used unless the peer's own are believed."""


def read_request(
    method: bytes, target: bytes, version: int, data: bytes, start: int, end: int, peer: Peer, now: float
) -> tuple[Exchange, int | None, bool]:
    """Return the exchange of a head, the length of its body, and True if the connection may be kept.

    The field lines are `data[start:end]`; `now` is the instant of arrival.  The length is in bytes, or `CHUNKED`, or
    None for no body.  Raises `Invalid` with the status to answer, and `LastHop`.
    """
    lines, special, speaks_to_caches = SPECIAL.take(data, start, end)
    x = Exchange(method, target, None, lines)
    x.speaks_to_caches = speaks_to_caches
    x.version = version
    x.scheme = peer.scheme
    x.client_address = peer.address
    x.arrived = now
    x.forwarding = peer.forwarding[version]
    keep_alive = version == 11
    is_last_hop = False
    length = None
    if len(special) == 1 and special[0][0] == b"host":
        x.authority = special[0][1]
    else:
        length, keep_alive, is_last_hop = _read_special(x, special, peer, now)
    if x.authority != peer.authority:  # most clients ask for one host only
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
        x.path = remove_dot_segments(x.path)
    if is_last_hop:  # only now: a head that is not valid as a whole is answered 400, whoever is to answer it
        raise LastHop(x)
    return x, length, keep_alive


def _read_target(x: Exchange, method: bytes, target: bytes) -> None:
    """Set authority, path and query from a target that is not in origin form (RFC 9112 3.2)."""
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


def _read_special(x: Exchange, special: Headers, peer: Peer, now: float) -> tuple[int | None, bool, bool]:
    """Read the fields of `SPECIAL`.

    Returns the body's length, True if the connection may be kept, and True if the request must not be forwarded.
    """
    hosts = connection = 0
    is_last_hop = False
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
            if x.method in (b"TRACE", b"OPTIONS") and NUMBER.fullmatch(value):  # each hop counts down (RFC 9110 7.6.2)
                is_last_hop = is_last_hop or int(value) == 0
                value = b"%d" % max(0, int(value) - 1)
            again.append((name, value))
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
        return length, b"close" not in named and (x.version == 11 or b"keep-alive" in named), is_last_hop
    return length, x.version == 11, is_last_hop


def _join_forwarded(forwarded: Headers, peer: Peer, version: int) -> tuple[bytes, str]:
    """Return the forwarded fields of a trusted peer with its own address added, and the client's address: the last one
    that is no trusted proxy's."""
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
        if not _is_within(hop, peer.trusted_proxies):
            break
    return b"".join(lines) + VIA[version], client


def _is_within(address: str, networks: Networks) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)


def remove_dot_segments(path: bytes) -> bytes:
    """Return the path without dot segments (RFC 3986 5.2.4), plain or percent-encoded."""
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
