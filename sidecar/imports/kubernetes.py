"""Objects of Kubernetes in a file, and its services as upstreams.

A service whose object is in the file, or that is named without a port, becomes a discovery of its endpoints.  The
number of a port is that of the service, while a discovery knows those of the pods.  So a service of which only a number
is known is called by its own address.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.access.protection import REFUSED, has_guard, keeps_out
from sidecar.imports.draft import Draft, Value
from sidecar.imports.source import Part, read_documents

EXTENSIONS: Final = ("EnvoyFilter", "WasmPlugin", "EnvoyPatchPolicy", "EnvoyExtensionPolicy")
"""Kinds of objects that add filters to a proxy."""
ONE_ADDRESS: Final = "is called by the service's address here: write `discover: {kubernetes: …}` to balance and eject"


def read_objects(draft: Draft, text: str, kinds: tuple[str, ...]) -> dict[str, list[Part]]:
    """Return the objects of some kinds; services are read, and all others reported.  Raises `TranslationError`.

    An object of another kind that keeps requests out makes all routes refuse.
    """
    found: dict[str, list[Part]] = {kind: [] for kind in (*kinds, "Service")}
    roots = read_documents(draft.findings, text)
    for each in [item for root in roots for item in ([root] if root.get("items") is None else root.items("items"))]:
        kind = each.text("kind")
        if kind in found:
            each.label("apiVersion", "kind", "metadata", "status")
            found[kind].append(each)
        elif keeps_out(kind) or (kind in EXTENSIONS and has_guard(each)):
            each.findings.lose(each.line, f"{kind} {each.text('metadata', 'name')}", REFUSED)
            draft.refuse_all(each.line, f"{kind} {each.text('metadata', 'name')}")
            each.take()
        elif kind or each.children:
            each.findings.lose(each.line, f"{kind or 'the document'} {each.text('metadata', 'name')}".rstrip())
            each.take()
    return found


def report_unread(objects: dict[str, list[Part]]) -> None:
    """Report the values of objects that nobody has read."""
    for each in (each for group in objects.values() for each in group):
        each.report_unread()


def name_of(part: Part) -> str:
    """Return the name of an object."""
    return part.text("metadata", "name")


def namespace_of(part: Part) -> str:
    """Return the namespace of an object; empty if it states none."""
    return part.text("metadata", "namespace")


class Services:
    """Services that routes name."""

    def __init__(self, draft: Draft, parts: list[Part]) -> None:
        self._draft = draft
        self._known = {(namespace_of(each), name_of(each)): each for each in parts}
        for each in parts:
            each.take()

    def endpoints(self, name: str, namespace: str, port: str, line: int, scheme: str = "http") -> dict[str, Any]:
        """Return `discover` or `endpoints` of a service; `port` is a number, a name, or empty."""
        draft = self._draft
        known = self._known.get((namespace, name)) or self._known.get(("", name))
        if known is not None and (external := known.text("spec", "externalName")):
            return {"endpoints": [draft.value(f"{scheme}://{external}:{port if port.isdigit() else 80}", line)]}
        if known is not None:
            port = self._pods_port(known, port)
        elif port.isdigit():
            host = ".".join(each for each in (name, namespace, "svc" if namespace else "") if each)
            draft.findings.differ(line, f"service {name}", ONE_ADDRESS)
            return {"endpoints": [draft.value(f"{scheme}://{host}:{port}", line)]}
        found: dict[str, Any] = {"service": draft.value(name, line)}
        if namespace:
            found["namespace"] = draft.value(namespace, line)
        if port:
            found["port"] = draft.value(int(port) if port.isdigit() else port, line)
        keys: dict[str, Any] = {"discover": {"kubernetes": found}}
        if scheme == "https":
            keys["discover"]["scheme"] = Value("https", "")
        return keys

    def _pods_port(self, service: Part, port: str) -> str:
        """Return the port of a service as a discovery names it; empty if it has only one."""
        ports = service.items("spec", "ports")
        for each in ports:
            if port in ("", each.text("port"), each.text("name")):
                if len(ports) == 1 and not each.text("name"):
                    return ""
                return each.text("name") or each.text("targetPort") or each.text("port")
        return "" if port.isdigit() else port
