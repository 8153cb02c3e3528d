"""nginx upstreams: servers, balancing, passive checks, and hosts that `proxy_pass` names."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.nginx.grammar import Directive
from sidecar.imports.nginx.policies import CONDITIONS
from sidecar.imports.nginx.scope import Scope, length
from sidecar.imports.units import duration

TARGET: Final = re.compile(r"(https?)://([^/$]+)(/[^$]*)?")
FAULTS: Final = ["connect_failure", "reset", "timeout", "protocol_error"]
DEFAULTS: Final = {"max_fails": "1", "fail_timeout": "10s"}


class Passed(NamedTuple):
    """Upstream that a location names."""

    name: str
    """Name of the upstream here."""
    host: str
    """Host and port that it gets as Host unless another is stated."""
    path: str
    """Path that replaces the location's prefix; empty for none."""
    servers: int
    """Number of servers."""


class Upstreams:
    """Upstreams of a configuration, added when the first location names them."""

    def __init__(self, draft: Draft, blocks: list[Directive]) -> None:
        self._draft = draft
        self._blocks = {each.word(): each for each in blocks}
        self._added: dict[tuple[str, str], Passed | None] = {}

    def passed(self, target: Directive, scope: Scope) -> Passed | None:
        """Return the upstream of a `proxy_pass`; None if it has no equal here, which is reported."""
        spelt = scope.constant(target.word())
        match = TARGET.fullmatch(spelt)
        if match is None or (spelt != target.word() and match[3]):  # with variables a path replaces the whole one
            target.lose("has variables, or another scheme than http and https")
            return None
        scheme, host, path = match[1], match[2], match[3] or ""
        if (scheme, host) not in self._added:
            self._added[scheme, host] = self._add(scheme, host, target, scope)
        found = self._added[scheme, host]
        return None if found is None else found._replace(path=path)

    def finish(self) -> None:
        """Add the upstreams that no location names."""
        named = {host for _, host in self._added}
        for name, block in self._blocks.items():
            if name not in named:
                self._add("http", name, block, Scope([]))

    def _add(self, scheme: str, host: str, target: Directive, scope: Scope) -> Passed | None:
        draft = self._draft
        keys: dict[str, Any] = {}
        block = self._blocks.get(host)
        if block is None:
            address = host if re.search(r":[0-9]+$", host) else f"{host}:{443 if scheme == 'https' else 80}"
            keys["endpoints"] = [draft.value(f"{scheme}://{address}", target.line)]
            count = 1
        else:
            count = self._add_servers(scheme, block, keys, scope)
            if not count:
                block.lose("has no server that is translated")
                return None
        connect = scope.one("proxy_connect_timeout")
        keys["connect_timeout"] = (
            Value("60s", "nginx's default") if connect is None else draft.value(duration(length(connect)), connect.line)
        )
        if scheme == "https":
            self._add_tls(keys, scope)
        name = draft.upstream(f"{host}" if scheme == "http" else f"{host}-tls", keys)
        return Passed(name, host, "", count)

    def _add_tls(self, keys: dict[str, Any], scope: Scope) -> None:
        draft = self._draft
        ca, verify = scope.one("proxy_ssl_trusted_certificate"), scope.one("proxy_ssl_verify")
        if ca is not None:
            put(keys, "tls.ca", draft.value(ca.word(), ca.line))
        if verify is None or verify.word() != "on":
            put(keys, "tls.verify", Value(False, "nginx's default; better verify with a `ca`"))
        for name, key in (("proxy_ssl_certificate", "cert"), ("proxy_ssl_certificate_key", "key"),
                          ("proxy_ssl_name", "server_name")):  # fmt: skip
            if (stated := scope.one(name)) is not None:
                put(keys, f"tls.{key}", draft.value(stated.word(), stated.line))

    def _add_servers(self, scheme: str, block: Directive, keys: dict[str, Any], scope: Scope) -> int:
        draft = self._draft
        endpoints: list[tuple[Value, int]] = []
        checks: dict[str, Value] = {}
        for server in block.named("server"):
            options = dict(word.partition("=")[::2] for word in server.words[1:])
            if "backup" in options or "down" in options:
                server.lose("is not used at first; write a `fallback` for a backup")
                continue
            address = server.word()
            if address.startswith("unix:"):
                url = address
            else:
                url = f"{scheme}://{address if re.search(r':[0-9]+$', address) else address + ':80'}"
            weight = options.pop("weight", "1")
            if not weight.isascii() or not weight.isdigit():
                raise server.fail(f"has the weight `{weight}`; a whole number would be right")
            endpoints.append((draft.value(url, server.line), int(weight[:9])))
            for key in DEFAULTS:
                if key in options:
                    value = draft.value(options.pop(key), server.line)
                    if checks.setdefault(key, value).value != value.value:
                        server.differ(f"`{key}` is one for all servers here: {checks[key].value}")
            most = options.pop("max_conns", "")
            if most.isascii() and most.isdigit() and int(most[:9]):
                put(keys, "connections.max", draft.value(int(most[:9]), server.line))
            for name in options:
                server.findings.lose(server.line, server.shown, f"`{name}` has no equal here")
        if any(weight != 1 for _, weight in endpoints):
            keys["endpoints"] = [
                {"url": url, "weight": Value(weight, url.comment, url.line)} for url, weight in endpoints
            ]
        else:
            keys["endpoints"] = [url for url, _ in endpoints]
        self._add_balancing(block, keys)
        self._add_ejection(block, keys, checks, scope, len(endpoints))
        return len(endpoints)

    def _add_balancing(self, block: Directive, keys: dict[str, Any]) -> None:
        draft = self._draft
        keys["load_balancing"] = Value("round_robin", "nginx's default")
        for each in block.named("least_conn", "random", "ip_hash", "hash"):
            header = re.fullmatch(r"\$\{?http_(\w+)\}?", each.words[0]) if each.name == "hash" and each.words else None
            if each.name == "least_conn":
                keys["load_balancing"] = draft.value("least_request", each.line)
            elif each.name == "random":
                keys["load_balancing"] = draft.value("random", each.line)
            elif each.name == "ip_hash" or each.words[:1] in (["$remote_addr"], ["$binary_remote_addr"]):
                keys["load_balancing"] = {"hash": {}}
            elif header is not None:
                keys["load_balancing"] = {"hash": {"header": draft.value(header[1].replace("_", "-"), each.line)}}
            else:
                each.lose("only `$http_NAME` and the client's address have an equal as the key of a hash")
        for each in block.named("keepalive_timeout"):
            put(keys, "connections.idle_timeout", draft.value(duration(length(each)), each.line))
        for each in block.named("keepalive_requests"):
            if each.word().isascii() and each.word().isdigit():
                put(keys, "connections.max_requests", draft.value(int(each.word()[:9]), each.line))
        for each in block.named("zone"):
            each.take()

    def _add_ejection(
        self, block: Directive, keys: dict[str, Any], checks: dict[str, Value], scope: Scope, count: int
    ) -> None:
        fails = checks.get("max_fails", Value("1", "nginx's default"))
        time = checks.get("fail_timeout", Value("10s", "nginx's default"))
        if count < 2 or fails.value == "0":
            return
        if not fails.value.isascii() or not fails.value.isdigit():
            raise block.fail(f"has `max_fails={fails.value}`; a whole number would be right")
        held = Value(duration(length(block, time.value)), time.comment, time.line)
        on: list[Any] = list(FAULTS)
        stated = scope.one("proxy_next_upstream")
        for word in stated.words if stated is not None else []:
            on += [
                each for each in CONDITIONS.get(word, []) if each not in on and isinstance(each, int) and each >= 500
            ]
        ejection = {
            "consecutive_failures": Value(int(fails.value[:6]), fails.comment, fails.line),
            "eject_for": held,
            "max_eject_for": held,
            "min_healthy": Value(0, "nginx passes over every server that fails"),
            "on": Value(on, "what nginx counts as an unsuccessful attempt"),
        }
        keys["ejection"] = ejection
        if fails.value != "1":
            block.differ("`max_fails` counts failures in a row here, and those within `fail_timeout` there")
