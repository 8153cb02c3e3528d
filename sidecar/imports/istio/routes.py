"""Istio's gateways and virtual services, as listeners and routes.

Where Istio differs: routes of the mesh have two retries unless they state others; `attempts` counts retries; the first
route that matches wins.  Requests of the mesh (`gateways: [mesh]`) come through the listener `outbound`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sidecar.imports import edits
from sidecar.imports.access.protection import REFUSED
from sidecar.imports.access.rules import Access
from sidecar.imports.conditions import Conditions, common_host, full
from sidecar.imports.draft import Draft, Value, plain, put, split
from sidecar.imports.fields import DURATION, LIMIT, Field, copy, percent_of
from sidecar.imports.first_match import Ordered, is_reached
from sidecar.imports.istio import access
from sidecar.imports.istio.conditions import AHEAD, GATEWAY
from sidecar.imports.istio.destinations import Destinations, service_of
from sidecar.imports.kubernetes import Services, name_of, namespace_of, read_objects, report_unread
from sidecar.imports.retries import ALL_METHODS, bounded, outcomes, repeats_every_method
from sidecar.imports.source import Part

MESH: Final = "mesh"
EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104
HTTP: Final = ("HTTP", "HTTP2", "HTTPS", "GRPC", "GRPC-WEB", "")
KINDS: Final = ("VirtualService", "DestinationRule", "ServiceEntry", "Gateway", *access.KINDS)
DEFAULT_RETRY_ON: Final = "connect-failure,refused-stream,unavailable,cancelled"
TIMES: Final = (
    Field("timeout", "timeout.request", LIMIT),
    Field("retries.perTryTimeout", "timeout.attempt", LIMIT),
    Field("retries.backoff", "retry.backoff.base", DURATION),
    Field("retries.retryRemoteLocalities", ""),
)
CORS: Final = (("allowMethods", "methods"), ("allowHeaders", "headers"), ("exposeHeaders", "expose"))
TEXTS: Final = ("exact", "prefix", "regex")
"""Kinds of a condition on a text; without one of them the field must be there."""
CONDITIONS: Final = {
    "sourceLabels": "the workload of a caller", "sourceNamespace": "the namespace of a caller",
    "gateways": "the gateway", "ignoreUriCase": "a path in any case", "scheme": "the scheme",
}  # fmt: skip
"""Conditions of a match without an equal here."""
NO_PLACE: Final = "`{0}` has no equal here; the whole route is left out"


class Server(NamedTuple):
    """Server of a gateway."""

    gateway: str
    """Name of the gateway; empty for the mesh."""
    listener: str
    hosts: list[str]
    refused: tuple[int, str] | None
    """Line and name of client certificates that are demanded and not translated."""


def read_istio(draft: Draft, text: str) -> None:
    """Add the policies of a file with Istio's objects.  Raises `TranslationError`."""
    objects = read_objects(draft, text, KINDS)
    draft.is_ordered = True
    policies = access.Policies(draft, objects)
    services = Services(draft, objects["Service"])
    destinations = Destinations(draft, services, objects["DestinationRule"], objects["ServiceEntry"])
    gateways: dict[str, list[Server]] = {}
    for each in objects["Gateway"]:
        name = name_of(each)
        gateways[name] = [server for part in each.items("spec", "servers") for server in _server(draft, name, part)]
        selector = each.get("spec", "selector")
        if selector is not None:
            selector.take()
    hosts: set[str] = set()
    for each in objects["VirtualService"]:
        hosts.update(_Virtual(draft, destinations, gateways, policies, each).add())
    for host, upstream, line in destinations.finish():
        if host in hosts:
            continue
        keys: dict[str, Any] = {"listener": _outbound(draft, line), "match": {"host": draft.value(host, line)},
                                "upstream": draft.value(upstream, line)}  # fmt: skip
        rules = Access(draft)
        policies.add(rules, policies.service(*service_of(host)), AHEAD)
        rules.apply(keys)
        draft.route(host.replace("*", "any"), line, keys)
    policies.add_inbound()
    report_unread(objects)


def _outbound(draft: Draft, line: int) -> str:
    if "outbound" not in draft.listeners:
        draft.listener("outbound", line)
        draft.listeners["outbound"]["address"] = Value("127.0.0.1:15001", "requests of the service beside the sidecar")
    return "outbound"


