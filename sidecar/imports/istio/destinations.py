"""Istio's destinations: services and service entries as upstreams, with the policies of their destination rules.

A subset names pods by labels.  Discovery here knows services, so a subset becomes a service of its own, which is
reported: with all pods of the service in it, a split between versions would be none.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.draft import Draft, Value, merged, put
from sidecar.imports.fields import DURATION, NUMBER, Field, copy
from sidecar.imports.kubernetes import Services, namespace_of
from sidecar.imports.source import Part

BALANCING: Final = {
    "UNSPECIFIED": "least_request", "LEAST_CONN": "least_request", "LEAST_REQUEST": "least_request",
    "ROUND_ROBIN": "round_robin", "RANDOM": "random",
}  # fmt: skip
PER_ENDPOINT: Final = "counts for each endpoint here, and for the service there"
QUEUE: Final = "write `concurrency: {max, queue, queue_timeout}` for requests that wait"
POLICY: Final = (
    Field("connectionPool.tcp.maxConnections", "connections.max", NUMBER, PER_ENDPOINT),
    Field("connectionPool.tcp.connectTimeout", "connect_timeout", DURATION),
    Field("connectionPool.http.http1MaxPendingRequests", "", note=QUEUE),
    Field("connectionPool.http.http2MaxRequests", "concurrency.max", NUMBER),
    Field("connectionPool.http.maxRequestsPerConnection", "connections.max_requests", NUMBER),
    Field("connectionPool.http.idleTimeout", "connections.idle_timeout", DURATION),
    Field("connectionPool.http.maxRetries", "", note="retries are bounded by `retry_budget`, a share of the requests"),
    Field("loadBalancer.warmupDurationSecs", "slow_start", DURATION),
    Field("loadBalancer.warmup.duration", "slow_start", DURATION),
    Field("loadBalancer.consistentHash.httpHeaderName", "load_balancing.hash.header"),
    Field("loadBalancer.consistentHash.httpCookie", "", note="write `hash: {header: NAME}` for a key in a header"),
    Field("loadBalancer.localityLbSetting", "", note="write `zone_aware: true`, or `locality`"),
    Field("tls.sni", "tls.server_name"),
    Field("tls.caCertificates", "tls.ca"),
    Field("tls.clientCertificate", "tls.cert"),
    Field("tls.privateKey", "tls.key"),
    Field("tls.credentialName", "", note="mount the Secret, and name its files in `tls: {ca, cert, key}`"),
    Field("tls.subjectAltNames", "", note="`tls.server_name` is the name that the certificate must have"),
)
EJECTION: Final = (
    Field("consecutive5xxErrors", "consecutive_failures", NUMBER),
    Field("consecutiveErrors", "consecutive_failures", NUMBER),
    Field("consecutiveGatewayErrors", "consecutive_failures", NUMBER),
    Field("baseEjectionTime", "eject_for", DURATION, "each further ejection is twice as long as the one before"),
    Field("interval", "", note="endpoints are ejected at once here, and return on time"),
    Field("maxEjectionPercent", "", note="write `min_healthy`, a number of endpoints that stay up"),
    Field("minHealthPercent", "", note="write `min_healthy`, a number of endpoints that stay up"),
)
GATEWAY_ERRORS: Final = ["connect_failure", "reset", "timeout", 502, 503, 504]
CLUSTER: Final = (".svc.cluster.local", ".svc")
Key = tuple[str, str, str]
"""Host, subset and port of a destination."""


class Destinations:
    """Upstreams of a file, added when the first route names them."""

    def __init__(self, draft: Draft, services: Services, rules: list[Part], entries: list[Part]) -> None:
        self._draft = draft
        self._services = services
        self._rules: dict[str, Part] = {}
        for each in rules:
            self._rules.setdefault(_full(each.text("spec", "host"), namespace_of(each)), each)
        self._entries = {host.text(): each for each in entries for host in each.items("spec", "hosts")}
        self._added: dict[Key, str] = {}

    def upstream(self, host: str, subset: str, port: str, namespace: str, line: int) -> str:
        """Return the name of the upstream of a destination."""
        key = (_full(host, namespace), subset, port)
        if key not in self._added:
            self._added[key] = self._add(host, key, line)
        return self._added[key]

    def finish(self) -> list[tuple[str, str, int]]:
        """Add what no route names; return host, upstream and line of each destination of the whole mesh."""
        found: list[tuple[str, str, int]] = []
        for host, entry in self._entries.items():
            if any(key[0] == host for key in self._added):
                continue
            entry.label("spec")
            for port in entry.items("spec", "ports"):
                if port.text("protocol").upper() in ("HTTP", "HTTP2", "GRPC", "") or host in self._rules:
                    found.append((host, self.upstream(host, "", port.text("number"), "", entry.line), entry.line))
                else:
                    port.lose("passes through as TCP here; `capture.server_names` names upstreams of TLS")
        for host, rule in self._rules.items():
            known = {key[1] for key in self._added if key[0] == host}
            if not known:
                spelt = rule.text("spec", "host")
                found.append((spelt, self.upstream(spelt, "", "", namespace_of(rule), rule.line), rule.line))
            for subset in rule.items("spec", "subsets"):
                if subset.text("name") not in known:
                    self.upstream(rule.text("spec", "host"), subset.text("name"), "", namespace_of(rule), subset.line)
        return found

    def _add(self, host: str, key: Key, line: int) -> str:
        full, subset, port = key
        rule = self._rules.get(full)
        policy, of_subset = (
            (None, None) if rule is None else (rule.get("spec", "trafficPolicy"), self._subset(rule, key))
        )
        merged_policy: dict[str, Any] = {"connect_timeout": Value("10s", "Istio's default")}
        for each in (policy, of_subset.get("trafficPolicy") if of_subset is not None else None):
            if each is not None:
                merged_policy = merged(merged_policy, self._policy(each, port))
        scheme = "https" if merged_policy.pop("https", False) else "http"
        keys = {**self._endpoints(host, key, line, scheme), **merged_policy}
        name = "-".join(each for each in (host.removesuffix(".svc.cluster.local"), subset, port) if each)
        return self._draft.upstream(name.replace("*", "any"), keys)

    def _subset(self, rule: Part, key: Key) -> Part | None:
        for each in rule.items("spec", "subsets"):
            if each.text("name") == key[1]:
                labels = each.get("labels")
                if labels is not None:
                    spelt = ", ".join(f"{name}={value.text()}" for name, value in labels.members())
                    service = f"{service_of(key[0])[0]}-{key[1]}"
                    labels.lose(f"pods have no choice by labels here: make a Service `{service}` that selects {spelt}")
                return each
        return None

    def _endpoints(self, host: str, key: Key, line: int, scheme: str) -> dict[str, Any]:
        full, subset, port = key
        entry = self._entries.get(host)
        if entry is not None:
            return self._entry(entry, host, port, scheme, line)
        service, namespace = service_of(full)
        if service:
            return self._services.endpoints(f"{service}-{subset}" if subset else service, namespace, port, line, scheme)
        address = f"{scheme}://{host}:{port or (443 if scheme == 'https' else 80)}"
        return {"endpoints": [self._draft.value(address, line)]}

    def _entry(self, entry: Part, host: str, port: str, scheme: str, line: int) -> dict[str, Any]:
        """Return the endpoints of a service entry."""
        draft = self._draft
        entry.label("spec")
        spec = entry.get("spec")
        if spec is None:
            raise entry.fail("has no spec; name its ports")
        spec.label("location")
        ports = {each.text("number"): each for each in spec.items("ports")}
        for each in ports.values():
            each.label("name", "protocol")
        chosen = ports.get(port) or next(iter(ports.values()), None)
        number = (chosen.text("targetPort") or chosen.text("number")) if chosen is not None else port or "80"
        found: list[Any] = []
        for each in spec.items("endpoints"):
            address = each.text("address")
            own = each.text("ports", chosen.text("name")) if chosen is not None else ""
            if address.startswith("unix://"):
                url = f"unix:{address.removeprefix('unix://')}"
            else:
                url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{own or number}"
            weight = each.number("weight")
            value = draft.value(url, each.line)
            found.append(value if weight is None else {"url": value, "weight": draft.value(weight or 1, each.line)})
        if not found and "*" in host:
            spec.lose(f"host {host} is many hosts; connections to them pass by `original_destination`")
        if not found:
            found = [draft.value(f"{scheme}://{host.replace('*.', '')}:{number}", entry.line)]
        if spec.text("resolution") == "NONE":
            spec.differ("requests go to the address that the client chose there, and to a look-up of the name here")
        return {"endpoints": found}

    def _policy(self, part: Part, port: str) -> dict[str, Any]:
        """Return the policies of a traffic policy, with those of a port."""
        draft = self._draft
        keys: dict[str, Any] = {}
        copy(draft, part, keys, POLICY)
        simple = part.get("loadBalancer", "simple")
        if simple is not None and simple.text() in BALANCING:
            keys["load_balancing"] = draft.value(BALANCING[simple.text()], simple.line)
        elif simple is not None:
            simple.lose(f"`{simple.text()}` has no equal here")
        if (source := part.get("loadBalancer", "consistentHash", "useSourceIp")) is not None and source.is_true():
            put(keys, "load_balancing", {"hash": {}})
        upgrade = part.get("connectionPool", "http", "h2UpgradePolicy")
        if upgrade is not None and upgrade.text() == "UPGRADE":
            keys["protocol"] = draft.value("http2", upgrade.line)
        self._add_tls(part, keys)
        if (outliers := part.get("outlierDetection")) is not None:
            keys |= self._ejection(outliers)
        for each in part.items("portLevelSettings"):
            if each.text("port", "number") == port:
                keys = merged(keys, self._policy(each, ""))
        return keys

    def _add_tls(self, part: Part, keys: dict[str, Any]) -> None:
        tls = part.get("tls")
        if tls is None:
            return
        mode = tls.text("mode")
        if mode == "ISTIO_MUTUAL":
            tls.lose("certificates of the mesh have no equal here; write `tls: {ca, cert, key}` and https endpoints")
        keys["https"] = mode in ("SIMPLE", "MUTUAL")
        insecure = tls.get("insecureSkipVerify")
        if insecure is not None and insecure.is_true():
            put(keys, "tls.verify", self._draft.value(False, insecure.line))
        if not keys["https"]:
            keys.pop("tls", None)

    def _ejection(self, part: Part) -> dict[str, Any]:
        draft = self._draft
        block: dict[str, Any] = {
            "consecutive_failures": Value(5, "Istio's default"),
            "eject_for": Value("30s", "Istio's default"),
            "max_eject_for": Value("300s", "Envoy's default"),
        }
        if part.get("consecutiveGatewayErrors") is not None and part.get("consecutive5xxErrors") is None:
            block["on"] = Value(GATEWAY_ERRORS, "errors of gateways")
        copy(draft, part, block, EJECTION)
        if (split := part.get("splitExternalLocalOriginErrors")) is not None:
            split.lose() if split.is_true() else split.take()
        return {"ejection": block} if block["consecutive_failures"].value else {}


def _full(host: str, namespace: str) -> str:
    """Return the full name of a host."""
    if "." in host or not namespace:
        return host
    return f"{host}.{namespace}.svc.cluster.local"


def service_of(full: str) -> tuple[str, str]:
    """Return service and namespace of a host; empty for a host outside of the cluster."""
    for suffix in CLUSTER:
        if full.endswith(suffix):
            service, _, namespace = full.removesuffix(suffix).partition(".")
            return service, namespace
    return ("", "") if "." in full else (full, "")
