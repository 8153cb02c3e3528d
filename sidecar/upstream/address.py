"""Where an endpoint is, as policy files write it: `http://host:port`, `https://host:port` or `unix:/run/app.sock`.

An endpoint is an address and nothing else: a path, a query or credentials in it are errors, because a reader could take
them for working.  The port may be left out (80, 443); the canonical form always bears it, so that two ways to write one
address are one endpoint.  `unix:` is nginx's spelling and is plain HTTP; the socket's path is absolute.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

EXAMPLES: Final = "http://payments:8080, https://payments:8443, http://[2001:db8::1]:8080 or unix:/run/app.sock"
URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[^\]/?#@]*)\]|(?P<host>[^:/?#@\[\]]*))(?::(?P<port>[^/?#@]*))?/?"
)
HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
MAX_SOCKET_PATH: Final = 107
"""Bytes; `sun_path` of unix(7) less its terminating zero."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Address(NamedTuple):
    """An endpoint's parts."""

    url: str
    """Canonical: lower case, with its port."""
    tls: bool
    host: str
    """A name or an IP address, IPv6 without brackets; empty for a Unix socket."""
    port: int
    """0 for a Unix socket."""
    path: str
    """The path of a Unix socket, else empty."""


def parse_address(text: str) -> Address:
    """The parts of an endpoint; ValueError says what is wrong with it and what would be right."""
    if text.startswith("unix:"):
        return _unix(text)
    if not (match := URL.fullmatch(text)):
        raise ValueError(f"is not an endpoint; write its address alone, such as {_near(text) or EXAMPLES}")
    scheme, v6, host, port = match.group("scheme", "v6", "host", "port")
    if v6 is not None:
        try:
            host = str(IPv6Address(v6))
        except ValueError:
            raise ValueError(f"has {v6!r} in brackets, which is not an IPv6 address") from None
    elif not HOST.fullmatch(host) or len(host) > 253:
        raise ValueError(
            f"has the host {host!r}, which is neither a name nor an IP address; write it such as {EXAMPLES}"
        )
    return address(scheme, host, DEFAULT_PORTS[scheme] if port is None else _port(port))


def _near(text: str) -> str:
    """The address that was probably meant: with its scheme, and without path, query and credentials."""
    scheme, _, rest = text.rpartition("://")
    near = f"{scheme or 'http'}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"
    return near if near != text and URL.fullmatch(near) and near[-2:] != "//" else ""


def address(scheme: str, host: str, port: int) -> Address:
    """An address from parts that are known to be good."""
    host = host.lower()
    shown = f"[{host}]" if ":" in host else host
    return Address(f"{scheme}://{shown}:{port}", scheme == "https", host, port, "")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"has the port {text!r}; a port is a number from 1 to 65535")
    return int(text)


def _unix(text: str) -> Address:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise ValueError("needs the absolute path of a socket; write it such as unix:/run/app.sock")
    if path.startswith("//"):
        raise ValueError(f"has two slashes; write unix:/{path.lstrip('/')}")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"has a path of {len(path.encode())} bytes; the system allows {MAX_SOCKET_PATH}")
    return Address(text, False, "", 0, path)


EndpointUrl = Annotated[
    str,
    AfterValidator(lambda text: parse_address(text).url),
    WithJsonSchema({"type": "string", "pattern": "^(https?://|unix:/).+", "examples": ["http://payments:8080"]}),
]
"""An endpoint in a policy file, made canonical."""
