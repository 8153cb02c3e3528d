"""Traefik's routers, as routes.

Where Traefik differs: routers are tried by their priority, which is the length of their rule unless it is stated; an
entry point is named here and described in another file; a request has no time limit.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.imports.access.protection import REFUSED
from sidecar.imports.access.rules import Access
from sidecar.imports.draft import Draft, merged, split
from sidecar.imports.kubernetes import Services, name_of, namespace_of, read_objects, report_unread
from sidecar.imports.source import Part, read_documents
from sidecar.imports.toml import read_toml
from sidecar.imports.traefik.middlewares import joined, read_middleware
from sidecar.imports.traefik.rules import matches
from sidecar.imports.traefik.services import Balancers

KINDS: Final = ("IngressRoute", "Middleware", "TraefikService", "ServersTransport")
EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104
ENTRY_POINTS: Final = {"web": "0.0.0.0:80", "http": "0.0.0.0:80", "websecure": "0.0.0.0:443", "https": "0.0.0.0:443",
                       "traefik": "0.0.0.0:8080"}  # fmt: skip
"""Usual addresses of entry points, which are in another file."""
DEFAULT_ENTRY: Final = "web"
HOSTS: Final = re.compile(r"Host\([`\"']([^`\"']+)[`\"']\)")
"""Finds the hosts of a rule that cannot be read."""


def read_traefik(draft: Draft, text: str) -> None:
    """Add the policies of a dynamic configuration, or of a file with objects.  Raises `TranslationError`."""
    if draft.findings.file.endswith(".toml"):
        _File(draft, read_toml(draft.findings, text)).add()
        return
    roots = read_documents(draft.findings, text)
    if any(root.get("apiVersion") is not None for root in roots):
        _add_objects(draft, text)
        return
    for root in roots:
        _File(draft, root).add()


class _Routes:
    """Routers of one file, with the middlewares and services that they name."""

    def __init__(self, draft: Draft, middlewares: dict[str, Part], balancers: Balancers) -> None:
        self.draft = draft
        self.middlewares = middlewares
        self.balancers = balancers
        self.common: dict[str, list[Part]] = {}
        """Middlewares of all routers of an entry point."""
        self.addresses: dict[str, Part] = {}
        """Address of each entry point that the file states."""
        self.listeners: dict[str, str] = {}
        """Listener of each entry point."""

    def add(self, name: str, rule: Part, names: list[Part], services: list[Part] | Part, entries: list[str],
            refused: tuple[int, str] | None) -> None:  # fmt: skip
        """Add the routes of a router."""
        draft = self.draft
        if isinstance(services, Part):
            resolved = self.balancers.by_name(services.text(), services)
        else:
            resolved = self.balancers.references(services)
        found_matches = matches(draft, rule)
        for entry in entries or list(self.addresses) or [DEFAULT_ENTRY]:
            listener = self._listener(entry, rule.line)
            keys: dict[str, Any] = {}
            access = Access(draft)
            is_route = True
            for each in [*self.common.get(entry, []), *names]:
                found = self._middleware(each, access, 0)
                is_route = is_route and found is not None
                keys = joined(keys, found or {})
            if refused is not None:
                access.refuse(*refused)
            if not is_route or not resolved.arms:
                if not resolved.arms:
                    rule.lose("its service is not translated, and so the whole route refuses")
                for match in found_matches:
                    draft.close(name, rule.line, "a redirect" if resolved.arms else "its service", listener, match)
                continue
            for match in found_matches:
                route: dict[str, Any] = {"listener": listener, **({"match": match} if match else {})}
                route["upstream"] = split(draft, resolved.arms)
                route |= merged(resolved.keys, keys)
                access.apply(route)
                draft.route(name, rule.line, route)
            if not found_matches and not access.is_open:
                draft.lose_guard(rule.line, f"router {name}", listener, HOSTS.findall(rule.text()))
        rule.take()

    def _listener(self, entry: str, line: int) -> str:
        if entry not in self.listeners:
            stated = self.addresses.get(entry)
            if stated is not None:
                address, line = stated.text().removesuffix("/tcp"), stated.line
                address = f"{EVERY_ADDRESS}{address}" if address.startswith(":") else address
            else:
                address = ENTRY_POINTS.get(entry, "0.0.0.0:8080")
                self.draft.findings.lose(line, f"entry point {entry}", f"is in another file; {address} is a guess")
            self.listeners[entry] = self.draft.listener_at(entry, address, line)
        return self.listeners[entry]

    def _middleware(self, part: Part, access: Access, depth: int) -> dict[str, Any] | None:
        """Return the policies of a middleware by its name; None if it answers in place of the service."""
        name = part.text("name") if part.children is not None else part.text()
        namespace = part.text("namespace") if part.children is not None else ""
        plain = name.removesuffix("@file").removesuffix("@kubernetescrd")
        found = self.middlewares.get(f"{namespace}/{plain}" if namespace else plain) or self.middlewares.get(plain)
        if found is None:
            part.lose(f"the middleware `{name}` is not in the file; {REFUSED}")
            access.refuse(part.line, f"middleware {name}")
            return {}
        return read_middleware(self.draft, found.get("spec") or found, self._middleware, access, depth)


class _File:
    """Dynamic configuration of the file provider."""

    def __init__(self, draft: Draft, root: Part) -> None:
        self.draft = draft
        self.root = root

    def add(self) -> None:
        """Add the routes and upstreams."""
        root = self.root
        middlewares = dict(root.members("http", "middlewares"))
        balancers = Balancers(
            self.draft, dict(root.members("http", "services")), dict(root.members("http", "serversTransports"))
        )
        routes = _Routes(self.draft, middlewares, balancers)
        for name, entry in root.members("entryPoints"):
            if (address := entry.get("address")) is not None and not address.text().endswith("/udp"):
                routes.addresses[name] = address
            routes.common[name] = entry.items("http", "middlewares")
        refused = _client_certificates(root)
        for name, router in root.members("http", "routers"):
            rule, service = router.get("rule"), router.get("service")
            if rule is None or service is None:
                router.lose("needs a rule and a service")
                continue
            _report_priority(router)
            tls = router.get("tls")
            if tls is not None:
                tls.lose("write `tls: {cert, key}` at the listener")
            entries = [each.text() for each in router.items("entryPoints")]
            options = tls.text("options") if tls is not None and tls.children is not None else ""
            routes.add(name, rule, router.items("middlewares"), service, entries,
                       refused.get(options or "default") if "tls" in dict(router.members()) else None)  # fmt: skip
        balancers.finish()
        root.report_unread()


def _report_priority(part: Part) -> None:
    if (priority := part.get("priority")) is not None:
        priority.lose("the most specific route wins here, whatever its priority")


def _client_certificates(root: Part) -> dict[str, tuple[int, str]]:
    """Return line and name of the TLS options that demand certificates of clients, by the options' name."""
    found: dict[str, tuple[int, str]] = {}
    for name, options in root.members("tls", "options"):
        client = options.get("clientAuth")
        if client is not None:
            client.lose(f"{REFUSED}; `tls.client_ca` at the listener demands certificates")
            found[name] = (client.line, "client certificates")
    return found


