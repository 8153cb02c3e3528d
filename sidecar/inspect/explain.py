"""Texts of `sidecar routes` and `sidecar explain`: the stages of each route, and the route of one request.

Both are made from compiled policies (`dry.py`) and not from the files, so that they show what would run.
`explain_json.py` makes JSON documents of the same facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from sidecar.config.node import Mark, Node
from sidecar.config.process_spec import LimitsSpec
from sidecar.config.report import visible
from sidecar.config.spec import CRITICALITY, UpstreamSpec
from sidecar.control.compiler import BREAKER, ROUTE, Snapshot, cache_of
from sidecar.control.route import Link, Route
from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import HOST, Invalid, check_fields, check_target
from sidecar.core.message import FIELD_LINE, TOKEN
from sidecar.core.pattern import MAX_INPUT
from sidecar.core.uri import parameter
from sidecar.grpc.status import is_grpc
from sidecar.inspect.documents import Scope
from sidecar.inspect.effective import Value, flow, values
from sidecar.inspect.explain_aggregate import plan_lines, plan_of, plan_sentence
from sidecar.inspect.explain_authorize import authorization_sentences
from sidecar.inspect.explain_cache import cache_text
from sidecar.inspect.explain_capture import capture_sentences
from sidecar.inspect.explain_cors import cross_origin_sentences
from sidecar.inspect.explain_limits import limit_sentences, quota_sentences
from sidecar.inspect.explain_translate import bindings_of, call_text, translation_sentences
from sidecar.inspect.explain_workers import worker_sentences
from sidecar.routing.router import host_names
from sidecar.routing.rule import EXACT, PREFIX, REGEX, TEMPLATE, Rule
from sidecar.upstream.discovery.spec import DiscoverSpec

MAX_LISTED: Final = 10
"""Most routes that are listed beside the one that the request takes."""
WIDEST: Final = 100
"""Greatest width of a column in characters; a longer text breaks the alignment of its own row only."""


_TOKEN: Final = re.compile(TOKEN)
_FIELD: Final = re.compile(FIELD_LINE)
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
_NO_URL: Final = re.compile(rb"[^\x21-\x7e]")
"""Matches a byte that no URL has (RFC 3986 2)."""


class RequestError(ValueError):
    """Raised for what is not an HTTP request."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part
        """Argument of the command line that is wrong."""


class StageFacts(NamedTuple):
    """Stage of a route, with the settings that the files contain."""

    policy: str
    """Name of its block."""
    scope: Scope
    settings: Any
    """Keys of its block that the files contain, as plain values; all other keys have their defaults."""
    mark: Mark
    """Place of its block."""


class Other(NamedTuple):
    """Route that nearly takes a request."""

    name: str
    why: str
    """Reason why it does not take the request."""
    mark: Mark
    """Place of its match."""


class Refused(NamedTuple):
    """Reason why a request takes no route."""

    message: str
    allowed: Sequence[str] = ()
    """Methods that have a route for the path."""
    readings: Sequence[tuple[str, str | None]] = ()
    """Paths that different servers would read, each with its route, if the routes differ; otherwise empty."""

    is_answered: bool = False
    """True for `OPTIONS *`, which a listener without a route for it answers with 200 and the methods of its routes."""
    goes_on: bool = False
    """True for a redirected request, which goes on to the address that its client has dialled."""

    @property
    def status(self) -> Literal[200, 404, 405] | None:
        """Status of the response; None if the server that the client has dialled decides."""
        if self.goes_on:
            return None
        return 200 if self.is_answered else 405 if self.allowed else 404


def routes_text(snapshot: Snapshot) -> str:
    """Return the text of `sidecar routes`: for each route its match, its stages from the outside in, its upstream."""
    blocks = []
    for route in snapshot.routes.values():
        rows = [
            *(
                (_title(each.policy, each.scope, route), flow(each.settings), str(each.mark))
                for each in stages_of(snapshot, route)
            ),
            *_upstream_row(snapshot, route),
        ]
        head = f"{route.name}  {match_words(route)}  on {route.listener or 'every listener'}"
        calls = [(f"= {each.text}", call_text(each), "") for each in bindings_of(route)]
        blocks.append("\n".join([head, *table(rows), *table(calls)]))
    return snapshot.spec.masks.text("\n\n".join(blocks) + "\n")


