"""Endpoints of an upstream: their addresses, their standing, and the set that balancer, pools and checks share.

An endpoint is written `http://host:port`, `https://host:port` or `unix:/run/app.sock` (nginx's spelling).  A path, a
query or credentials are errors, because a reader could take them for working.

Rules:

1. Identity is the canonical URL, which always has a port: a set that is given new URLs, by a reload or by discovery,
   keeps the endpoints that stay, with everything known of them.
2. The active check (`is_healthy`) and passive ejection (`ejected_until`) judge separately; neither overrules the other.
   The transitions keep `is_up`, so that the request path reads an attribute and no clock.
3. The end of an ejection does not restore full weight, as it does in Envoy: the endpoint gets one request a second, on
   trial, until one succeeds (Linkerd's probe request).  A trial that hangs or is abandoned is over after a second.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.core import metrics
from sidecar.core.env import Env

if TYPE_CHECKING:
    from sidecar.upstream.spec import UpstreamSpec

TRIAL_INTERVAL: Final = 1.0
"""Seconds between two requests on trial."""
FAILING: Final = 3
"""Consecutive faults from which an endpoint is shown as failing."""
FAILING_LASTS: Final = 60.0
"""Seconds after the last fault for which that is still news; without traffic nothing else would end it."""

# ----- addresses

EXAMPLE_ENDPOINTS: Final = (
    "http://payments:8080, https://payments:8443, http://[2001:db8::1]:8080 or unix:/run/app.sock"
)
ENDPOINT: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[^\]/?#@]*)\]|(?P<host>[^:/?#@\[\]]*))(?::(?P<port>[^/?#@]*))?/?"
)
HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` of unix(7) without its terminating zero."""
SCHEME_PORTS: Final = {"http": 80, "https": 443}


class EndpointAddress(NamedTuple):
    """The parts of an endpoint's URL."""

    url: str
    """Canonical form: lower case, with the port."""
    is_tls: bool
    host: str
    """Name or IP address, IPv6 without brackets; empty for a Unix socket."""
    port: int
    """0 for a Unix socket."""
    path: str
    """Path of a Unix socket, else empty."""


def parse_endpoint(text: str) -> EndpointAddress:
    """Return the parts of an endpoint.  Raises ValueError: what is wrong, and what would be right."""
    if text.startswith("unix:"):
        return _parse_socket(text)
    if not (match := ENDPOINT.fullmatch(text)):
        raise ValueError(f"is not an endpoint; write its address alone, such as {_correct(text) or EXAMPLE_ENDPOINTS}")
    scheme, v6, host, port = match.group("scheme", "v6", "host", "port")
    if v6 is not None:
        try:
            host = str(IPv6Address(v6))
        except ValueError:
            raise ValueError(f"has {v6!r} in brackets, which is not an IPv6 address") from None
    elif not HOST_NAME.fullmatch(host) or len(host) > 253:
        raise ValueError(
            f"has the host {host!r}, which is neither a name nor an IP address; write it such as {EXAMPLE_ENDPOINTS}"
        )
    return endpoint_address(scheme, host, SCHEME_PORTS[scheme] if port is None else _parse_port(port))


def endpoint_address(scheme: str, host: str, port: int) -> EndpointAddress:
    """Return an address from parts known to be valid."""
    host = host.lower()
    shown = f"[{host}]" if ":" in host else host
    return EndpointAddress(f"{scheme}://{shown}:{port}", scheme == "https", host, port, "")


