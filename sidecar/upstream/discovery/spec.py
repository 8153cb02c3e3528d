"""Spec of `discover`: the source of an upstream's endpoints, if the policy does not list them."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sidecar.core.spec import Model
from sidecar.core.units import Duration

MOST_NAMES: Final = 100
"""Most endpoints from a name, unless the policy says otherwise."""
MOST_LISTED: Final = 1000
"""Most endpoints from a file or from Kubernetes, unless the policy says otherwise."""
MOST_OF_SUBSET: Final = 10_000
"""Most endpoints of which a subset is chosen, unless the policy says otherwise."""
KEEP_NAMES: Final = 3600.0
"""Seconds for which addresses of a name are kept while look-ups fail, unless the policy says otherwise."""
LOCAL: Final = ("127.0.0.1", "::1", "localhost")
"""Hosts of an API server to which a connection in clear is allowed."""


def matching(pattern: str, remedy: str) -> AfterValidator:
    """Return a validator of strings with this pattern; `remedy` completes the error text `'x' is not ...`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {remedy}")
        return text

    return AfterValidator(check)


Port = Annotated[int, Field(ge=1, le=65535)]
DnsName = Annotated[
    str, matching(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", "a DNS name; write it such as payments.prod.svc")
]
SrvName = Annotated[
    str,
    matching(
        r"_[A-Za-z0-9-]{1,62}\._(tcp|udp)(\.[A-Za-z0-9_-]{1,63})+\.?",
        "the name of SRV records; write it such as _http._tcp.payments.prod.svc.cluster.local",
    ),
]
Label = Annotated[
    str, matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a name in Kubernetes; write it in lower case, such as orders")
]
PortName = Annotated[
    str, matching(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", "the name of a port; write it in lower case, such as http")
]
LABEL_NAME: Final = r"[a-z][a-z0-9_-]{0,31}"
LABEL_VALUE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
LabelName = Annotated[str, matching(LABEL_NAME, "the name of a label; write it in lower case, such as version")]
LabelValue = Annotated[str, matching(LABEL_VALUE, "the value of a label; write it such as v2")]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]


def _api_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
        raise ValueError(f"{text!r} is not the address of an API server; write it such as https://10.0.0.1:6443")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise ValueError("sends the token in clear; write https://, or the address of a proxy on 127.0.0.1")
    return text.rstrip("/")


class ApiSpec(Model):
    """API server of Kubernetes; each key has its value from the pod's service account unless it is written here."""

    url: Annotated[str, AfterValidator(_api_url)] | None = None
    """Address, such as `https://10.0.0.1:6443`; `http://` only on loopback, as of `kubectl proxy`.  By default
    `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` name it."""
    ca: FilePath | None = None
    """File of the authorities that vouch for the server.  It is read for each new connection."""
    token: FilePath | None = None
    """File of the bearer token.  It is read for each request, because Kubernetes replaces it every hour."""


class KubernetesSpec(Model):
    """Endpoints of a Kubernetes service, from its EndpointSlices.

    The service account of the pod needs `list` and `watch` of `endpointslices` in that namespace.
    """

    service: Label
    """Name of the service."""
    port: Port | PortName | None = None
    """Name of the service's port, or number of the pods' port; may be left out if there is only one."""
    namespace: Label | None = None
    """Namespace of the service; by default that of the pod."""
    family: Literal["any", "ipv4", "ipv6"] = "any"
    """Address family; `any` uses IPv4 if the service has such endpoints, since both families name the same pods."""
    zone_aware: bool = False
    """True to prefer endpoints of the sidecar's own zone: those with a topology hint for it, or where hints are missing
    those within it.  If too few of them are available, a share of the requests goes to other zones.  The own zone is
    that of the pod (label `topology.kubernetes.io/zone`) or of its node, for which the service account needs `get` of
    `pods`, and of `nodes`.  `locality: {zone: eu-1a}` under the upstream names it instead."""
    node: Label | None = None
    """Name of the node whose zone is the sidecar's, such as `${NODE_NAME}`; spares the look-up of the pod."""
    api: ApiSpec = ApiSpec.built_in()
    """API server, if it is not that of the pod's service account."""

    @model_validator(mode="after")
    def _has_use_for_zone(self) -> KubernetesSpec:
        if not self.zone_aware and self.node:
            raise ValueError("has a node without zone_aware: true; add it, or remove the node")
        return self

    @property
    def host(self) -> str:
        """Name of the service within the cluster, as far as the policy tells it."""
        return f"{self.service}.{self.namespace}.svc" if self.namespace else self.service


class DiscoverSpec(Model):
    """Endpoints from a source that changes, instead of a list: `dns`, `srv`, `file` or `kubernetes`."""

    dns: DnsName | None = None
    """Name whose A and AAAA records are the endpoints, such as a headless Kubernetes service."""
    srv: SrvName | None = None
    """Name whose SRV records (RFC 2782) are the endpoints, in full; priority and weight of the records hold."""
    file: FilePath | None = None
    """File that lists the endpoints, one `host:port` a line, with `weight=3`, `priority=1`, `zone=eu-1a` or labels such
    as `version=v2` after it if wanted.  Replace it by a rename: a new file is read within a second."""
    subset: Annotated[dict[LabelName, LabelValue], Field(max_length=20)] = Field(default={})
    """Labels that an endpoint of the file must have: `{version: v2}`.  So one file serves several upstreams."""
    kubernetes: KubernetesSpec | None = None
    """Kubernetes service whose EndpointSlices name the endpoints."""
    port: Port | None = None
    """Port of every endpoint, for `dns` alone; the other sources tell the port of each endpoint."""
    scheme: Literal["http", "https"] = "http"
    """Scheme of every endpoint."""
    interval: Duration = 10.0
    """Longest time between two look-ups of a name (HAProxy's `hold valid`: 10s, Envoy's `dns_refresh_rate`: 5s).
    Records that expire sooner are looked up again when they do, but not before `resolve.ttl.min`."""
    keep_for: Duration | None = None
    """Time for which the last good endpoints are used while the source is away.  The default for names is 1h, because
    in a cluster addresses are eventually reassigned to other services; endpoints from a file or from Kubernetes are
    kept until the source is back, as Envoy and kube-proxy do."""
    max_endpoints: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most endpoints used; by default 100 of a name, 1000 of a file or of Kubernetes, and 10000 where `subset` chooses
    among them.  If there are more, ready ones are preferred, then the lowest addresses."""

    @model_validator(mode="after")
    def _has_one_source(self) -> DiscoverSpec:
        given = [name for name in ("dns", "srv", "file", "kubernetes") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}; keep one of them" if given else "has no source"
            raise ValueError(f"{found}; write dns with a port, srv, file or kubernetes")
        if self.subset and self.file is None:
            raise ValueError("has a subset, which a file alone has labels for; write file, or remove subset")
        if self.dns is not None and self.port is None:
            raise ValueError("needs the port of the endpoints beside dns, such as port: 8080")
        if self.dns is None and self.port is not None:
            hint = "; write it within kubernetes" if self.kubernetes is not None else "; remove it"
            raise ValueError(f"has a port, which {given[0]} tells for each endpoint{hint}")
        return self

    @property
    def kind(self) -> str:
        """Kind of the source: the name of its key."""
        return next(name for name in ("dns", "srv", "file", "kubernetes") if getattr(self, name) is not None)

    @property
    def source(self) -> str:
        """Source in words, such as `dns payments.svc`, for logs and refusals."""
        if self.kubernetes is not None:
            namespace = f"{self.kubernetes.namespace}/" if self.kubernetes.namespace else ""
            return f"kubernetes {namespace}{self.kubernetes.service}"
        return f"{self.kind} {self.dns or self.srv or self.file}"

    @property
    def has_weights(self) -> bool:
        """True if the source tells weights."""
        return self.srv is not None or self.file is not None

    @property
    def host(self) -> str:
        """Name that the endpoints, which are IP addresses, have in common; empty if each has a name of its own."""
        return self.kubernetes.host if self.kubernetes is not None else self.dns or ""

    @property
    def most(self) -> int:
        """Most endpoints used."""
        return self.max_endpoints or (MOST_NAMES if self.dns or self.srv else MOST_LISTED)

    @property
    def most_of_subset(self) -> int:
        """Most endpoints of which a subset is chosen: all sidecars would leave out the same ones beyond `most`."""
        return self.max_endpoints or MOST_OF_SUBSET

    @property
    def kept_for(self) -> float | None:
        """Seconds for which the endpoints are used while the source is away; None for no limit."""
        return self.keep_for or (KEEP_NAMES if self.dns or self.srv else None)
