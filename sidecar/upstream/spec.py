"""Settings of an upstream in a policy file, without its policy blocks (those stand with their stages).

The defaults suit a sidecar: few endpoints, close by.  Another product's default, where named, is the precedent that was
followed or deliberately left.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema, field_validator, model_validator

from sidecar.core.conditions import STATUS_CLASSES
from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Share
from sidecar.upstream.endpoint import literal, parse_endpoint
from sidecar.upstream.tls import ClientTlsSpec

Item = TypeVar("Item")


def _matching(pattern: str, remedy: str) -> AfterValidator:
    """Return a check that a string has this pattern; `remedy` completes the sentence `'x' is not ...`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {remedy}")
        return text

    return AfterValidator(check)


def _filled(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if not items:
        raise ValueError("is empty; name at least one, or leave the key out")
    return items


HostField = Annotated[
    str,
    _matching(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", "a host; write it such as payments.prod.svc:8080"),
]
"""Value of a `Host` field (RFC 9110 7.2)."""
Port = Annotated[int, Field(ge=1, le=65535)]
HashField = Annotated[str, _matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a header's name; write it such as x-user")]
"""Name of a header field (RFC 9110 5.1)."""
DnsName = Annotated[
    str, _matching(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", "a DNS name; write it such as payments.prod.svc")
]
ProbePath = Annotated[str, _matching(r"/[!\"$-~]*", "a path; write it with a slash at its start, such as /healthz")]
Filled = AfterValidator(_filled)
ConditionList = Annotated[tuple[Condition, ...], Field(strict=False), Filled]
EndpointUrl = Annotated[
    str,
    AfterValidator(lambda text: parse_endpoint(text).url),
    WithJsonSchema({"type": "string", "pattern": "^(https?://|unix:/).+", "examples": ["http://payments:8080"]}),
]
"""URL of an endpoint, made canonical."""


def _name_server(text: str) -> str:
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
"""IP address and port of a name server, made canonical."""


class DiscoverSpec(Model):
    """Endpoints from DNS instead of a list: one for each address of a name."""

    dns: DnsName
    """The name whose A and AAAA records are the endpoints, such as a headless Kubernetes service."""
    port: Port
    """The port of every endpoint."""
    scheme: Literal["http", "https"] = "http"
    """Protocol of every endpoint."""
    interval: Duration = 10.0
    """Longest time between two lookups (HAProxy's `hold valid`: 10s, Envoy's `dns_refresh_rate`: 5s).  Records that
    expire sooner are looked up again when they do, but not before `resolve.ttl.min`."""
    keep_for: Duration = 3600.0
    """Time for which the last good addresses are used while lookups fail.  Envoy and KrakenD keep them for ever; but in
    a cluster, addresses are given to other services in the end."""
    max_endpoints: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most addresses used; those beyond it are left out, in the order of the addresses."""


class TtlSpec(Model):
    """Bounds for the time for which an answer of a name server is used."""

    min: Duration = 1.0
    """Shortest time: for records that say less, for names of `/etc/hosts`, and between two look-ups that fail."""
    max: Duration = 300.0
    """Longest time, however long a record says."""

    @model_validator(mode="after")
    def _grows(self) -> TtlSpec:
        if self.max < self.min:
            raise ValueError(f"max ({self.max:g}s) is less than min ({self.min:g}s); make it at least as long")
        return self


class ResolveSpec(Model):
    """Look-ups of the names of this upstream.  `/etc/hosts`, search domains and `ndots` are the system's."""

    nameservers: Annotated[tuple[NameServer, ...], Field(strict=False, max_length=8), Filled] | None = None
    """Name servers, such as `10.0.0.10` or `127.0.0.1:5353`; without them those of `/etc/resolv.conf`."""
    ttl: TtlSpec = TtlSpec.built_in()
    """Bounds for the records' own time to live, which is used within them."""
    stale_for: DurationOrZero = 600.0
    """Time after its end for which an answer is used while look-ups fail or take long (RFC 8767); 0s: not at all."""
    family: Literal["any", "ipv4", "ipv6"] = "any"
    """Addresses that are asked for.  `any` tries both families of a name, IPv6 first (RFC 8305)."""


class HashSpec(Model):
    """Requests with the same key go to the same endpoint."""

    header: HashField | None = None
    """The header whose value is the key; a request without it goes to any endpoint.  Without this setting the key is
    the client's address."""


class HashBalancingSpec(Model):
    """Rendezvous hashing."""

    hash: HashSpec


def _spelling(value: Any) -> str:
    return "mapping" if isinstance(value, dict | HashBalancingSpec) else "word"


LoadBalancing = Annotated[
    Annotated[Literal["round_robin", "least_request", "random"], Tag("word")]
    | Annotated[HashBalancingSpec, Tag("mapping")],
    Discriminator(_spelling),
]


class ConnectionsSpec(Model):
    """Connections kept to each endpoint."""

    max: Annotated[int, Field(ge=1)] = 256
    """Most connections to one endpoint, idle or busy (Envoy: 1024, for all endpoints together)."""
    slow_share: Share = 0.25
    """Most of these, and one at least, for requests that were sent on before their body was here, because it comes
    slowly."""
    idle_timeout: Duration = 60.0
    """Time after which an idle connection is closed (nginx's `keepalive_timeout`: 60s).  Best below the endpoint's."""
    max_requests: Annotated[int, Field(ge=1)] | None = None
    """Requests after which a connection is closed; without it there is no limit, as in Envoy (nginx: 1000)."""


class HealthCheckSpec(Block):
    """Active checks: the sidecar probes each endpoint itself."""

    path: ProbePath
    """The path and query of the GET request."""
    host: HostField | None = None
    """The `Host` field of the request, such as `payments.prod.svc`.  Without it: the endpoint's host and port; with
    `discover`, whose endpoints are bare addresses, the looked-up name and the port (Envoy: the cluster's name)."""
    interval: Duration = 5.0
    """Time from the end of a round to the start of the next, give or take a tenth (NGINX Plus: 5s; YARP: 15s)."""
    timeout: Duration = 1.0
    """Time after which a probe has failed (Kubernetes: 1s)."""
    unhealthy_after: Annotated[int, Field(ge=1)] = 3
    """Consecutive failed probes that take an endpoint out (HAProxy's `fall` and Kubernetes: 3)."""
    healthy_after: Annotated[int, Field(ge=1)] = 2
    """Consecutive good probes that bring it back (HAProxy's `rise`: 2)."""
    expect: ConditionList = ("2xx",)
    """Statuses that count as good.  A redirect does not unless it is named: it often leads to an error page."""

    @field_validator("expect")
    @classmethod
    def _are_statuses(cls, words: tuple[str | int, ...]) -> tuple[str | int, ...]:
        for word in words:
            if isinstance(word, str) and word not in STATUS_CLASSES:
                raise ValueError(f"names {word}, which is no status; write such as [2xx, 304]")
        return words


class EjectionSpec(Block):
    """Passive ejection: an endpoint that fails real requests gets none for a while, except retries of requests that
    failed at every endpoint still up."""

    consecutive_failures: Annotated[int, Field(ge=1)] = 5
    """Consecutive faults that eject (Envoy's `consecutive_5xx`: 5; Linkerd: 7)."""
    eject_for: Duration = 10.0
    """Length of the first ejection; each further one doubles it (Envoy: 30s times the number of ejections)."""
    max_eject_for: Duration = 300.0
    """Longest ejection (Envoy's `max_ejection_time`: 300s)."""
    min_healthy: Annotated[int, Field(ge=0)] = 1
    """Endpoints that stay up: an ejection that would leave fewer does not happen.  A count, since Envoy's
    `max_ejection_percent` of 10% never ejects with fewer than ten endpoints."""
    on: ConditionList = ("connect_failure", "reset", "timeout", "5xx")
    """Conditions that count as a fault.  429 and 503 with Retry-After never do: they mean slow down, not broken."""

    @model_validator(mode="after")
    def _grows(self) -> EjectionSpec:
        if self.max_eject_for < self.eject_for:
            raise ValueError(
                f"max_eject_for ({self.max_eject_for:g}s) is less than eject_for ({self.eject_for:g}s); "
                "make it at least as long"
            )
        return self


class RetryBudgetSpec(Block):
    """How much an upstream may be retried, over all its routes."""

    ratio: Share = 0.2
    """Retries and hedges per first attempt."""
    min_per_second: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """Retries a second that are allowed whatever the traffic."""
    window: Duration = 10.0
    """How far back attempts and retries are counted."""


class UpstreamSpec(Model):
    """Where an upstream is and how to reach it.  Exactly one of `endpoints` and `discover` is needed."""

    endpoints: Annotated[tuple[EndpointUrl, ...], Field(strict=False, max_length=1000), Filled] | None = None
    """Addresses: `http://host:port`, `https://host:port` or `unix:/run/app.sock`."""
    discover: DiscoverSpec | None = None
    load_balancing: LoadBalancing = "least_request"
    """`least_request` takes the less busy of two endpoints drawn at random (Mitzenmacher 2001; Envoy, Linkerd and
    Traefik's `p2c`); `{hash: {header: x-user}}` keeps a key at its endpoint."""
    panic: Literal["spray", "fail_fast"] = "spray"
    """When no endpoint is up: `spray` tries them all as though all were, `fail_fast` refuses (`no_endpoint`)."""
    connect_timeout: Duration = 1.0
    """Look-up of the name, TCP and TLS handshake together (Envoy: 5s, Istio: 10s, nginx: 60s, all made for the open
    internet)."""
    resolve: ResolveSpec | None = None
    """Look-up of the endpoints' names; without the block its defaults hold."""
    connections: ConnectionsSpec = ConnectionsSpec.built_in()
    health_check: HealthCheckSpec | None = None
    ejection: EjectionSpec | None = None
    tls: ClientTlsSpec | None = None
    """For `https://` endpoints; without it the system's certificate authorities are trusted."""

    @field_validator("endpoints")
    @classmethod
    def _are_different(cls, urls: tuple[str, ...] | None) -> tuple[str, ...] | None:
        seen: set[str] = set()
        for url in urls or ():
            if url in seen:
                raise ValueError(f"names {url} more than once; name it once")
            seen.add(url)
        return urls

    @model_validator(mode="after")
    def _says_where(self) -> UpstreamSpec:
        if (self.endpoints is None) == (self.discover is None):
            raise ValueError("needs either endpoints or discover, such as endpoints: [http://payments:8080]")
        if self.resolve is not None and not self.has_names:
            raise ValueError("has a resolve block, but no endpoint has a name to look up; take the block out")
        if self.tls is not None and not self.is_tls:
            raise ValueError("has a tls block, but no endpoint is https://; change the scheme or take the block out")
        return self

    @property
    def has_names(self) -> bool:
        """True if any endpoint has a name that must be looked up."""
        return self.discover is not None or any(
            address.host and literal(address.host) is None for address in map(parse_endpoint, self.endpoints or ())
        )

    @property
    def is_tls(self) -> bool:
        """True if any endpoint is reached by TLS."""
        if self.discover is not None:
            return self.discover.scheme == "https"
        return any(parse_endpoint(url).is_tls for url in self.endpoints or ())
