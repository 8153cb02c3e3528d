"""Workloads with the sidecar, and without it again.

Twice gives the same bytes as once: what an earlier run has added is taken out first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import is_
from typing import Final, NamedTuple

from yaml.nodes import MappingNode, Node

from sidecar import __version__
from sidecar.manifests import pod
from sidecar.manifests.documents import edit, split
from sidecar.manifests.tree import compose, get, items, listed, members, parse, text, with_member

TEMPLATES: Final = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Path to the pod of each kind of workload."""
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
OURS: Final = {"initContainers": (pod.CAPTURE, pod.CONTAINER), "volumes": (pod.VOLUME,)}
"""Names of what a pod gets, by the list that has it."""


class Result(NamedTuple):
    """Outcome of a run over one file."""

    text: str
    changed: list[str]
    """Workloads with the sidecar, or without it after `undo`: `Deployment/orders`."""
    notes: list[str]
    """Notes for a person, each with its line: `12: Deployment/orders: ...`."""


class Workload:
    """Workload of a file."""

    def __init__(self, node: Node, kind: str) -> None:
        self.node = node
        self.path = TEMPLATES[kind]
        """Path to its pod."""
        self.name = text(node, "metadata", "name") or text(node, "metadata", "generateName").rstrip("-")
        self.notes: list[str] = []
        """Notes for a person."""


def inject(source: str, options: pod.Options) -> Result:
    """Return a file whose workloads have the sidecar.  Raises `ManifestError`."""
    roots = [root for document in split(source) for root in (document.content, *items(document.content, "items"))]
    config_maps = [root for root in roots if text(root, "kind") == "ConfigMap"]
    labelled = _labelled(config_maps)

    def change(workload: Workload) -> Node:
        if reason := _reason_to_leave(workload, options):
            workload.notes.append(f"left as it is, because {reason}")
            return workload.node
        names = [*options.config_maps, *labelled.get("all", ()), *labelled.get(workload.name, ())]
        names = list(dict.fromkeys(names)) or [f"{workload.name}-policies"]
        known = [each for each in config_maps if text(each, "metadata", "name") in names]
        if {text(each, "metadata", "name") for each in known} == set(names):  # otherwise the others may have it
            files = [parsed for each in known for member in members(each, "data") if (parsed := parse(member.value))]
            workload.notes.extend(_unreachable(files, options.admin_port))
            if options.capture_port is not None:
                workload.notes.extend(_uncaptured(files, options.capture_port))
        if options.capture_port is not None and _runs_as_sidecar(get(workload.node, *workload.path, "spec")):
            workload.notes.append(
                f"runs as user {pod.USER}, whose connections are not redirected; give it another runAsUser"
            )
        return _with(_without(workload.node, workload.path, keeps_empty=True), workload.path, options, names)

    return _run(source, change)


def undo(source: str) -> Result:
    """Return a file whose workloads are without the sidecar.  Raises `ManifestError`."""
    return _run(source, lambda workload: _without(workload.node, workload.path, keeps_empty=False))


def _run(source: str, change: Callable[[Workload], Node]) -> Result:
    """Return a file in which each workload is what `change` returns for it."""
    changed: list[str] = []
    notes: list[str] = []

    def visit(node: Node, line: int) -> Node:
        kind = text(node, "kind")
        if kind == "List":
            old = items(node, "items")
            new = [visit(each, each.start_mark.line + 1) for each in old]
            return node if all(map(is_, old, new)) else with_member(node, ("items",), listed(new))
        if kind not in TEMPLATES:
            return node
        workload = Workload(node, kind)
        result = change(workload)
        notes.extend(f"{line}: {kind}/{workload.name}: {each}" for each in workload.notes)
        if result is not node:
            changed.append(f"{kind}/{workload.name}")
        return result

    return Result(edit(source, lambda document: visit(document.content, document.line)), changed, notes)


