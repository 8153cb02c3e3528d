"""Specs of the sections `listeners`, `admin` and `limits` of policy files: settings of the process itself."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    field_validator,
)

from sidecar.config.listen_address import ListenAddress, ListenAddressValue
from sidecar.core.message import HOP_BY_HOP, TOKEN, fold
from sidecar.core.spec import Model
from sidecar.core.units import ByteRate, Duration, DurationOrZero, Size, name_or_off
from sidecar.upstream.tls import ServerTlsSpec


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value) if isinstance(value, str) else ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"is not a network; write it such as 10.0.0.0/8 or 192.0.2.7 ({error})") from None


Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]}),
]


def _host_name(text: str) -> str:
    if not re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", text):
        raise ValueError("is not a host name; write it without scheme and port, such as orders-sidecar.prod.svc")
    return text


HostName = Annotated[str, AfterValidator(_host_name)]


class SecretFile(Model):
    """Secret that stands in a file, such as a mounted Kubernetes secret."""

    file: str
    """Path of the file.  It is read again at each reload, and a new secret counts from then on."""


Secret = SecretStr | SecretFile


def reveal(secret: Secret) -> str:
    """Return the secret, without the line end of its file.  Raises `OSError` where the file cannot be read."""
    if isinstance(secret, SecretFile):
        return Path(secret.file).read_text(encoding="utf-8").rstrip("\r\n")
    return secret.get_secret_value()


class SlowClientsSpec(Model):
    """Bounds for clients that send or read slowly."""

    min_rate: ByteRate = 1024.0
    """Bytes a second that a client must send or take while it is waited for.  Server-sent events, gRPC and tunnels are
    exempt.  (HAProxy and Envoy have time-outs alone; Apache's `mod_reqtimeout` asks for 500 bytes a second.)"""
    grace: Duration = 5.0
    """Time that a client may be waited for in any case; what it sends or takes above the rate adds up to 15s."""
    buffer: Size = 256 * 1024
    """Bytes of an answer that are read in advance, so that the upstream is free while the client still reads."""
    buffer_total: Size = 32 * 2**20
    """Bytes that are buffered for all slow clients of the listener together: a small part of a sidecar's memory."""


OUTBOUND: Final = "outbound"
"""Name of the listener whose clients are believed where it is loopback: it is for the service beside us."""
UNPASSABLE: Final = HOP_BY_HOP | {
    b"content-length", b"host", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id",
    b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms", b"grpc-timeout", b"x-sidecar-attempt",
    b"x-sidecar-hops", b"x-criticality", b"max-forwards",
}  # fmt: skip
"""Fields that the sidecar writes itself or that end with the connection, by their folded names."""


def _field(name: str) -> str:
    if "*" in name:
        raise ValueError(f"has `{name}`, which is no whole name; write each name, such as x-original-url")
    encoded = name.encode("ascii", "replace")
    if re.fullmatch(TOKEN, encoded) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as x-original-url")
    if fold(encoded) in UNPASSABLE:
        raise ValueError(f"has `{name}`, which the sidecar reads and writes itself; leave it out")
    return name


def _via(name: str) -> str:
    if re.fullmatch(TOKEN, name.encode("ascii", "replace")) is None:
        raise ValueError("is not a pseudonym for Via; write a word such as sidecar, or off")
    return name


def _via_or_off(value: Any) -> Any:
    return name_or_off(value, "to send no Via", "another name")


class UntrustedSpec(Model):
    """Rights of clients that are not trusted."""

    min_deadline: DurationOrZero = 0.1
    """Shortest deadline that they can set, from the arrival of their request: a shorter one counts as so long, so that
    strangers cannot make a healthy upstream look dead."""
    pass_: Annotated[
        tuple[Annotated[str, AfterValidator(_field)], ...], Field(strict=False, alias="pass", max_length=100)
    ] = ()
    """Fields about the client or the target, such as `x-original-url`, that pass from them on purpose; by default
    none."""


class ListenerSpec(Model):
    """Address on which clients connect, and how they are trusted."""

    address: ListenAddressValue
    """Address to bind: `host:port`, `[::1]:port` or `unix:/path`."""
    tls: ServerTlsSpec | None = None
    """Certificate to show; clients must then speak TLS.  Without it the listener is plain."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    """Who is trusted: what they say in X-Forwarded-*, Forwarded and their like, their deadlines and their criticality
    are believed.  Trusted as well are all clients of a listener with `client_ca`, and of a loopback listener with the
    name `outbound`."""
    slow_clients: SlowClientsSpec = SlowClientsSpec.built_in()
    """Least rate of clients, and bytes that are buffered for slow ones; without the block its defaults hold."""
    untrusted: UntrustedSpec = UntrustedSpec.built_in()
    """Rights of all other clients; without the block its defaults hold."""
    via: Annotated[str, Field(max_length=100), AfterValidator(_via), BeforeValidator(_via_or_off)] = "sidecar"
    """Name in the field Via that the upstream gets, which a gateway must send (RFC 9110 7.6.3); `off` sends none, for
    servers that do not compress for proxies."""
    http2: bool = False
    """HTTP/2 beside HTTP/1.1 on the same port: by ALPN over TLS, with prior knowledge on a plain listener."""
    problem_details: bool | None = None
    """Problem documents name the endpoint that failed, the cause, and the policy's file and line.  By default only on a
    loopback address or a Unix socket, because other clients should not learn what stands behind the sidecar."""

    @property
    def has_details(self) -> bool:
        """True if problem documents tell of endpoints, causes and files."""
        return self.address.is_loopback if self.problem_details is None else self.problem_details


class AdminSpec(Model):
    """Admin listener: health, metrics, state and reload."""

    address: ListenAddressValue = ListenAddress("127.0.0.1", 9901)
    """Address to bind; loopback by default, since the listener can change the process."""
    token: Secret | None = None
    """Bearer token that every request except /livez and /readyz must have; without it none is asked for."""
    hosts: Annotated[tuple[HostName, ...], Field(strict=False)] = ()
    """Names by which it may be asked, such as `orders-sidecar.prod.svc`.  Without a token it answers to addresses,
    `localhost` and these alone, so that no web page can reach it by a name of its own (DNS rebinding)."""

    @field_validator("token")
    @classmethod
    def _is_some(cls, token: Secret | None) -> Secret | None:
        if isinstance(token, SecretStr) and not token.get_secret_value():
            raise ValueError("is empty, which would let everyone in; give it a value, or leave the key out")
        return token


class LimitsSpec(Model):
    """Limits of the process as a whole.  Beyond them new work is refused, never queued without bound."""

    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Number of client connections that may be open over all listeners."""
    max_header_bytes: Annotated[Size, Field(ge=256)] = 32 * 1024
    """Longest request line and header fields together (nginx: four buffers of 8 KiB)."""
    max_fields: Annotated[int, Field(ge=256)] = 256
    """Most fields of a request.  It can only be raised, since an ordinary request costs no count below it."""
    max_list_members: Annotated[int, Field(ge=1024)] = 1024
    """Most commas and semicolons in all fields of a request: members of lists and their parameters, cookies.  It can
    only be raised."""
    max_query_parameters: Annotated[int, Field(ge=512)] = 1024
    """Most parameters of a request's query (PHP and Django: 1000); 512 at least."""
    header_timeout: Duration = 10.0
    """Longest time from the first byte of a request to the end of its header, which takes a few packets."""
    body_timeout: Duration = 60.0
    """Longest pause between two pieces of a request's body (nginx: 60s)."""
    idle_timeout: Duration = 75.0
    """Time after which a connection without a request is closed (nginx: 75s)."""
    half_close_timeout: DurationOrZero = 5.0
    """Longest time to the answer, and pause in it, of a client that shuts its sending side down right after a request.
    Most answers need less, and a client that has left looks the same.  With `0s` it counts as gone at once (nginx)."""
    drain_timeout: Duration = 20.0
    """Longest time for requests in flight on shutdown; less than the 30s that Kubernetes waits for a pod."""
    max_body: Size | None = None
    """Longest request body; a longer one is refused.  Without it bodies of any length are streamed."""
