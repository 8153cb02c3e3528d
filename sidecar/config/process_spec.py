"""The sections `listeners`, `admin` and `limits` of policy files: what they say of the process itself."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, SecretStr, WithJsonSchema, field_validator

from sidecar.config.listen_address import ListenAddress, ListenAddressValue
from sidecar.core.spec import Model
from sidecar.core.units import Duration, Size
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
    """A secret in a file, such as a mounted Kubernetes secret."""

    file: str
    """Path of the file.  It is read again at each reload, and a new secret counts from then on."""


Secret = SecretStr | SecretFile


def reveal(secret: Secret) -> str:
    """Return the secret, without the line end of its file.  Raises `OSError` where the file cannot be read."""
    if isinstance(secret, SecretFile):
        return Path(secret.file).read_text(encoding="utf-8").rstrip("\r\n")
    return secret.get_secret_value()


class ListenerSpec(Model):
    """Where clients connect."""

    address: ListenAddressValue
    """`host:port`, `[::1]:port` or `unix:/path`."""
    tls: ServerTlsSpec | None = None
    """Clients must speak TLS."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    """Whose X-Forwarded-* and Forwarded fields are believed and passed on; of all others they are replaced."""
    problem_details: bool | None = None
    """Problem documents name the endpoint that failed, the cause, and the policy's file and line.  By default only on a
    loopback address or a Unix socket, because other clients should not learn what stands behind the sidecar."""

    @property
    def has_details(self) -> bool:
        """True if problem documents tell of endpoints, causes and files."""
        return self.address.is_loopback if self.problem_details is None else self.problem_details


class AdminSpec(Model):
    """The admin listener: health, metrics, state and reload."""

    address: ListenAddressValue = ListenAddress("127.0.0.1", 9901)
    """Loopback unless configured."""
    token: Secret | None = None
    """A bearer token that every request but /livez and /readyz must bear."""
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
    """The process as a whole; beyond these limits new work is refused, never queued without bound."""

    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Open connections of clients over all listeners."""
    max_header_bytes: Annotated[Size, Field(ge=256)] = 32 * 1024
    """Request line and header fields together."""
    header_timeout: Duration = 10.0
    """From the first byte of a request to the end of its header."""
    body_timeout: Duration = 60.0
    """Between two pieces of a request's body."""
    idle_timeout: Duration = 75.0
    """A connection without a request is closed after so long."""
    drain_timeout: Duration = 20.0
    """On shutdown, how long requests in flight may take."""
    max_body: Size | None = None
    """A longer request body is refused; without it bodies of any length are streamed."""
