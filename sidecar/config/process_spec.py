"""Specs of the sections `listeners`, `admin`, `limits` and `process` of policy files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
)

from sidecar.config.listen_address import ListenAddress, ListenAddressValue
from sidecar.core.message import HOP_BY_HOP, TOKEN, fold
from sidecar.core.spec import Model, Secret
from sidecar.core.units import ByteRate, Duration, DurationOrZero, Network, Size, name_or_off
from sidecar.identity.verification import VerificationSpec
from sidecar.upstream.tls import ServerTlsSpec


def _host_name(text: str) -> str:
    """Return a host name unchanged.  Raises `ValueError` for anything else."""
    if not re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", text):
        raise ValueError("is not a host name; write it without scheme and port, such as orders-sidecar.prod.svc")
    return text


HostName = Annotated[str, AfterValidator(_host_name)]


class SlowClientsSpec(Model):
    """Bounds for clients that send or read slowly."""

    min_rate: ByteRate = 1024.0
    """Lowest rate, in bytes a second, at which a client must send or read while the sidecar waits for it.  Server-sent
    events, gRPC and tunnels are exempt.  (HAProxy and Envoy have only timeouts; Apache's `mod_reqtimeout` asks for 500
    bytes a second.)"""
    grace: Duration = 5.0
    """Time that the sidecar waits for any client, whatever its rate.  A client above the rate gains up to 15s more."""
    buffer: Size = 256 * 1024
    """Bytes of a response that are read ahead for a slow client, so that the upstream is free again sooner."""
    buffer_total: Size = 32 * 2**20
    """Bytes that are buffered for all slow clients of the listener together."""


OUTBOUND: Final = "outbound"
"""Name of the listener for the service beside the sidecar; on a loopback address its clients are trusted."""
UNPASSABLE: Final = HOP_BY_HOP | {
    b"content-length", b"host", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id",
    b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms", b"grpc-timeout", b"x-sidecar-attempt",
    b"x-sidecar-hops", b"x-criticality", b"max-forwards",
}  # fmt: skip
"""Folded names of fields that `untrusted.pass` cannot name: the sidecar writes them, or they are hop-by-hop."""


def _field(name: str) -> str:
    """Return the name of a header field that `untrusted.pass` may name.  Raises `ValueError`."""
    if "*" in name:
        raise ValueError(f"has `{name}`, which is a pattern; write each name in full, such as x-original-url")
    encoded = name.encode("ascii", "replace")
    if re.fullmatch(TOKEN, encoded) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as x-original-url")
    if fold(encoded) in UNPASSABLE:
        raise ValueError(f"has `{name}`, which the sidecar reads and writes itself; leave it out")
    return name


def _via(name: str) -> str:
    """Return a name for the field Via unchanged.  Raises `ValueError` for anything else."""
    if re.fullmatch(TOKEN, name.encode("ascii", "replace")) is None:
        raise ValueError("is not a name for the field Via; write a word such as sidecar, or off")
    return name


def _via_or_off(value: Any) -> Any:
    return name_or_off(value, "to send no Via", "another name")


HTTP1: Final = "http1"
HTTP2: Final = "http2"
Protocol = Literal["http1", "http2"]


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names unchanged.  Raises `ValueError` if there is none, or if one is repeated."""
    if not names:
        raise ValueError("is empty, so no client could speak; name http1, http2 or both")
    if len(set(names)) < len(names):
        raise ValueError("names a protocol twice; name each once")
    return names


class UntrustedSpec(Model):
    """Rights of clients that are not trusted."""

    min_deadline: DurationOrZero = 0.1
    """Shortest deadline that an untrusted client can set, from the arrival of its request.  A shorter one is raised to
    it, so that strangers cannot make a healthy upstream look dead."""
    pass_: Annotated[
        tuple[Annotated[str, AfterValidator(_field)], ...], Field(strict=False, alias="pass", max_length=100)
    ] = ()
    """Header fields about the client or the target, such as `x-original-url`, that are forwarded although the client
    is not trusted; by default none."""


MOST_NAMES: Final = 1000
"""Most server names of a listener."""


