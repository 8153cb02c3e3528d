"""Parser of request heads: makes an `Exchange`, without the fields that concern only the connection.  No I/O.

Rules:

1. A head that may be an attempt at request smuggling is answered 400, and the connection is closed (RFC 9112 2.2, 3, 5
   and 6).  The grammar is in `core/http1.py`.
2. A request has one authority, its Host.  An absolute target replaces it (RFC 9112 3.2.2); a second Host is an error.
3. Dot segments, also percent-encoded ones, are removed before routing, and the upstream gets the resulting path.  A
   rule for `/admin` can therefore not be bypassed with `/public/../admin`.  Nothing else in a path is changed, because
   the meaning of doubled slashes and `%2F` depends on the service.
4. Claims about the client (`CLAIMS`) are accepted from trusted peers only (`Trust`), and dropped otherwise.  Deadlines
   of an untrusted client have a minimum, and its criticality can only lower that of the route.
5. A field whose name is a twin (`fold`) of one that the sidecar reads, writes or trusts is dropped, even from a trusted
   peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.http1 import (
    HOST,
    LONG_HEAD,
    Invalid,
    body_length,
    check_fields,
    check_target,
    has_few_parts,
    parse_request,
)
from sidecar.core.message import CLAIM_PREFIXES, CLAIMS, FOR_CACHES, HOP_BY_HOP, Headers, Selection, fold
from sidecar.core.outcome import LOOP, Failure
from sidecar.downstream.forwarded import Claims, Networks, is_within, joined, plain_address
from sidecar.grpc.timeout import parse_timeout

if TYPE_CHECKING:
    from sidecar.downstream.listener import Limits

REWRITTEN: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"))
"""Claims that the sidecar rewrites; it forwards a trusted peer's other claims unchanged."""
HOPS: Final = REWRITTEN | {
    b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-server", b"x-forwarded-scheme",
    b"x-forwarded-ssl", b"x-forwarded-by", b"x-forwarded-client-cert", b"x-real-ip",
}  # fmt: skip
"""Claims about earlier hops.  They are kept apart from the other fields (`Exchange.forwarding`), so that no policy
changes them.  A trusted peer's other claims are treated as ordinary fields."""
FREE: Final = b"x-remote-extra-"
"""Prefix of claims with any characters in the rest of their name (Kubernetes:
`X-Remote-Extra-example.org%2Fproject`)."""
OTHERS: Final = frozenset(
    (
        b"content-type", b"content-encoding", b"accept-encoding", b"x-api-key", b"x-auth-token", b"x-b3-traceid",
        b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags",
    )
)  # fmt: skip
"""Fields that policies read or write.  They are forwarded, but their twins are dropped."""
READ: Final = HOP_BY_HOP | {
    b"host", b"content-length", b"expect", b"x-request-id", b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms",
    b"grpc-timeout", b"x-sidecar-attempt", b"x-sidecar-hops", b"x-criticality", b"max-forwards",
}  # fmt: skip
"""Fields that this module reads."""
SPECIAL: Final = Selection(READ | CLAIMS, FOR_CACHES, CLAIM_PREFIXES, OTHERS)
"""Selection of fields: takes those that this module reads, claims, and all twins.  It notes fields for caches, and
other names with a separator that is no hyphen.  All others are forwarded."""
LONGEST: Final = 64 * 1024
"""Longest head that `take_request` parses, in bytes."""
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"))
"""Methods of the requests that `take_request` parses."""
TARGETS: Final = bytes(octet if 0x21 <= octet <= 0x7E and octet != 0x23 else 0x2F for octet in range(256))
"""Translation table that leaves a valid request target (`http1.TARGET`) as it is.  Any other octet becomes a slash."""
ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
DOT: Final = 0x2E
PERCENT: Final = 0x25
QUESTION: Final = 0x3F
"""Octet of `?`.  Octets are numbers, because CPython's `bytes in bytes` first tries to convert its operand to one."""
DOTS: Final = re.compile(rb"/(?:\.|%2[eE]){1,2}(?=/|\Z)")
REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
NUMBER: Final = re.compile(rb"\d{1,9}")
MAX_HOPS: Final = 32
"""Most sidecars that a request may pass.  It ends loops of sidecars that restart and thereby change their names."""
PERSISTENT: Final = (b"connection", b"keep-alive")
"""Field that many clients send although it has no effect in HTTP/1.1."""
ALONE: Final = frozenset((b"keep-alive", b"close"))
"""Common values of `Connection` that are a single token."""
ORDINARY: Final = {b"close", b"keep-alive", b"upgrade", b"te", b""}
"""Members of `Connection` that name no field, or one that is hop-by-hop in any case."""


