"""One address of an upstream, what is known of it, and the set of them that its parts share.

Two parties judge an endpoint and neither overrules the other: the active check says `healthy`, passive ejection says
`ejected_until`.  An endpoint is up while both are content.  `is_up` is kept by the transitions, so that choosing one
costs an attribute and not a look at the clock.

An ejection's time running out does not bring an endpoint back at full weight, as it does in Envoy: it earns one request
a second (`TRIAL`), on trial, until one succeeds (Linkerd's probe request).  The trial is a lease, not a slot: one that
is abandoned or hangs is over after a second, so that an endpoint cannot stay half back for ever.

Identity is the canonical URL: a set that is given new URLs, by a reload or by discovery, keeps the endpoints that stay,
with all that is known of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.upstream.address import parse_address
from sidecar.upstream.spec import UpstreamSpec

TRIAL: Final = 1.0
"""Seconds between two requests on trial."""


class Endpoint:
    """An address and its standing.  `in_flight` is the client's to count; the rest changes by the methods below."""

    __slots__ = (
        "ejected_at",
        "ejected_until",
        "ejections",
        "failures",
        "healthy",
        "host",
        "in_flight",
        "is_on_trial",
        "is_up",
        "key",
        "path",
        "port",
        "seed",
        "server_name",
        "successes",
        "tls",
        "url",
    )  # fmt: skip

    def __init__(self, url: str) -> None:
        address = parse_address(url)
        self.url = self.key = address.url
        """The canonical URL: its identity in `Exchange.avoid`, in state keys, events and spans."""
        self.host = address.host
        """A name or an IP address (IPv6 without brackets); empty for a Unix socket."""
        self.port = address.port
        self.path = address.path
        """The path of a Unix socket, else empty."""
        self.tls = address.tls
        self.server_name = address.host
        """The name that TLS sends and expects in the certificate; the endpoint's set may know a better one."""
        self.seed = int.from_bytes(blake2b(self.url.encode(), digest_size=8).digest(), "big")
        """64 bits of its own, the same in every process: for hashing."""
        self.in_flight = 0
        self.healthy = True
        """The active check's verdict; true until it says otherwise."""
        self.failures = 0
        """Faults in a row."""
        self.successes = 0
        """Successes in a row, counted only while an ejection is remembered."""
        self.ejections = 0
        """Ejections not yet made up for by successes: each doubled the next one's time."""
        self.ejected_at = 0.0
        self.ejected_until = 0.0
        """Before this instant there is no request for it; 0 where it is not ejected."""
        self.is_on_trial = False
        self.is_up = True
        """Healthy and not ejected."""

    def is_available(self, now: float) -> bool:
        """May it get a request: is it up, or due for a trial?"""
        return self.is_up or (self.healthy and self.ejected_until <= now)

    def set_health(self, healthy: bool) -> None:
        """The verdict of the active check."""
        self.healthy = healthy
        self.is_up = healthy and not self.ejected_until

    def eject(self, now: float, until: float) -> None:
        self.ejected_at = now
        self.ejected_until = until
        self.is_on_trial = self.is_up = False
        self.failures = self.successes = 0

    def begin_trial(self, now: float) -> None:
        """The ejection's time is over and a request is on its way; the next trial may come a second later."""
        self.is_on_trial = True
        self.ejected_until = now + TRIAL

    def restore(self) -> None:
        """Back from an ejection."""
        self.ejected_until = 0.0
        self.is_on_trial = False
        self.is_up = self.healthy

    @property
    def state(self) -> str:
        """`up`, `unhealthy`, `ejected` or `on_trial`."""
        if self.is_up:
            return "up"
        if not self.healthy:
            return "unhealthy"
        return "on_trial" if self.is_on_trial else "ejected"

    def describe(self, now: float) -> dict[str, Any]:
        """JSON-ready facts for `/state`."""
        return {
            "url": self.url,
            "state": self.state,
            "in_flight": self.in_flight,
            "consecutive_failures": self.failures,
            "ejections": self.ejections,
            "ejected_for": round(max(0.0, self.ejected_until - now), 3),
        }

    def __repr__(self) -> str:
        return f"<Endpoint {self.url} {self.state} {self.in_flight} in flight>"


class EndpointSet:
    """The endpoints of one upstream as they are now; balancer, ejection, health checks and pools share it.

    Kept in the state store as `("endpoints", upstream)`.  With `discover` it begins empty and discovery fills it.
    """

    __slots__ = ("_env", "_listeners", "_server_name", "members", "upstream")

    def __init__(self, upstream: str, spec: UpstreamSpec, env: Env) -> None:
        self.upstream = upstream
        self.members: tuple[Endpoint, ...] = ()
        """In the order of the policy file or of discovery; replaced whole, never changed in place."""
        self._env = env
        self._listeners: list[Callable[[tuple[Endpoint, ...]], None]] = []
        for state in ("up", "unhealthy", "ejected"):
            env.meter.gauge(metrics.ENDPOINT_UP, partial(self.count, state), upstream=upstream, state=state)
        self.retune(spec)

    def retune(self, spec: UpstreamSpec) -> None:
        """Another policy: what it names stays or comes.  Discovery replaces the members when it has found others."""
        self._server_name = (spec.tls and spec.tls.server_name) or (spec.discover.dns if spec.discover else "")
        self.replace([endpoint.url for endpoint in self.members] if spec.endpoints is None else spec.endpoints)

    def replace(self, urls: Iterable[str]) -> None:
        """Have exactly these, given in their canonical form; the ones that stay are the same objects as before."""
        known = {endpoint.url: endpoint for endpoint in self.members}
        before, self.members = self.members, tuple(known.get(url) or Endpoint(url) for url in dict.fromkeys(urls))
        for endpoint in self.members:
            endpoint.server_name = self._server_name or endpoint.host
        kept = set(self.members)
        if removed := tuple(endpoint for endpoint in before if endpoint not in kept):
            for listener in self._listeners:
                listener(removed)

    def on_removal(self, listener: Callable[[tuple[Endpoint, ...]], None]) -> Callable[[], None]:
        """Call `listener(removed)` whenever endpoints go, so that their connections go too; the result ends it."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def count(self, state: str) -> int:
        """How many are `up`, `unhealthy` or `ejected` (one on trial still is)."""
        if state == "ejected":
            return sum(endpoint.state in ("ejected", "on_trial") for endpoint in self.members)
        return sum(endpoint.state == state for endpoint in self.members)

    def describe(self) -> dict[str, Any]:
        now = self._env.now()
        return {"upstream": self.upstream, "endpoints": [endpoint.describe(now) for endpoint in self.members]}

    def __repr__(self) -> str:
        return f"<EndpointSet {self.upstream}: {self.count('up')} of {len(self.members)} up>"