def _server(draft: Draft, gateway: str, part: Part) -> Iterator[Server]:
    """Yield the server of a gateway as a listener; none for one that has no routes here."""
    port = part.get("port")
    protocol = part.text("port", "protocol").upper()
    number = part.text("port", "number")
    hosts = [each.text().rpartition("/")[2] for each in part.items("hosts")]
    part.label("name")
    if port is None or protocol not in HTTP:
        part.lose(f"`{protocol}` has no equal here; only servers of HTTP are translated")
        return
    port.label("name")
    tls = part.get("tls")
    if tls is not None and (redirect := tls.get("httpsRedirect")) is not None and redirect.is_true():
        redirect.lose("redirects all requests there; the server is left out")
        return
    if tls is not None and tls.text("mode") in ("PASSTHROUGH", "AUTO_PASSTHROUGH"):
        part.lose("passes TLS through; `capture.server_names` names upstreams of TLS")
        return
    bind = part.text("bind") or EVERY_ADDRESS
    name = draft.listener_at(f"port-{number}", f"{bind}:{number}", port.line)
    yield Server(gateway, name, hosts, None if tls is None else _tls(draft, tls, draft.listeners[name]))


def _tls(draft: Draft, tls: Part, listener: dict[str, Any]) -> tuple[int, str] | None:
    """Add the certificates of a server; return line and name of what keeps clients out and is not translated."""
    mode = tls.text("mode")
    copy(draft, tls, listener, (Field("serverCertificate", "tls.cert"), Field("privateKey", "tls.key")))
    if (credential := tls.get("credentialName")) is not None:
        credential.lose("mount the Secret, and name its files in the listener's `tls: {cert, key}`")
    if mode not in ("MUTUAL", "OPTIONAL_MUTUAL"):
        return None
    if mode == "MUTUAL" and tls.get("caCertificates") is not None and "tls" in listener:
        copy(draft, tls, listener, (Field("caCertificates", "tls.client_ca"),))
        return None
    tls.findings.lose(tls.line, "tls.mode", f"`{mode}`: {REFUSED}")
    return tls.line, "client certificates"