class LastHop(Exception):  # noqa: N818 - a request, not an error
    """Raised for a request that must not be forwarded: its Max-Forwards is 0, or it is in a loop."""

    def __init__(self, x: Exchange, failure: Failure | None = None) -> None:
        super().__init__(repr(x))
        self.x = x
        self.failure = failure
        """Failure of the request; None for Max-Forwards, which gets a regular response."""


class Trust:
    """Trust of a listener in its clients, and the names of the listener for the next hop."""

    __slots__ = ("believes_all", "has_certificates", "hop", "min_deadline", "networks", "passing", "via")

    def __init__(
        self,
        networks: Networks = (),
        *,
        believes_all: bool = False,
        min_deadline: float = 0.0,
        passing: frozenset[bytes] = frozenset(),
        via: str = "sidecar",
        hop: bytes = b"",
        has_certificates: bool = False,
    ) -> None:
        self.networks = networks
        """Networks of trusted proxies."""
        self.believes_all = believes_all
        """True if every client is trusted: each has a verified certificate, or is the service beside the sidecar."""
        self.has_certificates = has_certificates
        """True if clients have verified certificates."""
        self.min_deadline = min_deadline
        """Seconds from the arrival of a request to the earliest deadline that an untrusted client can set."""
        self.passing = passing
        """Names of claims that are forwarded even from untrusted clients."""
        self.via = via.encode()
        """Pseudonym in Via (RFC 9110 7.6.3); empty to add no Via."""
        self.hop = hop
        """Name of the listener in X-Sidecar-Hops; empty to add none."""

    def own_lines(self, version: int) -> bytes:
        """Return the field lines about this hop: Via with the version of the request (10, 11 or 20), and
        X-Sidecar-Hops."""
        lines = b"via: %d.%d %b\r\n" % (version // 10, version % 10, self.via) if self.via else b""
        return lines + b"x-sidecar-hops: %b\r\n" % self.hop if self.hop else lines


def hop_name(process: bytes, listener: str) -> bytes:
    """Return the name of a listener in X-Sidecar-Hops, unique by the random key `process` of its process."""
    return blake2b(listener.encode(), key=process, digest_size=8).hexdigest().encode()


class Peer:
    """Address and trust of a downstream peer."""

    __slots__ = (
        "address", "authority", "certificate", "forwarding", "forwarding_10", "is_trusted", "min_deadline", "protocol",
        "scheme", "trust",
    )  # fmt: skip

    def __init__(
        self,
        address: str,
        scheme: bytes,
        trusted_proxies: Networks = (),
        trust: Trust | None = None,
        protocol: int = 11,
    ) -> None:
        """Take the trust of the listener; without it, only `trusted_proxies` are trusted."""
        self.address = address = plain_address(address) if address else ""
        """IP address of the peer; empty on a Unix socket."""
        self.authority: bytes | None = None
        """Host of the last HTTP/1.1 request, which is valid; None before the first."""
        self.certificate: dict[str, Any] | None = None
        """Verified certificate, as `SSLObject.getpeercert` returns it; None without one."""
        self.scheme = scheme
        """Scheme of the connection, `http` or `https`."""
        self.trust = trust = trust or Trust(trusted_proxies)
        """Trust of the listener."""
        self.is_trusted = trust.believes_all or (bool(trust.networks) and is_within(address, trust.networks))
        """True if the peer is trusted."""
        self.min_deadline = 0.0 if self.is_trusted else trust.min_deadline
        """Seconds from the arrival of a request to the earliest deadline that the peer can set."""
        own = b"x-forwarded-for: %b\r\n" % address.encode() if address else b""
        own += b"x-forwarded-proto: %b\r\n" % scheme
        self.protocol = protocol
        """Version of the connection: 11, or 20 for HTTP/2."""
        self.forwarding = own + trust.own_lines(protocol)
        """Field lines that state the peer as the client of a request of HTTP/1.1 or 2, and this hop."""
        self.forwarding_10 = own + trust.own_lines(10)
        """Field lines that state the peer as the client of an HTTP/1.0 request, and this hop."""


KINDS: Final = (b"content-type", b"accept")
"""Fields that tell a call of gRPC-Web, and the form of its answer."""
RequestHead = tuple[bytes, bytes, int, int, bytes, Headers, bool]
"""Parts of a head: method, target, version, end of the head, lines to forward, fields that `SPECIAL` takes, and True if
it notes one."""


def split_request(data: bytes, limits: Limits, seen: int = 0) -> RequestHead | None:
    """Return the parts of the head at the beginning of `data`, by the grammar; None while the head is incomplete.

    An earlier call has found no end of the head in the first `seen` bytes.  Raises `Invalid` with the status to answer.
    """
    parsed = parse_request(data, limits.max_header_bytes, seen)
    if parsed is None:
        return None
    method, target, version, start, end = parsed
    if end > LONG_HEAD:
        check_target(target, limits.max_query_parameters)
        check_fields(data, start, end - 2, limits.max_fields, limits.max_list_members)
    lines, special, speaks_to_caches = SPECIAL.take(data, start, end - 2)
    return method, target, version, end, lines, special, speaks_to_caches


def fields_of_kind(data: bytes) -> Headers:
    """Return Content-Type and Accept of a head that is refused, of which `data` may have only the beginning."""
    end = data.find(b"\r\n\r\n")
    lines = data[: end if end >= 0 else max(0, data.rfind(b"\r\n"))].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines[1:])
    return [(name.lower(), value.strip(b" \t")) for name, _, value in pairs if name.lower() in KINDS]


