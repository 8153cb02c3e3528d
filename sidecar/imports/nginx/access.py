"""nginx directives that keep requests out, as access rules: addresses, methods, conditions and subrequests.

Where nginx differs: the first of `allow` and `deny` that has the client's address decides; a location that is matched
by a regular expression takes requests from those that are matched by a prefix.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.imports.access.facts import NOBODY, header_of, text_test
from sidecar.imports.access.protection import REFUSED
from sidecar.imports.access.rules import (
    ALWAYS,
    NEVER,
    UNKNOWN,
    Access,
    Condition,
    Every,
    Networks,
    Not,
    Outside,
    Some,
    Tree,
    is_network,
)
from sidecar.imports.access.servers import FROM_CLIENT, ask
from sidecar.imports.conditions import quoted
from sidecar.imports.draft import Draft, Value
from sidecar.imports.nginx.grammar import Directive
from sidecar.imports.nginx.scope import Scope, length
from sidecar.imports.units import duration

PROTECTION: Final = (
    "auth_basic", "auth_jwt", "auth_oidc", "internal", "secure_link", "js_access", "access_by_lua",
    "access_by_lua_block", "access_by_lua_file",
)  # fmt: skip
"""Directives without an equal that keep requests out, of which the innermost one counts."""
LINKS: Final = ("=", "!=", "~", "!~", "~*", "!~*")
ASKED: Final = {
    "x-original-uri": ("$request_uri",), "x-original-method": ("$request_method",),
    "x-original-url": ("$scheme://$http_host$request_uri", "$scheme://$host$request_uri"),
    "x-forwarded-method": ("$request_method",), "x-forwarded-proto": ("$scheme",),
    "x-forwarded-host": ("$host", "$http_host"), "x-forwarded-uri": ("$request_uri",),
    "x-forwarded-for": ("$remote_addr", "$proxy_add_x_forwarded_for"), "x-real-ip": ("$remote_addr",),
    "content-length": ("",), "host": ("$proxy_host",), "connection": ("",),
}  # fmt: skip
"""Fields that a server is asked with, and the values that an identity sends too."""


def add_access(draft: Draft, scope: Scope, access: Access, server: Directive) -> list[str]:
    """Add the access rules of a location; return the fields of requests that a server writes that is asked."""
    for each in (each for name in PROTECTION for each in scope.every(name) if each.words[:1] != ["off"]):
        each.lose(REFUSED)
        access.refuse(each.line, each.name)
    verify = scope.one("ssl_verify_client")
    if verify is not None and verify.word() == "on" and scope.one("ssl_client_certificate") is None:
        verify.lose(REFUSED)
        access.refuse(verify.line, verify.name)
    rules = scope.every("allow", "deny")
    asked = next((each for each in scope.every("auth_request") if each.words[:1] != ["off"]), None)
    satisfy = scope.one("satisfy")
    if satisfy is not None and satisfy.word() == "any" and asked is not None and rules:
        satisfy.lose(f"either of two rules lets requests in there; {REFUSED}")
        access.refuse(satisfy.line, "satisfy any")
    networks = _addresses(scope, rules)
    for each in scope.every("limit_except"):
        own = each.named("allow", "deny")
        inner = _addresses(scope, own) if own else networks
        if any(one.name not in ("allow", "deny") for one in each.block):
            each.lose(f"{REFUSED}; these are requests with other methods")
            inner = UNKNOWN
        names = [*each.words, *(["HEAD"] if "GET" in each.words else [])]
        listed = Condition(f"request.method in [{', '.join(map(quoted, names))}]", each.line)
        networks = Some((Every((listed, networks)), Every((Not(listed), inner))))
    access.demand(networks)
    for each in scope.guards():
        access.demand(Not(guard(each)))
    return _ask(draft, scope, access, asked, server) if asked is not None else []


def _addresses(scope: Scope, rules: list[Directive]) -> Tree:
    """Return the condition of `allow` and `deny`, of which the first that has the client's address decides."""
    found: Tree = ALWAYS
    for rule in reversed(rules):
        word = rule.word()
        if word == "all":
            found = ALWAYS if rule.name == "allow" else NEVER
            continue
        if word == "unix:":
            continue  # no client of a listener here has such an address
        if not is_network(word) or scope.hides_clients:
            rule.lose(f"the address of a client depends on `set_real_ip_from` there; {NOBODY}"
                      if is_network(word) else f"`{word}` is no address; {NOBODY}")  # fmt: skip
            found = Every((UNKNOWN, found)) if rule.name == "deny" else found
            continue
        network = Networks((word,), rule.line)
        found = Some((network, found)) if rule.name == "allow" else Every((Outside((word,), rule.line), found))
    if found == NEVER and rules:
        rules[0].lose(REFUSED)
    return found


def guard(directive: Directive) -> Tree:
    """Return the condition of an `if`."""
    words = list(directive.words)
    words = words[1:] if words[:1] == ["("] else [each.removeprefix("(") for each in words[:1]] + words[1:]
    words = words[:-1] if words[-1:] == [")"] else words[:-1] + [each.removesuffix(")") for each in words[-1:]]
    fact, presence = _fact(words[0]) if words else ("", "")
    if not fact or (len(words) > 1 and words[1] not in LINKS) or len(words) > 3:
        directive.lose(f"has a condition without an equal here; {NOBODY}")
        return UNKNOWN
    directive.take()
    has = Condition(presence, directive.line) if presence else ALWAYS
    if len(words) == 1:
        return Every((has, Not(Condition(f"{fact} in ['', '0']", directive.line))))
    link, value = words[1], words[2] if len(words) > 2 else ""
    if "$" in value.rstrip("$") and "~" not in link:
        directive.lose(f"compares with a variable; {NOBODY}")
        return UNKNOWN
    if "~" in link:
        pattern = ignoring_case(value) if link.endswith("*") else value
        found = text_test(fact, presence, "regex", pattern, directive)
    else:
        found = text_test(fact, presence, "exact", value, directive)
        if value == "" and presence:  # an absent field is an empty one there
            found = Some((Not(has), found))
    return Not(found) if link.startswith("!") else found


