"""Envoy's filters that keep requests out, as access rules: `jwt_authn`, `rbac` and `ext_authz`.

Where Envoy differs: the first rule of `jwt_authn` that matches a request decides which tokens it needs, and a request
without such a rule needs none.  A filter holds for each route that does not turn it off or replaces its settings.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.imports.access.facts import NOBODY, claim, claim_test, header_of, item_of, text_test
from sidecar.imports.access.protection import REFUSED, has_guard, keeps_out
from sidecar.imports.access.rules import (
    ALWAYS,
    NEVER,
    UNKNOWN,
    Access,
    Condition,
    Every,
    Networks,
    Not,
    Some,
    Tree,
    is_network,
)
from sidecar.imports.access.servers import ask
from sidecar.imports.access.tokens import Tokens, forward_of, jwks_keys
from sidecar.imports.conditions import full, quoted
from sidecar.imports.draft import Draft, Value, plain, put
from sidecar.imports.fields import duration_of
from sidecar.imports.source import Part

JWT, RBAC, AUTHZ = "JwtAuthentication", "RBAC", "ExtAuthz"
SPACES: Final = {"prefix": "prefix", "path_separated_prefix": "segments", "path": "exact"}
"""Conditions on a path that a rule of `jwt_authn` may have, and how they compare."""
REMOTE: Final = "depends on the proxies in front; name them in `trusted_proxies` of the listener, and write `networks`"
ABOUT_TLS: Final = "reads a client certificate; write an identity with `certificate`"
SPIFFE: Final = "has(caller.claims['uri'])"
"""Condition of a caller with a SPIFFE ID."""
SPIFFE_IDS: Final = ["spiffe://*" + "/*" * depth for depth in range(9)]
COMPARED: Final = {"exact": "exact", "prefix": "prefix", "suffix": "suffix", "contains": "contains"}


class Guarded(NamedTuple):
    """Part of a route with its access rules."""

    match: dict[str, Any]
    access: Access


class Demand(NamedTuple):
    """Tokens that a rule of `jwt_authn` asks for."""

    providers: tuple[str, ...] = ()
    is_optional: bool = True
    is_known: bool = True
    """False for a demand without an equal here."""


OPEN: Final = Demand()
NO_EQUAL: Final = Demand(is_known=False)


class Guards:
    """Filters of one listener that keep requests out, in their order."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._filters: list[tuple[str, str, Part | None, int]] = []
        """Name, kind, settings and line of each filter."""
        self._tokens: dict[str, _Tokens] = {}
        self._refused: tuple[int, str] | None = None
        self.has_certificates = False
        """True if the listener asks for certificates whose authority the file names."""
        self._reads_certificates = False
        self.has_proxy_protocol = False
        """True if proxies in front may state the address of a client before a connection's first byte."""

    def add(self, name: str, part: Part, config: Part | None, *, is_on: bool = True) -> bool:
        """Add a filter; return False for one that keeps no requests out."""
        kind = config.text("@type").rpartition(".")[2] if config is not None else ""
        if not keeps_out(f"{name}{kind}") and not has_guard(part):
            return False
        if kind == JWT and config is not None:
            self._tokens[name] = _Tokens(self._draft, config)
        elif kind not in (RBAC, AUTHZ) and is_on:
            part.lose(REFUSED)
        if is_on:
            self._filters.append((name, kind, config, part.line))
        return True

    def refuse(self, name: str, line: int) -> None:
        """Refuse all requests, because something outside of the filters for HTTP keeps some out."""
        self._refused = self._refused or (line, name)

    def of_route(self, match: dict[str, Any], settings: dict[str, Part]) -> list[Guarded]:
        """Return the parts of a route, whose `settings` replace those of the filters, by their names."""
        common = Access(self._draft)
        found = [Guarded(match, Access(self._draft))]
        if self._refused is not None:
            common.refuse(*self._refused)
        known = {name: (kind, config, line) for name, kind, config, line in self._filters}
        for name, stated in settings.items():
            if name not in known and keeps_out(name + stated.text("@type")):
                known[name] = (stated.text("@type").rpartition(".")[2].removesuffix("PerRoute"), None, stated.line)
        for name, (kind, config, line) in known.items():
            own = settings.get(name)
            if own is not None and _is_off(own):
                continue
            if kind == JWT and name in self._tokens:
                found = self._tokens[name].split(found, own)
            elif kind == RBAC:
                self._add_rules(common, own.get("rbac") if own is not None else config)
            elif kind == AUTHZ and config is not None:
                self._add_server(common, config, own)
            else:
                if own is not None:
                    own.lose(REFUSED)
                common.refuse(line if own is None else own.line, name)
        for part in found:
            part.access.add(common)
        return found

    # ----- rbac

    def _add_rules(self, access: Access, config: Part | None) -> None:
        if config is None:
            return
        config.label("@type", "shadow_rules_stat_prefix")
        if (shadow := config.get("shadow_rules")) is not None:
            shadow.lose("rules that only count; write `mode: observe`")
        if config.get("matcher") is not None:
            config.lose(REFUSED)
            access.refuse(config.line, "rbac")
            return
        rules = config.get("rules")
        if rules is None:
            return
        action = rules.text("action") or "ALLOW"
        if action == "LOG":
            rules.lose("rules that only log; write `mode: observe`")
            return
        allowed = [self._policy(each) for _, each in rules.members("policies")]
        access.demand(Some(tuple(allowed)) if action == "ALLOW" else Not(Some(tuple(allowed))))
        if self._reads_certificates:
            block = {"certificate": {"spiffe": Value(SPIFFE_IDS, "all SPIFFE IDs")}}
            access.identify([self._draft.identity("certificates", block)], rules.line, optional=False)
        if not allowed and action == "ALLOW":
            access.refuse(rules.line, "rbac")

    def _policy(self, part: Part) -> Tree:
        """Return the condition of a policy."""
        found: list[Tree] = [
            Some(tuple(self._one(each) for each in part.items(key))) for key in ("permissions", "principals")
        ]
        for key in ("condition", "checked_condition"):
            if (each := part.get(key)) is not None:
                each.lose("a condition in CEL's syntax tree; the policy lets nobody pass here; write `when`")
                found.append(UNKNOWN)
        return Every(tuple(found))

    def _one(self, part: Part) -> Tree:
        """Return the condition of a permission or a principal."""
        for key, each in part.members():
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            if name == "any":
                return ALWAYS if each.is_true() else NEVER
            if name in ("and_rules", "and_ids", "or_rules", "or_ids"):
                kind = Every if name.startswith("and") else Some
                return kind(tuple(map(self._one, each.items("rules" if name.endswith("rules") else "ids"))))
            if name in ("not_rule", "not_id"):
                return Not(self._one(each))
            if name in ("direct_remote_ip", "source_ip"):
                return self._network(each, name)
            if name == "url_path":
                matcher = each.get("path")
                return self._text("request.path", "", matcher) if matcher is not None else UNKNOWN
            if name == "header":
                return self._header(each)
            if name == "metadata":
                return self._metadata(each)
            if name == "authenticated" and self.has_certificates and not self._tokens:
                return self._certificate(each)
            each.lose(f"`{key}`: {self._why(name)}; {NOBODY}")
            return UNKNOWN
        return NEVER

    @staticmethod
    def _why(name: str) -> str:
        return {"remote_ip": REMOTE, "authenticated": ABOUT_TLS}.get(name, "has no equal here")

    def _network(self, part: Part, name: str) -> Tree:
        length = part.number("prefix_len")
        address = part.text("address_prefix")
        if name == "source_ip" and self.has_proxy_protocol:
            part.lose(f"depends on the PROXY protocol; {NOBODY}")
            return UNKNOWN
        network = f"{address}/{length or 0}"
        if not is_network(network):
            raise part.fail(f"is `{network}`; an address and a prefix of a length would be right")
        return Networks((network,), part.line)

    def _text(self, fact: str, presence: str, part: Part) -> Tree:
        """Return a condition on a text, which is one of Envoy's matchers of strings."""
        if part.get("ignore_case") is not None and part.is_true("ignore_case"):
            part.lose(f"compares without case, which has no equal here; {NOBODY}")
            return UNKNOWN
        for key, kind in COMPARED.items():
            if (each := part.get(key)) is not None:
                return text_test(fact, presence, kind, each.text(), each)
        if (each := part.get("safe_regex")) is not None:
            each.label("google_re2")
            return text_test(fact, presence, "regex", full(each.text("regex")), each)
        part.lose(f"has no equal here; {NOBODY}")
        return UNKNOWN

    def _header(self, part: Part) -> Tree:
        name = part.text("name").lower()
        fact, presence = header_of(name)
        found: Tree
        present = part.get("present_match")
        if not fact:
            part.lose(f"`{name}` has no equal here; {NOBODY}")
            return UNKNOWN
        if (matcher := part.get("string_match")) is not None:
            found = self._text(fact, presence, matcher)
        elif any(key.removesuffix("_match") in COMPARED for key, _ in part.members()):
            key, each = next((key, each) for key, each in part.members() if key.removesuffix("_match") in COMPARED)
            found = text_test(fact, presence, key.removesuffix("_match"), each.text(), each)
        elif (regex := part.get("safe_regex_match")) is not None:
            regex.label("google_re2")
            found = text_test(fact, presence, "regex", full(regex.text("regex")), regex)
        elif present is not None or len(dict(part.members())) == 1 + ("invert_match" in dict(part.members())):
            has = Condition(presence, part.line) if presence else ALWAYS
            is_wanted = (present is None or present.is_true()) != part.is_true("invert_match")
            return has if is_wanted else Not(has)
        else:
            part.lose(f"has no equal here; {NOBODY}")
            return UNKNOWN
        if part.get("treat_missing_header_as_empty") is not None:
            part.lose(f"an absent field has no value here; {NOBODY}")
            return UNKNOWN
        if not part.is_true("invert_match"):
            return found
        return Every((Condition(presence, part.line), Not(found))) if presence else Not(found)

    def _certificate(self, part: Part) -> Tree:
        """Return a condition on the SPIFFE ID of a client's certificate."""
        self._reads_certificates = True
        name = part.get("principal_name")
        if name is None:
            return Condition(SPIFFE, part.line)
        spelt = name.get("exact") or name.get("prefix")
        if spelt is not None and not spelt.text().startswith("spiffe://"):
            part.lose(f"only SPIFFE IDs have an equal here; {NOBODY}")
            return UNKNOWN
        return self._text("caller.id", SPIFFE, name)

    def _metadata(self, part: Part) -> Tree:
        """Return a condition on the claims of a token."""
        keys = [each.text("key") for each in part.items("path")]
        payloads = [one for tokens in self._tokens.values() for one in tokens.payloads(keys[:1])]
        value = part.get("value")
        if part.text("filter") != "envoy.filters.http.jwt_authn" or not payloads or not keys[1:] or value is None:
            part.lose(f"only claims of a token whose provider has `payload_in_metadata` have an equal here; {NOBODY}")
            return UNKNOWN
        fact = claim(*keys[1:])
        issuers = Some(tuple(claim_test(("iss",), "exact", issuer, part) for issuer in payloads))
        found: Tree = UNKNOWN
        if (text := value.get("string_match")) is not None:
            found = self._text(fact, f"has({fact})", text)
        elif (item := value.get("list_match", "one_of", "string_match", "exact")) is not None:
            found = Condition(item_of(fact, item.text()), item.line)
        elif (flag := value.get("bool_match")) is not None:
            found = Condition(f"has({fact}) && {fact} == {'true' if flag.is_true() else 'false'}", flag.line)
        elif (present := value.get("present_match")) is not None and present.is_true():
            found = Condition(f"has({fact})", present.line)
        else:
            value.lose(f"has no equal here; {NOBODY}")
        return Every((issuers, Not(found) if part.is_true("invert") else found))

    # ----- ext_authz

    def _add_server(self, access: Access, config: Part, own: Part | None) -> None:
        draft = self._draft
        config.label("@type", "transport_api_version", "stat_prefix", "clear_route_cache")
        service = config.get("http_service")
        uri = service.get("server_uri", "uri") if service is not None else None
        if own is not None:
            own.lose(REFUSED)
        why = (
            "asks a server over gRPC"
            if service is None or uri is None
            else "lets requests pass while the server fails" if config.is_true("failure_mode_allow")
            else "sends the body of the request" if config.get("with_request_body") is not None
            else "asks with `headers_to_add`" if service.get("authorization_request", "headers_to_add") is not None
            else ""
        )  # fmt: skip
        if own is not None or why or service is None or uri is None:
            config.lose(f"{why or 'is another one for this route'}; {REFUSED}")
            access.refuse(config.line, "ext_authz")
            return
        cluster = service.text("server_uri", "cluster")
        address = address_of(draft, cluster) or uri.text()
        block: dict[str, Any] = {"url": draft.value(address.rstrip("/") + service.text("path_prefix"), uri.line)}
        service.label("server_uri")
        fields = ["authorization"]
        for where in (config.get("allowed_headers"), service.get("authorization_request", "allowed_headers")):
            for each in where.items("patterns") if where is not None else []:
                if (exact := each.get("exact")) is not None:
                    fields.append(exact.text())
                else:
                    each.lose("only whole names of fields have an equal here")
        told: list[str] = []
        dropped: list[str] = []
        passed = service.get("authorization_response", "allowed_upstream_headers")
        for each in passed.items("patterns") if passed is not None else []:
            if (exact := each.get("exact")) is not None:
                told.append(exact.text())
                continue
            each.lose("only whole names of fields have an equal here; no client may write such fields")
            if (prefix := each.get("prefix")) is not None and prefix.text():
                dropped.append(f"{prefix.text()}*")
            else:
                access.refuse(each.line, "ext_authz")
        if (timeout := service.get("server_uri", "timeout")) is not None:
            block["timeout"] = duration_of(draft, timeout)
        config.differ("a request with none of `headers` is refused without asking, and the client gets 401 or 503 in "
                      "place of the server's answer")  # fmt: skip
        ask(draft, access, block, fields, told, config.line, dropped)