def literal(host: str) -> str | None:
    """Return the address that a host is, None for a name.  The system's short forms count, such as `127.1`."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def authority(name: str, endpoint: Endpoint) -> str:
    """Return the value of `Host` for an endpoint under a name; the port is left out where the scheme implies it."""
    usual = SCHEME_PORTS["https" if endpoint.is_tls else "http"]
    return name if endpoint.port == usual else f"{name}:{endpoint.port}"


def _correct(text: str) -> str:
    """Return the endpoint that was probably meant: with a scheme, without path, query and credentials; else ''."""
    scheme, _, rest = text.rpartition("://")
    url = f"{scheme or 'http'}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"
    return url if url != text and ENDPOINT.fullmatch(url) and url[-2:] != "//" else ""


def _parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"has the port {text!r}; a port is a number from 1 to 65535")
    return int(text)


def _parse_socket(text: str) -> EndpointAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise ValueError("needs the absolute path of a socket; write it such as unix:/run/app.sock")
    if path.startswith("//"):
        raise ValueError(f"has two slashes; write unix:/{path.lstrip('/')}")
    if (size := len(path.encode())) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"has a path of {size} bytes; the system allows {MAX_SOCKET_PATH_BYTES}")
    return EndpointAddress(text, False, "", 0, path)


# ----- endpoints


class Endpoint:
    """One address and its standing.

    The client counts `in_flight`; the ejector counts failures and successes.  All else changes by the methods below.
    """

    __slots__ = (
        "ejected_at",
        "ejected_until",
        "ejections",
        "failed_at",
        "failures",
        "host",
        "in_flight",
        "is_healthy",
        "is_on_trial",
        "is_tls",
        "is_up",
        "key",
        "path",
        "port",
        "seed",
        "server_name",
        "successes",
        "url",
    )

    def __init__(self, url: str) -> None:
        address = parse_endpoint(url)
        self.url = self.key = address.url
        """Canonical URL: the identity in `Exchange.avoid`, state keys, events and spans."""
        self.host = address.host
        """Name or IP address (IPv6 without brackets); empty for a Unix socket."""
        self.port = address.port
        """0 for a Unix socket."""
        self.path = address.path
        """Path of a Unix socket, else empty."""
        self.is_tls = address.is_tls
        self.server_name = address.host
        """Name sent by TLS and expected in the certificate; the set may know a better one than the host."""
        self.seed = int.from_bytes(blake2b(self.url.encode(), digest_size=8).digest(), "big")
        """64 bits for hashing, the same in every process."""
        self.in_flight = 0
        """Attempts from the choice of the endpoint to the last byte of the response."""
        self.is_healthy = True
        """Verdict of the active check; True until it says otherwise."""
        self.failures = 0
        """Consecutive faults."""
        self.failed_at = 0.0
        """Instant of the last attempt that got no whole answer; 0 without one."""
        self.successes = 0
        """Consecutive successes, counted only while an ejection is remembered."""
        self.ejections = 0
        """Ejections not yet offset by successes; each doubles the next one."""
        self.ejected_at = 0.0
        """Instant of the last ejection; 0 without one."""
        self.ejected_until = 0.0
        """Instant before which it gets no request; 0 while it is not ejected."""
        self.is_on_trial = False
        """True after an ejection's end, once a request on trial was sent and until it is restored."""
        self.is_up = True
        """True if healthy and not ejected."""

    def is_available(self, now: float) -> bool:
        """True if it may get a request: it is up, or due for a trial."""
        return self.is_up or (self.is_healthy and self.ejected_until <= now)

    def set_health(self, is_healthy: bool) -> None:
        """Take the verdict of the active check."""
        self.is_healthy = is_healthy
        self.is_up = is_healthy and not self.ejected_until

    def eject(self, now: float, until: float) -> None:
        """Send it no request before the instant `until`."""
        self.ejected_at = now
        self.ejected_until = until
        self.is_on_trial = self.is_up = False
        self.failures = self.successes = 0

    def begin_trial(self, now: float) -> None:
        """Note a request on trial; the next one may come `TRIAL_INTERVAL` later."""
        self.is_on_trial = True
        self.ejected_until = now + TRIAL_INTERVAL

    def restore(self) -> None:
        """End the ejection."""
        self.ejected_until = 0.0
        self.is_on_trial = False
        self.is_up = self.is_healthy

    @property
    def state(self) -> str:
        """`up`, `unhealthy`, `ejected` or `on_trial`, as requests have left it."""
        if self.is_up:
            return "up"
        if not self.is_healthy:
            return "unhealthy"
        return "on_trial" if self.is_on_trial else "ejected"

    def seen(self, now: float) -> str:
        """Return the state as people are to see it: one more is `failing`, and time counts.

        `failing` is up to the balancer, and got no answer lately.  An ejection that is over without traffic is shown
        as `on_trial`: the next request is its trial.
        """
        state = self.state
        if state == "up" and self.failures >= FAILING and now - self.failed_at < FAILING_LASTS:
            return "failing"
        return "on_trial" if state == "ejected" and self.ejected_until <= now else state

    def describe(self, now: float) -> dict[str, Any]:
        """Return JSON-ready facts for `/state`."""
        return {
            "url": self.url,
            "state": self.seen(now),
            "in_flight": self.in_flight,
            "consecutive_failures": self.failures,
            "ejections": self.ejections,
            "ejected_for": round(max(0.0, self.ejected_until - now), 3),
        }

    def __repr__(self) -> str:
        return f"<Endpoint {self.url} {self.state} {self.in_flight} in flight>"


