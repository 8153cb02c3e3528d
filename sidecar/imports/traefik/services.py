"""Traefik's services and transports, as upstreams, splits, mirrors and fallbacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, NamedTuple

from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.fields import DURATION, LIMIT, NUMBER, Field, copy
from sidecar.imports.findings import NO_EQUAL
from sidecar.imports.kubernetes import Services
from sidecar.imports.source import Part
from sidecar.imports.units import share

URL: Final = re.compile(r"(https?|h2c)://(\[[^\]]+\]|[^/:]+)(?::([0-9]{1,5}))?(/.*)?")
MOST_DEPTH: Final = 10
"""Deepest nesting of services in services."""
STRATEGIES: Final = {"": "round_robin", "wrr": "round_robin", "RoundRobin": "round_robin", "p2c": "least_request"}
HEALTH: Final = (
    Field("path", "path"),
    Field("hostname", "host"),
    Field("interval", "interval", DURATION),
    Field("timeout", "timeout", DURATION),
)
TRANSPORT: Final = (
    Field("forwardingTimeouts.dialTimeout", "connect_timeout", DURATION),
    Field("forwardingTimeouts.responseHeaderTimeout", "policy.timeout.attempt", LIMIT,
          "bounds the whole attempt here, and the time to the head of the response there"),
    Field("forwardingTimeouts.idleConnTimeout", "connections.idle_timeout", DURATION),
    Field("maxIdleConnsPerHost", "", note="idle connections are closed after `connections.idle_timeout`"),
    Field("serverName", "tls.server_name"),
)  # fmt: skip
STICKY: Final = "write `sticky: {cookie: NAME}` for a split, and `hash: {header: NAME}` for endpoints"
ARMS_SCALE: Final = 10**4


class Resolved(NamedTuple):
    """Service as routes name it."""

    arms: list[tuple[int, str, int]]
    """Weight, upstream and line of each upstream; none if the service has none here."""
    keys: dict[str, Any]
    """Policies of the route: mirror, fallback and the host that upstreams get."""


class Balancers:
    """Services of a file, whose upstreams are added when the first router names them."""

    def __init__(
        self, draft: Draft, named: dict[str, Part], transports: dict[str, Part], services: Services | None = None
    ) -> None:
        self._draft = draft
        self._named = named
        self._transports = transports
        self._services = services
        self._resolved: dict[str, Resolved] = {}
        self._upstreams: dict[str, str] = {}

    def by_name(self, name: str, part: Part, depth: int = 0) -> Resolved:
        """Return a service by its name; `part` is what names it."""
        plain = name.removesuffix("@file").removesuffix("@kubernetescrd")
        found = self._named.get(plain)
        if found is None:
            part.lose(f"the service `{name}` is not in the file")
            return Resolved([], {})
        if plain not in self._resolved:
            if depth > MOST_DEPTH:
                raise part.fail(f"names services within each other, more than {MOST_DEPTH}; name fewer")
            self._resolved[plain] = self._service(plain, found, depth)
        return self._resolved[plain]

    def references(self, parts: list[Part]) -> Resolved:
        """Return the services of an IngressRoute, or those within a TraefikService."""
        return self._weighted(parts, self._reference, 0)

    def finish(self) -> None:
        """Add the services that no router names."""
        for name, part in self._named.items():
            self.by_name(name, part)

    # ----- kinds of services

    def _service(self, name: str, part: Part, depth: int) -> Resolved:
        ask: Callable[[Part, int], Resolved] = self._by_own_name
        if (spec := part.get("spec")) is not None:
            part, ask = spec, self._reference
        if (balancer := part.get("loadBalancer")) is not None:
            return self._balancer(name, balancer)
        if (weighted := part.get("weighted")) is not None:
            if (sticky := weighted.get("sticky")) is not None:
                sticky.lose(STICKY)
            return self._weighted(weighted.items("services"), ask, depth + 1)
        if (mirroring := part.get("mirroring")) is not None:
            return self._mirroring(mirroring, ask, depth + 1)
        if (failover := part.get("failover")) is not None:
            return self._failover(failover, ask, depth + 1)
        part.lose("only `loadBalancer`, `weighted`, `mirroring` and `failover` have an equal here")
        return Resolved([], {})

    def _by_own_name(self, part: Part, depth: int) -> Resolved:
        key = "name" if part.children is not None and part.get("name") is not None else "service"
        return self.by_name(part.text(key) if part.children is not None else part.text(), part, depth)

    def _reference(self, part: Part, depth: int) -> Resolved:
        """Return a service of Kubernetes, or a TraefikService, as an object names it."""
        if part.text("kind") == "TraefikService":
            return self.by_name(part.text("name"), part, depth)
        name, namespace, port = part.text("name"), part.text("namespace"), part.text("port")
        key = "-".join(each for each in (name, namespace, port) if each)
        if self._services is None or not name:
            part.lose("names no service")
            return Resolved([], {})
        part.label("kind", "nativeLB", "responseForwarding")
        if key not in self._upstreams:
            scheme = part.text("scheme") or ("https" if port in ("443", "https") else "http")
            keys = self._services.endpoints(name, namespace, port, part.line, "https" if scheme == "https" else "http")
            if scheme == "h2c":
                keys["protocol"] = self._draft.value("http2", part.line)
            self._upstreams[key] = self._draft.upstream(key, keys | self._policies(part, scheme == "https"))
        return Resolved([(1, self._upstreams[key], part.line)], {})

    def _balancer(self, name: str, part: Part) -> Resolved:
        draft = self._draft
        endpoints: list[tuple[Value, int | None]] = []
        keys: dict[str, Any] = {}
        host = ""
        for each in part.items("servers"):
            url = each.get("url")
            match = URL.fullmatch(url.text()) if url is not None else None
            if match is None or url is None:
                each.lose(f"`{each.text('url')}` is no URL such as http://host:port")
                continue
            scheme, host, port, path = match.groups()
            if scheme == "h2c":
                scheme = "http"
                keys["protocol"] = draft.value("http2", each.line)
            if (path or "/") != "/":
                each.differ(f"the path {path} of an address has no equal here; write `transform.request.path_prefix`")
            address = f"{scheme}://{host}:{port or (443 if scheme == 'https' else 80)}"
            endpoints.append((draft.value(address, url.line), each.number("weight")))
        if not endpoints:
            part.lose("has no servers in the file")
            return Resolved([], {})
        if any(weight is not None for _, weight in endpoints):
            keys["endpoints"] = [
                {"url": one, "weight": Value(weight or 1, one.comment, one.line)} for one, weight in endpoints
            ]
        else:
            keys["endpoints"] = [one for one, _ in endpoints]
        policies = self._policies(part, any(url.value.startswith("https:") for url, _ in endpoints))
        of_route: dict[str, Any] = {}
        passes = part.get("passHostHeader")
        if passes is not None and passes.text().lower() == "false":
            put(of_route, "transform.request.host", draft.value(host, passes.line))
        upstream = draft.upstream(name, keys | policies)
        return Resolved([(1, upstream, part.line)], of_route)

    def _policies(self, part: Part, is_tls: bool) -> dict[str, Any]:
        """Return the policies of a balancer of servers; TLS settings of a transport are for servers with `https`."""
        draft = self._draft
        keys: dict[str, Any] = {}
        strategy = part.get("strategy")
        if strategy is not None and strategy.text() not in STRATEGIES:
            strategy.lose(f"`{strategy.text()}` {NO_EQUAL}")
        comment = strategy.place if strategy is not None else "Traefik's default"
        keys["load_balancing"] = Value(
            STRATEGIES.get(strategy.text() if strategy is not None else "", "round_robin"), comment
        )
        keys["connect_timeout"] = Value("30s", "Traefik's default")
        if (sticky := part.get("sticky")) is not None:
            sticky.lose(STICKY)
        if (health := part.get("healthCheck")) is not None:
            self._add_health(health, keys)
        if (passive := part.get("passiveHealthCheck")) is not None:
            copy(draft, passive, keys, (
                Field("maxFailedAttempts", "ejection.consecutive_failures", NUMBER),
                Field("failureWindow", "ejection.eject_for", DURATION, "is the length of the ejection too here"),
            ))  # fmt: skip
        transport = part.get("serversTransport")
        if transport is not None:
            found = self._transports.get(transport.text().removesuffix("@file"))
            if found is None:
                transport.lose(f"the transport `{transport.text()}` is not in the file")
            else:
                self._add_transport(found.get("spec") or found, keys)
        if not is_tls and keys.pop("tls", None) is not None:
            part.findings.lose(part.line, part.name, "has TLS settings of a transport, but no server with https")
        return keys

    def _add_health(self, part: Part, keys: dict[str, Any]) -> None:
        draft = self._draft
        block: dict[str, Any] = {}
        copy(draft, part, block, HEALTH, unit="s")
        if part.text("mode") == "grpc":
            block.pop("path", None)
            block["grpc"] = draft.value("", part.line)
        elif "path" not in block:
            part.lose("has no path")
            return
        if (status := part.get("status")) is not None:
            block["expect"] = draft.value([status.number()], status.line)
        else:
            block["expect"] = Value(["2xx", "3xx"], "Traefik's default")
        block["unhealthy_after"] = Value(1, "Traefik has no threshold")
        block["healthy_after"] = Value(1, "Traefik has no threshold")
        keys["health_check"] = block

    def _add_transport(self, part: Part, keys: dict[str, Any]) -> None:
        draft = self._draft
        if part.get("forwardingTimeouts", "responseHeaderTimeout") is not None:
            put(keys, "policy.timeout.request", Value("off", "Traefik has no limit for the whole request"))
        copy(draft, part, keys, TRANSPORT, unit="s")
        insecure = part.get("insecureSkipVerify")
        if insecure is not None and insecure.is_true():
            put(keys, "tls.verify", draft.value(False, insecure.line))
        for each in part.items("rootCAs")[:1]:
            put(keys, "tls.ca", draft.value(each.text(), each.line))
        for each in part.items("certificates")[:1]:
            for source, target in (("certFile", "cert"), ("keyFile", "key")):
                copy(draft, each, keys, (Field(source, f"tls.{target}"),))

    def _weighted(self, parts: list[Part], ask: Callable[[Part, int], Resolved], depth: int) -> Resolved:
        arms: list[tuple[Fraction, str, int]] = []
        keys: dict[str, Any] = {}
        for each in parts:
            weight = each.number("weight")
            found = ask(each, depth)
            keys |= found.keys
            total = sum(arm[0] for arm in found.arms)
            for size, name, _ in found.arms:
                arms.append((Fraction(1 if weight is None else weight) * size / total, name, each.line))
        scale = 1 if all(weight.denominator == 1 for weight, _, _ in arms) else ARMS_SCALE
        return Resolved([(round(weight * scale), name, line) for weight, name, line in arms if weight], keys)

    def _mirroring(self, part: Part, ask: Callable[[Part, int], Resolved], depth: int) -> Resolved:
        draft = self._draft
        main = ask(part, depth)
        keys = dict(main.keys)
        mirrors = part.items("mirrors")
        for each in mirrors[1:]:
            each.lose("a route has one mirror here")
        for each in mirrors[:1]:
            found = ask(each, depth)
            if not found.arms:
                continue
            keys["mirror"] = {
                "upstream": draft.value(found.arms[0][1], each.line),
                "share": draft.value(share(Fraction(min(100, each.number("percent") or 0), 100)), each.line),
                "writes": Value(True, "Traefik copies every method"),
            }
        if (size := part.get("maxBodySize")) is not None and size.text() != "-1":
            put(keys, "mirror.max_body", draft.value(f"{size.number()}B", size.line))
        return Resolved(main.arms, keys)

    def _of_failover(self, part: Part, key: str, ask: Callable[[Part, int], Resolved], depth: int) -> Resolved:
        found = part.get(key)
        return ask(found, depth) if found is not None and found.children is not None else self.by_name(
            part.text(key), part, depth)  # fmt: skip

    def _failover(self, part: Part, ask: Callable[[Part, int], Resolved], depth: int) -> Resolved:
        main, other = (self._of_failover(part, key, ask, depth) for key in ("service", "fallback"))
        keys = dict(main.keys)
        if other.arms:
            keys["fallback"] = [{"upstream": self._draft.value(other.arms[0][1], part.line)}]
            part.differ("is asked after a failure here, and there while health checks of the first service fail")
        return Resolved(main.arms, keys)
