"""Endpoints of an upstream: their addresses, their state, and the set that balancer, pools and checks share.

An endpoint is written `http://host:port`, `https://host:port` or `unix:/run/app.sock` (as in nginx).  A path, a query
or credentials are errors, because they would have no effect.

Rules:

1. The canonical URL, which always has a port, identifies an endpoint.  If a reload or discovery replaces the URLs of a
   set, the endpoints that stay keep their state.
2. The active check (`is_healthy`) and passive ejection (`ejected_until`) are independent: an endpoint is up if neither
   excludes it.  `is_up` is updated at each change, so that the request path reads an attribute and no clock.
3. After an ejection, the endpoint gets one request a second on trial until one succeeds (Linkerd's probe request).  In
   Envoy it gets all its traffic at once.  A trial without a result ends after a second.
4. Discovery may divide the endpoints into tiers.  The first tier with members is `preferred`; the balancer takes the
   others only in rare cases, so that the request path reads one tuple.
5. With `subset`, the set has the endpoints that it chooses, and chooses again when one of them is out or back.
6. Weights come with the targets, those of a file and those that discovery finds.  Shares of zones are weights too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from itertools import compress
from operator import is_not
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.core import metrics
from sidecar.core.env import Env

if TYPE_CHECKING:
    from sidecar.upstream.balancing.subset import Subset
    from sidecar.upstream.spec import UpstreamSpec

TRIAL_INTERVAL: Final = 1.0
"""Seconds between two requests on trial."""
FAILING: Final = 3
"""Consecutive faults after which an endpoint is shown as failing."""
FAILING_LASTS: Final = 60.0
"""Seconds after the last fault for which an endpoint is shown as failing; without traffic nothing else ends it."""
DRAINING: Final = 1 << 20
"""Tier of endpoints that are about to end: they get requests only if no other endpoint serves."""
WHOLE: Final = 1_000_000
"""Sum of the weights of all endpoints where zones have shares."""
STATES: Final = ("up", "failing", "unhealthy", "ejected", "on_trial", "not_ready", "draining")
"""States of an endpoint, as used in metric labels."""

# ----- addresses

EXAMPLE_ENDPOINTS: Final = (
    "http://payments:8080, https://payments:8443, http://[2001:db8::1]:8080 or unix:/run/app.sock"
)
ENDPOINT: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[^\]/?#@]*)\]|(?P<host>[^:/?#@\[\]]*))(?::(?P<port>[^/?#@]*))?/?"
)
HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
MAX_SOCKET_PATH_BYTES: Final = 107
"""Longest path of a Unix socket in bytes: `sun_path` of unix(7) without its terminating zero."""
SCHEME_PORTS: Final = {"http": 80, "https": 443}


class EndpointAddress(NamedTuple):
    """Parsed URL of an endpoint."""

    url: str
    """Canonical URL: in lower case, with the port."""
    is_tls: bool
    """True for `https`."""
    host: str
    """Name or IP address, IPv6 without brackets; empty for a Unix socket."""
    port: int
    """TCP port; 0 for a Unix socket."""
    path: str
    """Path of a Unix socket, else empty."""


def parse_endpoint(text: str) -> EndpointAddress:
    """Return the parsed URL of an endpoint.  Raises `ValueError` with the remedy."""
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
    """Return the address of an endpoint with these parts, which must be valid."""
    host = host.lower()
    shown = f"[{host}]" if ":" in host else host
    return EndpointAddress(f"{scheme}://{shown}:{port}", scheme == "https", host, port, "")


def literal(host: str) -> str | None:
    """Return the IP address of a host that is one, also in a short form such as `127.1`; None for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def authority(name: str, endpoint: Endpoint) -> str:
    """Return a `Host` field with a name and the endpoint's port, which is omitted if it is the scheme's default."""
    usual = SCHEME_PORTS["https" if endpoint.is_tls else "http"]
    return name if endpoint.port == usual else f"{name}:{endpoint.port}"


def _correct(text: str) -> str:
    """Return a corrected endpoint, with a scheme and without path, query and credentials; empty if there is none."""
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