def _by_name(parts: list[Part]) -> dict[str, Part]:
    """Return objects by their namespace and name, and by a name alone that only one of them has."""
    names = [name_of(each) for each in parts]
    alone = {name: each for name, each in zip(names, parts, strict=True) if names.count(name) == 1}
    return alone | {f"{namespace_of(each)}/{name}": each for name, each in zip(names, parts, strict=True)}


def _add_objects(draft: Draft, text: str) -> None:
    objects = read_objects(draft, text, (*KINDS, "TLSOption"))
    services = Services(draft, objects["Service"])
    named = {name_of(each): each for each in objects["TraefikService"]}
    transports = {name_of(each): each for each in objects["ServersTransport"]}
    balancers = Balancers(draft, named, transports, services)
    routes = _Routes(draft, _by_name(objects["Middleware"]), balancers)
    refused: dict[str, tuple[int, str]] = {}
    for option in objects["TLSOption"]:
        if (client := option.get("spec", "clientAuth")) is not None:
            client.lose(f"{REFUSED}; `tls.client_ca` at the listener demands certificates")
            refused[name_of(option)] = (client.line, "client certificates")
    for each in objects["IngressRoute"]:
        entries = [entry.text() for entry in each.items("spec", "entryPoints")]
        tls = each.get("spec", "tls")
        options = each.text("spec", "tls", "options", "name") if tls is not None else ""
        if tls is not None:
            tls.lose("write `tls: {cert, key}` at the listener")
        for route in each.items("spec", "routes"):
            route.label("kind")
            _report_priority(route)
            rule = route.get("match")
            if rule is None:
                route.lose("needs a match")
                continue
            routes.add(name_of(each), rule, route.items("middlewares"), route.items("services"), entries,
                       refused.get(options or "default") if tls is not None else None)  # fmt: skip
    balancers.finish()
    report_unread(objects)