def address_of(draft: Draft, cluster: str) -> str:
    """Return the address of a cluster as a URL; empty if it has none here, or several."""
    keys = draft.upstreams.get(draft.upstream_of(cluster) or "", {})
    found = plain({"": keys.get("endpoints", []), "discover": keys.get("discover", {})})
    if keys.get("endpoints"):
        first = keys["endpoints"][0]
        return str(first["url"].value if isinstance(first, dict) else first.value)
    host, port = found["discover"].get("dns"), found["discover"].get("port")
    return f"{'https' if 'tls' in keys else 'http'}://{host}:{port}" if host and port else ""


def _is_off(own: Part) -> bool:
    """True if settings of a route turn a filter off."""
    if own.is_true("disabled"):
        return True
    return own.text("@type").endswith("RBACPerRoute") and own.get("rbac") is None


class _Tokens:
    """Filter `jwt_authn`."""

    def __init__(self, draft: Draft, config: Part) -> None:
        self._draft = draft
        self._config = config
        self._tokens = Tokens(draft)
        config.label("@type", "bypass_cors_preflight")
        self._providers = {name: self._provider(name, part) for name, part in config.members("providers")}
        self._named = dict(config.members("requirement_map"))
        for key in ("filter_state_rules",):
            if (part := config.get(key)) is not None:
                part.lose("has no equal here; all requests are refused")
        self._is_known = config.get("filter_state_rules") is None

    def payloads(self, keys: list[str]) -> list[str]:
        """Return the issuers whose claims stand under a key of the metadata."""
        return [issuer for _, issuer, payload in self._providers.values() if keys == [payload] and issuer]

    def _provider(self, name: str, part: Part) -> tuple[str, str, str]:
        """Return identity, issuer and key of the metadata of a provider; an empty identity for one without an equal."""
        draft = self._draft
        issuer = part.text("issuer")
        payload = part.text("payload_in_metadata")
        part.label("jwt_cache_config", "pad_forward_payload_header", "normalize_payload_in_metadata")
        why = "has no issuer" if not issuer else ""
        for key in ("max_lifetime", "subjects", "failed_status_in_metadata"):
            if (each := part.get(key)) is not None and key != "failed_status_in_metadata":
                why = f"`{key}` has no equal here"
            elif each is not None:
                each.lose()
        for key in ("from_params", "from_cookies"):
            if part.get(key) is not None:
                why = f"tokens are read from `Authorization` alone here, not by `{key}`"
        for each in part.items("from_headers"):
            prefix = each.text("value_prefix")
            if each.text("name").lower() != "authorization" or prefix.lower() != "bearer ":
                why = f"tokens are read from `Authorization: Bearer` alone here, not from `{each.text('name')}`"
        remote, local = part.get("remote_jwks"), part.get("local_jwks")
        block: dict[str, Any] = {"issuer": draft.value(issuer, part.line)}
        if audiences := part.items("audiences"):
            block["audiences"] = draft.value([each.text() for each in audiences], audiences[0].line)
        skew = part.get("clock_skew_seconds")
        leeway = Value("60s", "Envoy's default") if skew is None else draft.value(f"{skew.number() or 60}s", skew.line)
        block["leeway"] = leeway
        part.label("require_expiration")
        if remote is not None:
            uri = remote.get("http_uri", "uri")
            put(block, "keys.url", draft.value(uri.text() if uri is not None else "", remote.line))
            if (timeout := remote.get("http_uri", "timeout")) is not None:
                put(block, "keys.timeout", duration_of(draft, timeout))
            if (cached := remote.get("cache_duration")) is not None:
                put(block, "keys.refresh", duration_of(draft, cached))
            if (cluster := remote.get("http_uri", "cluster")) is not None:
                cluster.differ("the keys come from the host of their URL here, with the system's authorities for TLS")
            remote.label("async_fetch", "retry_policy")
        elif local is not None:
            why = why or jwks_keys(draft, local.get("inline_string") or local.get("filename"), block,
                                   is_file=local.get("inline_string") is None)  # fmt: skip
        else:
            why = why or "has no keys"
        if why:
            part.lose(f"{why}; requests that need its tokens are refused")
            return "", "", ""
        claims = [(each, each.text("claim_name"), each.text("header_name")) for each in part.items("claim_to_headers")]
        forward = forward_of(part, part.get("forward"), part.get("forward_payload_header"), claims)
        return self._tokens.identity(name, block, forward), issuer, payload

    def split(self, parts: list[Guarded], own: Part | None) -> list[Guarded]:
        """Return the parts of a route, each with the tokens that its requests need."""
        if own is not None and (named := own.get("requirement_name")) is not None:
            demand = self._named_demand(named)
            return [Guarded(part.match, self._with(part.access, demand, named.line)) for part in parts]
        return [each for part in parts for each in self._split(part)]

    def _split(self, part: Guarded) -> list[Guarded]:
        """Return the parts of a route that rules tell apart by their paths."""
        found: list[Guarded] = []
        taken: list[tuple[str, str]] = []
        rest = part.access.copy()
        if not self._is_known:
            rest.refuse(self._config.line, "jwt_authn")
        space = _space(part.match)
        for rule in self._config.items("rules"):
            where = _rule_space(rule)
            demand = self._demand(rule)
            if where is None:
                if demand != OPEN:
                    rule.lose("has a condition without an equal here; its routes refuse")
                    rest.refuse(rule.line, "jwt_authn")
                continue
            if any(_covers(each, where) for each in taken):
                continue
            if any(each[1].rstrip("/") == where[1].rstrip("/") for each in taken):
                rest.demand(ALWAYS if demand == OPEN else Not(Condition(_within(where), rule.line)))
                continue
            if _covers(where, space):
                return [*found, Guarded(part.match, self._with(rest, demand, rule.line))]
            if not _covers(space, where) or "path_regex" in part.match or "path" in part.match:
                if "path_regex" in part.match and demand != OPEN:
                    rest.demand(Not(Condition(_within(where), rule.line)))
                continue
            taken.append(where)
            kind, path = where
            key = "path" if kind == "exact" else "path_prefix"
            match = {**part.match, key: self._draft.value(path, rule.line)}
            if demand != OPEN and kind == "prefix" and not path.endswith("/"):
                rest.demand(Not(Condition(_within(where), rule.line)))
            found.append(Guarded(match, self._with(part.access, demand, rule.line)))
        return [*found, Guarded(part.match, rest)]

    def _with(self, access: Access, demand: Demand, line: int) -> Access:
        found = access.copy()
        if not demand.is_known:
            found.refuse(line, "jwt_authn")
        elif demand.providers:
            identities = [self._providers[each][0] for each in demand.providers]
            self._tokens.ask(found, identities, line, optional=demand.is_optional)
        return found

    # ----- demands

    def _demand(self, rule: Part) -> Demand:
        if (named := rule.get("requirement_name")) is not None:
            return self._named_demand(named)
        stated = rule.get("requires")
        return self._requires(stated) if stated is not None else OPEN

    def _named_demand(self, part: Part) -> Demand:
        found = self._named.get(part.text())
        if found is None:
            part.lose(f"`{part.text()}` is not in the file; {REFUSED}")
            return NO_EQUAL
        return self._requires(found)

    def _requires(self, part: Part) -> Demand:
        for key, each in part.members():
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            if name == "provider_name":
                return self._by_name(each.text(), each)
            if name == "provider_and_audiences":
                if each.get("audiences") is not None:
                    each.lose(f"audiences of one requirement; {REFUSED}")
                    return NO_EQUAL
                return self._by_name(each.text("provider_name"), each)
            if name == "requires_any":
                found = [self._requires(one) for one in each.items("requirements")]
                names = tuple(dict.fromkeys(one for demand in found for one in demand.providers))
                is_open = any(demand.is_optional for demand in found)
                return Demand(names, is_open) if all(demand.is_known for demand in found) else NO_EQUAL
            if name in ("allow_missing", "allow_missing_or_failed"):
                if name == "allow_missing_or_failed":
                    each.differ("requests with an invalid token are refused here")
                each.take()
                return OPEN
            each.lose(f"`{key}`: {REFUSED}")
            return NO_EQUAL
        return OPEN

    def _by_name(self, name: str, part: Part) -> Demand:
        if name not in self._providers:
            part.lose(f"the provider `{name}` is not in the file; {REFUSED}")
            return NO_EQUAL
        return Demand((name,), False) if self._providers[name][0] else NO_EQUAL