def take_request(data: bytes) -> RequestHead | None:
    """Return the parts of a common head: complete, HTTP/1.1, valid, and not long.  Return None for any other head.

    This is faster than the grammar (`parse_request`), because lines that were seen before are not checked again, nor
    are blocks of such lines.  For a common head both give the same result.
    """
    line, _, rest = data.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3:
        return None
    method, target, version = parts
    if method not in METHODS or not target or target.translate(TARGETS) != target or version != b"HTTP/1.1":
        return None
    is_short = len(data) <= LONG_HEAD
    fields = SPECIAL.blocks.get(rest) if is_short else None
    end = len(data)
    if fields is None:
        start, end = len(line) + 2, data.find(b"\r\n\r\n", 0, LONGEST) + 2
        if end < start:
            return None
        texts = data[start:end].split(b"\r\n")
        del texts[-1]
        end += 2
        if end > LONG_HEAD and not has_few_parts(data, start, end, len(texts)):
            return None
        fields = SPECIAL.select(texts, rest if is_short and end == len(data) else b"")
        if fields is None:
            return None
    lines, special, speaks_to_caches = fields
    return method, target, 11, end, lines, special, speaks_to_caches


def _reader() -> Callable[[bytes], RequestHead | None]:
    """Return the fastest parser of common heads: the one in C if it is built, else `take_request`."""
    try:
        from sidecar.engine.head import RequestHeads
    except ModuleNotFoundError:
        return take_request
    return RequestHeads(READ | CLAIMS, FOR_CACHES, CLAIM_PREFIXES).take


read_ordinary: Final = _reader()


