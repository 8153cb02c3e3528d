"""Envoy's clusters: endpoints, protocol, TLS, health checks, outlier detection and circuit breakers."""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.fields import duration_of, percent_of
from sidecar.imports.source import Part

BALANCING: Final = {
    "": "round_robin",
    "ROUND_ROBIN": "round_robin",
    "LEAST_REQUEST": "least_request",
    "RANDOM": "random",
}
PER_ENDPOINT: Final = "counts for each endpoint here, and for the cluster there"


def add_cluster(draft: Draft, part: Part) -> None:
    """Add a cluster as an upstream."""
    name = part.text("name")
    part.label("@type", "load_assignment", "alt_stat_name")
    keys: dict[str, Any] = {}
    scheme = _add_tls(draft, part, keys)
    found = _endpoints(draft, part, scheme)
    if not found:
        part.lose("has no endpoints in the file; endpoints from a server (EDS, ORIGINAL_DST) have no equal here")
        return
    keys = {**_discovery(part, found, scheme), **keys}
    _add_policies(draft, part, keys, len(found))
    draft.upstream(name, keys)


def _endpoints(draft: Draft, part: Part, scheme: str) -> list[tuple[str, Value, int]]:
    """Return host, address and weight of each endpoint."""
    found: list[tuple[str, Value, int]] = []
    assignment = part.get("load_assignment")
    if assignment is None:
        return found
    assignment.label("cluster_name")
    priority = 0
    for locality in assignment.items("endpoints"):
        if (stated := locality.get("priority")) is not None and (stated.number() or 0) > priority:
            locality.lose("is used only while others fail; priorities have no equal here, write a `fallback`")
            continue
        zone = locality.get("locality", "zone")
        if zone is not None:
            zone.lose("write `zone` for each endpoint, and `locality` for the upstream")
        for each in locality.items("lb_endpoints"):
            address = each.get("endpoint", "address")
            weight = each.number("load_balancing_weight") or 1
            if address is None:
                continue
            if (path := address.get("pipe", "path")) is not None:
                found.append((path.text(), draft.value(f"unix:{path.text()}", path.line), weight))
                continue
            host = address.text("socket_address", "address")
            port = address.number("socket_address", "port_value")
            address.label("socket_address")
            spelt = f"[{host}]" if ":" in host else host
            url = f"{scheme}://{spelt}:{port if port is not None else 80}"
            found.append((host, draft.value(url, address.line), weight))
    return found


def _discovery(part: Part, found: list[tuple[str, Value, int]], scheme: str) -> dict[str, Any]:
    """Return the endpoints of an upstream, as a list or as a name that stands for all its addresses."""
    kind = part.text("type").upper()
    host, url, _ = found[0]
    if kind == "STRICT_DNS" and len(found) == 1 and scheme == "http" and ":" not in host:
        port = int(url.value.rpartition(":")[2])
        is_name = not host.replace(".", "").isdigit()
        if is_name:
            return {"discover": {"dns": Value(host, url.comment, url.line), "port": Value(port, url.comment, url.line)}}
    if any(weight != 1 for _, _, weight in found):
        return {
            "endpoints": [{"url": each, "weight": Value(weight, each.comment, each.line)} for _, each, weight in found]
        }
    return {"endpoints": [each for _, each, _ in found]}


def _add_tls(draft: Draft, part: Part, keys: dict[str, Any]) -> str:
    """Add the TLS settings of a cluster; return the scheme of its endpoints."""
    socket = part.get("transport_socket")
    if socket is None:
        return "http"
    socket.label("name")
    context = socket.get("typed_config")
    kind = context.text("@type") if context is not None else ""
    if context is None or not kind.endswith("UpstreamTlsContext"):
        if not kind.endswith("RawBuffer"):
            socket.lose()
        return "http"
    if (sni := context.get("sni")) is not None:
        put(keys, "tls.server_name", draft.value(sni.text(), sni.line))
    common = context.get("common_tls_context")
    ca = common.get("validation_context", "trusted_ca", "filename") if common is not None else None
    if ca is not None:
        put(keys, "tls.ca", draft.value(ca.text(), ca.line))
    else:
        put(keys, "tls.verify", Value(False, "Envoy verifies nothing without `trusted_ca`; better name a `ca`"))
    for certificate in common.items("tls_certificates")[:1] if common is not None else []:
        for key, name in (("certificate_chain", "cert"), ("private_key", "key")):
            if (path := certificate.get(key, "filename")) is not None:
                put(keys, f"tls.{name}", draft.value(path.text(), path.line))
    return "https"


