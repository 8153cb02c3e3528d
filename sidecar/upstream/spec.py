"""Spec of an upstream in a policy file, without its policy blocks, whose specs are with their stages.

The defaults suit a sidecar, with few endpoints close by.  Docstrings name other products' defaults for comparison.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema, field_validator, model_validator

from sidecar.core.conditions import STATUS_CLASSES
from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Share
from sidecar.grpc.status import SERVICE_NAME
from sidecar.upstream.discovery.spec import DiscoverSpec, matching
from sidecar.upstream.endpoint import literal, parse_endpoint
from sidecar.upstream.tls import ClientTlsSpec

Item = TypeVar("Item")


def _filled(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return the items.  Raises `ValueError` if there are none."""
    if not items:
        raise ValueError("is empty; name at least one, or leave the key out")
    return items


HostField = Annotated[
    str,
    matching(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", "a host; write it such as payments.prod.svc:8080"),
]
"""Value of a `Host` field (RFC 9110 7.2)."""
HashField = Annotated[str, matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a header's name; write it such as x-user")]
"""Name of a header field (RFC 9110 5.1)."""
ProbePath = Annotated[str, matching(r"/[!\"$-~]*", "a path; write it with a slash at its start, such as /healthz")]
Filled = AfterValidator(_filled)
ConditionList = Annotated[tuple[Condition, ...], Field(strict=False), Filled]
EndpointUrl = Annotated[
    str,
    AfterValidator(lambda text: parse_endpoint(text).url),
    WithJsonSchema({"type": "string", "pattern": "^(https?://|unix:/).+", "examples": ["http://payments:8080"]}),
]
"""URL of an endpoint, converted to its canonical form."""


def _name_server(text: str) -> str:
    """Return the canonical `address:port` of a name server.  Raises `ValueError`."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "53")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        number = 0
    if not 1 <= number <= 65535:
        raise ValueError(
            f"names {text!r}, which is not the address of a name server; write it such as 10.0.0.10, "
            "127.0.0.1:5353 or [2001:db8::53]:53"
        )
    return f"[{address}]:{number}" if address.version == 6 else f"{address}:{number}"


NameServer = Annotated[str, AfterValidator(_name_server)]
"""IP address and port of a name server, converted to canonical form."""


class EndpointSpec(Model):
    """Endpoint with a weight or a zone."""

    url: EndpointUrl
    """Address: `http://host:port`, `https://host:port` or `unix:/run/app.sock`."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Requests that it gets, in proportion to the weights of the other endpoints."""
    zone: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Zone where it is, for `locality`."""


def _endpoint_form(value: Any) -> str:
    """Return the tag of an endpoint: a `word` or a `mapping`."""
    return "mapping" if isinstance(value, dict | EndpointSpec) else "word"


EndpointEntry = Annotated[
    Annotated[EndpointUrl, Tag("word")] | Annotated[EndpointSpec, Tag("mapping")], Discriminator(_endpoint_form)
]


ZoneName = Annotated[str, Field(min_length=1, max_length=63)]


class LocalitySpec(Model):
    """Preference for the endpoints of one zone, that of this sidecar, or shares of the requests for several zones."""

    zone: ZoneName | None = None
    """Zone of this sidecar, such as `${ZONE}`.  The block has this or `shares`."""
    shares: Annotated[dict[ZoneName, Share], Field(max_length=100)] = Field(default={})
    """Share of the requests of each zone, together 100%, whatever the number of its endpoints.  Weights hold within a
    zone.  What an endpoint that is not up would get, the others share (Envoy's locality weights)."""
    spill_below: Share = 0.7
    """Share of the zone's endpoints that must be up for the zone to get all requests.  With fewer up, others get the
    rest: at 35 % up and `70%`, half of the requests (Envoy's overprovisioning factor: 1.4, that is 71 %)."""

    @field_validator("spill_below")
    @classmethod
    def _is_positive(cls, share: float) -> float:
        if not share:
            raise ValueError("is 0%; write a share from 1% to 100%, or leave `locality` out")
        return share

    @model_validator(mode="after")
    def _is_one(self) -> LocalitySpec:
        if (self.zone is None) is not bool(self.shares):
            raise ValueError("takes one of zone: eu-1a, and shares: {eu-1a: 80%, eu-1b: 20%}")
        if self.shares and abs((total := sum(self.shares.values())) - 1) > 1e-9:
            raise ValueError(f"has shares of {total * 100:g}% together; they must add up to 100%")
        return self


class SubsetSpec(Model):
    """Part of many endpoints that this sidecar uses.  Each sidecar of a fleet has another part, and all parts together
    spread evenly over the endpoints (subsetting, as in Google's SRE book, chapter 20, by the hashing of gRPC's A68)."""

    size: Annotated[int, Field(ge=2, le=1000)]
    """Endpoints that are in use, of each zone if the upstream has zones.  One that is out is replaced until it is back;
    at most as many more are checked and tried again."""
    instance: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of this sidecar, such as `${POD_NAME}`, by which it finds its part.  By default it is the name of the host,
    which in Kubernetes is that of the pod."""


class TtlSpec(Model):
    """Limits on the time for which an answer of a name server is used."""

    min: Duration = 1.0
    """Shortest time, for records with a shorter time to live, names of `/etc/hosts`, and failed look-ups."""
    max: Duration = 300.0
    """Longest time, for records with a longer time to live."""

    @model_validator(mode="after")
    def _is_ordered(self) -> TtlSpec:
        if self.max < self.min:
            raise ValueError(f"max ({self.max:g}s) is less than min ({self.min:g}s); make it at least as long")
        return self


class ResolveSpec(Model):
    """Look-ups of the names of this upstream.  `/etc/hosts`, search domains and `ndots` are those of the system."""

    nameservers: Annotated[tuple[NameServer, ...], Field(strict=False, max_length=8), Filled] | None = None
    """Name servers, such as `10.0.0.10` or `127.0.0.1:5353`; without them, those of `/etc/resolv.conf` are used."""
    ttl: TtlSpec = TtlSpec.built_in()
    """Limits on the records' time to live."""
    stale_for: DurationOrZero = 600.0
    """Time for which an expired answer is still used while look-ups fail or take long (RFC 8767); `0s` for none."""
    family: Literal["any", "ipv4", "ipv6"] = "any"
    """Address family.  `any` tries the addresses of both families, IPv6 first (RFC 8305)."""


class HashSpec(Model):
    """Key of a request for hashing; requests with the same key go to the same endpoint."""

    header: HashField | None = None
    """Header field whose value is the key; a request without it goes to any endpoint.  Without this setting, the key is
    the client's address."""
    caller: bool = False
    """True if the authenticated caller is the key; an anonymous request goes to any endpoint."""

    @model_validator(mode="after")
    def _has_one_key(self) -> HashSpec:
        if self.caller and self.header is not None:
            raise ValueError("has header and caller; keep one of them")
        return self


class HashBalancingSpec(Model):
    """Load balancing by rendezvous hashing."""

    hash: HashSpec
    """Key of a request."""


def _form(value: Any) -> str:
    """Return the tag of a load balancing: a `word` or a `mapping`."""
    return "mapping" if isinstance(value, dict | HashBalancingSpec) else "word"


LoadBalancing = Annotated[
    Annotated[Literal["round_robin", "least_request", "latency", "random"], Tag("word")]
    | Annotated[HashBalancingSpec, Tag("mapping")],
    Discriminator(_form),
]


class ConnectionsSpec(Model):
    """Connections to each endpoint."""

    max: Annotated[int, Field(ge=1)] = 256
    """Most connections to one endpoint, idle or busy (Envoy: 1024, for all endpoints together)."""
    slow_share: Share = 0.25
    """Largest share of the connections, one at least, for requests that are forwarded before a slow body is
    complete."""
    idle_timeout: Duration = 60.0
    """Time after which an idle connection is closed (nginx's `keepalive_timeout`: 60s).  It should be shorter than the
    idle timeout of the endpoint."""
    max_requests: Annotated[int, Field(ge=1)] | None = None
    """Requests after which a connection is closed; without it there is no limit, as in Envoy (nginx: 1000)."""


def _service(name: str) -> str:
    if name and not SERVICE_NAME.fullmatch(name):
        raise ValueError("is not the name of a service; write it with its package, such as shop.Orders")
    return name


class HealthCheckSpec(Block):
    """Active health checks: the sidecar probes each endpoint."""

    path: ProbePath | None = None
    """Path and query of the GET request.  A check has this or `grpc`."""
    grpc: Annotated[str, Field(max_length=127), AfterValidator(_service)] | None = None
    """Service that is asked for by the gRPC health checking protocol, such as `shop.Orders`; empty for the server as a
    whole.  A server without the health service counts as healthy."""
    host: HostField | None = None
    """`Host` field of the request, such as `payments.prod.svc`.  Without it, the endpoint's host and port are sent;
    with `discover` by `dns` or `kubernetes`, whose endpoints are IP addresses, the discovered name and the port (Envoy:
    the cluster's name)."""
    interval: Duration = 5.0
    """Time from the end of a round to the start of the next, with a jitter of one tenth (NGINX Plus: 5s; YARP: 15s)."""
    timeout: Duration = 1.0
    """Time after which a probe fails (Kubernetes: 1s)."""
    unhealthy_after: Annotated[int, Field(ge=1)] = 3
    """Consecutive failed probes after which an endpoint is unhealthy (HAProxy's `fall` and Kubernetes: 3)."""
    healthy_after: Annotated[int, Field(ge=1)] = 2
    """Consecutive successful probes after which an endpoint is healthy again (HAProxy's `rise`: 2)."""
    expect: ConditionList = ("2xx",)
    """Statuses of a successful probe.  Redirects are not among the defaults, because many lead to an error page."""

    @model_validator(mode="after")
    def _is_one(self) -> HealthCheckSpec:
        if (self.path is None) == (self.grpc is None):
            raise ValueError("takes one of path: /healthz, and grpc: shop.Orders for the gRPC health protocol")
        return self

    @field_validator("expect")
    @classmethod
    def _are_statuses(cls, words: tuple[str | int, ...]) -> tuple[str | int, ...]:
        for word in words:
            if isinstance(word, str) and word not in STATUS_CLASSES:
                raise ValueError(f"names {word}, which is not a status; write such as [2xx, 304]")
        return words


class EjectionSpec(Block):
    """Passive ejection: an endpoint that fails requests gets none for a while, except retries of requests that have
    failed at all other endpoints."""

    consecutive_failures: Annotated[int, Field(ge=1)] = 5
    """Consecutive faults after which an endpoint is ejected (Envoy's `consecutive_5xx`: 5; Linkerd: 7)."""
    eject_for: Duration = 10.0
    """Length of the first ejection; each further one is twice as long (Envoy: 30s times the number of ejections)."""
    max_eject_for: Duration = 300.0
    """Longest ejection (Envoy's `max_ejection_time`: 300s)."""
    min_healthy: Annotated[int, Field(ge=0)] = 1
    """Least number of endpoints that stay up: no ejection leaves fewer.  This is a number and not a share, because a
    share ejects nothing among few endpoints (Envoy's `max_ejection_percent`)."""
    on: ConditionList = ("connect_failure", "reset", "timeout", "5xx")
    """Conditions that count as a fault.  429, 503 with Retry-After, and of gRPC RESOURCE_EXHAUSTED, and UNAVAILABLE
    with a time in `grpc-retry-pushback-ms` never count: the endpoint is overloaded, not broken."""

    @model_validator(mode="after")
    def _is_ordered(self) -> EjectionSpec:
        if self.max_eject_for < self.eject_for:
            raise ValueError(
                f"max_eject_for ({self.max_eject_for:g}s) is less than eject_for ({self.eject_for:g}s); "
                "make it at least as long"
            )
        return self


class RetryBudgetSpec(Block):
    """Retry budget of an upstream, over all its routes."""

    ratio: Share = 0.2
    """Retries and hedges for each first attempt."""
    min_per_second: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """Retries a second that are allowed in addition, even without traffic."""
    window: Duration = 10.0
    """Length of the sliding window in which attempts and retries are counted."""


def _url_of(entry: str | EndpointSpec) -> str:
    """Return the URL of an entry of `endpoints`."""
    return entry if isinstance(entry, str) else entry.url


class UpstreamSpec(Model):
    """Address of an upstream and settings of its connections.  Exactly one of `endpoints` and `discover` is needed."""

    endpoints: Annotated[tuple[EndpointEntry, ...], Field(strict=False, max_length=1000), Filled] | None = None
    """Addresses: `http://host:port`, `https://host:port` or `unix:/run/app.sock`; with a weight or a zone
    `{url: "http://host:port", weight: 3, zone: eu-1a}`."""
    discover: DiscoverSpec | None = None
    load_balancing: LoadBalancing = "least_request"
    """Choice of an endpoint.  `least_request` takes the less busy of two random ones (Mitzenmacher 2001; Envoy, Linkerd
    and Traefik's `p2c`).  `latency` takes the one of two whose average latency, times its requests in flight, is lower
    (peak EWMA: Finagle, Linkerd); failures and signs of overload count as slow.  `{hash: {header: x-user}}` sends equal
    keys to the same endpoint."""
    locality: LocalitySpec | None = None
    subset: SubsetSpec | None = None
    slow_start: Duration | None = None
    """Time in which an endpoint that has come up, by discovery, a probe or the end of an ejection, gets from a tenth of
    its share of the requests to all of it (Envoy's `slow_start_window`); without it, all of it at once."""
    panic: Literal["spray", "fail_fast"] = "spray"
    """Behaviour when no endpoint is up: `spray` balances over all of them, `fail_fast` refuses (`no_endpoint`)."""
    connect_timeout: Duration = 1.0
    """Timeout of look-up, TCP and TLS handshake together (Envoy: 5s, Istio: 10s, nginx: 60s, all made for the open
    internet)."""
    resolve: ResolveSpec | None = None
    """Look-up of the endpoints' names; without the block, its defaults apply."""
    protocol: Literal["auto", "http1", "http2"] = "auto"
    """Version of HTTP.  `auto` is HTTP/2 over TLS if the endpoint selects it by ALPN, else HTTP/1.1; in clear, `http2`
    is spoken with prior knowledge (RFC 9113 3.3).  With HTTP/2 a connection carries up to 100 requests at a time."""
    connections: ConnectionsSpec = ConnectionsSpec.built_in()
    health_check: HealthCheckSpec | None = None
    ejection: EjectionSpec | None = None
    tls: ClientTlsSpec | None = None
    """TLS settings for `https://` endpoints; without the block, the system's certificate authorities are trusted."""

    @field_validator("endpoints")
    @classmethod
    def _are_unique(cls, given: tuple[str | EndpointSpec, ...] | None) -> tuple[str | EndpointSpec, ...] | None:
        seen: set[str] = set()
        for url in map(_url_of, given or ()):
            if url in seen:
                raise ValueError(f"names {url} more than once; name it once")
            seen.add(url)
        return given

    @model_validator(mode="after")
    def _is_consistent(self) -> UpstreamSpec:
        if (self.endpoints is None) == (self.discover is None):
            raise ValueError("needs either endpoints or discover, such as endpoints: [http://payments:8080]")
        if self.resolve is not None and not self.has_names:
            raise ValueError("has a resolve block, but no endpoint has a name to look up; remove the block")
        self._check_locality()
        if self.subset is not None and isinstance(self.load_balancing, HashBalancingSpec):
            raise ValueError(
                "has a subset beside load_balancing by hash, so each sidecar would send a key to another endpoint; "
                "keep one of them"
            )
        if self.tls is not None and not self.is_tls:
            raise ValueError("has a tls block, but no endpoint is https://; change the scheme or remove the block")
        return self

    def _check_locality(self) -> None:
        """Raise `ValueError` unless the zones of `locality` are those of endpoints."""
        locality, found = self.locality, self.discover
        if locality is None:
            return
        if found is not None:
            if found.file is None and found.kubernetes is None:
                raise ValueError(f"has locality, but discovery by {found.kind} names no zones for it; remove the block")
            if found.kubernetes is not None and found.kubernetes.zone_aware:
                raise ValueError("has locality beside zone_aware: true; keep one of them")
            return
        zones = {self.zones.get(url, "") for url in self.urls}
        if not any(zones):
            raise ValueError("has locality, but no endpoint has a zone; write such as {url: ..., zone: eu-1a}")
        for zone in sorted(zones ^ locality.shares.keys()) if locality.shares else ():
            if zone in zones:
                raise ValueError(f"has an endpoint in the zone {zone or 'without a name'}, for which there is no share")
            raise ValueError(f"has a share for the zone {zone}, in which there is no endpoint")

    def may_use_http2(self, is_tls: bool) -> bool:
        """True if connections to an endpoint may speak HTTP/2; `is_tls` is True if they use TLS."""
        return self.protocol == "http2" or (self.protocol == "auto" and is_tls)

    @property
    def urls(self) -> tuple[str, ...]:
        """Canonical URLs of the listed endpoints; empty with `discover`."""
        return tuple(map(_url_of, self.endpoints or ()))

    @property
    def most_in_use(self) -> int:
        """Number of listed endpoints that are in use at a time; 0 with `discover`."""
        subset = self.subset
        if subset is None:
            return len(self.urls)
        if self.locality is None:
            return min(len(self.urls), subset.size)
        zones = [self.zones.get(url, "") for url in self.urls]
        return sum([min(zones.count(zone), subset.size) for zone in set(zones)])

    @property
    def weights(self) -> dict[str, int]:
        """Weights by URL; empty if all are equal."""
        found = {each.url: each.weight for each in self.endpoints or () if isinstance(each, EndpointSpec)}
        every = [found.get(url, 1) for url in self.urls]
        return found if len(set(every)) > 1 else {}

    @property
    def may_have_weights(self) -> bool:
        """True if the weights of the endpoints differ, or may once they are discovered."""
        has_shares = self.locality is not None and bool(self.locality.shares)
        return has_shares or bool(self.weights) or (self.discover is not None and self.discover.has_weights)

    @property
    def zones(self) -> dict[str, str]:
        """Zones by URL; an endpoint without one is in the zone that has no name."""
        return {each.url: each.zone or "" for each in self.endpoints or () if isinstance(each, EndpointSpec)}

    @property
    def has_names(self) -> bool:
        """True if any endpoint has a name that must be looked up."""
        if self.discover is not None:
            return self.discover.kubernetes is None
        return any(address.host and literal(address.host) is None for address in map(parse_endpoint, self.urls))

    @property
    def is_tls(self) -> bool:
        """True if any endpoint uses TLS."""
        if self.discover is not None:
            return self.discover.scheme == "https"
        return any(parse_endpoint(url).is_tls for url in self.urls)