def _space(match: dict[str, Any]) -> tuple[str, str]:
    """Return the paths of a route, as kind and path."""
    if "path" in match:
        return "exact", match["path"].value
    return ("segments", match["path_prefix"].value) if "path_prefix" in match else ("prefix", "/")


def _rule_space(rule: Part) -> tuple[str, str] | None:
    """Return the paths of a rule; None for one with other conditions."""
    found: tuple[str, str] | None = None
    for key, each in rule.members("match"):
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
        if name not in SPACES:
            return None
        found = SPACES[name], each.text() or "/"
    return found


def _covers(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """True if paths include all of others."""
    kind, path = one
    if kind == "prefix":
        return other[1].startswith(path)
    if kind == "segments":
        path = path.rstrip("/")
        inner = other[1].rstrip("/")
        return (inner + "/").startswith(path + "/") and (other[0] != "prefix" or inner != path or not path)
    return one == other


def _within(where: tuple[str, str]) -> str:
    """Return the condition that a path is one of some."""
    kind, path = where
    if kind == "exact":
        return f"request.path == {quoted(path)}"
    if kind == "segments":
        return f"request.path == {quoted(path)} || request.path.startsWith({quoted(path.rstrip('/') + '/')})"
    return f"request.path.startsWith({quoted(path)})"