def _server_name(text: str) -> str:
    """Return a server name in lower case, with or without `*.` before it.  Raises `ValueError` for anything else."""
    try:
        _host_name(text.removeprefix("*."))
    except ValueError:
        raise ValueError("is not a server name; write such as db.example.com, or *.example.com for all below") from None
    return text.lower().rstrip(".")


class CaptureSpec(Model):
    """Settings of a listener for connections that the kernel has redirected to it."""

    sniff_timeout: Duration = 0.2
    """Longest wait for the first bytes of a client, by which its protocol is found.  After it the connection passes as
    TCP: in some protocols, such as MySQL's and SMTP, the server speaks first.  (Envoy: 15s, or off; Istio: off.)"""
    connect_timeout: Duration = 5.0
    """Timeout of a connection to an original destination, or to an endpoint found by server name."""
    idle_timeout: Duration = 3600.0
    """Time without bytes in either direction after which a connection that passes as TCP is closed (Envoy: 1h)."""
    max_passages: Annotated[int, Field(ge=1)] = 1000
    """Most connections that pass as TCP at a time; more of them are closed at once."""
    server_names: Annotated[dict[Annotated[str, AfterValidator(_server_name)], str], Field(max_length=MOST_NAMES)] = (
        Field(default={})
    )
    """Upstreams of TLS connections by the server name of the client (SNI): `{db.example.com: db}`, or `*.example.com`
    for all names below.  The bytes are passed on as they are, never decrypted.  Other connections go on to their
    original destination."""


