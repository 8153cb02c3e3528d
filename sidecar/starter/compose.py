"""Facts in a Compose file: ports, health checks, and URLs of other services in the environment."""

from __future__ import annotations

import re
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.manifests.tree import get, items, text
from sidecar.starter.facts import ADDRESS, NOT_HTTP, PROBE, URL, Facts, Peer, StarterError, number, place, safe_name

DEFAULT: Final = re.compile(r"\$\{[A-Za-z_]\w*:?-([^{}]*)\}")
"""Variable with a default, which stands for its default here."""


def read_compose(file: str, root: Node, service: str) -> Facts:
    """Return the facts about a service; `service` is empty if the file has one only.  Raises `StarterError`."""
    services = get(root, "services")
    if not isinstance(services, MappingNode) or not services.value:
        raise StarterError(f"{file}: has no services")
    nodes = {str(name.value): value for name, value in services.value}
    own = [name for name, node in nodes.items() if _known_image(node) is None]
    if not service:
        if len(own) != 1:
            raise StarterError(f"{file}: has several services; choose one: --service {' | '.join(own or nodes)}")
        service = own[0]
    if service not in nodes:
        raise StarterError(f"{file}: has no service `{service}`; it has {', '.join(nodes)}")
    node = nodes[service]
    facts = Facts(safe_name(service), file)
    _read_port(file, node, facts)
    _read_health(file, node, facts)
    for value in _environment(node):
        _read_address(file, value, nodes, facts)
    for name, at in _dependencies(node):
        if name not in facts.peers and name in nodes:
            _read_dependency(file, name, at, nodes[name], facts)
    return facts


def _known_image(node: Node) -> str | None:
    """Return the name of an image that does not speak HTTP; None for any other."""
    image = text(node, "image").rpartition("/")[2].partition("@")[0].partition(":")[0]
    return image if image in NOT_HTTP else None


def _ports(node: Node) -> list[tuple[int, Node]]:
    """Return the ports within the container that a service states, with their nodes."""
    found: list[tuple[int, Node]] = []
    for each in [*items(node, "expose"), *items(node, "ports")]:
        spelt = text(each, "target") if isinstance(each, MappingNode) else str(each.value)
        inner = DEFAULT.sub(r"\1", spelt).partition("/")[0].rpartition(":")[2].partition("-")[0]
        if port := number(inner):
            found.append((port, each))
    return found


def _read_port(file: str, node: Node, facts: Facts) -> None:
    for port, at in _ports(node):
        facts.port, facts.port_place = port, place(file, at)
        facts.entry_place = facts.port_place
        return
    for value in _environment(node, "PORT", "HTTP_PORT", "SERVER_PORT", "APP_PORT"):
        if port := number(DEFAULT.sub(r"\1", str(value.value).rpartition("=")[2])):
            facts.port, facts.port_place = port, place(file, value)
            return


def _read_health(file: str, node: Node, facts: Facts) -> None:
    test = get(node, "healthcheck", "test")
    if test is None:
        return
    command = " ".join(str(each.value) for each in test.value) if isinstance(test, SequenceNode) else str(test.value)
    match = PROBE.search(command)
    if match is None:
        return
    facts.health, facts.health_place = match[2], place(file, test)
    if not facts.port and match[1]:
        facts.port, facts.port_place = number(match[1]), place(file, test)


def _environment(node: Node, *names: str) -> list[ScalarNode]:
    """Return the values of environment variables, as a mapping or `NAME=value`; `names` selects some."""
    found = get(node, "environment")
    pairs: list[tuple[str, Node]] = []
    if isinstance(found, MappingNode):
        pairs = [(str(name.value), value) for name, value in found.value]
    elif isinstance(found, SequenceNode):
        pairs = [(str(each.value).partition("=")[0], each) for each in found.value]
    return [value for name, value in pairs if isinstance(value, ScalarNode) and (not names or name in names)]


def _read_address(file: str, value: ScalarNode, nodes: dict[str, Node], facts: Facts) -> None:
    """Add the peers whose URLs or addresses are in the value of a variable."""
    spelt = DEFAULT.sub(r"\1", str(value.value))
    for scheme, host, port in URL.findall(spelt):
        if host in nodes:
            is_known = _known_image(nodes[host]) is not None
        elif "." not in host or host.endswith((".local", ".internal")) or host.replace(".", "").isdigit():
            continue
        else:
            is_known = False
        if is_known:
            continue
        is_tls = scheme in ("https", "grpcs")
        facts.add_peer(
            Peer(
                safe_name(host), host, number(port) or (443 if is_tls else 80), "https" if is_tls else "http",
                scheme.startswith("grpc"), place(file, value),
            )
        )  # fmt: skip
    if "://" in spelt:
        return
    for host, port in ADDRESS.findall(spelt.rpartition("=")[2]):
        if host in nodes and _known_image(nodes[host]) is None and number(port):
            facts.add_peer(Peer(safe_name(host), host, number(port), place=place(file, value)))


def _dependencies(node: Node) -> list[tuple[str, Node]]:
    """Return the names of the services on which one depends, with their nodes."""
    found = get(node, "depends_on")
    if isinstance(found, MappingNode):
        return [(str(name.value), name) for name, _ in found.value]
    return [(str(each.value), each) for each in items(node, "depends_on")]


def _read_dependency(file: str, name: str, at: Node, node: Node, facts: Facts) -> None:
    image = _known_image(node)
    where = place(file, at)
    if image is not None:
        facts.left_out.append(f"{where}: {name} ({image}) does not speak HTTP; ask it directly")
    elif ports := _ports(node):
        facts.add_peer(Peer(safe_name(name), name, ports[0][0], place=where))
    else:
        facts.left_out.append(f"{where}: {name} states no port; add an upstream if it speaks HTTP")
