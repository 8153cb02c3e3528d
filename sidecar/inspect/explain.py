"""Texts of `sidecar routes` and `sidecar explain`: the stages of each route, and the route of one request.

Both are made from compiled policies (`dry.py`) and not from the files, so that they show what would run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.config.node import Node
from sidecar.config.spec import CRITICALITY
from sidecar.control.compiler import BREAKER, ROUTE, Link, Route, Snapshot, cache_of
from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.core.pattern import MAX_INPUT
from sidecar.core.uri import parameter
from sidecar.inspect.effective import flow, values
from sidecar.inspect.explain_cache import cache_text
from sidecar.routing.router import host_names
from sidecar.routing.rule import EXACT, PREFIX, REGEX, TEMPLATE, Rule

MAX_LISTED: Final = 10
"""Most routes that are listed beside the one that the request takes."""
WIDEST: Final = 100
"""Greatest width of a column in characters; a longer text breaks the alignment of its own row only."""


def routes_text(snapshot: Snapshot) -> str:
    """Return the text of `sidecar routes`: for each route its match, its stages from the outside in, its upstream."""
    blocks = []
    for route in snapshot.routes.values():
        upstream = snapshot.spec.upstreams[route.upstream]
        node = snapshot.spec.node.find(("upstreams", route.upstream))
        to = _written(node, "endpoints", upstream.endpoints or ())
        if (discover := upstream.discover) is not None:
            found = node.child("discover") if node is not None else None
            to = (f"dns:{_written(found, 'dns', discover.dns)}:{_written(found, 'port', discover.port)}",)
        rows = [
            *((_title(route, link), _settings(snapshot, route, link), link.where) for link in route.chain),
            *_endpoint_breaker(snapshot, route),
            (f"> {route.upstream}", flow(to), str(snapshot.spec.where("upstreams", route.upstream))),
        ]
        head = f"{route.name}  {match_words(route)}  on {route.listener or 'every listener'}"
        blocks.append("\n".join([head, *table(rows)]))
    return snapshot.spec.masks.text("\n\n".join(blocks) + "\n")


def explain_text(snapshot: Snapshot, listener: str, x: Exchange) -> str:
    """Return the text of `sidecar explain` for a request on a listener.

    The text names the route that the request takes, routes that it nearly matches with the reason, and the effective
    values of the route.
    """
    router = snapshot.listeners[listener]
    route = router.match(x)
    target = x.target.decode("utf-8", "replace")
    lines = [f"{x.method.decode()} {target} for {x.authority.decode() or 'no host'} on {listener}", ""]
    if route is None:
        lines += list(_unmatched(snapshot, listener, x))
    else:
        lines.append(f"takes the route {route.name} ({route.spec.where()}): {match_words(route)}")
        lines += [f"    {{path.{name}}} is {flow(value)}" for name, value in x.captures.items()]
    if others := list(_others(router.rules, route, x)):
        lines += ["", "other routes", *table(others)]
    if route is not None and (cache := cache_of(route.spec)) is not None:
        lines += [
            "",
            "cache",
            *(f"    {sentence}" for sentence in cache_text(cache, route.name, x, route.spec.node.nearest("cache"))),
        ]
    if route is not None:
        lines += list(_in_force(snapshot, route))
    return snapshot.spec.masks.text("\n".join(lines) + "\n")


def exchange_of(method: str, url: str, headers: Iterable[tuple[str, str]]) -> Exchange:
    """Return the exchange that a listener would make of such a request.

    `url` is absolute or begins with a slash.  Raises `ValueError` for any other URL.
    """
    parts = urlsplit(url)
    if not parts.netloc and not url.startswith("/"):
        raise ValueError(f"{url} is not a URL; write it such as http://orders/orders/17 or /orders/17")
    fields = [(name.lower().encode(), value.strip().encode()) for name, value in headers]
    x = Exchange(method.encode(), (parts.path or "/").encode(), fields)
    x.query = parts.query.encode() if "?" in url else None
    x.scheme = (parts.scheme or "http").encode()
    x.authority = (parts.netloc.rpartition("@")[2]).encode() or x.header(b"host") or b""
    return x


def match_words(route: Route) -> str:
    """Return the match of a route as text: `GET, HEAD orders.example.com/orders/{id} x-tier: gold`."""
    match, node = route.spec.match, route.spec.node.child("match")
    path, prefix = _written(node, "path", match.path), _written(node, "path_prefix", match.path_prefix)
    path = path or (prefix and f"{prefix.rstrip('/')}/*") or _written(node, "path_regex", match.path_regex) or "/*"
    conditions = [f"{name}: {value}" for name, value in _written(node, "headers", match.headers).items()]
    conditions += [f"?{name}={value}" for name, value in _written(node, "query", match.query).items()]
    conditions += [f"when {_written(node, 'when', match.when)}"] if match.when else []
    methods = ", ".join(match.methods) if match.methods else "any method"
    host = _written(node, "host", match.host) or ""
    return " ".join([methods, host + ("~" if match.path_regex else "") + path, *conditions])


def _written(node: Node | None, key: str, value: Any) -> Any:
    """Return the text of the file for a value that contains `${NAME}`, and any other value unchanged."""
    given = node.child(key) if node is not None else None
    if given is None:
        return value
    shown = given.shown()
    return value if shown == given.plain() else shown


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return rows as indented lines in columns; the width of a column is that of its longest text up to `WIDEST`."""
    first = max((len(row[0]) for row in rows), default=0)
    second = max((len(row[1]) for row in rows if len(row[1]) <= WIDEST), default=0)
    return [f"    {a:{first}}  {b:{second}}  {c}".rstrip() for a, b, c in rows]