class ListenerSpec(Model):
    """Address to which clients connect, and which of them are trusted."""

    address: ListenAddressValue
    """Address to bind: `host:port`, `[::1]:port` or `unix:/path`."""
    tls: ServerTlsSpec | None = None
    """Certificate of the listener; clients must then use TLS.  Without it the listener speaks plain HTTP."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    """Networks of trusted clients: the sidecar believes their X-Forwarded-*, Forwarded and similar fields, their
    deadlines and their criticality.  All clients of a listener with `client_ca`, and of a loopback listener with the
    name `outbound`, are trusted as well."""
    slow_clients: SlowClientsSpec = SlowClientsSpec.built_in()
    """Lowest rate of clients, and bytes that are buffered for slow ones; without the block its defaults hold."""
    untrusted: UntrustedSpec = UntrustedSpec.built_in()
    """Rights of all other clients; without the block its defaults hold."""
    via: Annotated[str, Field(max_length=100), AfterValidator(_via), BeforeValidator(_via_or_off)] = "sidecar"
    """Name of the sidecar in the field Via to the upstream, which a gateway must send (RFC 9110 7.6.3).  `off` sends no
    Via, for servers that do not compress for proxies."""
    protocols: Annotated[tuple[Protocol, ...], Field(strict=False), AfterValidator(_once)] = (
        HTTP1,
        HTTP2,
    )
    """Versions of HTTP that clients may speak on the port: `http1` (HTTP/1.1 and 1.0) and `http2`.  Over TLS, ALPN
    offers them; without TLS, clients of HTTP/2 need prior knowledge, since an upgrade to `h2c` is ignored (RFC 9113
    3.1)."""
    grpc_web: bool = False
    """True to take calls of gRPC-Web, in binary and text form over HTTP/1.1 and HTTP/2, and pass them on as gRPC."""
    original_destination: bool = False
    """True for connections that the kernel has redirected here (`sidecar capture`).  HTTP takes the routes of the
    listener; a request without a route, TLS and all other protocols go on to the address that the client had dialled
    (Envoy's `original_dst`).  Connections made to the listener itself are closed."""
    capture: CaptureSpec = CaptureSpec.built_in()
    """Settings for redirected connections; they need `original_destination`."""
    problem_details: bool | None = None
    """True if problem documents name the failed endpoint, the cause, and the policy's file and line.  By default only
    on a loopback address or a Unix socket: other clients should not learn what is behind the sidecar."""

    @property
    def speaks_http1(self) -> bool:
        """True if clients may speak HTTP/1.1."""
        return HTTP1 in self.protocols

    @property
    def speaks_http2(self) -> bool:
        """True if clients may speak HTTP/2."""
        return HTTP2 in self.protocols

    @property
    def has_details(self) -> bool:
        """True if problem documents name endpoints, causes and files."""
        return self.address.is_loopback if self.problem_details is None else self.problem_details


class HistorySpec(Model):
    """Figures of the last hours by minute, which `sidecar recommend --admin` and the live page read."""

    size: Annotated[Size, Field(ge=64 * 1024, le=32 * 1024 * 1024)] = 2 * 1024 * 1024
    """Most memory for the figures; beyond it the oldest are dropped.  The default is a day of a dozen busy routes."""
    file: str | None = None
    """File that keeps the figures over a restart.  Each minute is appended, and a file is twice `size`
    at most."""


class AdminSpec(Model):
    """Admin listener, which serves health, metrics and state, and takes commands such as a reload."""

    address: ListenAddressValue = ListenAddress("127.0.0.1", 9901)
    """Address to bind; loopback by default, since the listener can change the process."""
    token: Secret | None = None
    """Bearer token that every request except /livez and /readyz must have; by default no token is required."""
    hosts: Annotated[tuple[HostName, ...], Field(strict=False)] = ()
    """Host names under which clients may call the listener, such as `orders-sidecar.prod.svc`.  Without a token, the
    listener answers only to IP addresses, `localhost` and these names, which defeats DNS rebinding by web pages."""
    history: HistorySpec | None = HistorySpec.built_in()
    """Figures of the last hours; `off` keeps none."""

    @field_validator("token")
    @classmethod
    def _is_some(cls, token: Secret | None) -> Secret | None:
        if isinstance(token, SecretStr) and not token.get_secret_value():
            raise ValueError("is empty, which would let everyone in; give it a value, or leave the key out")
        return token


class LimitsSpec(Model):
    """Limits of the process as a whole.  Work beyond them is refused, never queued without bound."""

    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Most client connections that may be open on all listeners together."""
    max_header_bytes: Annotated[Size, Field(ge=256)] = 32 * 1024
    """Largest size of the request line and all header fields together (nginx: four buffers of 8 KiB)."""
    max_fields: Annotated[int, Field(ge=256)] = 256
    """Most header fields of a request, 256 at least: fewer are never counted."""
    max_list_members: Annotated[int, Field(ge=1024)] = 1024
    """Most commas and semicolons in all header fields of a request, 1024 at least.  They separate members of lists,
    parameters and cookies."""
    max_query_parameters: Annotated[int, Field(ge=512)] = 1024
    """Most parameters in the query of a request, 512 at least (PHP and Django: 1000)."""
    header_timeout: Duration = 10.0
    """Longest time from the first byte of a request to the end of its header fields."""
    body_timeout: Duration = 60.0
    """Longest pause between two pieces of a request's body (nginx: 60s)."""
    idle_timeout: Duration = 75.0
    """Time after which a connection without a request is closed (nginx: 75s)."""
    half_close_timeout: DurationOrZero = 5.0
    """Longest wait for the response, and longest pause in it, after a client has shut down its sending side.  A client
    that has left looks the same; `0s` treats it as gone at once, as nginx does."""
    drain_timeout: Duration = 20.0
    """Longest time that requests in flight may take on shutdown; less than the 30s that Kubernetes gives a pod."""
    verification: VerificationSpec = VerificationSpec.built_in()
    max_body: Size | None = None
    """Largest request body; a larger one is refused.  By default bodies of any size are streamed."""


MOST_WORKERS: Final = 64
"""Most worker processes."""


class ProcessSpec(Model):
    """Processes that serve the policies."""

    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"] = 1
    """Number of worker processes; `auto` is the number of CPUs that the process may use.  With more than one, a
    supervisor starts them, and limits and budgets hold over all of them together.  Only a restart changes it."""

    def number(self) -> int:
        """Return the number of workers on this machine."""
        return min(MOST_WORKERS, _usable_cpus()) if self.workers == "auto" else self.workers


def _usable_cpus() -> int:
    """Return the number of CPUs that the process may use, by its affinity and the quota of its cgroup."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):  # there is no cgroup of version 2, or no quota
        return cpus