def _add_policies(draft: Draft, part: Part, keys: dict[str, Any], count: int) -> None:
    timeout = part.get("connect_timeout")
    keys["connect_timeout"] = duration_of(draft, timeout) if timeout is not None else Value("5s", "Envoy's default")
    balancing = part.get("lb_policy")
    spelt = balancing.text().upper() if balancing is not None else ""
    if spelt in BALANCING:
        stated = Value("round_robin", "Envoy's default")
        keys["load_balancing"] = draft.value(BALANCING[spelt], balancing.line) if balancing is not None else stated
    elif balancing is not None:
        balancing.lose(f"`{spelt}` has no equal here; write `hash: {{header: NAME}}` for one by a header")
    if part.get("http2_protocol_options") is not None:
        empty = part.get("http2_protocol_options")
        assert empty is not None
        keys["protocol"] = draft.value("http2", empty.line)
    for _, config in part.members("typed_extension_protocol_options"):
        config.label("@type")
        explicit = config.get("explicit_http_config")
        if explicit is not None and (http2 := explicit.get("http2_protocol_options")) is not None:
            keys["protocol"] = draft.value("http2", http2.line)
        elif explicit is not None:
            explicit.get("http_protocol_options")
    if (family := part.get("dns_lookup_family")) is not None:
        word = {"V4_ONLY": "ipv4", "V6_ONLY": "ipv6", "AUTO": "any", "ALL": "any", "V4_PREFERRED": "any"}.get(
            family.text()
        )
        if word is not None and word != "any":
            put(keys, "resolve.family", draft.value(word, family.line))
    _add_breakers(draft, part, keys, count)
    _add_health(draft, part, keys)
    outliers = part.get("outlier_detection")
    if outliers is not None:
        _add_ejection(draft, outliers, keys, count)


def _add_breakers(draft: Draft, part: Part, keys: dict[str, Any], count: int) -> None:
    for each in part.items("circuit_breakers", "thresholds"):
        if each.text("priority") not in ("", "DEFAULT"):
            each.lose("holds for requests of high priority, which have no equal here")
            continue
        if (most := each.get("max_connections")) is not None:
            put(keys, "connections.max", draft.value(most.number(), most.line))
            if count > 1:
                most.differ(PER_ENDPOINT)
        if (most := each.get("max_requests")) is not None:
            put(keys, "concurrency.max", draft.value(most.number(), most.line))
        if (most := each.get("max_pending_requests")) is not None:
            most.lose("write `concurrency: {max, queue, queue_timeout}` for requests that wait")
        if (most := each.get("max_retries")) is not None:
            most.lose("retries are bounded by `retry_budget`, a share of the requests")
        if (ratio := each.get("retry_budget", "budget_percent", "value")) is not None:
            put(keys, "retry_budget.ratio", draft.value(percent_of(ratio), ratio.line))
            ratio.differ("is a share of the requests of the last ten seconds here, and of those in flight there")


def _add_health(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    checks = part.items("health_checks")
    for each in checks[1:]:
        each.lose("an upstream has one health check here")
    for each in checks[:1]:
        block: dict[str, Any] = {}
        if (path := each.get("http_health_check", "path")) is not None:
            block["path"] = draft.value(path.text(), path.line)
            if (host := each.get("http_health_check", "host")) is not None:
                block["host"] = draft.value(host.text(), host.line)
        elif (grpc := each.get("grpc_health_check")) is not None or "grpc_health_check" in dict(each.members()):
            service = each.text("grpc_health_check", "service_name")
            block["grpc"] = draft.value(service, grpc.line if grpc is not None else each.line)
        else:
            each.lose("only checks by HTTP and gRPC have an equal here")
            continue
        for key, name in (("interval", "interval"), ("timeout", "timeout")):
            if (found := each.get(key)) is not None:
                block[name] = duration_of(draft, found)
        for key, name in (("unhealthy_threshold", "unhealthy_after"), ("healthy_threshold", "healthy_after")):
            if (found := each.get(key)) is not None:
                block[name] = draft.value(found.number(), found.line)
        keys["health_check"] = block


def _add_ejection(draft: Draft, part: Part, keys: dict[str, Any], count: int) -> None:
    block: dict[str, Any] = {}
    failures = part.get("consecutive_5xx")
    stated = Value(5, "Envoy's default")
    block["consecutive_failures"] = draft.value(failures.number(), failures.line) if failures is not None else stated
    base, longest = part.get("base_ejection_time"), part.get("max_ejection_time")
    block["eject_for"] = duration_of(draft, base) if base is not None else Value("30s", "Envoy's default")
    block["max_eject_for"] = duration_of(draft, longest) if longest is not None else Value("300s", "Envoy's default")
    percent = part.get("max_ejection_percent")
    most = max(1, count * (10 if percent is None else percent.number() or 0) // 100)
    comment = "Envoy's default of 10%" if percent is None else percent.place
    line = 0 if percent is None else percent.line
    if "discover" not in keys:
        block["min_healthy"] = Value(max(0, count - most), comment, line)
    elif percent is not None:
        percent.differ("write `min_healthy`, a number of endpoints, since their number is not in the file")
    if (interval := part.get("interval")) is not None:
        interval.lose("endpoints are ejected at once here, and return on time")
    if failures is not None and part.number("enforcing_consecutive_5xx") == 0:
        failures.lose("is not enforced there (`enforcing_consecutive_5xx: 0`)")
        return
    part.label("enforcing_consecutive_5xx")
    part.differ("each further ejection is twice as long here, and longer by the base there")
    keys["ejection"] = block
