"""What policy files say of the process itself: where it listens, its admin page, and its limits."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field, PlainSerializer, PlainValidator, SecretStr, WithJsonSchema, field_validator

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Size
from sidecar.upstream.tls import ServerTlsSpec

EXAMPLES: Final = '"127.0.0.1:8080", "[::1]:8080" or "unix:/run/sidecar.sock"'
MAX_SOCKET_PATH: Final = 107
"""Bytes; `sun_path` of unix(7) less its terminating zero."""
_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]/@\s]+)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where a listener listens: host and port, or the path of a Unix socket."""

    host: str
    """A name or an IP address, IPv6 without brackets; empty for a Unix socket."""
    port: int
    """0 lets the system choose."""
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Can only this machine reach it?"""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """`host:port`, `[v6]:port` or `unix:/path`; `ValueError` says what would be right."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"is not an address; write it such as {EXAMPLES}")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(
                f"needs the absolute path of a socket, {MAX_SOCKET_PATH} bytes at most: unix:/run/sidecar.sock"
            )
        return Address("", 0, path)
    if not (match := _HOST_PORT.fullmatch(value)):
        near = f'; did you mean "0.0.0.0{value}"?' if re.fullmatch(":[0-9]+", value) else ""
        raise ValueError(f"is not an address; write it such as {EXAMPLES}{near}")
    host, port = match["host"] or match["v6"], int(match["port"])
    if port > 65535:
        raise ValueError(f"has the port {port}; a port is a number from 0 to 65535")
    if match["v6"] is not None:
        try:
            host = str(IPv6Address(host))
        except ValueError:
            raise ValueError(f"has {host!r} in brackets, which is not an IPv6 address") from None
    return Address(host.lower(), port)


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value) if isinstance(value, str) else ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"is not a network; write it such as 10.0.0.0/8 or 192.0.2.7 ({error})") from None


ListenAddress = Annotated[
    Address,
    PlainValidator(parse_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]}),
]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]}),
]


class SecretFile(Model):
    """A secret that stands in a file, such as a mounted Kubernetes secret."""

    file: str
    """The file's path.  It is read when the secret is needed, so a new secret counts from then on."""


Secret = SecretStr | SecretFile


def reveal(secret: Secret) -> str:
    """The secret itself, without the line's end of a file; raises `OSError` where the file cannot be read."""
    if isinstance(secret, SecretFile):
        return Path(secret.file).read_text(encoding="utf-8").rstrip("\r\n")
    return secret.get_secret_value()


class ListenerSpec(Model):
    """Where clients connect."""

    address: ListenAddress
    """`host:port`, `[::1]:port` or `unix:/path`."""
    tls: ServerTlsSpec | None = None
    """Clients must speak TLS."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    """Whose X-Forwarded-* and Forwarded fields are believed and passed on; of all others they are replaced."""


class AdminSpec(Model):
    """The admin listener: health, metrics, state and reload."""

    address: ListenAddress = Address("127.0.0.1", 9901)
    """Loopback unless configured."""
    token: Secret | None = None
    """A bearer token that every request but /livez and /readyz must bear."""

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
