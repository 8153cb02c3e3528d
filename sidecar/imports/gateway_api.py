"""Gateway API (gateway.networking.k8s.io): gateways as listeners, HTTPRoute and GRPCRoute as routes.

As here, the most specific match wins.  Where it differs: `attempts` counts retries; a service that a GRPCRoute names is
called by HTTP/2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, NamedTuple

from sidecar.imports import edits
from sidecar.imports.access.protection import REFUSED, keeps_out
from sidecar.imports.access.rules import Access
from sidecar.imports.access.servers import ask
from sidecar.imports.conditions import GRPC, Conditions, common_host, full
from sidecar.imports.draft import Draft, Value, merged, plain, put, split
from sidecar.imports.fields import DURATION, LIMIT, Field, copy
from sidecar.imports.kubernetes import Services, name_of, namespace_of, read_objects, report_unread
from sidecar.imports.retries import bounded
from sidecar.imports.source import Part
from sidecar.imports.units import share

KINDS: Final = ("Gateway", "HTTPRoute", "GRPCRoute", "BackendTLSPolicy")
ROUTES: Final = ("HTTPRoute", "GRPCRoute")
PATHS: Final = {"": "segments", "PathPrefix": "segments", "Exact": "exact", "RegularExpression": "regex"}
TESTS: Final = {"": "exact", "Exact": "exact", "RegularExpression": "regex"}
TIMES: Final = (
    Field("timeouts.request", "timeout.request", LIMIT),
    Field("timeouts.backendRequest", "timeout.attempt", LIMIT),
    Field("sessionPersistence", "", note="write `sticky: {cookie: NAME}` for a split, and `hash: {header: NAME}`"),
)
CORS: Final = (
    ("allowOrigins", "origins"),
    ("allowMethods", "methods"),
    ("allowHeaders", "headers"),
    ("exposeHeaders", "expose"),
)


class Listener(NamedTuple):
    """Listener of a gateway."""

    gateway: str
    section: str
    port: str
    host: str
    name: str
    """Name of the listener here."""
    refused: tuple[int, str] | None
    """Line and name of client certificates that are demanded and not translated."""


def read_gateway_api(draft: Draft, text: str) -> None:
    """Add the policies of a file with objects of Gateway API.  Raises `TranslationError`."""
    objects = read_objects(draft, text, KINDS)
    reader = _Reader(draft, objects)
    for kind in ROUTES:
        for each in objects[kind]:
            reader.add_route(kind, each)
    report_unread(objects)


class _Reader:
    """File under translation."""

    def __init__(self, draft: Draft, objects: dict[str, list[Part]]) -> None:
        self.draft = draft
        self.services = Services(draft, objects["Service"])
        self.tls: dict[str, Part] = {}
        self.upstreams: dict[str, str] = {}
        self.listeners = [found for each in objects["Gateway"] for found in self._gateway(each)]
        for each in objects["BackendTLSPolicy"]:
            for target in each.items("spec", "targetRefs"):
                target.label("group", "kind")
                self.tls[target.text("name")] = each

    # ----- gateways

    def _gateway(self, part: Part) -> list[Listener]:
        found: list[Listener] = []
        name = part.get("spec", "gatewayClassName")
        if name is not None:
            name.take()
        for each in part.items("spec", "listeners"):
            protocol, port = each.text("protocol").upper(), each.text("port")
            if protocol not in ("HTTP", "HTTPS"):
                each.lose(f"`{protocol}` has no equal here; only listeners of HTTP and HTTPS are translated")
                continue
            if (routes := each.get("allowedRoutes")) is not None:
                routes.lose("every route of the file is translated, whatever its namespace")
            refused = None
            if (certificates := each.get("tls", "certificateRefs")) is not None:
                certificates.lose("mount the Secret, and name its files in the listener's `tls: {cert, key}`")
            each.label("tls")
            each.text("tls", "mode")
            validation = each.get("tls", "frontendValidation") or part.get("spec", "tls", "frontend")
            if validation is not None and protocol == "HTTPS":
                validation.lose(f"{REFUSED}; `tls.client_ca` at the listener demands certificates")
                refused = (validation.line, "client certificates")
            listener = self.draft.listener_at(f"port-{port}", f"0.0.0.0:{port}", each.line)
            section, host = each.text("name"), each.text("hostname") or "*"
            found.append(Listener(name_of(part), section, port, host, listener, refused))
        return found

    def _parents(self, part: Part) -> list[Listener]:
        """Return the listeners of a route."""
        found: list[Listener] = []
        parents = part.items("spec", "parentRefs")
        if not parents:
            part.findings.lose(part.line, name_of(part), "names no gateway; write the listener's address and TLS")
            return [Listener("", "", "", "*", self.draft.listener_at("inbound", "0.0.0.0:8080", part.line), None)]
        for each in parents:
            each.label("group", "namespace")
            name, section, port = each.text("name"), each.text("sectionName"), each.text("port")
            if each.text("kind") == "Service":
                listener = self.draft.listener_at("outbound", "127.0.0.1:15001", each.line)
                found.append(Listener(name, "", "", name, listener, None))
                continue
            known = [one for one in self.listeners if one.gateway == name]
            if not known:
                self.draft.findings.lose(each.line, f"gateway {name}", "is not in the file; write its address and TLS")
                listener = self.draft.listener_at(f"gateway-{name}", "0.0.0.0:8080", each.line)
                known = [Listener(name, section, port, "*", listener, None)]
                self.listeners += known
            found += [one for one in known if section in ("", one.section) and port in ("", one.port)]
        if not found:
            part.findings.lose(part.line, name_of(part), "has no listener of HTTP in the file; the route is left out")
        return found

    # ----- routes

    def add_route(self, kind: str, part: Part) -> None:
        """Add the routes of an HTTPRoute or a GRPCRoute."""
        hosts = [each.text() for each in part.items("spec", "hostnames")] or ["*"]
        seen: set[str] = set()
        parents = self._parents(part)
        rules = part.items("spec", "rules")
        if not parents:
            part.take()
            return
        for at, rule in enumerate(rules):
            self._add_rule(
                kind, part, rule, f"{name_of(part)}-{at + 1}" if len(rules) > 1 else name_of(part), parents, hosts, seen
            )

    def _add_rule(
        self, kind: str, part: Part, rule: Part, name: str, parents: list[Listener], hosts: list[str], seen: set[str]
    ) -> None:
        draft = self.draft
        is_redirect = any(each.text("type") == "RequestRedirect" for each in rule.items("filters"))
        arms = [] if is_redirect else self._arms(kind, part, rule)
        matches: list[Part | None] = [*rule.items("matches")]
        for listener in parents:
            common = [both for host in hosts if (both := common_host(host, listener.host))]
            for host in dict.fromkeys(common):
                for match in matches or [None]:
                    access = Access(draft)
                    found = self._match(kind, match, host, part.line)
                    line = rule.line if match is None else match.line
                    if found is None or not arms:
                        if found is not None:
                            what = "a redirect" if is_redirect else "its service"
                            draft.close(name, line, what, listener.name, found)
                        elif any(self._keeps_out(each) for each in rule.items("filters")) or listener.refused:
                            draft.lose_guard(line, name, listener.name, [] if host == "*" else [host])
                        continue
                    key = f"{listener.name} {plain(found)}"
                    if key in seen:
                        rule.findings.lose(rule.line, rule.name, "takes the requests of an earlier rule, which wins")
                        continue
                    seen.add(key)
                    keys: dict[str, Any] = {"listener": listener.name, **({"match": found} if found else {})}
                    keys["upstream"] = split(draft, arms)
                    keys = merged(keys, self._policies(part, rule, found, access))
                    if listener.refused is not None:
                        access.refuse(*listener.refused)
                    access.apply(keys)
                    draft.route(rule.text("name") or name, line, keys)
        if is_redirect:
            rule.lose("answers with a redirect there; all its requests are refused, or get 404")
        elif not arms:
            rule.lose("has no service that is translated; all its requests are refused, or get 404")

    def _arms(self, kind: str, part: Part, rule: Part) -> list[tuple[int, str, int]]:
        arms: list[tuple[int, str, int]] = []
        for each in rule.items("backendRefs"):
            weight = each.number("weight")
            name = self._upstream(kind, part, each)
            for one in each.items("filters"):
                one.lose("operations for one service of a split have no equal here; write a route for each")
                if self._keeps_out(one):
                    return []
            if name is not None and weight != 0:
                arms.append((1 if weight is None else weight, name, each.line))
            elif name is None and weight != 0:
                return []
        return arms

    def _upstream(self, kind: str, part: Part, ref: Part) -> str | None:
        """Return the name of the upstream of a reference; None for one that is no service, which is reported."""
        draft = self.draft
        name, namespace, port = ref.text("name"), ref.text("namespace") or namespace_of(part), ref.text("port")
        ref.label("group")
        if ref.text("kind") not in ("", "Service"):
            ref.lose(f"a {ref.text('kind')} has no equal here; only services are translated")
            return None
        key = "-".join(
            each for each in (name, ref.text("namespace"), port, "grpc" if kind == "GRPCRoute" else "") if each
        )
        if key in self.upstreams:
            return self.upstreams[key]
        keys: dict[str, Any] = {}
        policy = self.tls.get(name)
        if policy is not None:
            copy(draft, policy, keys, (Field("spec.validation.hostname", "tls.server_name"),))
            if (well_known := policy.get("spec", "validation", "wellKnownCACertificates")) is not None:
                well_known.take()
        keys |= self.services.endpoints(name, namespace, port, ref.line, "https" if policy is not None else "http")
        if kind == "GRPCRoute":
            keys["protocol"] = Value("http2", "gRPC")
        self.upstreams[key] = draft.upstream(key, keys)
        return self.upstreams[key]

    def _match(self, kind: str, part: Part | None, host: str, line: int) -> dict[str, Any] | None:
        """Return a match; None if a condition cannot be translated, which is reported."""
        found = Conditions(self.draft)
        found.host(host, line)
        if part is not None and (path := part.get("path")) is not None:
            how = PATHS.get(path.text("type"))
            if how is None:
                path.lose(f"`{path.text('type')}` has no equal here; the whole route is left out")
                return None
            found.path(how, path.text("value") or "/", path.line)
        for where, add in (("headers", found.header), ("queryParams", found.parameter)):
            for each in part.items(where) if part is not None else []:
                how = TESTS.get(each.text("type"))
                if how is None:
                    each.lose(f"`{each.text('type')}` has no equal here; the whole route is left out")
                    return None
                value = each.text("value")
                add(each.text("name"), how, full(value) if how == "regex" else value, each.line)
        if kind == "GRPCRoute":
            return self._grpc(part, found, line)
        if part is not None and (method := part.get("method")) is not None:
            found.method(method.text(), line=method.line)
        return found.match()

    def _grpc(self, part: Part | None, found: Conditions, line: int) -> dict[str, Any] | None:
        method = part.get("method") if part is not None else None
        if method is None:
            found.term(GRPC, line)
        elif method.text("type") in ("", "Exact") and method.text("service"):
            for key in ("service", "method"):
                if (each := method.get(key)) is not None:
                    found.keys.setdefault("grpc", {})[key] = self.draft.value(each.text(), each.line)
        else:
            method.lose("only the full name of a service has an equal here; the whole route is left out")
            return None
        return found.match()

    # ----- policies

    def _policies(self, part: Part, rule: Part, match: dict[str, Any], access: Access) -> dict[str, Any]:
        draft = self.draft
        keys: dict[str, Any] = {}
        if rule.get("timeouts") is not None:
            put(keys, "timeout.request", Value("off", "no limit is stated"))
        copy(draft, rule, keys, TIMES)
        if (retry := rule.get("retry")) is not None:
            keys["retry"] = self._retry(retry)
        for each in rule.items("filters"):
            kind = each.text("type")
            if kind == "ExternalAuth" and (config := each.get("externalAuth")) is not None:
                self._ask(part, config, access)
            elif self._keeps_out(each):
                each.lose(REFUSED)
                access.refuse(each.line, f"filter {each.text('extensionRef', 'name') or kind}")
            elif kind in ("RequestHeaderModifier", "ResponseHeaderModifier"):
                self._headers(each, kind.removesuffix("HeaderModifier").lower(), keys)
            elif kind == "URLRewrite":
                self._rewrite(each, match, keys)
            elif kind == "RequestMirror":
                self._mirror(part, each, keys)
            elif kind == "CORS":
                self._cors(each, keys)
            else:
                each.lose(f"filter {kind} has no equal here")
        return keys

    def _keeps_out(self, part: Part) -> bool:
        """True if a filter keeps requests out."""
        words = [part.text("type")]
        if (extension := part.get("extensionRef")) is not None:
            words += [extension.text("kind"), extension.text("name")]
        return any(keeps_out(each) for each in words)

    def _ask(self, part: Part, config: Part, access: Access) -> None:
        """Ask a server about each request."""
        draft = self.draft
        ref = config.get("backendRef")
        told = config.items("http", "allowedResponseHeaders")
        why = (
            "asks a server over gRPC" if config.text("protocol") != "HTTP" or ref is None
            else "sends the body of the request" if config.get("forwardBody") is not None
            else "" if told else "all fields of the server's answer go on there; name them in `allowedResponseHeaders`"
        )  # fmt: skip
        if why or ref is None:
            config.lose(f"{why}; {REFUSED}")
            access.refuse(config.line, "filter ExternalAuth")
            return
        ref.label("group", "kind")
        namespace = ref.text("namespace") or namespace_of(part)
        host = ".".join(each for each in (ref.text("name"), namespace, "svc" if namespace else "") if each)
        url = f"http://{host}:{ref.text('port') or 80}{config.text('http', 'path')}"
        asked = ["authorization", *(each.text() for each in config.items("http", "allowedHeaders"))]
        config.differ("a request with none of `headers` is refused without asking, and the client gets 503 in place of "
                      "an answer other than 2xx, 401 and 403")  # fmt: skip
        block = {"url": draft.value(url, ref.line)}
        ask(draft, access, block, asked, [each.text() for each in told], config.line)

    def _retry(self, part: Part) -> Any:
        draft = self.draft
        attempts = part.get("attempts")
        many = 1 if attempts is None else attempts.number() or 0
        line = part.line if attempts is None else attempts.line
        if not many:
            return draft.value("off", line)
        codes = [each.number() for each in part.items("codes")]
        keys: dict[str, Any] = {
            "max_attempts": draft.value(bounded(attempts, many + 1), line),
            "on": draft.value(["connect_failure", "reset", *codes], part.line),
        }
        if (pause := part.get("backoff")) is not None:
            copy(draft, part, keys, (Field("backoff", "backoff.base", DURATION),))
            keys["backoff"]["max"] = keys["backoff"]["base"]
            pause.differ("is the shortest pause there, and the longest here")
        return keys

    def _headers(self, part: Part, side: str, keys: dict[str, Any]) -> None:
        block = f"{side}HeaderModifier"
        for how in ("set", "add"):
            for each in part.items(block, how):
                edits.header(self.draft, keys, side, how, each.text("name"), each.text("value"), each.line)
        if removed := part.items(block, "remove"):
            edits.remove_headers(self.draft, keys, side, [each.text() for each in removed], removed[0].line)

    def _rewrite(self, part: Part, match: dict[str, Any], keys: dict[str, Any]) -> None:
        draft = self.draft
        if (host := part.get("urlRewrite", "hostname")) is not None:
            edits.rewrite_host(draft, keys, host.text(), host.line)
        if (full := part.get("urlRewrite", "path", "replaceFullPath")) is not None:
            edits.rewrite_path(draft, keys, full.text(), full.line)
        if (prefix := part.get("urlRewrite", "path", "replacePrefixMatch")) is not None:
            of_match = match["path_prefix"].value if "path_prefix" in match else ""
            edits.rewrite_prefix(draft, keys, of_match, prefix.text(), prefix.line)
        part.text("urlRewrite", "path", "type")

    def _mirror(self, part: Part, each: Part, keys: dict[str, Any]) -> None:
        draft = self.draft
        ref = each.get("requestMirror", "backendRef")
        name = self._upstream("HTTPRoute", part, ref) if ref is not None else None
        if name is None or ref is None:
            return
        if "mirror" in keys:
            each.lose("a route has one mirror here")
            return
        put(keys, "mirror.upstream", draft.value(name, ref.line))
        put(keys, "mirror.writes", Value(True, "every method is copied there"))
        percent, fraction = each.get("requestMirror", "percent"), each.get("requestMirror", "fraction")
        if percent is not None:
            put(keys, "mirror.share", draft.value(share(Fraction(min(100, percent.number() or 0), 100)), percent.line))
        elif fraction is not None:
            of = Fraction(fraction.number("numerator") or 0, fraction.number("denominator") or 100)
            put(keys, "mirror.share", draft.value(share(min(Fraction(1), of)), fraction.line))

    def _cors(self, part: Part, keys: dict[str, Any]) -> None:
        draft = self.draft
        for source, target in CORS:
            if words := part.items("cors", source):
                put(keys, f"cors.{target}", draft.value([each.text() for each in words], words[0].line))
        if (credentials := part.get("cors", "allowCredentials")) is not None:
            put(keys, "cors.credentials", draft.value(credentials.is_true(), credentials.line))
        if (age := part.get("cors", "maxAge")) is not None:
            put(keys, "cors.max_age", draft.value(f"{age.number() or 0}s", age.line))