def _upstream_row(snapshot: Snapshot, route: Route) -> Iterator[tuple[str, str, str]]:
    """Yield the row of a route's upstream; none for a route with `aggregate`."""
    upstream = snapshot.spec.upstreams.get(route.upstream)
    if upstream is None:
        return
    node = snapshot.spec.node.find(("upstreams", route.upstream))
    to = written_urls(node, upstream)
    if (discover := upstream.discover) is not None:
        to = [source_of(discover, node.child("discover") if node is not None else None)]
    yield f"> {route.upstream}", flow(to), str(snapshot.spec.where("upstreams", route.upstream))


def source_of(discover: DiscoverSpec, node: Node | None) -> str:
    """Return the source of endpoints as the files write it, such as `dns:payments.svc:8080`."""
    if (kubernetes := discover.kubernetes) is not None:
        block = node.child("kubernetes") if node is not None else None
        namespace = written(block, "namespace", kubernetes.namespace)
        port = written(block, "port", kubernetes.port)
        service = f"{namespace}/" * (namespace is not None) + str(written(block, "service", kubernetes.service))
        return f"kubernetes:{service}" + f":{port}" * (port is not None)
    name = written(node, discover.kind, getattr(discover, discover.kind))
    return f"{discover.kind}:{name}" + f":{written(node, 'port', discover.port)}" * (discover.port is not None)


def explain_text(snapshot: Snapshot, listener: str, x: Exchange, about_token: Sequence[str] = ()) -> str:
    """Return the text of `sidecar explain` for a request on a listener; `about_token` are sentences on its token.

    The text names the route that the request takes, routes that it nearly matches with the reason, and the effective
    values of the route.
    """
    route = matched(snapshot, listener, x)
    target = x.target.decode("utf-8", "replace")
    lines = [f"{x.method.decode()} {target} for {x.authority.decode() or 'no host'} on {listener}"]
    lines += ["is a call of gRPC-Web, which goes on as one of gRPC", ""] if x.web else [""]
    if route is None:
        refused = refusal_of(snapshot, listener, x)
        ending = "goes on to the address that its client has dialled" if refused.goes_on else str(refused.status)
        lines.append(f"takes no route: {refused.message} ({ending})")
        lines += table([(path, name or "no route", "") for path, name in refused.readings])
    else:
        lines.append(f"takes the route {route.name} ({route.spec.where()}): {match_words(route)}")
        lines += [f"    {{path.{name}}} is {flow(value)}" for name, value in x.captures.items()]
    others, has_more = others_of(snapshot, listener, route, x)
    if others:
        rows = [(name, why, str(mark)) for name, why, mark in others] + [("…", "and more", "")] * has_more
        lines += ["", "other routes", *table(rows)]
    if (sentences := capture_sentences(snapshot.spec.listeners[listener])) is not None:
        lines += ["", "capture", *(f"    {sentence}" for sentence in sentences)]
    if route is not None:
        if route.spec.rollout is not None:
            lines += ["", "rollout", *(f"    {sentence}" for sentence in rollout_sentences(route))]
        if (sentences := cross_origin_sentences(route, x)) is not None:
            lines += ["", "cors", *(f"    {sentence}" for sentence in sentences)]
        if about_token:
            lines += ["", "token", *(f"    {sentence}" for sentence in about_token)]
        if (sentences := authorization_sentences(route, x)) is not None:
            lines += ["", "authorize", *(f"    {sentence}" for sentence in sentences)]
        if (sentences := limit_sentences(route, x)) is not None:
            lines += ["", "rate_limit", *(f"    {sentence}" for sentence in sentences)]
        if (sentences := quota_sentences(route, x)) is not None:
            lines += ["", "quota", *(f"    {sentence}" for sentence in sentences)]
        if (sentences := cache_sentences(route, x)) is not None:
            lines += ["", "cache", *(f"    {sentence}" for sentence in sentences)]
        if (plan := plan_of(snapshot, route)) is not None:
            lines += ["", "aggregate", *table(plan_lines(plan)), f"    {plan_sentence(plan)}"]
        if (sentences := translation_sentences(route, x)) is not None:
            lines += ["", "translate", *(f"    {sentence}" for sentence in sentences)]
        if (sentences := worker_sentences(route, snapshot.spec.process.number())) is not None:
            lines += ["", "workers", *(f"    {sentence}" for sentence in sentences)]
        lines += list(_in_force(snapshot, route))
    return snapshot.spec.masks.text("\n".join(lines) + "\n")


