"""Endpoints of a Kubernetes service, from its EndpointSlices (`discovery.k8s.io/v1`), without I/O.

Rules:

1. A service has several slices.  An endpoint can be in two of them while one replaces the other; the better state
   holds.
2. Ready endpoints serve.  Those that serve although they terminate are the last tier (`DRAINING`), as in kube-proxy.
   All others get requests in panic only.  Absent conditions have the meaning that the API documents.
3. With zones, endpoints with a topology hint for the own zone are preferred if every ready endpoint has hints, and one
   has a hint for the zone; else those within the zone.  Without such endpoints all zones are equal.
4. A service of both address families names each pod twice.  Only one family is used.
5. Names of ports are looked up in each slice, because pods of one service can differ in their numbers.
6. Slices that are not what the API documents, and more than `MOST_ENDPOINTS`, are an error; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from sidecar.upstream.discovery.spec import KubernetesSpec
from sidecar.upstream.endpoint import DRAINING, Target, endpoint_address

MOST_ENDPOINTS: Final = 20_000
"""Most endpoints in all slices of a service."""
READY: Final = 0
TERMINATING: Final = 1
NOT_READY: Final = 2
OWN_ZONE: Final = 0
OTHER_ZONE: Final = 1
FAMILIES: Final = {"IPv4": 4, "IPv6": 6}
EXPIRED: Final = 410
"""HTTP status, and code of an ERROR event, of a resource version that is too old."""


class Conditions(msgspec.Struct):
    """Conditions of an endpoint; None where the API server leaves one out."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(msgspec.Struct):
    """Zone that an endpoint should serve."""

    name: str


class Hints(msgspec.Struct, rename="camel"):
    """Topology hints of an endpoint."""

    for_zones: list[ForZone] | None = None


class SliceEndpoint(msgspec.Struct):
    """Endpoint of a slice."""

    addresses: list[str]
    conditions: Conditions | None = None
    zone: str | None = None
    hints: Hints | None = None


class SlicePort(msgspec.Struct):
    """Port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Metadata(msgspec.Struct, rename="camel"):
    """Metadata of an object."""

    name: str = ""
    resource_version: str = ""


class EndpointSlice(msgspec.Struct, rename="camel"):
    """EndpointSlice."""

    metadata: Metadata
    address_type: str = ""
    endpoints: list[msgspec.Raw] | None = None
    ports: list[SlicePort] | None = None


class ListMetadata(msgspec.Struct, rename="camel"):
    """Metadata of a list."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class SliceList(msgspec.Struct):
    """Page of a list of slices."""

    metadata: ListMetadata
    items: list[EndpointSlice] | None = None


class WatchEvent(msgspec.Struct):
    """Line of a watch."""

    type: str
    object: EndpointSlice


class Status(msgspec.Struct):
    """Status, which an API server sends instead of what was asked for."""

    code: int = 0
    reason: str = ""
    message: str = ""


class ErrorEvent(msgspec.Struct):
    """ERROR event of a watch."""

    type: str
    object: Status


class NodeMetadata(msgspec.Struct):
    """Metadata of a pod or a node, as far as zones need them."""

    labels: dict[str, str] = {}


class PodSpec(msgspec.Struct, rename="camel"):
    """Spec of a pod, as far as zones need it."""

    node_name: str = ""


class PodOrNode(msgspec.Struct):
    """Pod or node, as far as zones need it."""

    metadata: NodeMetadata
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


_decode_list = msgspec.json.Decoder(SliceList).decode
_decode_event = msgspec.json.Decoder(WatchEvent).decode
_decode_error = msgspec.json.Decoder(ErrorEvent).decode
_decode_endpoint = msgspec.json.Decoder(SliceEndpoint).decode
_decode_status = msgspec.json.Decoder(Status).decode
_decode_node = msgspec.json.Decoder(PodOrNode).decode


class FormatError(ValueError):
    """Raised for an answer of the API server that is not what its API documents."""


class ExpiredError(Exception):
    """Raised if the API server no longer has the resource version (410 Gone); the slices must be listed anew."""


class WatchError(Exception):
    """Raised for any other ERROR event of a watch."""