class Target(NamedTuple):
    """Endpoint as discovery finds it."""

    url: str
    """Canonical URL."""
    tier: int = 0
    """Tier: endpoints of a higher one get requests if those of the lower ones cannot take them."""
    weight: int = 1
    """Share of the tier's requests, relative to those of the other endpoints; 0 counts as 1."""
    is_ready: bool = True
    """False if the source says that the endpoint cannot serve; it then gets requests in panic only."""
    zone: str = ""
    """Zone; empty if it is not known."""


def _is_special(target: Target) -> bool:
    """True if a target is not ready, or not in the first tier."""
    return target.tier != 0 or not target.is_ready


class Endpoint:
    """Endpoint: its address and its state.

    `client` counts `in_flight`, and the ejector counts failures and successes.  The methods below change the rest.
    """

    __slots__ = (
        "ejected_at",
        "ejected_until",
        "ejections",
        "failed_at",
        "failures",
        "host",
        "in_flight",
        "is_draining",
        "is_healthy",
        "is_on_trial",
        "is_ready",
        "is_tls",
        "is_up",
        "key",
        "latency",
        "measured_at",
        "on_change",
        "path",
        "port",
        "seed",
        "server_name",
        "successes",
        "up_since",
        "url",
        "weight",
        "zone",
    )

    def __init__(self, url: str) -> None:
        address = parse_endpoint(url)
        self.url = self.key = address.url
        """Canonical URL, which identifies the endpoint in `Exchange.avoid`, state keys, events and spans."""
        self.host = address.host
        """Name or IP address, IPv6 without brackets; empty for a Unix socket."""
        self.port = address.port
        """TCP port; 0 for a Unix socket."""
        self.path = address.path
        """Path of a Unix socket, else empty."""
        self.is_tls = address.is_tls
        """True for `https`."""
        self.server_name = address.host
        """Name for SNI and for the check of the certificate; the set may replace it."""
        self.seed = int.from_bytes(blake2b(self.url.encode(), digest_size=8).digest(), "big")
        """Hash of the URL for rendezvous hashing, 64 bits, the same in every process."""
        self.in_flight = 0
        """Number of attempts in flight, from the choice of the endpoint to the last byte of the response."""
        self.is_healthy = True
        """Result of the active check; True before the first result."""
        self.is_ready = True
        """False if discovery says that the endpoint cannot serve."""
        self.is_draining = False
        """True if discovery says that the endpoint is about to end."""
        self.zone = ""
        """Zone as the file or discovery says; empty if it is not known."""
        self.failures = 0
        """Number of consecutive faults."""
        self.failed_at = 0.0
        """Instant of the last attempt without a complete response; 0 without one."""
        self.successes = 0
        """Number of consecutive successes, counted only if `ejections` is not 0."""
        self.ejections = 0
        """Number of ejections that successes have not yet offset; each doubles the length of the next one."""
        self.ejected_at = 0.0
        """Instant of the last ejection; 0 without one."""
        self.ejected_until = 0.0
        """Instant before which the endpoint gets no request; 0 while it is not ejected."""
        self.is_on_trial = False
        """True from the first request on trial after an ejection until the endpoint is restored."""
        self.is_up = True
        """True if the endpoint is ready, healthy and not ejected."""
        self.up_since = 0.0
        """Instant at which the endpoint came up or joined the set, for a slow start; 0 once that no longer matters."""
        self.weight = 1
        """Weight of the endpoint, for `balancing.weights`."""
        self.latency = 0.0
        """Average latency in seconds (`balancing.strategies.observe`); 0 until one is known."""
        self.measured_at = 0.0
        """Instant of the last change of `latency`."""
        self.on_change: Callable[[], None] | None = None
        """Called after a check or an ejection has excluded or restored the endpoint; None without a `subset`."""

    @property
    def is_out(self) -> bool:
        """True if a check or an ejection excludes the endpoint."""
        return not self.is_healthy or self.ejected_until != 0.0

    def is_available(self, now: float) -> bool:
        """True if the endpoint may get a request: it is up, or the next request on trial is due."""
        return self.is_up or (self.is_ready and self.is_healthy and self.ejected_until <= now)

    def set_health(self, is_healthy: bool, now: float = 0.0) -> None:
        """Set the result of the active check; an endpoint that comes up by it at `now` starts slowly."""
        self.is_healthy = is_healthy
        self._update(now)
        if self.on_change is not None:
            self.on_change()

    def describe_as(self, target: Target, now: float = 0.0) -> None:
        """Set what discovery says of the endpoint; one that comes up by it at `now` starts slowly."""
        self.is_ready = target.is_ready
        self.is_draining = target.tier == DRAINING
        self.zone = target.zone
        self._update(now)

    def _update(self, now: float) -> None:
        was_up, self.is_up = self.is_up, self.is_ready and self.is_healthy and not self.ejected_until
        if self.is_up and not was_up:
            self.up_since = now

    def eject(self, now: float, until: float) -> None:
        """Exclude the endpoint from load balancing until the instant `until`."""
        self.ejected_at = now
        self.ejected_until = until
        self.is_on_trial = self.is_up = False
        self.failures = self.successes = 0
        if self.on_change is not None:
            self.on_change()

    def begin_trial(self, now: float) -> None:
        """Record a request on trial; the next one is due after `TRIAL_INTERVAL`."""
        self.is_on_trial = True
        self.ejected_until = now + TRIAL_INTERVAL

    def restore(self, now: float = 0.0) -> None:
        """End the ejection; the endpoint starts slowly from `now` on."""
        self.ejected_until = 0.0
        self.is_on_trial = False
        self.is_up = self.is_healthy and self.is_ready
        self.up_since = now
        if self.on_change is not None:
            self.on_change()

    @property
    def state(self) -> str:
        """State of the endpoint as of the last request: one of `STATES`, but not `failing`."""
        if self.is_up:
            return "draining" if self.is_draining else "up"
        if not self.is_ready:
            return "not_ready"
        if not self.is_healthy:
            return "unhealthy"
        return "on_trial" if self.is_on_trial else "ejected"

    def seen(self, now: float) -> str:
        """Return the state for display: that of `state`, or `failing`.

        A `failing` endpoint is up for the balancer, but its last attempts have failed.  An ejection that is over is
        shown as `on_trial` even before the next request, which is on trial.
        """
        state = self.state
        if state == "up" and self.failures >= FAILING and now - self.failed_at < FAILING_LASTS:
            return "failing"
        return "on_trial" if state == "ejected" and self.ejected_until <= now else state

    def describe(self, now: float) -> dict[str, Any]:
        """Return the state of the endpoint as JSON-ready values."""
        return {
            "url": self.url,
            "state": self.seen(now),
            "in_flight": self.in_flight,
            "consecutive_failures": self.failures,
            "ejections": self.ejections,
            "ejected_for": round(max(0.0, self.ejected_until - now), 3),
            **({"weight": self.weight} if self.weight != 1 else {}),
            **({"latency_ms": round(self.latency * 1e3, 1)} if self.latency else {}),
            **({"zone": self.zone} if self.zone else {}),
        }

    def __repr__(self) -> str:
        return f"<Endpoint {self.url} {self.state} {self.in_flight} in flight>"