def matched(snapshot: Snapshot, listener: str, x: Exchange) -> Route | None:
    """Return the route that a request matches, whichever arm it would meet; None without one."""
    found = snapshot.listeners[listener].match(x)
    return None if found is None else found.stable


def percent(share: float) -> str:
    """Return a share as a text, such as `2.5%`."""
    return f"{share * 100:.4g}%"


def rollout_sentences(route: Route) -> list[str]:
    """Return what becomes of the requests of a route with candidates."""
    spec, rule = route.spec, route.spec.rollout
    assert rule is not None
    if rule.is_observed:
        names = ", ".join(link.policy for link in route.observed)
        return [
            f"{arm.name} gets no requests; it counts what it would do to those of {spec.name}: {names}"
            for arm in spec.arms
        ]
    found = []
    for arm, share in zip(spec.arms, spec.shares, strict=True):
        grows = "" if rule.ramp is None else f", growing to {percent(rule.ramp.to)} in {rule.ramp.over:g}s"
        found.append(f"{percent(share)} of the requests meet {arm.name}, to upstream {arm.upstream}{grows}")
    if rule.when is not None:
        found.append(f"only requests with {rule.when}; all others meet {route.name}")
    if (key := rule.sticky) is not None:
        what = f"the field {key.header}" if key.header else f"the cookie {key.cookie}" if key.cookie else "the caller"
        found.append(f"by {what}: equal ones meet the same arm")
    if (back := rule.return_when) is None:
        found.append("the share stays until the policy changes")
    else:
        if back.errors is not None:
            found.append(f"taken back if errors are more by {back.errors.worse_by_points:g} points")
        if back.p99 is not None:
            found.append(f"taken back if p99 is longer by {percent(back.p99.worse_by)}")
        if back.breaker:
            found.append("taken back if its circuit breaker opens alone")
    return found


def exchange_of(
    method: str, url: str, headers: Iterable[tuple[str, str]], limits: LimitsSpec | None = None
) -> Exchange:
    """Return the exchange that a listener would make of such a request.

    `url` is absolute or begins with a slash, or is `*` for OPTIONS.  A fragment and user information are left out, as
    clients do.  Raises `RequestError` for a request that a listener would refuse with 400, 414 or 431 before it selects
    a route.  The size of its head is that over HTTP/1.1; without `limits` it may have any size.
    """
    token, target = method.encode("utf-8", "surrogateescape"), url.encode("utf-8", "surrogateescape")
    if not _TOKEN.fullmatch(token):
        raise RequestError("METHOD", f"`{visible(method)}` is not a method; write one such as GET")
    match = _ABSOLUTE.fullmatch(target)
    if match is None and not target.startswith(b"/") and (method, url) != ("OPTIONS", "*"):
        raise RequestError(
            "URL", f"`{visible(url)}` is not a URL; write it such as http://orders/orders/17 or /orders/17"
        )
    if bad := _NO_URL.search(target):
        byte = bad[0][0]
        raise RequestError("URL", f"has the byte 0x{byte:02X}, which no URL has; write %{byte:02X}")
    fields = [
        (name.lower().encode("utf-8", "surrogateescape"), value.strip(" \t").encode("utf-8", "surrogateescape"))
        for name, value in headers
    ]
    for name, value in fields:
        if not _FIELD.fullmatch(name + b": " + value):
            text = visible(name.decode("utf-8", "replace"))
            raise RequestError("--header", f"the header `{text}` is not valid; write -H 'name: value' on one line")
    scheme, authority, rest = (b"http", b"", target) if match is None else match.groups()
    path, mark, query = rest.partition(b"#")[0].partition(b"?")
    x = Exchange(token, path or (b"*" if token == b"OPTIONS" and not mark else b"/"), fields)
    x.query = query if mark else None
    x.is_grpc = token == b"POST" and is_grpc(x.header(b"content-type") or b"")
    if token == b"GET" and (x.header(b"upgrade") or b"").lower() == b"websocket":
        x.upgrade = b"websocket"
    x.scheme = scheme.lower()
    x.authority = authority.rpartition(b"@")[2] if match is not None else x.header(b"host") or b""
    if (match is not None or x.authority) and not HOST.fullmatch(x.authority):
        part, text = "--header" if match is None else "URL", visible(x.authority.decode("utf-8", "replace"))
        raise RequestError(part, f"`{text}` is not a host; write a name or an address, and a port if there is one")
    if limits is not None:
        _check_size(x, limits)
    return x