class _Virtual:
    """Virtual service under translation."""

    def __init__(
        self,
        draft: Draft,
        destinations: Destinations,
        gateways: dict[str, list[Server]],
        policies: access.Policies,
        part: Part,
    ) -> None:
        self.draft = draft
        self.policies = policies
        self.destinations = destinations
        self.gateways = gateways
        self.part = part
        self.namespace = namespace_of(part)

    def add(self) -> list[str]:
        """Add the routes; return the hosts."""
        hosts = [each.text() for each in self.part.items("spec", "hosts")]
        for kind in ("tls", "tcp"):
            for each in self.part.items("spec", kind):
                each.lose("is no route of HTTP; `capture.server_names` names upstreams of TLS")
        routes = self.part.items("spec", "http")
        names = [each.text() for each in self.part.items("spec", "gateways")] or [MESH]
        for name in names:
            for server in self._servers(name):
                for host in self._hosts(hosts, server.hosts):
                    earlier: list[Ordered] = []
                    for route in routes:
                        self._add_route(route, server, host, earlier)
        if MESH in names:
            for host in (each for each in hosts if "." not in each and each != "*" and routes):
                self.part.findings.differ(
                    self.part.line, name_of(self.part), f"clients call the service `{host}` by this name alone here"
                )
        return hosts

    def _servers(self, gateway: str) -> list[Server]:
        if gateway == MESH:
            return [Server("", _outbound(self.draft, self.part.line), ["*"], None)]
        name = gateway.rpartition("/")[2]
        if name not in self.gateways:
            listener = self.draft.listener_at(name, "0.0.0.0:8080", self.part.line)
            self.gateways[name] = [Server(name, listener, ["*"], None)]
            self.part.findings.lose(self.part.line, f"gateway {name}", "is not in the file; write its address and TLS")
        return self.gateways[name]

    def _hosts(self, hosts: list[str], of_server: list[str]) -> list[str]:
        """Return the hosts that both a virtual service and a server name."""
        found = [both for host in hosts for other in of_server or ["*"] if (both := common_host(host, other))]
        if not found:
            self.part.findings.lose(self.part.line, f"hosts {', '.join(hosts)}", "are none of the gateway's")
        return list(dict.fromkeys(found))

    def _add_route(self, part: Part, server: Server, host: str, earlier: list[Ordered]) -> None:
        answers = next((kind for kind in ("redirect", "directResponse", "delegate") if part.get(kind) is not None), "")
        arms = [self._arm(each) for each in part.items("route")] if not answers else []
        arms_here = [each for each in arms if each[0]] or arms[:1]
        matches: list[Part | None] = [*part.items("match")]
        for match in matches or [None]:
            rules = Access(self.draft)
            if server.refused is not None:
                rules.refuse(*server.refused)
            found = self._match(match, host, server.listener)
            if found is None:
                self._add_rules(rules, part, server, {})
                if not rules.is_open:
                    self.draft.lose_guard(part.line, part.name, server.listener, [] if host == "*" else [host])
                continue
            line = part.line if match is None else match.line
            order = Ordered(line, part.name, plain(found))
            reached = is_reached(part.findings, earlier, order)
            earlier.append(order)
            name = part.text("name") or name_of(self.part)
            if reached and not arms_here:
                self.draft.close(name, line, answers or "no destination", server.listener, found)
            if not reached or not arms_here:
                part.take()
                continue
            keys: dict[str, Any] = {"listener": server.listener}
            if found:
                keys["match"] = found
            keys["upstream"] = split(self.draft, arms_here)
            keys |= self._policies(part, found)
            self._add_rules(rules, part, server, keys)
            rules.apply(keys)
            self.draft.route(name, line, keys)
        if answers:
            part.lose(f"is no route to a service ({answers}); all its requests are refused, or get 404")

    def _add_rules(self, rules: Access, part: Part, server: Server, keys: dict[str, Any]) -> None:
        """Add the access rules of the gateway, and those of the workloads of a route."""
        if not self.policies.are_there:
            return
        if server.gateway:
            self.policies.add(rules, self.policies.gateway(server.gateway), GATEWAY)
        for each in part.items("route"):
            service, namespace = service_of(each.text("destination", "host"))
            if service:
                workload = self.policies.service(service, namespace or self.namespace)
                self.policies.add(rules, workload, AHEAD, is_changed="transform" in keys)

    def _arm(self, part: Part) -> tuple[int, str, int]:
        """Return weight, upstream and line of a destination."""
        host, subset = part.text("destination", "host"), part.text("destination", "subset")
        port = part.text("destination", "port", "number")
        if (headers := part.get("headers")) is not None:
            headers.lose("operations for one destination of a split have no equal here; write a route for each")
        weight = part.number("weight")
        name = self.destinations.upstream(host, subset, port, self.namespace, part.line)
        return 1 if weight is None else weight, name, part.line

    def _match(self, part: Part | None, host: str, listener: str) -> dict[str, Any] | None:
        """Return a match; None if a condition cannot be translated."""
        found = Conditions(self.draft)
        found.host(host, self.part.line)
        for key, each in part.members() if part is not None else []:
            if key in ("name", "statPrefix"):
                continue
            if key == "uri":
                kind, value = _text(each)
                if note := found.path(kind, value.text(), value.line):
                    each.differ(note)
            elif key == "method" and (exact := each.get("exact")) is not None:
                found.method(exact.text(), line=exact.line)
            elif key in ("headers", "withoutHeaders"):
                for name, value in each.members():
                    kind, test = _text(value)
                    pattern = full(test.text()) if kind == "regex" else test.text() if kind != "present" else ""
                    found.header(name, kind, pattern, value.line, negated=key == "withoutHeaders")
            elif key == "queryParams":
                for name, value in each.members():
                    kind, test = _text(value)
                    pattern = full(test.text()) if kind == "regex" else test.text() if kind != "present" else ""
                    found.parameter(name, kind, pattern, value.line)
            elif key == "authority" and (exact := each.get("exact")) is not None:
                found.host(exact.text(), exact.line)
            elif key == "port":
                if not str(self.draft.listeners[listener]["address"].value).endswith(f":{each.text()}"):
                    each.lose("the listener has another port; the route is left out there")
                    return None
            else:
                each.findings.lose(each.line, each.name, NO_PLACE.format(CONDITIONS.get(key, key)))
                each.take()
                return None
        return found.match()

    def _policies(self, part: Part, match: dict[str, Any]) -> dict[str, Any]:
        draft = self.draft
        keys: dict[str, Any] = self._retry(part)
        put(keys, "timeout.request", Value("off", "Istio has no limit unless one is stated"))
        copy(draft, part, keys, TIMES)
        if keys.get("retry") is not None and isinstance(keys["retry"], dict) and "on" not in keys["retry"]:
            del keys["retry"]
        self._add_rewrite(part, match, keys)
        for side in ("request", "response"):
            for how in ("set", "add"):
                for name, value in part.members("headers", side, how):
                    if "%" in value.text().replace("%%", ""):
                        value.lose("has a command operator; write a template such as {client.address}")
                        if (side, how) == ("request", "set"):  # no client may write it itself
                            edits.remove_headers(draft, keys, side, [name], value.line)
                    else:
                        edits.header(draft, keys, side, how, name, value.text().replace("%%", "%"), value.line)
            removed = part.items("headers", side, "remove")
            if removed:
                edits.remove_headers(draft, keys, side, [each.text() for each in removed], removed[0].line)
        self._add_fault(part, keys)
        self._add_mirror(part, keys)
        if (policy := part.get("corsPolicy")) is not None:
            self._add_cors(policy, keys)
        return keys

    def _add_rewrite(self, part: Part, match: dict[str, Any], keys: dict[str, Any]) -> None:
        draft = self.draft
        if (uri := part.get("rewrite", "uri")) is not None:
            if "path" in match:
                edits.rewrite_path(draft, keys, uri.text(), uri.line)
            elif "path_regex" in match:
                uri.lose("a path beside a regular expression has no equal here")
            else:
                prefix = match["path_prefix"].value if "path_prefix" in match else ""
                edits.rewrite_prefix(draft, keys, prefix, uri.text(), uri.line)
        if (authority := part.get("rewrite", "authority")) is not None:
            edits.rewrite_host(draft, keys, authority.text(), authority.line)
        if (regex := part.get("rewrite", "uriRegexRewrite")) is not None:
            note = edits.rewrite_pattern(draft, keys, regex.text("match"), regex.text("rewrite"), regex.line)
            regex.differ(note) if note else regex.take()

    def _retry(self, part: Part) -> dict[str, Any]:
        """Return the retries of a route; `attempts` counts retries."""
        draft = self.draft
        retries = part.number("retries", "attempts")
        stated = part.get("retries", "attempts")
        words = part.get("retries", "retryOn")
        comment, line = "Istio's default", 0
        if stated is not None:
            comment, line = stated.place, stated.line
        if retries == 0:
            return {"retry": Value("off", comment, line)}
        on = outcomes(words.text() if words is not None else DEFAULT_RETRY_ON, words, [])
        if not on:
            return {}
        retry = {
            "max_attempts": Value(bounded(stated, (2 if retries is None else retries) + 1), comment, line),
            "on": Value(on, "Istio's default") if words is None else draft.value(on, words.line),
            "methods": Value(ALL_METHODS, repeats_every_method("Istio")),
        }
        return {"retry": retry}

    def _add_fault(self, part: Part, keys: dict[str, Any]) -> None:
        for kind, target, value_key in (("delay", "latency", "fixedDelay"), ("abort", "abort", "httpStatus")):
            fault = part.get("fault", kind)
            if fault is None:
                continue
            value = fault.get(value_key)
            size = fault.get("percentage", "value") or fault.get("percent")
            if value is None or size is None:
                fault.lose("only a fixed delay or a status, with a percentage, has an equal here")
                continue
            put(keys, f"fault.{target}.share", self.draft.value(percent_of(size), size.line))
            if kind == "delay":
                copy(self.draft, fault, keys, (Field(value_key, "fault.latency.fixed", DURATION),))
            else:
                put(keys, "fault.abort.status", self.draft.value(value.number(), value.line))
            fault.differ("holds for each attempt here, and for each request there")

    def _add_mirror(self, part: Part, keys: dict[str, Any]) -> None:
        mirrors = part.items("mirrors")
        first = part.get("mirror") or next(iter(mirrors), None)
        for each in mirrors[1:] if part.get("mirror") is None else mirrors:
            each.lose("a route has one mirror here")
        if first is None:
            return
        target = first.get("destination") or first
        name = self.destinations.upstream(
            target.text("host"), target.text("subset"), target.text("port", "number"), self.namespace, target.line
        )
        put(keys, "mirror.upstream", self.draft.value(name, target.line))
        put(keys, "mirror.writes", Value(True, "Istio copies every method"))
        size = (first.get("percentage", "value") or part.get("mirrorPercentage", "value") or part.get("mirrorPercent")
                or part.get("mirror_percent"))  # fmt: skip
        if size is not None:
            put(keys, "mirror.share", self.draft.value(percent_of(size), size.line))

    def _add_cors(self, part: Part, keys: dict[str, Any]) -> None:
        draft = self.draft
        origins = [each.text() for each in part.items("allowOrigin")]
        for each in part.items("allowOrigins"):
            if (exact := each.get("exact")) is not None:
                origins.append(exact.text())
            elif each.get("regex") is not None and each.text("regex") == ".*":
                origins.append("*")
            else:
                each.lose("only exact origins are translated; write `https://*.shop.example` for the labels of a host")
        if not origins:
            part.lose("has no origin that is translated; the whole block is left out")
            return
        put(keys, "cors.origins", draft.value(origins, part.line))
        for source, target in CORS:
            words = part.items(source)
            if words:
                put(keys, f"cors.{target}", draft.value([each.text() for each in words], words[0].line))
        copy(draft, part, keys, (Field("maxAge", "cors.max_age", DURATION),))
        if (credentials := part.get("allowCredentials")) is not None:
            put(keys, "cors.credentials", draft.value(credentials.is_true(), credentials.line))


def _text(part: Part) -> tuple[str, Part]:
    """Return the kind and the value of a condition on a text; `present` for one without a value."""
    for kind in TEXTS:
        if part.children is not None and (found := part.get(kind)) is not None:
            return kind, found
    return "present", part
