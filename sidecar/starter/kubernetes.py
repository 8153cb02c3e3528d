"""Facts in Kubernetes manifests: Services, and the workloads behind them."""

from __future__ import annotations

from typing import Final

from yaml.nodes import Node

from sidecar.manifests.inject import TEMPLATES
from sidecar.manifests.tree import get, items, text
from sidecar.starter.facts import URL, Facts, Peer, StarterError, number, place, safe_name

HTTP2: Final = ("grpc", "h2c", "http2", "kubernetes.io/h2c")
"""Application protocols, or beginnings of port names, of services that speak HTTP/2 without TLS."""


def read_manifests(file: str, roots: list[Node], service: str) -> Facts:
    """Return the facts about a service; `service` is empty if there is one only.  Raises `StarterError`."""
    roots = [each for root in roots for each in (root, *items(root, "items"))]
    services = {text(each, "metadata", "name"): each for each in roots if text(each, "kind") == "Service"}
    workloads = {text(each, "metadata", "name"): each for each in roots if text(each, "kind") in TEMPLATES}
    names = list(services or workloads)
    if not service:
        if len(names) != 1:
            raise StarterError(f"{file}: has {_several(names)}; choose one: --service {' | '.join(names) or 'NAME'}")
        service = names[0]
    if service not in services and service not in workloads:
        raise StarterError(f"{file}: has no service `{service}`; it has {', '.join(names) or 'none'}")
    facts = Facts(safe_name(service), file)
    workload = workloads.get(service) or (next(iter(workloads.values())) if len(workloads) == 1 else None)
    containers = items(workload, *TEMPLATES[text(workload, "kind")], "spec", "containers") if workload else []
    if service in services:
        _read_service(file, services[service], containers, facts)
    for container in containers:
        _read_container(file, container, services, facts)
    return facts


def _several(names: list[str]) -> str:
    return "several services" if names else "no Service and no workload"


def _read_service(file: str, node: Node, containers: list[Node], facts: Facts) -> None:
    """Read the port behind a Service."""
    ports = items(node, "spec", "ports")
    if not ports:
        return
    port = ports[0]
    target = text(port, "targetPort") or text(port, "port")
    stated = [each for container in containers for each in items(container, "ports")]
    named = {text(each, "name"): text(each, "containerPort") for each in stated}
    facts.port, facts.port_place = number(named.get(target, target)), place(file, port)
    facts.entry_place = facts.port_place
    facts.is_http2 = _speaks_http2(port)
    for other in ports[1:]:
        what = f"port {text(other, 'port')} of the Service; add a listener and a route if it is HTTP"
        facts.left_out.append(f"{place(file, other)}: {what}")


def _speaks_http2(port: Node) -> bool:
    return text(port, "appProtocol").lower() in HTTP2 or text(port, "name").partition("-")[0] in HTTP2


def _read_container(file: str, node: Node, services: dict[str, Node], facts: Facts) -> None:
    """Read port, health check and environment of a container."""
    for port in items(node, "ports"):
        if not facts.port and (found := number(text(port, "containerPort"))):
            facts.port, facts.port_place = found, place(file, port)
    for probe in ("readinessProbe", "livenessProbe"):
        path = text(node, probe, "httpGet", "path")
        if path and not facts.health and (found_probe := get(node, probe)) is not None:
            facts.health, facts.health_place = path, place(file, found_probe)
    for each in items(node, "env"):
        value = text(each, "value")
        for scheme, host, port in URL.findall(value):
            name = host.partition(".")[0] if host.partition(".")[0] in services else host
            if "." not in host and name not in services:
                facts.left_out.append(f"{place(file, each)}: {host} has no Service in the file; add an upstream for it")
                continue
            is_tls = scheme in ("https", "grpcs")
            ports = items(services.get(name), "spec", "ports")
            facts.add_peer(
                Peer(
                    safe_name(name), host, number(port) or (443 if is_tls else 80), "https" if is_tls else "http",
                    scheme.startswith("grpc") or any(map(_speaks_http2, ports)), place(file, each),
                )
            )  # fmt: skip