def _check_size(x: Exchange, limits: LimitsSpec) -> None:
    """Raise `RequestError` for a request that exceeds a limit of listeners."""
    lines = x.lines if x.header(b"host") is not None else b"host: %b\r\n%b" % (x.authority, x.lines)
    size = len(b"%b %b HTTP/1.1\r\n%b\r\n" % (x.method, x.target, lines))
    if size > limits.max_header_bytes:
        part = "URL" if len(x.target) > len(lines) else "--header"
        limit = f"more than `limits.max_header_bytes` ({limits.max_header_bytes}) allows"
        raise RequestError(part, f"the head of the request has {size} bytes, {limit}; a listener answers 431")
    part = "URL"
    try:
        check_target(x.target, limits.max_query_parameters)
        part = "--header"
        check_fields(lines, 0, len(lines), limits.max_fields, limits.max_list_members)
    except Invalid as invalid:
        raise RequestError(part, f"{invalid}; a listener answers {invalid.status}") from None


def match_words(route: Route) -> str:
    """Return the match of a route as text: `GET, HEAD orders.example.com/orders/{id} x-tier: gold`."""
    match, node = route.spec.match, route.spec.node.child("match")
    path, prefix = written(node, "path", match.path), written(node, "path_prefix", match.path_prefix)
    path = path or (prefix and f"{prefix.rstrip('/')}/*") or written(node, "path_regex", match.path_regex) or "/*"
    conditions = [f"{name}: {value}" for name, value in written(node, "headers", match.headers).items()]
    conditions += [f"?{name}={value}" for name, value in written(node, "query", match.query).items()]
    conditions += [f"when {written(node, 'when', match.when)}"] if match.when else []
    methods = ", ".join(match.methods) if match.methods else "any method"
    if match.grpc is not None:
        methods, path = "gRPC", f"/{match.grpc.name}" + "/*" * (match.grpc.method is None)
    host = written(node, "host", match.host) or ""
    return " ".join([methods, host + ("~" if match.path_regex else "") + path, *conditions])


def written(node: Node | None, key: str, value: Any) -> Any:
    """Return the text of the file for a value that contains `${NAME}`, and any other value unchanged."""
    given = node.child(key) if node is not None else None
    if given is None:
        return value
    shown = given.shown()
    return value if shown == given.plain() else shown