def _title(route: Route, link: Link) -> str:
    """Return the name of a block, with its upstream if it belongs to one."""
    return link.policy if link.scope == ROUTE else f"{link.policy} of {route.upstream}"


def _settings(snapshot: Snapshot, route: Route, link: Link) -> str:
    """Return the keys of a block that the files contain, on one line."""
    above = snapshot.spec.node.find(("upstreams", route.upstream)) if link.scope != ROUTE else route.spec.node
    node = above.child(link.policy) if above is not None else None
    return flow(node.shown()) if node is not None else "{}"


def _endpoint_breaker(snapshot: Snapshot, route: Route) -> Iterator[tuple[str, str, str]]:
    """Yield the row of a breaker with `per: endpoint`, which is not in the chain because the upstream asks it."""
    block = snapshot.spec.upstreams[route.upstream].circuit_breaker
    node = snapshot.spec.node.find(("upstreams", route.upstream, BREAKER))
    if block is not None and block.per is not None and node is not None:
        yield f"{BREAKER} of each endpoint", flow(node.shown()), str(node.place)


def _in_force(snapshot: Snapshot, route: Route) -> Iterator[str]:
    """Yield the lines for all effective values of the route's blocks, its upstream, and its criticality."""
    spec, upstream = route.spec, snapshot.spec.upstreams[route.upstream]
    whole = snapshot.spec.node.find(("upstreams", route.upstream))
    for link in route.chain:
        node = spec.node if link.scope == ROUTE else whole
        yield from ("", _title(route, link))
        yield from table(list(values(link.block, node.child(link.policy) if node is not None else None)))
    shown = tuple(link.policy for link in route.chain if link.scope != ROUTE)
    yield from ("", f"upstream {route.upstream}", *table(list(values(upstream, whole, without=shown))))
    where = spec.where(CRITICALITY) if spec.node.child(CRITICALITY) is not None else "built-in"
    yield from ("", f"{CRITICALITY} {spec.criticality}  {where}")


def _unmatched(snapshot: Snapshot, listener: str, x: Exchange) -> Iterator[str]:
    """Yield lines that say why a request takes no route."""
    router = snapshot.listeners[listener]
    known = uri.readings(x.path)
    if not known:
        yield "takes no route: the path has an encoded dot segment or a NUL, or is too long to check all its readings"
    elif len(known) > 1:
        yield "takes no route: servers read the path in several ways, and these match different routes"
        yield from table(
            [(path.decode("utf-8", "replace"), _route_of(snapshot, listener, x, path), "") for path in known]
        )
    elif allowed := router.allowed(x):
        yield f"takes no route: the path is known, but only for {b', '.join(allowed).decode()} (405)"
    else:
        yield "takes no route (404)"


def _route_of(snapshot: Snapshot, listener: str, x: Exchange, path: bytes) -> str:
    """Return the name of the route that a reading of the path leads to."""
    for rule in snapshot.listeners[listener].rules:
        if not list(misses(rule, x, path)):
            return rule.target.name
    return "no route"


def _others(rules: Sequence[Rule[Route]], taken: Route | None, x: Exchange) -> Iterator[tuple[str, str, str]]:
    """Yield rows for other routes that also match or fail in only one condition, most specific first."""
    listed = 0
    for rule in rules:
        route = rule.target
        reasons = list(misses(rule, x, uri.canonical(x.path)))
        if route is taken or len(reasons) > 1 or (not reasons and not uri.readings(x.path)):
            continue
        listed += 1
        if listed > MAX_LISTED:
            yield "…", "and more", ""
            return
        why = reasons[0] if reasons else "matches too, but is less specific" if taken else "matches under one reading"
        yield route.name, why, str(route.spec.where("match"))


def misses(rule: Rule[Route], x: Exchange, path: bytes) -> Iterator[str]:
    """Yield a sentence for every condition that a request does not meet; `path` is the canonical path."""
    match, node = rule.match, rule.target.spec.node.child("match")
    if rule.host and rule.host not in host_names(x.scheme, x.authority):
        host = x.authority.decode("utf-8", "replace") or "not given"
        yield f"the host is {host}, not {_written(node, 'host', match.host)}"
    if not rule.covers(path):
        if rule.kind == REGEX:
            pattern = _written(node, "path_regex", match.path_regex)
            yield f"the path does not match {pattern}" + (" (it is too long)" * (len(path) > MAX_INPUT))
        else:
            relation = {EXACT: "not", TEMPLATE: "not of the form", PREFIX: "not at or below"}[rule.kind]
            key = "path" if match.path else "path_prefix"
            yield f"the path is {relation} {_written(node, key, match.path or match.path_prefix)}"
    if rule.methods is not None and x.method not in rule.methods:
        yield f"the method is {x.method.decode()}, not {' or '.join(match.methods or ())}"
    wanted = {name.lower(): value for name, value in _written(node, "headers", match.headers).items()}
    for name, value in rule.headers:
        if (got := x.joined(name)) != value:
            yield f"the header {name.decode()} is {_seen(got)}, not {wanted[name.decode()]}"
    parameters = _written(node, "query", match.query)
    for name, value in rule.query:
        if (many := parameter(x.query, name)) != [value]:
            given = _seen(many[0] if many else None) if len(many) < 2 else "given more than once"
            yield f"the query parameter {name.decode()} is {given}, not {parameters[name.decode()]}"
    if rule.when is not None and not rule.when.holds(x):
        yield f"the condition does not hold: {_written(node, 'when', match.when)}"


def _seen(value: bytes | None) -> str:
    """Return a received value as text."""
    return "not given" if value is None else value.decode("utf-8", "replace")