def _reason_to_leave(workload: Workload, options: pod.Options) -> str:
    """Return the reason why a workload stays as it is; empty if it gets the sidecar."""
    node, path = workload.node, workload.path
    if "false" in (text(each, "metadata", "annotations", pod.INJECT) for each in (node, get(node, *path))):
        return f"it has the annotation {pod.INJECT}: false"
    if not items(node, *path, "spec", "containers"):
        return "it has no containers"
    inner = [*items(node, *path, "spec", "containers")]
    if not _is_injected(node, path):
        inner += items(node, *path, "spec", "initContainers")
    names = {text(each, "name") for each in inner}
    for name in OURS["initContainers"]:
        if name in names:
            return f"it has a container `{name}` of its own; rename that"
    if options.capture_port is not None and text(node, *path, "spec", "hostNetwork") == "true":
        return "it has hostNetwork: true, where capture would redirect the whole node; leave --capture out for it"
    return ""


def _is_injected(node: Node, path: tuple[str, ...]) -> bool:
    return bool(text(node, *path, "metadata", "annotations", pod.INJECTED))


def _labelled(config_maps: list[Node]) -> dict[str, list[str]]:
    """Return the names of ConfigMaps by the workload that their label names."""
    found: dict[str, list[str]] = {}
    for each in config_maps:
        if workload := text(each, "metadata", "labels", pod.POLICIES_OF):
            found.setdefault(workload, []).append(text(each, "metadata", "name"))
    return found


def _unreachable(files: list[Node], port: int) -> Iterator[str]:
    """Yield what is wrong with the admin listener of policy files."""
    addresses = [address for each in files if (address := text(each, "admin", "address"))]
    if not addresses:
        yield f'its policies have no `admin`, which the probes ask; add admin: {{address: "0.0.0.0:{port}"}}'
    for address in addresses:
        host, _, number = address.rpartition(":")
        if host in LOOPBACK:
            yield f'its policies have `admin` on {address}, where no probe comes; write "0.0.0.0:{number}"'
        elif number != str(port):
            yield f"its policies have `admin` on port {number}; give --admin-port {number}"


def _uncaptured(files: list[Node], port: int) -> Iterator[str]:
    """Yield what is wrong with the listeners of policy files for redirected connections."""
    listeners = [get(each, "listeners") for each in files]
    taking = [
        value
        for each in listeners
        if isinstance(each, MappingNode)
        for _, value in each.value
        if text(value, "original_destination") == "true"
    ]
    if not taking:
        yield (
            "its policies have no listener for redirected connections; "
            f'add outbound: {{address: "127.0.0.1:{port}", original_destination: true}}'
        )
        return
    numbers = [text(each, "address").rpartition(":")[2] for each in taking]
    if str(port) not in numbers:
        yield f"its policies take redirected connections on port {numbers[0]}; give --capture-port {numbers[0]}"


def _runs_as_sidecar(spec: Node | None) -> bool:
    """True if a container of a pod runs as the user of the sidecar."""
    context = ("securityContext", "runAsUser")
    default = text(spec, *context)
    return any((text(each, *context) or default) == str(pod.USER) for each in items(spec, "containers"))


def _with(workload: Node, path: tuple[str, ...], options: pod.Options, maps: list[str]) -> Node:
    """Return a workload with the sidecar."""
    spec = (*path, "spec")
    added = [compose(each) for each in pod.containers(options)]
    first = [*added, *items(workload, *spec, "initContainers")]
    volumes = [*items(workload, *spec, "volumes"), compose(pod.volume(maps))]
    workload = with_member(workload, (*path, "metadata", "annotations", pod.INJECTED), compose(__version__))
    workload = with_member(workload, (*spec, "initContainers"), listed(first))
    return with_member(workload, (*spec, "volumes"), listed(volumes))


def _without(workload: Node, path: tuple[str, ...], *, keeps_empty: bool) -> Node:
    """Return a workload without what `_with` has added; lists that are empty then are left only if `keeps_empty`."""
    if not _is_injected(workload, path):
        return workload
    spec = (*path, "spec")
    for key, ours in OURS.items():
        kept = [each for each in items(workload, *spec, key) if text(each, "name") not in ours]
        workload = with_member(workload, (*spec, key), listed(kept) if kept or keeps_empty else None)
    annotations = (*path, "metadata", "annotations")
    workload = with_member(workload, (*annotations, pod.INJECTED), None)
    if not keeps_empty and isinstance(found := get(workload, *annotations), MappingNode) and not found.value:
        workload = with_member(workload, annotations, None)
        if isinstance(found := get(workload, *path, "metadata"), MappingNode) and not found.value:
            workload = with_member(workload, (*path, "metadata"), None)
    return workload