def read_request(
    method: bytes,
    target: bytes,
    version: int,
    lines: bytes,
    special: Headers,
    speaks_to_caches: bool,
    peer: Peer,
    now: float,
) -> tuple[Exchange, int | None, bool]:
    """Return the exchange of a head, the length of its body, and True if the connection is persistent.

    The arguments are the parts in `RequestHead`; `now` is the instant of arrival.  The length is in bytes, `CHUNKED`,
    or None without a body.  Raises `Invalid` with the status to answer, and `LastHop`.
    """
    x = Exchange(method, target, None, lines)
    x.speaks_to_caches = speaks_to_caches
    x.version = version
    x.scheme = peer.scheme
    x.client_address = peer.address
    x.arrived = now
    x.min_deadline = peer.min_deadline
    if peer.certificate is not None:
        x.client_certificate = peer.certificate
    keep_alive = version == 11
    x.forwarding = peer.forwarding if keep_alive else peer.forwarding_10
    length: int | None = None
    stop: LastHop | None = None
    count = len(special)
    if (count == 1 or (count == 2 and keep_alive and special[1] == PERSISTENT)) and special[0][0] == b"host":
        x.authority = special[0][1]
    else:
        length, keep_alive, stop = _read_special(x, special, peer)
    if x.authority != peer.authority:  # most clients request one host only, which is checked once
        if HOST.fullmatch(x.authority) is None and (version == 11 or x.authority):
            raise Invalid("Host is not a host name" if x.authority else "Host is missing")
        peer.authority = x.authority if version == 11 else None
    if target[0] == 47 and method != b"CONNECT":  # begins with "/": origin form
        if QUESTION in target:
            x.path, _, x.query = target.partition(b"?")
    else:
        _read_target(x, method, target, peer)
    x.has_escapes = PERCENT in target
    if (x.has_escapes or DOT in x.path) and (x.path.find(b"/.") >= 0 or x.path.find(b"/%2") >= 0):
        x.path = remove_dot_segments(x.path)
    if stop is not None:  # raised last, because an invalid head is answered 400 even at its last hop
        raise stop
    return x, length, keep_alive


REPEATED: Final = frozenset((b"host", b"te"))
"""Fields that `SPECIAL` takes and that say the same of each request with the same head."""


class KnownHead:
    """Head of a request from one peer that has been read before.  Only its instant differs from request to request."""

    __slots__ = ("_accepts_trailers", "_authority", "_has_escapes", "_lines", "_method", "_path", "_query", "_speaks")

    def __init__(self, x: Exchange) -> None:
        """Take the exchange that `read_request` has made of the head, unchanged; `can_repeat` is True for the head."""
        self._method = x.method
        self._path = x.path
        self._query = x.query
        self._lines = x.raw
        self._authority = x.authority
        self._has_escapes = x.has_escapes
        self._accepts_trailers = x.accepts_trailers
        self._speaks = x.speaks_to_caches

    def read(self, peer: Peer, now: float) -> Exchange:
        """Return the exchange that `read_request` makes of the head at the instant `now`."""
        x = Exchange(self._method, self._path, None, self._lines)
        x.speaks_to_caches = self._speaks
        x.scheme = peer.scheme
        x.client_address = peer.address
        x.arrived = now
        x.min_deadline = peer.min_deadline
        if peer.certificate is not None:
            x.client_certificate = peer.certificate
        x.forwarding = peer.forwarding
        x.authority = self._authority
        x.query = self._query
        x.has_escapes = self._has_escapes
        x.accepts_trailers = self._accepts_trailers
        return x


def can_repeat(method: bytes, target: bytes, special: Headers) -> bool:
    """True if `read_request` makes the same of each HTTP/1.1 head with these parts, but for its instant."""
    names = [name for name, _ in special]
    return method != b"CONNECT" and target[:1] == b"/" and len(set(names)) == len(names) and REPEATED.issuperset(names)


def _read_target(x: Exchange, method: bytes, target: bytes, peer: Peer) -> None:
    """Set authority, path and query from a target that is not in origin form (RFC 9112 3.2)."""
    if method == b"CONNECT":
        raise Invalid("CONNECT is not supported", 501)
    if target == b"*":
        if method != b"OPTIONS":
            raise Invalid("the target `*` is allowed only for OPTIONS")
        return
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise Invalid("the target is neither a path nor an http URI")
    if HOST.fullmatch(match[2]) is None:
        raise Invalid("the target's authority is not a host name")
    x.authority = match[2]
    scheme = match[1].lower()
    if scheme != x.scheme and peer.is_trusted:
        said = b"x-forwarded-proto: %b\r\n"
        x.forwarding = x.forwarding.replace(said % x.scheme, said % scheme, 1)
        x.scheme = scheme
    x.path = match[3] or (b"*" if method == b"OPTIONS" and match[4] is None else b"/")
    x.query = match[4]


