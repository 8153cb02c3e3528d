"""Envoy's bootstrap (v3): listeners, routes, clusters, and the policies of each.

Where Envoy differs: a route without `timeout` has one of 15s; `num_retries` counts retries, not attempts, and all
methods are repeated; outlier detection without values has those of Envoy's documentation.  Extensions without an equal,
routes that redirect or answer by themselves, and dynamic resources (xDS) are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from fractions import Fraction
from typing import Any, Final

from sidecar.imports import edits
from sidecar.imports.access.protection import REFUSED, has_guard, keeps_out
from sidecar.imports.draft import Draft, Value, merged, plain, put, split
from sidecar.imports.envoy.access import Guards
from sidecar.imports.envoy.cluster import add_cluster
from sidecar.imports.fields import duration_of, in_range
from sidecar.imports.first_match import Ordered, is_reached
from sidecar.imports.retries import ALL_METHODS, bounded, outcomes, repeats_every_method
from sidecar.imports.source import Part, read_documents
from sidecar.imports.units import literal, rate, share
from sidecar.limits.spec import MOST_BURST

DEFAULT_TIMEOUT: Final = "15s"
CORS: Final = "envoy.filters.http.cors"
LIMIT: Final = "envoy.filters.http.local_ratelimit"
ROUTER: Final = "envoy.filters.http.router"


def read_envoy(draft: Draft, text: str) -> None:
    """Add the policies of a bootstrap, or of a file with listeners and clusters.  Raises `TranslationError`."""
    roots = read_documents(draft.findings, text)
    draft.is_ordered = True
    places = [place for root in roots for place in _static(root)]
    for cluster in (each for place in places for each in place.items("clusters")):
        add_cluster(draft, cluster)
    resources = [each for root in roots for each in root.items("resources")]
    for each in resources:
        if each.text("@type").endswith(".Cluster"):
            add_cluster(draft, each)
    listeners = [each for place in places for each in place.items("listeners")]
    listeners += [each for each in resources if each.text("@type").endswith(".Listener")]
    for listener in listeners:
        _Listener(draft, listener, "inbound" if len(listeners) == 1 else "").add()
    for each in resources:
        if each.text("@type").endswith(".RouteConfiguration"):
            _Listener(draft, each, "inbound").add_routes(each)
    for root in roots:
        root.is_read = True
        root.report_unread()


def _static(root: Part) -> Iterator[Part]:
    """Yield the mappings with listeners and clusters."""
    if (found := root.get("static_resources")) is not None:
        yield found
    yield root


class _Listener:
    """Listener under translation."""

    def __init__(self, draft: Draft, part: Part, name: str) -> None:
        self.draft = draft
        self.part = part
        self.name = name
        self.common: dict[str, Any] = {}
        """Policies of all routes, from filters of the whole listener."""
        self.guards = Guards(draft)
        self.settings: dict[str, Part] = {}
        """Settings of filters for all routes, by the filters' names."""
        self.earlier: list[Ordered] = []

    def add(self) -> None:
        part, draft = self.part, self.draft
        managers = []
        for each in part.items("listener_filters"):
            name = each.text("name") + each.text("typed_config", "@type")
            self.guards.has_proxy_protocol |= "proxy_protocol" in name.lower()
            each.lose()
        chains = part.items("filter_chains")
        if (default := part.get("default_filter_chain")) is not None:
            chains = [*chains, default]
        for chain in chains:
            chain.label("name")
            for each in chain.items("filters"):
                config = each.get("typed_config")
                if config is None or not config.text("@type").endswith("HttpConnectionManager"):
                    self._add_network_filter(each)
                    continue
                each.label("name")
                managers.append((chain, config))
        if not managers:
            part.lose("has no HTTP connection manager")
            return
        self.name = draft.listener(self.name or part.text("name") or f"listener-{len(draft.listeners) + 1}", part.line)
        part.label("name")
        self._add_address()
        if (wrapper := part.get("per_connection_buffer_limit_bytes")) is not None:
            wrapper.lose("buffers have limits of their own here")
        for chain, config in managers:
            self._add_tls(chain)
            self._add_manager(config)

    def _add_network_filter(self, part: Part) -> None:
        name = part.text("name") + part.text("typed_config", "@type")
        if keeps_out(name):
            self.guards.refuse(name, part.line)
            part.lose(REFUSED)
        else:
            part.lose("is no filter for HTTP; only the HTTP connection manager is translated")

    def _add_address(self) -> None:
        address = self.part.get("address")
        if address is None:
            return
        listener = self.draft.listeners[self.name]
        if (path := address.get("pipe", "path")) is not None:
            listener["address"] = self.draft.value(f"unix:{path.text()}", path.line)
        elif (host := address.get("socket_address", "address")) is not None:
            port = address.number("socket_address", "port_value")
            address.label("socket_address")
            spelt = f"[{host.text()}]" if ":" in host.text() else host.text()
            listener["address"] = self.draft.value(f"{spelt}:{port if port is not None else 80}", host.line)

    def _add_tls(self, chain: Part) -> None:
        socket = chain.get("transport_socket")
        if socket is None:
            return
        socket.label("name")
        context = socket.get("typed_config")
        common = context.get("common_tls_context") if context is not None else None
        if context is None or common is None:
            return
        context.label("@type")
        for certificate in common.items("tls_certificates")[:1]:
            for key, name in (("certificate_chain", "cert"), ("private_key", "key")):
                if (path := certificate.get(key, "filename")) is not None:
                    put(self.draft.listeners[self.name], f"tls.{name}", self.draft.value(path.text(), path.line))
        ca = common.get("validation_context", "trusted_ca", "filename")
        demand = context.get("require_client_certificate")
        is_demanded = demand is not None and demand.is_true()
        if is_demanded and ca is not None and "tls" in self.draft.listeners[self.name]:
            put(self.draft.listeners[self.name], "tls.client_ca", self.draft.value(ca.text(), ca.line))
            self.guards.has_certificates = True
        elif is_demanded and demand is not None:
            demand.lose(f"{REFUSED}; the files of the certificates are not in the file")
            self.guards.refuse("client certificates", demand.line)
        elif ca is not None:
            ca.lose("client certificates are optional there; here `client_ca` requires them")

    def _add_manager(self, config: Part) -> None:
        config.label("@type", "stat_prefix")
        if (codec := config.get("codec_type")) is not None and codec.text() != "AUTO":
            codec.lose("name the `protocols` of the listener")
        put(self.common, "timeout.request", Value(DEFAULT_TIMEOUT, "Envoy's default"))
        for key, path in (("stream_idle_timeout", "timeout.idle"), ("request_timeout", "")):
            if (part := config.get(key)) is not None:
                if path:
                    put(self.common, path, duration_of(self.draft, part, zero="off"))
                else:
                    part.lose("set `limits.header_timeout` and `limits.body_timeout`, which hold for the process")
        for each in config.items("upgrade_configs"):
            if each.text("upgrade_type").lower() != "websocket":
                each.lose("only WebSocket has an equal, which is always on here")
        for each in config.items("http_filters"):
            self._add_filter(each)
        if config.get("rds") is not None:
            part = config.get("rds")
            assert part is not None
            part.lose("routes from a server are not in the file")
        routes = config.get("route_config")
        if routes is not None:
            self.add_routes(routes)

    def _add_filter(self, part: Part) -> None:
        name, config = part.text("name"), part.get("typed_config")
        kind = config.text("@type").rpartition(".")[2] if config is not None else ""
        if kind in ("Router", "Cors") or name in (ROUTER, CORS):
            return
        is_on = not part.is_true("disabled")
        part.label("is_optional")
        if self.guards.add(name, part, config, is_on=is_on):
            return
        if kind == "LocalRateLimit" and config is not None:
            limit = self._limit(config)
            self.common |= limit if is_on else {}
        else:
            part.lose(f"filter {name or kind} has no equal here")

    def add_routes(self, config: Part) -> None:
        """Add the routes of a route configuration."""
        config.label("name", "@type")
        self.settings = self._settings(config)
        common = merged(self.common, self._headers(config))
        for host in config.items("virtual_hosts"):
            host.label("name")
            blocks = merged(common, self._blocks(host))
            domains = [each.text() for each in host.items("domains")]
            routes = host.items("routes")
            for spelt in domains:
                domain = spelt.removesuffix(":*")
                if domain.startswith("*") and ":" in domain:
                    host.findings.differ(host.line, host.name, f"host {domain} takes every port here")
                    domain = domain.partition(":")[0]
                if domain.endswith("*") and domain != "*":
                    host.findings.lose(host.line, host.name, f"host {spelt} ends with a star; write a route a host")
                    continue
                for route in routes:
                    self._add_route(host, domain, route, blocks, len(routes) * len(domains))

    # ----- one route

    def _add_route(self, host: Part, domain: str, part: Part, common: dict[str, Any], count: int) -> None:
        match = self._match(part, domain)
        action = part.get("route")
        settings = self.settings | self._settings(host) | self._settings(part)
        if match is None:
            if not all(each.access.is_open for each in self.guards.of_route({}, settings)):
                self.draft.lose_guard(part.line, part.name, self.name, [] if domain == "*" else [domain])
            return
        order = Ordered(part.line, part.name, plain(match))
        reached = is_reached(part.findings, self.earlier, order)
        self.earlier.append(order)
        if not reached:
            part.take()
            return
        if action is None:
            kind = (
                "direct_response" if part.get("direct_response") else "redirect" if part.get("redirect") else "action"
            )
            self.draft.close(part.text("name") or kind, part.line, kind, self.name, match)
            part.lose(f"is no route to a cluster ({kind}); all its requests are refused, or get 404")
            return
        upstream = self._upstream(part, action)
        if upstream is None:
            self.draft.close(part.text("name") or "lost", part.line, "its cluster", self.name, match)
            return
        keys: dict[str, Any] = {"listener": self.name}
        if match:
            keys["match"] = match
        keys["upstream"] = upstream
        keys |= merged(common, self._action(action), self._blocks(part))
        base = host.text("name") if count == 1 else part.text("name") or f"{host.text('name')}-{part.line}"
        weighted = [each.get("typed_per_filter_config") for each in action.items("weighted_clusters", "clusters")]
        kept = next((each for each in weighted if each is not None and has_guard_of(each)), None)
        for guarded in self.guards.of_route(match, settings):
            if kept is not None:
                kept.lose(REFUSED)
                guarded.access.refuse(kept.line, "a filter of one cluster")
            own = {"listener": self.name, **({"match": guarded.match} if guarded.match else {})}
            own |= {key: value for key, value in deepcopy(keys).items() if key not in own}
            guarded.access.apply(own)
            self.draft.route(base or "all", part.line, own)

    def _settings(self, part: Part) -> dict[str, Part]:
        """Return the settings that a route, a virtual host or all have for filters that keep requests out."""
        return {
            name: config.get("config") or config if config.text("@type").endswith(".FilterConfig") else config
            for name, config in part.members("typed_per_filter_config")
            if keeps_out(name + config.text("@type")) or config.text("@type").endswith(".FilterConfig")
        }

    def _match(self, part: Part, domain: str) -> dict[str, Any] | None:
        """Return the match of a route; None if a condition cannot be translated."""
        found, draft = part.get("match"), self.draft
        match: dict[str, Any] = {}
        if domain != "*":
            match["host"] = draft.value(domain, part.line)
        if found is None:
            return match
        for key, each in found.members():
            snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            if snake in ("prefix", "path_separated_prefix"):
                prefix = each.text()
                if prefix in ("", "/"):
                    continue
                match["path_prefix"] = draft.value(prefix, each.line)
                if snake == "prefix" and not prefix.endswith("/"):
                    draft.textual.add(prefix)
                    each.differ(f"takes whole segments only here: not {prefix}x")
                elif snake == "prefix":
                    each.differ(f"takes {prefix.rstrip('/')} itself too here")
            elif snake == "path":
                match["path"] = draft.value(each.text(), each.line)
            elif snake == "safe_regex":
                each.label("google_re2")
                match["path_regex"] = draft.value(each.text("regex"), each.line)
            elif snake == "headers":
                if not self._conditions(each, match):
                    part.lose("has a condition on headers without an equal here; the whole route is left out")
                    return None
            elif snake == "query_parameters":
                for one in each.items():
                    exact = one.get("string_match", "exact")
                    if exact is None:
                        part.lose("has a condition on the query without an equal here; the whole route is left out")
                        return None
                    match.setdefault("query", {})[one.text("name")] = draft.value(exact.text(), exact.line)
            elif snake == "grpc":
                match["when"] = draft.value("request.headers['content-type'].startsWith('application/grpc')", each.line)
            elif snake != "case_sensitive" or not each.is_true():
                part.lose(f"has the condition `{key}`, which has no equal here; the whole route is left out")
                return None
        return match

    def _conditions(self, part: Part, match: dict[str, Any]) -> bool:
        """Add conditions on header fields; return False for one without an equal here."""
        for each in part.items():
            name = each.text("name")
            exact = each.get("string_match", "exact") or each.get("exact_match")
            if exact is None or each.is_true("invert_match") or each.is_true("string_match", "ignore_case"):
                return False
            if name == ":method":
                match["methods"] = self.draft.value([exact.text()], exact.line)
            elif name.startswith(":"):
                return False
            else:
                match.setdefault("headers", {})[name] = self.draft.value(exact.text(), exact.line)
        return True

    def _upstream(self, part: Part, action: Part) -> Any:
        """Return the upstream of a route; None if it has none here, which is reported."""
        draft = self.draft
        if (cluster := action.get("cluster")) is not None:
            name = draft.upstream_of(cluster.text())
            if name is None:
                part.lose(f"goes to the cluster `{cluster.text()}`, which is not translated or not in the file")
                return None
            return draft.value(name, cluster.line)
        arms: list[tuple[int, str, int]] = []
        weighted = action.get("weighted_clusters")
        for each in weighted.items("clusters") if weighted is not None else []:
            name = draft.upstream_of(each.text("name"))
            weight = each.number("weight") or 0
            if weight and name is None:
                part.lose(f"goes to the cluster `{each.text('name')}`, which is not translated or not in the file")
                return None
            if weight and name is not None:
                arms.append((weight, name, each.line))
        if weighted is not None:
            weighted.label("total_weight")
        if not arms:
            part.lose("names no cluster; clusters by a header or a plug-in have no equal here")
            return None
        return split(draft, arms)

    def _action(self, action: Part) -> dict[str, Any]:
        """Return the policies of a route action."""
        draft = self.draft
        keys: dict[str, Any] = {}
        for key, path in (("timeout", "timeout.request"), ("idle_timeout", "timeout.idle")):
            if (part := action.get(key)) is not None:
                put(keys, path, duration_of(draft, part, zero="off"))
        rewrite = action.get("prefix_rewrite")
        if rewrite is not None:
            edits.rewrite_prefix(draft, keys, _prefix_of(action, rewrite), rewrite.text(), rewrite.line)
        regex = action.get("regex_rewrite")
        if regex is not None:
            pattern, to = regex.text("pattern", "regex"), regex.text("substitution")
            regex.label("pattern")
            if note := edits.rewrite_pattern(draft, keys, pattern, to, regex.line):
                regex.differ(note)
        host = action.get("host_rewrite_literal") or action.get("host_rewrite")
        if host is not None:
            edits.rewrite_host(draft, keys, host.text(), host.line)
        for each in action.items("request_mirror_policies")[:1]:
            self._mirror(each, keys)
        if (policy := action.get("cors")) is not None:
            keys = merged(keys, self._cors(policy))
        retry = action.get("retry_policy")
        return merged(keys, self._retry(retry)) if retry is not None else keys

    def _mirror(self, part: Part, keys: dict[str, Any]) -> None:
        name = self.draft.upstream_of(part.text("cluster"))
        if name is None:
            part.lose(f"cluster `{part.text('cluster')}` is not translated or not in the file")
            return
        put(keys, "mirror.upstream", self.draft.value(name, part.line))
        put(keys, "mirror.writes", Value(True, "Envoy copies every method"))
        fraction = part.get("runtime_fraction")
        if fraction is not None and (stated := fraction.get("default_value")) is not None:
            put(keys, "mirror.share", self.draft.value(share(_fraction(fraction)), stated.line))

    # ----- blocks that stand at several levels

    def _blocks(self, part: Part) -> dict[str, Any]:
        """Return the policies of a virtual host or a route."""
        keys = self._headers(part)
        if (retry := part.get("retry_policy")) is not None:
            keys = merged(keys, self._retry(retry))
        for name, config in part.members("typed_per_filter_config"):
            kind = config.text("@type").rpartition(".")[2]
            if kind == "CorsPolicy" or name == CORS:
                keys = merged(keys, self._cors(config))
            elif kind == "LocalRateLimit":
                keys = merged(keys, self._limit(config))
            elif not keeps_out(f"{name}{kind}") and kind != "FilterConfig":
                config.lose()
        if (policy := part.get("cors")) is not None:
            keys = merged(keys, self._cors(policy))
        return keys

    def _retry(self, part: Part) -> dict[str, Any]:
        draft = self.draft
        keys: dict[str, Any] = {}
        retries = part.number("num_retries")
        line = part.line
        if (stated := part.get("num_retries")) is not None:
            line = stated.line
        attempts = (1 if retries is None else retries) + 1
        condition = part.get("retry_on")
        statuses = [each.number() or 0 for each in part.items("retriable_status_codes")]
        on = outcomes(condition.text(), condition, statuses) if condition is not None else []
        if attempts < 2 or not on:
            return {"retry": Value("off", draft.findings.place(line), line)} if attempts < 2 else {}
        put(keys, "retry.max_attempts", draft.value(bounded(stated, attempts), line))
        put(keys, "retry.on", draft.value(on, condition.line if condition is not None else line))
        put(keys, "retry.methods", Value(ALL_METHODS, repeats_every_method("Envoy")))
        if (each := part.get("per_try_timeout")) is not None:
            put(keys, "timeout.attempt", duration_of(draft, each, zero="off"))
        if (base := part.get("retry_back_off", "base_interval")) is not None:
            put(keys, "retry.backoff.base", duration_of(draft, base))
        if (longest := part.get("retry_back_off", "max_interval")) is not None:
            put(keys, "retry.backoff.max", duration_of(draft, longest))
        part.differ("here the upstream's `retry_budget` bounds retries too, and Retry-After is honoured")
        return keys

    def _headers(self, part: Part) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        for side in ("request", "response"):
            for each in part.items(f"{side}_headers_to_add"):
                value = each.text("header", "value")
                each.label("header")
                action = each.text("append_action")
                if "%" in value.replace("%%", ""):
                    each.lose("has a command operator; write a template such as {client.address}")
                    if side == "request" and (action.startswith("OVERWRITE") or each.text("append").lower() == "false"):
                        edits.remove_headers(self.draft, keys, side, [each.text("header", "key")], each.line)
                    continue
                appends = each.text("append").lower() != "false" if not action else action.startswith("APPEND")
                if action == "ADD_IF_ABSENT":
                    each.lose("a field that is only added if it is absent has no equal here")
                    continue
                name = each.text("header", "key").lower()
                if edits.is_own(side, name):
                    each.lose(edits.OWN)
                    continue
                fields = keys.setdefault("transform", {}).setdefault(side, {}).setdefault("headers", {})
                spelt = literal(value.replace("%%", "%"))
                fields.setdefault("add" if appends else "set", {})[name] = self.draft.value(spelt, each.line)
            removed = part.get(f"{side}_headers_to_remove")
            if removed is not None:
                edits.remove_headers(self.draft, keys, side, [each.text() for each in removed.items()], removed.line)
        return keys

    def _cors(self, part: Part) -> dict[str, Any]:
        draft = self.draft
        part.label("@type")
        origins = [each.text() for each in part.items("allow_origin")]
        for each in part.items("allow_origin_string_match"):
            if (exact := each.get("exact")) is not None:
                origins.append(exact.text())
            elif (prefix := each.get("prefix")) is not None and prefix.text() in ("", "*"):
                origins.append("*")
            else:
                each.lose("only exact origins are translated; write `https://*.shop.example` for the labels of a host")
        if not origins:
            part.lose("has no origin that is translated; the whole block is left out")
            return {}
        keys: dict[str, Any] = {}
        put(keys, "cors.origins", draft.value(origins, part.line))
        for key, name in (("allow_methods", "methods"), ("allow_headers", "headers"), ("expose_headers", "expose")):
            if (found := part.get(key)) is not None:
                words = [each.strip() for each in found.text().split(",") if each.strip()]
                put(keys, f"cors.{name}", draft.value(words, found.line))
        if (age := part.get("max_age")) is not None:
            put(keys, "cors.max_age", draft.value(f"{age.number() or 0}s", age.line))
        if (credentials := part.get("allow_credentials")) is not None:
            put(keys, "cors.credentials", draft.value(credentials.is_true(), credentials.line))
        return keys

    def _limit(self, part: Part) -> dict[str, Any]:
        draft = self.draft
        part.label("@type", "stat_prefix")
        bucket = part.get("token_bucket")
        if bucket is None:
            part.lose("has no token bucket")
            return {}
        is_enforced = True
        for key in ("filter_enabled", "filter_enforced"):
            found = part.get(key)
            size = _fraction(found) if found is not None else Fraction(0)
            if not size and key == "filter_enabled":
                (found or part).lose("is on for no request there (`filter_enabled`, by default 0%)")
                return {}
            is_enforced = is_enforced and bool(size)
            if found is not None and 0 < size < 1:
                found.differ("the limit holds for all requests here; `mode: observe` only counts")
            if found is not None:
                found.take()
        most, interval = bucket.number("max_tokens") or 1, bucket.get("fill_interval")
        fill = bucket.number("tokens_per_fill") or 1
        each = in_range(interval) if interval is not None else Fraction(1)
        if interval is not None and not each:
            raise interval.fail(f"is `{interval.text()}`; a time such as 1s would be right")
        limit = {
            "name": Value("imported", ""),
            "rate": draft.value(rate(Fraction(fill) / each), bucket.line),
            "burst": draft.value(min(max(0, most - 1), MOST_BURST), bucket.line),
        }
        if not is_enforced:
            limit["mode"] = Value("observe", "`filter_enforced` is 0% there, by default too")
        part.differ("the rate is even here, instead of tokens that come at once")
        return {"rate_limit": [limit]}


def has_guard_of(part: Part) -> bool:
    """True if settings of filters, by the filters' names, have one that keeps requests out."""
    return has_guard(part) or any(keeps_out(name) for name, _ in part.members())


def _fraction(part: Part) -> Fraction:
    """Return the share of a runtime fraction."""
    value = part.get("default_value")
    if value is None:
        return Fraction(0)
    size = {"TEN_THOUSAND": 10**4, "MILLION": 10**6}.get(value.text("denominator"), 100)
    return min(Fraction(1), Fraction(value.number("numerator") or 0, size))


def _prefix_of(action: Part, rewrite: Part) -> str:
    """Return the prefix that a rewrite replaces: the one of the route's own match."""
    found = action.owner.get("match") if action.owner is not None else None
    if found is None:
        return ""
    prefix = found.get("prefix") or found.get("path_separated_prefix") or found.get("path")
    if prefix is None:
        raise rewrite.fail("needs a route that matches by prefix")
    return prefix.text()