class Found:
    """Endpoint of a slice, with the targets that it can become; they are the same objects until it changes."""

    __slots__ = ("hints", "other", "own", "state", "url", "zone")

    def __init__(self, url: str, state: int, zone: str, hints: tuple[str, ...]) -> None:
        self.url = url
        self.state = state
        """`READY`, `TERMINATING` or `NOT_READY`; a lower one is better."""
        self.zone = zone
        """Zone; empty if the slice does not say."""
        self.hints = hints
        """Zones that the endpoint should serve."""
        is_ready = state != NOT_READY
        self.own = Target(url, DRAINING if state == TERMINATING else OWN_ZONE, 1, is_ready, zone)
        """Target in the sidecar's own zone, or without zones."""
        self.other = self.own if state == TERMINATING else self.own._replace(tier=OTHER_ZONE)
        """Target in another zone."""


_url, _own = attrgetter("url"), attrgetter("own")


class Part(NamedTuple):
    """Endpoints of one slice."""

    family: int
    """Version of IP, 4 or 6."""
    port: int
    """Port of all endpoints; 0 if the slice does not have the wanted one."""
    found: dict[bytes, Found]
    """Endpoints by their JSON text: while that stays the same, so does the endpoint, and it is not decoded again."""


class Slices:
    """Slices of one service."""

    def __init__(self, spec: KubernetesSpec, scheme: str) -> None:
        self._spec = spec
        self._scheme = scheme
        self._parts: dict[str, Part] = {}
        """Endpoints of each slice, by its name."""
        self._ports: dict[str, str] = {}
        """Ports of each slice that does not have the wanted one, by the slice's name."""
        self.version = ""
        """Resource version of the last change."""
        self.changes = 0
        """Number of slices that lines of watches have changed."""
        self.bookmarks = 0
        """Number of bookmarks."""

    def __len__(self) -> int:
        return len(self._parts)

    # ----- changes

    def replace(self, pages: Iterable[SliceList]) -> None:
        """Replace all slices by those of a list, given as its pages.  Raises `FormatError`."""
        fresh = Slices(self._spec, self._scheme)
        for page in pages:
            for item in page.items or ():
                fresh._put(item)
            fresh.version = page.metadata.resource_version
        self._parts, self._ports = fresh._parts, fresh._ports
        self.version = fresh.version

    def apply(self, lines: Iterable[bytes]) -> None:
        """Apply lines of a watch; of several changes of a slice only the last one counts.

        Raises `ExpiredError`, `WatchError` and `FormatError`; the lines before the faulty one are applied.
        """
        last: dict[str, EndpointSlice | None] = {}
        try:
            for line in lines:
                event = _event_of(line)
                metadata = event.object.metadata
                if event.type == "BOOKMARK":
                    self.bookmarks += 1
                elif event.type in ("ADDED", "MODIFIED", "DELETED"):
                    last[metadata.name] = None if event.type == "DELETED" else event.object
                else:
                    raise FormatError(f"a watch has an event of the unknown type {event.type[:40]!r}")
                self.version = metadata.resource_version or self.version
        finally:
            self.changes += len(last)
            for name in [name for name, item in last.items() if item is None]:
                self._drop(name)
            for item in last.values():
                if item is not None:
                    self._put(item)

    def _drop(self, name: str) -> None:
        self._ports.pop(name, None)
        self._parts.pop(name, None)

    def _put(self, item: EndpointSlice) -> None:
        """Add or replace a slice; endpoints that have not changed stay the same objects."""
        name = item.metadata.name
        family = FAMILIES.get(item.address_type, 0)
        if not family or self._spec.family not in ("any", f"ipv{family}"):
            self._drop(name)  # `FQDN` is deprecated, and no controller makes such slices
            return
        texts = item.endpoints or []
        if len(texts) + sum(len(part.found) for key, part in self._parts.items() if key != name) > MOST_ENDPOINTS:
            raise FormatError(f"the service has more than {MOST_ENDPOINTS} endpoints")
        port = self._find_port(item.ports or [])
        if port is None:
            ports = [f"{each.name or 'without a name'} ({each.port})" for each in (item.ports or [])[:10]]
            self._ports[name] = ", ".join(ports) or "none"
            self._parts[name] = Part(family, 0, {})
            return
        before = self._parts.get(name)
        known = before.found if before is not None and before.port == port else {}
        keys = list(map(bytes, texts))
        found: dict[bytes, Any] = dict(zip(keys, map(known.get, keys), strict=True))
        for text in found.keys() - known.keys():
            found[text] = self._parse(_decoded(_decode_endpoint, text), port)
        self._ports.pop(name, None)
        self._parts[name] = Part(family, port, found)

    def _find_port(self, ports: list[SlicePort]) -> int | None:
        """Return the number of the wanted port; None if the slice does not have it."""
        wanted = self._spec.port
        tcp = [each for each in ports if each.port is not None and each.protocol in (None, "TCP")]
        if wanted is None:
            fitting = tcp if len(tcp) == 1 else []
        elif isinstance(wanted, int):
            fitting = [each for each in tcp if each.port == wanted]
        else:
            fitting = [each for each in tcp if each.name == wanted]
        return fitting[0].port if fitting else None

    def _parse(self, endpoint: SliceEndpoint, port: int) -> Found:
        """Return an endpoint of a slice.  Its addresses are interchangeable, and the first one is used."""
        try:
            address = ip_address(endpoint.addresses[0])
        except (ValueError, IndexError):
            shown = endpoint.addresses[:3]
            raise FormatError(f"an endpoint has the addresses {shown}, which are no IP addresses") from None
        if address.is_unspecified or address.is_multicast or not 1 <= port <= 65535:
            raise FormatError(f"an endpoint has the address {address} and the port {port}, to which no one can connect")
        conditions = endpoint.conditions or Conditions()
        is_ready = conditions.ready is not False
        is_serving = is_ready if conditions.serving is None else conditions.serving
        unready = TERMINATING if is_serving and conditions.terminating else NOT_READY
        state = READY if is_ready else unready
        url = endpoint_address(self._scheme, str(address), port).url
        hints = endpoint.hints.for_zones if endpoint.hints is not None else None
        return Found(url, state, endpoint.zone or "", tuple(each.name for each in hints or ()))

    # ----- result

    def targets(self, zone: str = "") -> list[Target]:
        """Return the endpoints of the service; `zone` is the sidecar's own, empty if zones do not matter."""
        used = min([part.family for part in self._parts.values() if part.found], default=4)
        found = [*chain.from_iterable(part.found.values() for part in self._parts.values() if part.family == used)]
        merged = dict(zip(map(_url, found), found, strict=True))
        if len(merged) < len(found):
            for each in found:
                if each.state < merged[each.url].state:
                    merged[each.url] = each
            found = list(merged.values())
        if not zone:
            return list(map(_own, found))
        ready = [each for each in found if each.state == READY]
        if all(each.hints for each in ready) and any(zone in each.hints for each in ready):
            return [each.own if zone in each.hints else each.other for each in found]
        if any(each.zone == zone for each in ready):
            return [each.own if each.zone == zone else each.other for each in found]
        return [each.own for each in found]

    @property
    def problem(self) -> str:
        """Reason for which slices have no endpoints of use; empty if there is none."""
        if not self._ports:
            return ""
        wanted = "one port alone" if self._spec.port is None else f"the port {self._spec.port}"
        return f"the service does not have {wanted}; its pods have {next(iter(self._ports.values()))}"

    def describe(self) -> dict[str, Any]:
        """Return the state of the slices as JSON-ready values."""
        return {
            "slices": len(self._parts),
            "resource_version": self.version,
            "port_problem": self.problem,
            "bookmarks": self.bookmarks,
        }


