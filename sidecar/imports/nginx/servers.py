"""nginx servers and locations with `proxy_pass`, as routes.

Where nginx differs: it tries another server at most once for each server, without a pause, and never the same one;
`proxy_read_timeout` is the pause between two reads; the Host that upstreams get is that of `proxy_pass` unless
`proxy_set_header` states another.  Directives hold for the blocks within them that have none of the same name.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports import edits
from sidecar.imports.access.facts import text_test
from sidecar.imports.access.rules import UNKNOWN, Access, Not, Some, Tree, is_network
from sidecar.imports.conditions import whole
from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.nginx.access import add_access, ignoring_case
from sidecar.imports.nginx.grammar import Directive, read_directives
from sidecar.imports.nginx.policies import add_headers, add_limits, add_retries, add_timeouts
from sidecar.imports.nginx.scope import Scope, refuses
from sidecar.imports.nginx.upstream import Upstreams

SELF: Final = (
    "return",
    "root",
    "alias",
    "try_files",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "stub_status",
)
"""Directives of locations that answer without `proxy_pass`."""


def read_nginx(draft: Draft, text: str) -> None:
    """Add the policies of an nginx configuration, whole or as an included part.  Raises `TranslationError`."""
    root = read_directives(draft.findings, text)
    blocks = root.named("http")
    outer = [*blocks, root]
    upstreams = Upstreams(draft, [each for block in outer for each in block.named("upstream")])
    servers = [(block, each) for block in outer for each in block.named("server")]
    for directive in _all(root):
        if directive.name == "include":
            directive.lose("is not read; put the text of the file in its place")
    for block, server in servers:
        _Server(draft, upstreams, [root, block], server).add(len(servers))
    upstreams.finish()
    root.report_unread()


def _all(directive: Directive) -> list[Directive]:
    found: list[Directive] = []
    for each in directive.block:
        found += [each, *_all(each)]
    return found


class _Server:
    """Server under translation."""

    def __init__(self, draft: Draft, upstreams: Upstreams, outer: list[Directive], server: Directive) -> None:
        self.draft = draft
        self.upstreams = upstreams
        self.outer = outer
        self.server = server
        self.names: list[Directive] = server.named("server_name")
        self.asked = [each.words for each in _all(server) if each.name == "auth_request"]
        """Paths of the locations that say whether requests may pass."""
        self.knows_proxies = False
        """True if the listeners have the trusted proxies of `set_real_ip_from`."""

    def add(self, count: int) -> None:
        """Add the listeners and routes of the server."""
        hosts = self._hosts()
        listeners = self._listeners()
        locations = self._locations(self.server)
        is_answer = bool(self.server.named("return"))
        if is_answer or (not locations and any(each.name in SELF for each in self.server.block)):
            for listener, is_default in listeners:
                for host in [] if is_default else hosts:
                    match = {"host": self.draft.value(host, self.server.line)}
                    self.draft.close(host, self.server.line, "server", listener, match)
            self.server.lose("answers without `proxy_pass`; all its requests are refused, or get 404")
            return
        self._add_proxies([name for name, _ in listeners])
        denied = [tree for around, each in locations if (tree := self._denied(around, each)) is not None]
        for listener, is_default in listeners:
            for host in [""] if is_default or not hosts else hosts:
                for location in locations:
                    self._add_location(location, listener, host, count, denied)

    def _add_proxies(self, listeners: list[str]) -> None:
        """Add the proxies that may state the address of a client, if they are those of all servers."""
        scope = Scope(self.outer)
        proxies, own = scope.every("set_real_ip_from"), self.server.named("set_real_ip_from")
        header, recursive = scope.one("real_ip_header"), scope.one("real_ip_recursive")
        networks = [each.word() for each in proxies]
        is_field = header is not None and header.word().lower() == "x-forwarded-for"
        if own or not proxies or not is_field or not all(map(is_network, networks)):
            for each in own or proxies:
                each.lose("name these proxies in `trusted_proxies` of the listener")
            return
        if header is not None and (recursive is None or recursive.word() != "on"):
            header.differ("the client is the last address that is none of a trusted proxy here, and the last one there")
        for name in listeners:
            self.draft.listeners[name]["trusted_proxies"] = self.draft.value(networks, proxies[0].line)
        self.knows_proxies = True

    def _denied(self, around: list[Directive], location: Directive) -> Tree | None:
        """Return the requests of a location with a regular expression that gets to no upstream; None for others."""
        is_pattern = len(location.words) > 1 and location.word() in ("~", "~*")
        if not is_pattern or (location.named("proxy_pass") and not location.named("return")):
            return None
        pattern = location.word(1)
        pattern = ignoring_case(pattern) if location.word() == "~*" else pattern
        rules = Scope([*self.outer, self.server, *around, location]).every("allow", "deny")
        is_refusal = refuses(location) or bool(rules) or bool(location.named("internal"))
        if not is_refusal and location.named("location"):
            return None
        found = text_test("request.path", "", "regex", pattern, location)
        return None if found == UNKNOWN and not is_refusal else found

    def _hosts(self) -> list[str]:
        hosts: list[str] = []
        for directive in self.names:
            for name in directive.words:
                if name.startswith("~") or name.endswith("*"):
                    directive.lose(f"{name} has no equal; write a route for each host")
                elif name.startswith("."):
                    hosts += [name[1:], f"*{name}"]
                elif name not in ("_", "", "localhost") and "$" not in name:
                    hosts.append(name)
        return hosts

    def _listeners(self) -> list[tuple[str, bool]]:
        """Return the names of the server's listeners, and True for each where it is the default server."""
        draft = self.draft
        directives = self.server.named("listen")
        found: dict[str, bool] = {}
        ports = {each.word() for each in directives}
        for directive in directives:
            address = directive.word()
            if address.startswith("[::]:") and address[5:] in ports:
                directive.differ("the listener takes IPv4 alone here; write `[::]` in its address for both")
                continue
            if address.isdigit():
                address = f"0.0.0.0:{address}"
            elif ":" not in address:
                address = f"{address}:80"
            address = address.replace("*:", "0.0.0.0:")
            known = next((name for name, keys in draft.listeners.items() if keys["address"].value == address), "")
            is_first = not known
            if not known:
                known = draft.listener(
                    "inbound" if not draft.listeners else f"port-{address.rpartition(':')[2]}", directive.line
                )
                draft.listeners[known]["address"] = draft.value(address, directive.line)
            if "ssl" in directive.words[1:]:
                self._add_tls(known)
            for word in directive.words[1:]:
                if word not in ("ssl", "http2", "default_server"):
                    directive.findings.lose(directive.line, directive.shown, f"`{word}` has no equal here")
            found[known] = found.get(known, False) or is_first or "default_server" in directive.words
        if not directives:
            known = next(iter(draft.listeners), "") or draft.listener("inbound", self.server.line)
            draft.listeners[known].setdefault("address", Value("0.0.0.0:80", "nginx's default"))
            return [(known, len(draft.listeners[known]) == 1 and not draft.routes)]
        return list(found.items())

    def _add_tls(self, listener: str) -> None:
        scope = Scope([*self.outer, self.server])
        for name, key in (("ssl_certificate", "cert"), ("ssl_certificate_key", "key")):
            if (stated := scope.one(name)) is not None:
                put(self.draft.listeners[listener], f"tls.{key}", self.draft.value(stated.word(), stated.line))
        verify, ca = scope.one("ssl_verify_client"), scope.one("ssl_client_certificate")
        if verify is not None and verify.word() == "on" and ca is not None:
            put(self.draft.listeners[listener], "tls.client_ca", self.draft.value(ca.word(), ca.line))
        elif verify is not None and verify.word() not in ("on", "off"):
            verify.lose("client certificates are optional there; here `client_ca` requires them")

    def _locations(self, block: Directive) -> list[tuple[list[Directive], Directive]]:
        """Return the locations of a block with the blocks around each; the innermost ones first."""
        found: list[tuple[list[Directive], Directive]] = []
        for location in block.named("location"):
            found += [([location, *around], inner) for around, inner in self._locations(location)]
            found.append(([], location))
        return found

    def _add_location(
        self, found: tuple[list[Directive], Directive], listener: str, host: str, count: int, denied: list[Tree]
    ) -> None:
        around, location = found
        draft = self.draft
        scope = Scope([*self.outer, self.server, *around, location], knows_proxies=self.knows_proxies)
        target = next(iter(location.named("proxy_pass")), None)
        if target is None or location.named("return"):  # a `return` comes first
            if any(each.name in SELF for each in location.block) or not location.named("location"):
                match, prefix = self._match(location, host)
                if match is not None and location.words[:1] not in (["~"], ["~*"]):
                    draft.close(prefix.strip("/") or "all", location.line, location.shown, listener, match)
                location.lose("answers without `proxy_pass`; all its requests are refused, or get 404")
            return
        match, prefix = self._match(location, host)
        if match is None:
            return
        if location.named("internal") and location.words[-1:] in self.asked:
            draft.close(prefix.strip("/"), location.line, "internal", listener, match)
            return
        passed = self.upstreams.passed(target, scope)
        if passed is None:
            draft.close(prefix.strip("/") or "all", location.line, location.shown, listener, match)
            location.lose("its `proxy_pass` is not translated, and so the whole location refuses")
            return
        keys: dict[str, Any] = {"listener": listener}
        if match:
            keys["match"] = match
        keys["upstream"] = draft.value(passed.name, target.line)
        add_timeouts(draft, scope, keys)
        self._add_rewrite(target, passed.path, prefix, keys)
        access = Access(draft)
        told = add_access(draft, scope, access, self.server)
        if location.words[:1] not in (["="], ["^~"], ["~"], ["~*"]):
            access.demand(Not(Some(tuple(denied))))
        add_headers(draft, scope, keys, passed, told)
        add_retries(draft, scope, keys, passed)
        add_limits(draft, scope, keys)
        access.apply(keys)
        for each in scope.every("proxy_http_version"):
            each.take()
        name = (host.replace("*", "any") or "all") if count > 1 and host else ""
        draft.route(f"{name}-{prefix.strip('/') or 'all'}" if name else prefix.strip("/") or "all", location.line, keys)

    def _match(self, location: Directive, host: str) -> tuple[dict[str, Any] | None, str]:
        """Return the match of a location, None for one without an equal, and its prefix."""
        draft, line = self.draft, location.line
        match: dict[str, Any] = {}
        if host:
            name = self.names[0] if self.names else location
            match["host"] = draft.value(host, name.line)
        kind, path = ("", location.word()) if len(location.words) < 2 else (location.word(), location.word(1))
        if path.startswith("@"):
            location.lose("is internal; write a `fallback`")
            return None, ""
        if kind == "=":
            match["path"] = draft.value(path, line)
        elif kind == "~":
            match["path_regex"] = draft.value(whole(path), line)
            location.differ("tried before prefixes there, but here the more specific match wins")
            return match, ""
        elif kind == "~*":
            match["path_regex"] = draft.value(whole(ignoring_case(path)), line)
            location.differ("tried before prefixes there, but here the more specific match wins")
            return match, ""
        elif path != "/":
            match["path_prefix"] = draft.value(path, line)
            draft.textual |= set() if path.endswith("/") else {path}
            told = f"takes {path.rstrip('/')} itself too" if path.endswith("/") else f"whole segments only: not {path}x"
            location.differ(f"{told} here")
        return match, path

    def _add_rewrite(self, target: Directive, path: str, prefix: str, keys: dict[str, Any]) -> None:
        if not path or path == prefix:
            return
        if "path" in keys.get("match", {}):
            put(keys, "transform.request.path", self.draft.value(path, target.line))
        elif not prefix:
            target.lose("a path beside a regular expression has no equal here")
        else:
            edits.rewrite_prefix(self.draft, keys, prefix, path, target.line)