class EndpointSet:
    """Current endpoints of one upstream.

    The state store has it under `("endpoints", upstream)`.  With `discover` it is empty until discovery fills it.
    """

    __slots__ = (
        "_all", "_by_url", "_env", "_listeners", "_may_spill", "_server_name", "_shares", "_special", "_subset",
        "_targets", "is_weighted", "members", "preferred", "spills", "tiers", "trial_begun", "upstream",
    )  # fmt: skip

    def __init__(self, upstream: str, spec: UpstreamSpec, env: Env) -> None:
        self.upstream = upstream
        self.members: tuple[Endpoint, ...] = ()
        """Endpoints in the order of the policy file or of discovery; the tuple is replaced at each change."""
        self.trial_begun: Callable[[Endpoint], None] | None = None
        """Called after a request on trial has begun; None if no other worker is to hear of it."""
        self.preferred: tuple[Endpoint, ...] = ()
        """Endpoints of the first tier, among which first attempts choose; `members` itself without tiers."""
        self.tiers: tuple[tuple[Endpoint, ...], ...] = ()
        """Endpoints of each tier that has ready ones, the first tier first."""
        self.spills = False
        """True if requests of the first tier go on to the second in proportion as endpoints of the first are out."""
        self.is_weighted = False
        """True if the weights of the endpoints differ."""
        self._shares: dict[str, float] = {}
        """Share of the requests of each zone; empty to weigh the endpoints of all zones alike."""
        self._by_url: dict[str, Endpoint] = {}
        self._targets: dict[str, Target] = {}
        """Target of each endpoint, by URL."""
        self._special = 0
        """Number of targets that are not ready, or not in the first tier."""
        self._all: Sequence[Target] = ()
        """Targets of which the subset is chosen, as they were assigned."""
        self._may_spill = False
        """True if they came with `spills`."""
        self._subset: Subset | None = None
        """Chooser of the endpoints in use; None if all are."""
        self._env = env
        self._listeners: list[Callable[[tuple[Endpoint, ...]], None]] = []
        for state in STATES:
            env.meter.gauge(metrics.ENDPOINT_UP, partial(self.count_seen, state), upstream=upstream, state=state)
        self.retune(spec)

    def retune(self, spec: UpstreamSpec) -> None:
        """Apply the endpoints of a new spec.  Discovered ones stay until discovery finds others."""
        self._server_name = (spec.tls and spec.tls.server_name) or (spec.discover.host if spec.discover else "")
        self._shares = dict(spec.locality.shares) if spec.locality is not None else {}
        had_subset = self._subset is not None
        self._subset = self._make_subset(spec)
        if spec.endpoints is not None:
            weights, zones = spec.weights, spec.zones
            self.assign([Target(url, 0, weights.get(url, 1), zone=zones.get(url, "")) for url in spec.urls])
        elif had_subset or self._subset is not None:
            self.assign(self._all, spills=self._may_spill)
            self._weigh()
        else:
            self._weigh()
        for endpoint in self.members:
            endpoint.server_name = self._server_name or endpoint.host

    def replace(self, urls: Iterable[str]) -> None:
        """Replace the endpoints by those with these canonical URLs; endpoints that stay are the same objects."""
        self.assign([Target(url) for url in dict.fromkeys(urls)])

    def assign(self, targets: Sequence[Target], *, spills: bool = False) -> tuple[list[str], list[str]]:
        """Replace the endpoints by these, whose URLs must differ; endpoints that stay are the same objects.

        With a subset, those that it chooses are used.  Return the URLs that were added, and those that were removed.
        """
        self._all, self._may_spill = targets, spills
        subset = self._subset
        if subset is None:
            return self._use(targets, spills)
        subset.rank(targets)
        return self._choose(subset)

    @property
    def has_subset(self) -> bool:
        """True if only a part of the endpoints is in use."""
        return self._subset is not None

    def _make_subset(self, spec: UpstreamSpec) -> Subset | None:
        if spec.subset is None:
            return None
        from sidecar.upstream.balancing.subset import Subset  # only if it is configured

        instance = self._env.instance if spec.subset.instance is None else spec.subset.instance
        return Subset(spec.subset.size, instance, spec.locality is not None)

    def _choose(self, subset: Subset) -> tuple[list[str], list[str]]:
        """Use the endpoints that the subset chooses."""
        for endpoint in self.members:
            endpoint.on_change = None  # what the endpoints become is taken from the targets
        known = self._by_url
        changes = self._use(
            subset.choose(lambda target: not target.is_ready or (target.url in known and known[target.url].is_out)),
            self._may_spill,
        )
        for endpoint in self.members:
            endpoint.on_change = self._choose_again
        return changes

    def _choose_again(self) -> None:
        """Choose anew, since an endpoint of the subset is out or back."""
        if self._subset is not None:
            self._choose(self._subset)

    def _use(self, targets: Sequence[Target], spills: bool) -> tuple[list[str], list[str]]:
        """Replace the endpoints in use."""
        known, before = self._by_url, self._targets
        fresh = {target.url: target for target in targets}
        changed = list(compress(targets, map(is_not, targets, map(before.get, fresh))))  # unchanged ones are the same
        added = [target.url for target in changed if target.url not in known]
        if added:
            known = known.copy()
            for url in added:
                known[url] = self._make(url, is_first=not self._by_url)
        now = self._env.now()
        usual = self.members[0].weight if self.members else 0  # of all, unless weights differ
        for target in changed:
            endpoint, former = known[target.url], before.get(target.url)
            if target.is_ready is not endpoint.is_ready or target.zone != endpoint.zone:
                endpoint.describe_as(target, now)
            endpoint.is_draining = target.tier == DRAINING
            endpoint.weight = max(1, target.weight)
            self._special += _is_special(target) - (former is not None and _is_special(former))
        removed: list[Endpoint] = []
        if len(fresh) < len(known):
            removed = [known[url] for url in known.keys() - fresh.keys()]
            self._special -= sum([_is_special(before[endpoint.url]) for endpoint in removed])
        self.members = tuple(map(known.__getitem__, fresh))
        self._by_url = dict(zip(fresh, self.members, strict=True))
        self._targets = fresh
        self._divide(targets)
        if self._shares or self.is_weighted or any(known[target.url].weight != usual for target in changed):
            self._weigh()
        self.spills = spills and len(self.tiers) > 1
        if removed:
            gone = tuple(removed)
            for listener in self._listeners:
                listener(gone)
        return added, [endpoint.url for endpoint in removed]

    def _make(self, url: str, *, is_first: bool) -> Endpoint:
        """Return a new endpoint; it starts slowly unless it is one of the first."""
        endpoint = Endpoint(url)
        endpoint.server_name = self._server_name or endpoint.host
        if not is_first:
            endpoint.up_since = self._env.now()
        return endpoint

    def _divide(self, targets: Sequence[Target]) -> None:
        """Divide the members into tiers."""
        if not self._special:
            self.tiers = (self.members,) if self.members else ()
            self.preferred = self.members
            return
        ready = [target for target in targets if target.is_ready]
        tiers = sorted({target.tier for target in ready})
        if len(ready) == len(targets) and len(tiers) <= 1:
            self.tiers = (self.members,) if self.members else ()
        else:
            self.tiers = tuple([tuple([self._by_url[e.url] for e in ready if e.tier == tier]) for tier in tiers])
        self.preferred = self.tiers[0] if self.tiers else ()

    def _weigh(self) -> None:
        """Set the weight of each endpoint: that of its target, or its part of the share of its zone."""
        weights = [(endpoint, max(1, self._targets[endpoint.url].weight)) for endpoint in self.members]
        totals: dict[str, int] = {}
        for endpoint, weight in weights:
            totals[endpoint.zone] = totals.get(endpoint.zone, 0) + weight
        for endpoint, weight in weights:
            if self._shares:
                share = self._shares.get(endpoint.zone, 0.0)
                weight = max(1, round(WHOLE * share * weight / totals[endpoint.zone]))
            endpoint.weight = weight
        self.is_weighted = len({endpoint.weight for endpoint in self.members}) > 1

    def on_removal(self, listener: Callable[[tuple[Endpoint, ...]], None]) -> Callable[[], None]:
        """Call `listener(removed)` when endpoints are removed; return a function that ends the subscription."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def count(self, state: str) -> int:
        """Return the number of endpoints that are `up`, `unhealthy` or `ejected`, which includes those on trial."""
        if state == "ejected":
            return sum(endpoint.state in ("ejected", "on_trial") for endpoint in self.members)
        return sum(endpoint.state == state for endpoint in self.members)

    def count_seen(self, state: str) -> int:
        """Return the number of endpoints that `seen` shows in a state."""
        now = self._env.now()
        return sum(endpoint.seen(now) == state for endpoint in self.members)

    def describe(self) -> dict[str, Any]:
        now = self._env.now()
        endpoints, subset = [endpoint.describe(now) for endpoint in self.members], self._subset
        return {
            "upstream": self.upstream,
            "endpoints": endpoints,
            **({} if subset is None else {"subset": {"size": subset.size, "of": subset.found}}),
        }

    def __repr__(self) -> str:
        return f"<EndpointSet {self.upstream}: {self.count('up')} of {len(self.members)} up>"