def _event_of(line: bytes) -> WatchEvent:
    """Return the event of a line, which is no error.  Raises `ExpiredError`, `WatchError` and `FormatError`."""
    try:
        event: WatchEvent = _decoded(_decode_event, line)
        if event.type != "ERROR":
            return event
    except FormatError:
        if b'"ERROR"' not in line:
            raise
    status = _decoded(_decode_error, line).object
    if status.code == EXPIRED or status.reason in ("Expired", "Gone"):
        raise ExpiredError
    raise WatchError(f"{status.code} {status.reason}: {status.message}"[:300])


def page_of(data: bytes) -> SliceList:
    """Return a page of a list.  Raises `FormatError`."""
    found: SliceList = _decoded(_decode_list, data)
    return found


def labels_of(data: bytes) -> tuple[dict[str, str], str]:
    """Return the labels of a pod or a node, and the name of the pod's node.  Raises `FormatError`."""
    found = _decoded(_decode_node, data)
    return found.metadata.labels, found.spec.node_name


def status_of(data: bytes) -> str:
    """Return the message of a Status object; empty if the data are no such object."""
    try:
        return _decode_status(data).message[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _decoded(decode: Any, data: Any) -> Any:
    """Return decoded JSON.  Raises `FormatError`."""
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the API server's answer is not what its API documents: {error}") from None
