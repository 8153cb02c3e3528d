"""Closes what a translation would open: requests that reach other routes here than in the original.

1. Routes of the original that answer by themselves refuse here, so that no other route takes their requests.
2. Where a route with access rules is left out, open routes that would take its requests refuse.
3. A textual prefix such as `/admin` takes `/adminx` there.  Open routes refuse it if the prefix has access rules.
4. A prefix such as `/public/` takes `/public` here too.  An open route leaves it to one with access rules.
5. Rules about addresses refuse on listeners whose clients may state other addresses.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.expression import MAX_LENGTH
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
    _close_gaps(draft)
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


class _Route(NamedTuple):
    """Route with what the checks ask of it."""

    keys: dict[str, Any]
    match: dict[str, Any]
    """Match with plain values."""
    prefix: str
    """Prefix of its paths; empty without one."""


def _by_listener(draft: Draft) -> dict[Any, list[_Route]]:
    """Return the routes of each listener, in their order."""
    found: dict[Any, list[_Route]] = {}
    for route in draft.routes:
        match = _match(route)
        found.setdefault(route.get("listener"), []).append(_Route(route, match, str(match.get("path_prefix", ""))))
    return found


def _add_closed(draft: Draft) -> None:
    """Add routes that refuse, for those of the original that answer by themselves and that others would take over."""
    routes = _by_listener(draft)
    upstream = next(iter(draft.upstreams), None)
    for name, line, what, listener, match in draft.closed:
        own, others = plain(match), [each.match for each in routes.get(listener, [])]
        if upstream is None or own in others or not any(may_take(each, own) for each in others):
            continue
        keys: dict[str, Any] = {"listener": listener, **({"match": match} if match else {})}
        keys["upstream"] = Value(upstream, "any: no request gets there")
        draft.route(name, line, keys | closed(draft, line, what))
        routes[listener].append(_Route({}, own, ""))


def _close_gaps(draft: Draft) -> None:
    """Let open routes refuse, or leave to others, what routes with access rules take in the original."""
    for routes in _by_listener(draft).values():
        guarded = [(at, each) for at, each in enumerate(routes) if not is_open(each.keys)]
        textual = [(at, each) for at, each in guarded if each.prefix in draft.textual]
        for at, route in enumerate(routes):
            if is_open(route.keys):
                _narrow(draft, route, [each for _, each in guarded])
                _close_rest(
                    draft, route, [each for place, each in textual if _takes_rest(draft, route, at, each, place)]
                )


def _takes_rest(draft: Draft, route: _Route, at: int, guarded: _Route, place: int) -> bool:
    """True if a route would take what the textual prefix of a guarded one takes beyond its segments.

    `at` and `place` are the places of the two in the order of the original.
    """
    space, prefix = route.prefix.rstrip("/"), guarded.prefix
    is_beside = space.startswith(prefix) and not f"{space}/".startswith(f"{prefix}/")
    if "path" in route.match or not (prefix.startswith(f"{space}/") or (draft.is_ordered and place < at and is_beside)):
        return False
    return may_take({**route.match, "path_prefix": "/"}, guarded.match)


def _close_rest(draft: Draft, route: _Route, guarded: list[_Route]) -> None:
    """Let an open route refuse the rest of textual prefixes."""
    if not guarded:
        return
    prefixes = {each.prefix: each.keys["match"]["path_prefix"].line for each in guarded}
    terms = [f"!(request.path.startsWith({quoted(prefix)}))" for prefix in prefixes]
    line = next(iter(prefixes.values()))
    if sum(map(len, terms)) + 4 * len(terms) > MAX_LENGTH:
        route.keys.update(refusal(draft, line, "prefixes with access rules"))
    else:
        route.keys["authorize"] = [{"allow": {"when": draft.value(" && ".join(terms), line)}}]
    for prefix, place in prefixes.items():
        draft.findings.differ(place, prefix, f"has access rules: `{route.keys['name'].value}` refuses {prefix}x here")


def _narrow(draft: Draft, route: _Route, guarded: list[_Route]) -> None:
    """Leave the path of an open prefix without its slash to a route with access rules, which takes it there."""
    prefix, match = route.prefix, route.match
    if len(prefix) < 2 or not prefix.endswith("/"):
        return
    inner = {**{key: match[key] for key in ("host",) if key in match}, "path": prefix[:-1]}
    if any(may_take(each.match, inner) for each in guarded):
        term = f"request.path.startsWith({quoted(prefix)})"
        terms = [str(match["when"]), term] if "when" in match else [term]
        own = route.keys["match"]
        own["when"] = draft.value(" && ".join(terms), own["path_prefix"].line)


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