def written_urls(node: Node | None, upstream: UpstreamSpec) -> list[Any]:
    """Return the URLs of an upstream's endpoints as `written` does; `node` is that of the upstream."""
    found = written(node, "endpoints", upstream.urls)
    return [each.get("url") if isinstance(each, dict) else each for each in found]


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return rows as indented lines in columns; the width of a column is that of its longest text up to `WIDEST`."""
    first = max((len(row[0]) for row in rows), default=0)
    second = max((len(row[1]) for row in rows if len(row[1]) <= WIDEST), default=0)
    return [f"    {a:{first}}  {b:{second}}  {c}".rstrip() for a, b, c in rows]


def _title(policy: str, scope: Scope, route: Route) -> str:
    """Return the name of a block, with the owner of its scope unless that is the route."""
    of = {"route": "", "upstream": f" of {route.upstream}", "endpoint": " of each endpoint"}
    return policy + of[scope]


def scope_of(link: Link) -> Scope:
    """Return the scope of a stage in the chain."""
    return "route" if link.scope == ROUTE else "upstream"


def _node_above(snapshot: Snapshot, route: Route, scope: Scope) -> Node | None:
    """Return the node that has the blocks of a scope; None if the files do not have it."""
    return route.spec.node if scope == "route" else snapshot.spec.node.find(("upstreams", route.upstream))


def stages_of(snapshot: Snapshot, route: Route) -> Iterator[StageFacts]:
    """Yield the stages of a route, outermost first.

    The last one is a breaker with `per: endpoint`, if there is one.  It is not in the chain, because the upstream asks
    it for each endpoint.
    """
    for link in route.chain:
        scope = scope_of(link)
        above = _node_above(snapshot, route, scope)
        node = above.child(link.policy) if above is not None else None
        mark = route.spec.where(link.policy) if scope == "route" else _where_of(snapshot, route, link.policy)
        yield StageFacts(link.policy, scope, node.shown() if node is not None else {}, mark)
    upstream = snapshot.spec.upstreams.get(route.upstream)
    block = None if upstream is None else upstream.circuit_breaker
    node = snapshot.spec.node.find(("upstreams", route.upstream, BREAKER))
    if block is not None and block.per is not None and node is not None:
        yield StageFacts(BREAKER, "endpoint", node.shown(), node.place)


def _where_of(snapshot: Snapshot, route: Route, policy: str) -> Mark:
    """Return the place of a block under the upstream of a route."""
    return snapshot.spec.where("upstreams", route.upstream, policy)


def blocks_in_force(snapshot: Snapshot, route: Route) -> Iterator[tuple[Link, list[Value]]]:
    """Yield every stage of a route's chain with all values of its block."""
    for number, link in enumerate(route.chain):
        if any(link.block is other.block for other in route.chain[:number]):
            continue  # a block of which a part stands directly inside the cache
        node = _node_above(snapshot, route, scope_of(link))
        yield link, list(values(link.block, node.child(link.policy) if node is not None else None))


def upstream_in_force(snapshot: Snapshot, route: Route) -> list[Value]:
    """Return all values of a route's upstream, without those of stages in the chain."""
    own = tuple(link.policy for link in route.chain if link.scope != ROUTE)
    node = snapshot.spec.node.find(("upstreams", route.upstream))
    upstream = snapshot.spec.upstreams.get(route.upstream)
    return [] if upstream is None else list(values(upstream, node, without=own))


def _in_force(snapshot: Snapshot, route: Route) -> Iterator[str]:
    """Yield the lines for all effective values of the route's blocks, its upstream, and its criticality."""
    for link, found in blocks_in_force(snapshot, route):
        yield from ("", _title(link.policy, scope_of(link), route), *table([each.row for each in found]))
    if route.upstream:
        found = upstream_in_force(snapshot, route)
        yield from ("", f"upstream {route.upstream}", *table([each.row for each in found]))
    spec = route.spec
    where = spec.where(CRITICALITY) if spec.node.child(CRITICALITY) is not None else "built-in"
    yield from ("", f"{CRITICALITY} {spec.criticality}  {where}")


