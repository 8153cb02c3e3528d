"""Facts of several files: each is a Compose file, Kubernetes manifests, or an OpenAPI document."""

from __future__ import annotations

from yaml.nodes import Node

from sidecar.manifests.documents import ManifestError, split
from sidecar.manifests.tree import get, text
from sidecar.starter.compose import read_compose
from sidecar.starter.facts import Facts, StarterError
from sidecar.starter.kubernetes import read_manifests
from sidecar.starter.openapi import read_openapi


def read_facts(files: list[tuple[str, str]], service: str) -> Facts:
    """Return the facts about one service of files, given as names and contents.  Raises `StarterError`.

    `service` is its name, empty if the files have one only.  The first file that states a fact decides.
    """
    found = [_read(name, content, service) for name, content in files]
    named = [facts for facts in found if not facts.operations] or found
    whole = Facts(service or named[0].name, ", ".join(name for name, _ in files))
    for facts in found:
        if not whole.port:
            whole.port, whole.port_place = facts.port, facts.port_place
            whole.entry_place = facts.entry_place
        if not whole.health:
            whole.health, whole.health_place = facts.health, facts.health_place
        whole.is_http2 = whole.is_http2 or facts.is_http2
        for peer in facts.peers.values():
            whole.add_peer(peer)
        whole.operations += facts.operations
        whole.left_out += facts.left_out
    return whole


def _read(name: str, content: str, service: str) -> Facts:
    """Return the facts of one file."""
    try:
        roots: list[Node] = [document.content for document in split(content)]
    except ManifestError as error:
        raise StarterError(f"{name}:{error}") from None
    root = roots[0]
    if get(root, "openapi") is not None or get(root, "swagger") is not None:
        return read_openapi(name, root, service)
    if any(text(each, "kind") and text(each, "apiVersion") for each in roots):
        return read_manifests(name, roots, service)
    if get(root, "services") is not None:
        return read_compose(name, root, service)
    raise StarterError(f"{name}: is no Compose file, no Kubernetes manifest and no OpenAPI document")
