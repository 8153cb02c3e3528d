"""Endpoints of an upstream: enough of them for its ejection, and none that leads back to this sidecar."""

from __future__ import annotations

from sidecar.config.checks.listeners import ANY
from sidecar.config.listen_address import ListenAddress
from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, UpstreamSpec
from sidecar.upstream.endpoint import parse_endpoint


def check_upstreams(spec: PolicySpec, report: Report) -> None:
    """Warn of ejections that can never happen, and of endpoints that are listeners of this sidecar."""
    own = {str(listener.address): name for name, listener in spec.listeners.items() if listener.address.port}
    for name, upstream in spec.upstreams.items():
        _check_upstream(upstream, own, spec.node.nearest("upstreams", name), report)


def _check_upstream(upstream: UpstreamSpec, own: dict[str, str], node: Node, report: Report) -> None:
    endpoints = upstream.endpoints or ()
    if upstream.ejection is not None and endpoints and upstream.ejection.min_healthy >= len(endpoints):
        least, count = upstream.ejection.min_healthy, len(endpoints)
        message = (
            f"never ejects: min_healthy is {least} of {count} endpoint{'s' * (count > 1)}; lower it, or add endpoints"
        )
        report.warn(node.nearest("ejection", "min_healthy"), message)
    for index, url in enumerate(endpoints):
        address = parse_endpoint(url)
        for host in (address.host, *ANY) if ListenAddress(address.host, 0).is_loopback else (address.host,):
            listener = own.get(str(ListenAddress(host, address.port, address.path)))
            place = node.find(("endpoints", index))
            if listener is not None and place is not None:
                report.warn(place, f"is the sidecar's own listener `{listener}`: its requests would come back to it")
