"""Listen addresses in policy files: host and port, or the path of a Unix socket."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Final, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

EXAMPLES: Final = '"127.0.0.1:8080", "[::1]:8080" or "unix:/run/sidecar.sock"'
MAX_SOCKET_PATH: Final = 107
"""Longest path in bytes: `sun_path` of unix(7) without its terminating zero."""
_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]/@\s]+)):(?P<port>[0-9]{1,5})")


class ListenAddress(NamedTuple):
    """Host and port, or the path of a Unix socket."""

    host: str
    """Host name or IP address, IPv6 without brackets; empty for a Unix socket."""
    port: int
    """Port number; 0 lets the system choose one."""
    path: str = ""
    """Path of a Unix socket; empty otherwise."""

    @property
    def is_loopback(self) -> bool:
        """True if only processes on this machine can reach the address."""
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


def parse_listen_address(value: Any) -> ListenAddress:
    """Return the address written as `host:port`, `[v6]:port` or `unix:/path`.

    Raises `ValueError` for anything else, with an example of a correct address.
    """
    if isinstance(value, ListenAddress):
        return value
    if not isinstance(value, str):
        raise ValueError(f"is not an address; write it such as {EXAMPLES}")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(
                f"needs the absolute path of a socket, {MAX_SOCKET_PATH} bytes at most: unix:/run/sidecar.sock"
            )
        return ListenAddress("", 0, path)
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
    return ListenAddress(host.lower(), port)


ListenAddressValue = Annotated[
    ListenAddress,
    PlainValidator(parse_listen_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]}),
]
"""Type of a policy key that holds a listen address."""