class EndpointSet:
    """The present endpoints of one upstream.

    Kept in the state store as `("endpoints", upstream)`.  With `discover` it begins empty and discovery fills it.
    """

    __slots__ = ("_env", "_listeners", "_server_name", "members", "upstream")

    def __init__(self, upstream: str, spec: UpstreamSpec, env: Env) -> None:
        self.upstream = upstream
        self.members: tuple[Endpoint, ...] = ()
        """In the order of the policy file or of discovery; replaced whole, never changed in place."""
        self._env = env
        self._listeners: list[Callable[[tuple[Endpoint, ...]], None]] = []
        for state in ("up", "failing", "unhealthy", "ejected", "on_trial"):
            env.meter.gauge(metrics.ENDPOINT_UP, partial(self.count_seen, state), upstream=upstream, state=state)
        self.retune(spec)

    def retune(self, spec: UpstreamSpec) -> None:
        """Take the endpoints of a new spec.  Discovered ones stay until discovery finds others."""
        self._server_name = (spec.tls and spec.tls.server_name) or (spec.discover.dns if spec.discover else "")
        self.replace([endpoint.url for endpoint in self.members] if spec.endpoints is None else spec.endpoints)

    def replace(self, urls: Iterable[str]) -> None:
        """Make these the endpoints, given as canonical URLs; those that stay remain the same objects."""
        known = {endpoint.url: endpoint for endpoint in self.members}
        before, self.members = self.members, tuple(known.get(url) or Endpoint(url) for url in dict.fromkeys(urls))
        for endpoint in self.members:
            endpoint.server_name = self._server_name or endpoint.host
        kept = set(self.members)
        if removed := tuple(endpoint for endpoint in before if endpoint not in kept):
            for listener in self._listeners:
                listener(removed)

    def on_removal(self, listener: Callable[[tuple[Endpoint, ...]], None]) -> Callable[[], None]:
        """Call `listener(removed)` whenever endpoints go; return the function that ends the subscription."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def count(self, state: str) -> int:
        """Return how many are `up`, `unhealthy` or `ejected`, those on trial included."""
        if state == "ejected":
            return sum(endpoint.state in ("ejected", "on_trial") for endpoint in self.members)
        return sum(endpoint.state == state for endpoint in self.members)

    def count_seen(self, state: str) -> int:
        """Return how many are in a state as people see it."""
        now = self._env.now()
        return sum(endpoint.seen(now) == state for endpoint in self.members)

    def describe(self) -> dict[str, Any]:
        now = self._env.now()
        return {"upstream": self.upstream, "endpoints": [endpoint.describe(now) for endpoint in self.members]}

    def __repr__(self) -> str:
        return f"<EndpointSet {self.upstream}: {self.count('up')} of {len(self.members)} up>"