def _read_special(x: Exchange, special: Headers, peer: Peer) -> tuple[int | None, bool, LastHop | None]:
    """Apply the fields that `SPECIAL` takes to the exchange.

    Returns the length of the body, True if the connection is persistent, and the exception to raise for a request that
    must not be forwarded, else None.
    """
    hosts = connection = hops = 0
    named: set[bytes] = set()
    upgrade = b""
    claims: Headers = []
    again: Headers = []
    stop: LastHop | None = None
    is_trusted = peer.is_trusted
    is_framed = False
    for name, value in special:
        if name == b"host":
            hosts += 1
            x.authority = value
        elif name == b"content-length" or name == b"transfer-encoding":
            is_framed = True
        elif name == b"connection":
            connection = 1
            option = value.lower()
            if option in ALONE:
                named.add(option)
            else:
                named.update([token.strip(b" \t") for token in option.split(b",")])
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                x.request_id = value
        elif name in (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"):
            if NUMBER.fullmatch(value):
                x.shorten_deadline(int(value) / 1000)
        elif name == b"grpc-timeout":
            x.grpc_timeout = True
            seconds = parse_timeout(value)
            if seconds is not None:
                x.shorten_deadline(seconds)
        elif name == b"x-sidecar-attempt":
            if NUMBER.fullmatch(value):
                x.marked_attempt = max(0, int(value) - 1)
        elif name == b"x-sidecar-hops":
            passed = [hop.strip(b" \t") for hop in value.split(b",")]
            hops += len(passed)
            if hops > MAX_HOPS or (peer.trust.hop and peer.trust.hop in passed):
                stop = LastHop(x, LOOP)
            again.append((name, value))
        elif name == b"x-criticality":
            rank = CRITICALITIES.get(value.decode("latin-1").lower())
            if rank is not None:
                x.stated_criticality = rank
            if is_trusted:
                again.append((name, value))
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Invalid("the only supported expectation is 100-continue", 417)
            x.expects_continue = x.version == 11
        elif name == b"te":
            x.accepts_trailers = value == b"trailers" or value.lower().find(b"trailers") >= 0
        elif name == b"upgrade":
            upgrade = value.lower()
        elif name == b"max-forwards":
            if x.method in (b"TRACE", b"OPTIONS") and NUMBER.fullmatch(value):  # each hop counts down (RFC 9110 7.6.2)
                if int(value) == 0:
                    stop = LastHop(x)
                value = b"%d" % max(0, int(value) - 1)
            again.append((name, value))
        elif is_trusted:
            if name in HOPS:
                claims.append((name, value))
            elif name in CLAIMS or (name.startswith(CLAIM_PREFIXES) and (fold(name) == name or FREE in name)):
                again.append((name, value))
        elif name in peer.trust.passing:
            again.append((name, value))
    if again:
        x.lines += b"".join([b"%b: %b\r\n" % field for field in again])
    if hosts > 1:
        raise Invalid("there is more than one Host")
    length = body_length(special, x.version) if is_framed else None
    if not named <= ORDINARY:
        x.lines = b"".join([b"%b: %b\r\n" % field for field in x.headers if field[0] not in named])
    if b"upgrade" in named and upgrade == b"websocket" and x.method == b"GET" and not length and x.version == 11:
        x.upgrade = upgrade
    if not length:
        x.expects_continue = False
    if claims:
        _believe(x, claims, peer)
    if connection:
        return length, b"close" not in named and (x.version == 11 or b"keep-alive" in named), stop
    return length, x.version == 11, stop


def _believe(x: Exchange, fields: Headers, peer: Peer) -> None:
    """Apply a trusted peer's forwarded fields to the exchange, and append the peer to the hops in `x.forwarding`."""
    claims = Claims(fields, peer.address, peer.trust.networks)
    x.client_address = claims.client
    x.scheme = claims.scheme or peer.scheme
    x.public_authority = claims.authority
    address = peer.address.encode()
    chain = b", ".join([part for part in (claims.chain, address) if part])
    lines = [b"x-forwarded-for: %b\r\n" % chain] if chain else []
    lines.append(b"x-forwarded-proto: %b\r\n" % (claims.proto or peer.scheme))
    lines += [b"%b: %b\r\n" % pair for pair in fields if pair[0] not in REWRITTEN]
    if standard := joined(fields, b"forwarded"):
        node = b'"[%b]"' % address if b":" in address else address or b"unknown"
        lines.append(b"forwarded: %b, for=%b;proto=%b\r\n" % (standard, node, peer.scheme))
    x.forwarding = b"".join(lines) + peer.trust.own_lines(x.version if peer.protocol == 11 else peer.protocol)


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