def _fact(variable: str) -> tuple[str, str]:
    """Return a variable as a fact, and the test of its presence; empty for one without an equal."""
    name = variable.removeprefix("$").strip("{}")
    if name == "request_method":
        return "request.method", ""
    if name == "http_host":
        return "request.host", ""
    if name == "uri":
        return "request.path", ""
    if name.startswith("http_"):
        return header_of(name.removeprefix("http_").replace("_", "-"))
    return "", ""


def ignoring_case(pattern: str) -> str:
    """Return a regular expression that matches letters in either case."""
    found, is_class, at = "", False, 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            found += pattern[at : at + 2]
            at += 2
            continue
        if letter == "[" and not is_class:
            is_class = True
        elif letter == "]":
            is_class = False
        if letter.isalpha() and not is_class:
            found += f"[{letter.lower()}{letter.upper()}]"
        elif letter.isalpha() and pattern[at + 1 : at + 2] == "-" and pattern[at + 2 : at + 3].isalpha():
            last = pattern[at + 2]
            found += f"{letter.lower()}-{last.lower()}{letter.upper()}-{last.upper()}"
            at += 2
        else:
            found += letter.lower() + letter.upper() if letter.isalpha() else letter
        at += 1
    return found


# ----- auth_request


def _ask(draft: Draft, scope: Scope, access: Access, asked: Directive, server: Directive) -> list[str]:
    """Ask a server whether a request may pass; return the fields of requests that it writes."""
    location = next((each for each in server.named("location") if each.words[-1:] == asked.words
                     and each.words[:1] not in (["~"], ["~*"])), None)  # fmt: skip
    target = next(iter(location.named("proxy_pass")), None) if location is not None else None
    inner = Scope([*scope.blocks[:-1], location]) if location is not None else None
    why = (
        "its location is not in the file"
        if location is None
        else "its location has no `proxy_pass`"
        if target is None
        else ""
    )
    fields, keeps_host = list(FROM_CLIENT), False
    for each in inner.every("proxy_set_header") if inner is not None else []:
        name, value = each.word().lower(), each.words[1] if len(each.words) > 1 else ""
        spelt = re.sub(r"\$\{(\w+)\}", r"$\1", value)
        if name == "host" and spelt in ("$host", "$http_host"):
            keeps_host = True
        elif spelt in ASKED.get(name, ()):
            continue
        elif spelt == f"$http_{name.replace('-', '_')}":
            fields.append(name)
        else:
            why = why or f"its server gets `{each.shown}`, which has no equal here"
    url = inner.constant(target.word()) if target is not None and inner is not None else ""
    if url and ("$" in url or not url.startswith(("http://", "https://"))):
        why = why or f"`{url}` has no equal here"
    if why or location is None or target is None:
        asked.lose(f"{why}; {REFUSED}")
        access.refuse(asked.line, asked.name)
        return []
    name, _, path = url.partition("://")[2].partition("/")
    group = next((each for block in scope.blocks for each in block.named("upstream") if each.words == [name]), None)
    server_of = next(iter(group.named("server")), None) if group is not None else None
    if group is not None and server_of is not None:
        asked.differ(f"one server of `{name}` is asked here")
        url = f"{url.partition('://')[0]}://{server_of.word()}" + (f"/{path}" if path else "")
    if not path and "/" not in url.partition("://")[2]:
        url += asked.word()
    block: dict[str, Any] = {"url": draft.value(url, target.line), "append_path": Value(False, "as `auth_request`")}
    if keeps_host:
        block["keep_host"] = draft.value(True, location.line)
    forward = _passed(scope, location)
    timeout = inner.one("proxy_read_timeout") if inner is not None else None
    if timeout is not None:
        block["timeout"] = draft.value(duration(length(timeout)), timeout.line)
    else:
        block["timeout"] = Value("60s", "nginx's default")
    for each in location.block:
        if each.name in ("internal", "proxy_pass_request_body", "proxy_pass_request_headers", "proxy_set_header",
                         "proxy_pass", "proxy_method"):  # fmt: skip
            each.take()
    asked.differ(
        "a request with none of `headers` gets 401 without asking, and 503 where the server fails, as 500 there"
    )
    ask(draft, access, block, fields, forward, asked.line)
    return forward


def _passed(scope: Scope, location: Directive) -> list[str]:
    """Return the fields of a server's answer that go on; its location may set variables too."""
    variables: dict[str, str] = {}
    for each in [*scope.every("auth_request_set"), *location.named("auth_request_set")]:
        field = re.fullmatch(r"\$\{?upstream_http_(\w+)\}?", each.word(1))
        if field is not None:
            variables[each.word()] = field[1].replace("_", "-")
        else:
            each.lose("only a field of the answer has an equal here")
    found: list[str] = []
    for each in scope.every("proxy_set_header"):
        value = each.words[1] if len(each.words) > 1 else ""
        if value in variables:
            if variables[value] == each.word().lower():
                found.append(variables[value])
            else:
                each.lose(f"the field {variables[value]} of the answer goes on under its own name alone here")
    return found