def cache_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on what the cache of a route does with a request; None without a cache."""
    cache = cache_of(route.spec)
    if cache is None:
        return None
    has_callers = "authenticate" in route.policies
    return list(cache_text(cache, route.name, x, route.spec.node.nearest("cache"), has_callers=has_callers))


def refusal_of(snapshot: Snapshot, listener: str, x: Exchange) -> Refused:
    """Return why a request takes no route, and what becomes of it."""
    refused = _reason(snapshot, listener, x)
    goes_on = snapshot.spec.listeners[listener].original_destination and not refused.is_answered
    return refused._replace(goes_on=goes_on)


def _reason(snapshot: Snapshot, listener: str, x: Exchange) -> Refused:
    allowed = [method.decode() for method in snapshot.listeners[listener].allowed(x)]
    if x.path == b"*":
        return Refused(f"{listener} itself answers a request about the server as a whole", allowed, is_answered=True)
    known = uri.readings(x.path)
    if not known:
        return Refused(
            "the path has an encoded dot segment or a NUL, or is too long to check all its readings", allowed
        )
    if len(known) > 1:
        readings = [(path.decode("utf-8", "replace"), _route_of(snapshot, listener, x, path)) for path in known]
        return Refused("servers read the path in several ways, and these match different routes", allowed, readings)
    if allowed:
        return Refused(f"the path is known, but only for {', '.join(allowed)}", allowed)
    return Refused(f"no route of {listener} matches")


def _route_of(snapshot: Snapshot, listener: str, x: Exchange, path: bytes) -> str | None:
    """Return the name of the route that a reading of the path leads to; None if there is none."""
    for rule in snapshot.listeners[listener].rules:
        if not list(unmet_conditions(rule, x, path)):
            return rule.target.name
    return None


def others_of(snapshot: Snapshot, listener: str, taken: Route | None, x: Exchange) -> tuple[list[Other], bool]:
    """Return other routes that also match or fail in only one condition, most specific first.

    At most `MAX_LISTED` are returned; the second result is True if there are more.
    """
    found: list[Other] = []
    for rule in snapshot.listeners[listener].rules:
        route = rule.target
        reasons = list(unmet_conditions(rule, x, uri.canonical(x.path)))
        if route is taken or len(reasons) > 1 or (not reasons and not uri.readings(x.path)):
            continue
        if len(found) == MAX_LISTED:
            return found, True
        why = reasons[0] if reasons else "matches too, but is less specific" if taken else "matches under one reading"
        found.append(Other(route.name, why, route.spec.where("match")))
    return found, False


def unmet_conditions(rule: Rule[Route], x: Exchange, path: bytes) -> Iterator[str]:
    """Yield a sentence for every condition that a request does not meet; `path` is the canonical path."""
    match, node = rule.match, rule.target.spec.node.child("match")
    if rule.host and rule.host not in host_names(x.scheme, x.authority):
        host = x.authority.decode("utf-8", "replace") or "not given"
        yield f"the host is {host}, not {written(node, 'host', match.host)}"
    if not rule.covers(path):
        if rule.kind == REGEX:
            pattern = written(node, "path_regex", match.path_regex)
            yield f"the path does not match {pattern}" + (" (it is too long)" * (len(path) > MAX_INPUT))
        else:
            relation = {EXACT: "not", TEMPLATE: "not of the form", PREFIX: "not at or below"}[rule.kind]
            key = "path" if match.path else "path_prefix"
            wanted_path = written(node, key, match.path or match.path_prefix)
            yield f"the path is {relation} {wanted_path if match.grpc is None else match.template}"
    if rule.methods is not None and x.method not in rule.methods:
        yield f"the method is {x.method.decode()}, not {' or '.join(match.methods or ('POST',))}"
    if rule.is_grpc and not x.is_grpc and x.method == b"POST":
        yield f"the header content-type is {_seen(x.header(b'content-type'))}, not application/grpc"
    wanted = {name.lower(): value for name, value in written(node, "headers", match.headers).items()}
    for name, value in rule.headers:
        if (got := x.joined(name)) != value:
            yield f"the header {name.decode()} is {_seen(got)}, not {wanted[name.decode()]}"
    parameters = written(node, "query", match.query)
    for name, value in rule.query:
        if (many := parameter(x.query, name)) != [value]:
            given = _seen(many[0] if many else None) if len(many) < 2 else "given more than once"
            yield f"the query parameter {name.decode()} is {given}, not {parameters[name.decode()]}"
    if rule.when is not None and not rule.when.holds(x):
        yield f"the condition does not hold: {written(node, 'when', match.when)}"


def _seen(value: bytes | None) -> str:
    """Return a received value as text."""
    return "not given" if value is None else value.decode("utf-8", "replace")
