"""Closes what a translation would open: requests that reach other routes here than in the original.

1. Routes of the original that answer by themselves refuse here, so that no other route takes their requests.
2. Where a route with access rules is left out, open routes that would take its requests refuse.
3. A textual prefix such as `/admin` takes `/adminx` there.  Open routes refuse it if the prefix has access rules.
4. A prefix such as `/public/` takes `/public` here too.  An open route leaves it to one with access rules.
5. Rules about addresses refuse on listeners whose clients may state other addresses.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.access.protection import EVERYONE, closed, refusal
from sidecar.imports.conditions import common_host, quoted
from sidecar.imports.draft import Draft, Value, plain
from sidecar.imports.first_match import may_take

ACCESS: Final = ("authenticate", "authorize")
"""Keys of a route without which it would be open."""
OUTBOUND: Final = "outbound"
"""Listener whose clients are trusted, because only the service beside the sidecar reaches it."""


def close(draft: Draft) -> None:
    """Close what the routes of a draft would open."""
    _add_closed(draft)
    close_lost(draft)
    _close_rest_of_prefixes(draft)
    _narrow(draft)
    _check_addresses(draft)


def is_open(route: dict[str, Any]) -> bool:
    """True if a route has no access rules."""
    return not any(key in route for key in ACCESS)


def close_lost(draft: Draft) -> None:
    """Let open routes refuse that would take the requests of a route with access rules that is left out."""
    for line, what, listener, hosts in draft.lost_guards:
        for route in draft.routes:
            host = _match(route).get("host")
            is_other = host is not None and hosts and not any(common_host(str(host), each) for each in hosts)
            if route.get("listener") != listener or is_other or not is_open(route):
                continue
            name = route["name"].value
            draft.findings.lose(
                line, what, f"has access rules and is left out; `{name}` refuses, to which its requests go"
            )
            route.update(refusal(draft, line, what))
    draft.lost_guards.clear()


def _match(route: dict[str, Any]) -> dict[str, Any]:
    return plain(route.get("match", {}))


def _add_closed(draft: Draft) -> None:
    """Add routes that refuse, for those of the original that answer by themselves and that others would take over."""
    for name, line, what, listener, match in draft.closed:
        own = plain(match)
        others = [_match(each) for each in draft.routes if each.get("listener") == listener]
        upstream = next(iter(draft.upstreams), None)
        if upstream is None or own in others or not any(may_take(each, own) for each in others):
            continue
        keys: dict[str, Any] = {"listener": listener, **({"match": match} if match else {})}
        keys["upstream"] = Value(upstream, "any: no request gets there")
        draft.route(name, line, keys | closed(draft, line, what))


def _close_rest_of_prefixes(draft: Draft) -> None:
    """Let open routes refuse what the textual prefix of a route with access rules takes in the original."""
    for at, guarded in enumerate(draft.routes):
        match = _match(guarded)
        prefix = str(match.get("path_prefix", ""))
        if is_open(guarded) or prefix not in draft.textual:
            continue
        for place, route in enumerate(draft.routes):
            other = _match(route)
            space = str(other.get("path_prefix", "/")).rstrip("/")
            is_wider = prefix.startswith(f"{space}/")
            is_after = (
                draft.is_ordered
                and at < place
                and space.startswith(prefix)
                and not f"{space}/".startswith(f"{prefix}/")
            )
            if route.get("listener") != guarded.get("listener") or "path" in other or not (is_wider or is_after):
                continue
            if not is_open(route) or not may_take({**other, "path_prefix": "/"}, match):
                continue
            line = guarded["match"]["path_prefix"].line
            test = draft.value(f"!(request.path.startsWith({quoted(prefix)}))", line)
            route["authorize"] = [{"allow": {"when": test}}]
            draft.findings.differ(line, prefix, f"has access rules: `{route['name'].value}` refuses {prefix}x here")


def _narrow(draft: Draft) -> None:
    """Leave the path without its slash to a route with access rules, which takes it in the original."""
    for route in draft.routes:
        match = _match(route)
        prefix = str(match.get("path_prefix", ""))
        if not is_open(route) or len(prefix) < 2 or not prefix.endswith("/"):
            continue
        inner = {**{key: match[key] for key in ("host",) if key in match}, "path": prefix[:-1]}
        others = [each for each in draft.routes if each.get("listener") == route.get("listener") and not is_open(each)]
        if any(may_take(_match(each), inner) for each in others):
            term = f"request.path.startsWith({quoted(prefix)})"
            terms = [str(match["when"]), term] if "when" in match else [term]
            route["match"]["when"] = draft.value(" && ".join(terms), route["match"]["path_prefix"].line)


def _check_addresses(draft: Draft) -> None:
    """Let routes refuse whose rules read the address of a client that may state another one."""
    for route in draft.routes:
        name = str(plain({"": route["listener"]})[""])
        listener = draft.listeners.get(name, {})
        networks = [
            each["networks"] for rule in route.get("authorize", []) for each in rule.values() if "networks" in each
        ]
        if not networks or all(each.value == EVERYONE for each in networks):
            continue
        if "client_ca" in listener.get("tls", {}) or name == OUTBOUND:
            line = networks[0].line
            why = f"clients of the listener `{name}` are trusted to state another address here; all are refused"
            draft.findings.lose(line, "access rules", why)
            route.pop("authenticate", None)
            route.update(refusal(draft, line, "addresses of clients"))
