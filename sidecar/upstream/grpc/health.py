"""Probe by the gRPC health checking protocol (`grpc/health/v1/health.proto`), over HTTP/2 without a pool.

Rules:

1. An endpoint is healthy if `Check` answers SERVING.  Each probe opens a new connection, as a probe by HTTP does.
2. UNIMPLEMENTED counts as healthy: a server without the health service is not checked (gRPC's client-side health
   checking does the same).  NOT_FOUND, for a service that the server does not know, does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.env import Env
from sidecar.core.message import Headers, get, parse_fields
from sidecar.core.outcome import GRPC_STATUSES, UNIMPLEMENTED_STATUS, UNKNOWN_STATUS
from sidecar.core.promise import Promise
from sidecar.grpc.framing import MessageReader, MessageTooLarge, frame
from sidecar.grpc.status import decode_message, parse_status, status_from_http
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from sidecar.upstream.endpoint import Endpoint, authority, literal
from sidecar.upstream.errors import describe_error
from sidecar.upstream.pools import open_connection

if TYPE_CHECKING:
    from sidecar.http2.heads import Head
    from sidecar.upstream.balancing.health import Probe
    from sidecar.upstream.certificates import CertificateWatch
    from sidecar.upstream.resolver import NameResolver
    from sidecar.upstream.spec import HealthCheckSpec

CHECK: Final = b"/grpc.health.v1.Health/Check"
LINES: Final = b"content-type: application/grpc\r\nte: trailers\r\nuser-agent: sidecar-health-check\r\n"
SERVICE: Final = 0x0A
"""Tag of the field `service` of a `HealthCheckRequest`: number 1, a string."""
STATUS: Final = 0x08
"""Tag of the field `status` of a `HealthCheckResponse`: number 1, an enum."""
SERVING: Final = 1
STATUSES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
LONGEST: Final = 1024
"""Bytes of the longest answer that is read."""


def encode_request(service: str) -> bytes:
    """Return a `HealthCheckRequest`; the service's name has at most 127 bytes."""
    name = service.encode()
    return bytes((SERVICE, len(name))) + name if name else b""


def decode_answer(message: bytes) -> str:
    """Return the name of the status in a `HealthCheckResponse`."""
    number = message[1] if len(message) >= 2 and message[0] == STATUS else 0
    return STATUSES[number] if number < len(STATUSES) else f"status {number}"


def grpc_probe(env: Env, tls: CertificateWatch | None, names: NameResolver | None, discovered: str) -> Probe:
    """Return a probe for endpoints of an upstream; the arguments are those of its pools, `discovered` its DNS name."""

    async def probe(endpoint: Endpoint, spec: HealthCheckSpec, fields: Iterable[tuple[bytes, bytes]] = ()) -> str:
        host = spec.host or (authority(discovered, endpoint) if discovered else authority(endpoint.host, endpoint))
        call = _Check(env, host.encode() if endpoint.host else b"localhost", spec.grpc or "", endpoint.is_tls)
        call.lines += b"".join(b"%b: %b\r\n" % field for field in fields)
        opening = env.spawn(_open(call, endpoint, tls, names))
        timer = env.call_later(spec.timeout, call.end, f"no answer within {spec.timeout:g}s")
        try:
            return await call.result
        finally:
            timer.cancel()
            opening.cancel()
            call.abort()

    return probe


async def _open(call: _Check, endpoint: Endpoint, tls: CertificateWatch | None, names: NameResolver | None) -> None:
    try:
        await open_connection(endpoint, tls, None if literal(endpoint.host) is not None else names, lambda: call)
    except OSError as error:
        call.end(describe_error(error))


class _Check(asyncio.Protocol):
    """Connection of one probe, and handler of its session."""

    def __init__(self, env: Env, host: bytes, service: str, is_tls: bool) -> None:
        self.lines = LINES
        """Field lines of the request."""
        self.result: Promise[str] = Promise()
        """Promise of the reason for a failure; empty for a healthy endpoint."""
        self._env = env
        self._host = host
        self._service = service
        self._scheme = b"https" if is_tls else b"http"
        self._session = Session(self, Limits(), True)
        self._transport: asyncio.Transport | None = None
        self._reader = MessageReader(LONGEST)
        self._health = ""
        """Status that the answer has named; empty before."""

    def end(self, reason: str) -> None:
        """End the probe; `reason` is empty for a healthy endpoint."""
        self.result.resolve(reason)

    def abort(self) -> None:
        """Abort the connection."""
        if self._transport is not None:
            self._transport.abort()

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        stream = self._session.open(b"POST", self._scheme, self._host, CHECK, self.lines, False)
        self._session.send(stream, frame(encode_request(self._service)), True)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._session.receive(data, self._env.now())
        self._flush()
        if self._session.fault is not None:
            self.end(f"does not speak HTTP/2: {self._session.fault}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.end(describe_error(error) if error else "closed before it answered")

    def _flush(self) -> None:
        while self._transport is not None and (data := self._session.take_output()):
            self._transport.write(data)

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        fields = parse_fields(head.lines)
        if head.status != 200:
            self.end(f"status {head.status} ({GRPC_STATUSES[status_from_http(head.status)].upper()})")
        elif is_end or get(fields, b"grpc-status") is not None:
            self._judge(fields)

    def on_interim(self, stream: Stream, head: Head) -> None: ...

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        try:
            for _, message in self._reader.feed(data):
                self._health = decode_answer(message)
        except MessageTooLarge as error:
            self.end(str(error))
        if is_end:
            self._judge([])

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self._judge(parse_fields(head.lines))

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        self.end(f"reset the call: {text}")

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, last: int, code: int) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...

    def _judge(self, trailers: Headers) -> None:
        """End the probe by the status of the call, and by what it has answered."""
        value = get(trailers, b"grpc-status")
        code = UNKNOWN_STATUS if value is None else parse_status(value)
        if code == UNIMPLEMENTED_STATUS:
            self.end("")
        elif code:
            text = decode_message(get(trailers, b"grpc-message") or b"")
            self.end(f"{GRPC_STATUSES[code].upper()}{': ' * bool(text)}{text}")
        else:
            self.end("" if self._health == STATUSES[SERVING] else self._health or "no status in the answer")
