"""JSON documents of compiled policies, for `--json` of `sidecar routes` and `sidecar explain`.

They contain the same facts as the texts of `explain.py`; their types are in `documents.py`.  Keys of the format and
places are never masked, so that a variable with the value `route` does not break a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sidecar.config.spec import CRITICALITY
from sidecar.control.compiler import Snapshot
from sidecar.control.route import Route
from sidecar.core.exchange import Exchange
from sidecar.inspect.documents import (
    BlockEntry,
    DiscoverEntry,
    ExplainDocument,
    MatchEntry,
    RefusalEntry,
    RouteEntry,
    RoutesDocument,
    TakenEntry,
    TargetEntry,
    UpstreamEntry,
    ValueEntry,
    masked,
    place_of,
)
from sidecar.inspect.effective import Value
from sidecar.inspect.explain import (
    Refused,
    blocks_in_force,
    cache_sentences,
    matched,
    others_of,
    refusal_of,
    scope_of,
    source_of,
    stages_of,
    upstream_in_force,
    written,
    written_urls,
)
from sidecar.inspect.explain_aggregate import plan_of
from sidecar.inspect.explain_authorize import authorization_sentences
from sidecar.inspect.explain_capture import capture_sentences
from sidecar.inspect.explain_cors import cross_origin_sentences
from sidecar.inspect.explain_limits import limit_sentences, quota_sentences
from sidecar.inspect.explain_translate import bindings_of, translation_sentences
from sidecar.inspect.explain_workers import scopes
from sidecar.telemetry.plain import Masks


def routes_document(snapshot: Snapshot) -> RoutesDocument:
    """Return the document of all routes."""
    return {"ok": True, "routes": [_route(snapshot, route) for route in snapshot.routes.values()]}


def explain_document(
    snapshot: Snapshot, listener: str, x: Exchange, about_token: Sequence[str] | None = None
) -> ExplainDocument:
    """Return the document of one request on a listener; `about_token` are sentences on its token."""
    route = matched(snapshot, listener, x)
    others, has_more = others_of(snapshot, listener, route, x)
    mask = snapshot.spec.masks.text
    capture = capture_sentences(snapshot.spec.listeners[listener])
    return {
        "ok": True,
        "request": {
            "method": mask(x.method.decode("utf-8", "replace")),
            "target": mask(x.target.decode("utf-8", "replace")),
            "host": mask(x.authority.decode("utf-8", "replace")) or None,
            "listener": mask(listener),
            "is_grpc_web": bool(x.web),
        },
        "route": None if route is None else _taken(snapshot, route, x),
        "refusal": None if route is not None else _refusal(snapshot, refusal_of(snapshot, listener, x)),
        "other_routes": [{"name": mask(name), "why": mask(why), "place": place_of(mark)} for name, why, mark in others],
        "has_more_routes": has_more,
        "capture": None if capture is None else [mask(sentence) for sentence in capture],
        "token": None if about_token is None else [mask(sentence) for sentence in about_token],
    }


def _route(snapshot: Snapshot, route: Route) -> RouteEntry:
    """Return the entry of a route in the document of all routes."""
    masks = snapshot.spec.masks
    return {
        "name": masks.text(route.name),
        "listener": None if route.listener is None else masks.text(route.listener),
        "place": place_of(route.spec.where()),
        "match": _match(snapshot, route),
        "stages": [
            {
                "policy": each.policy,
                "scope": each.scope,
                "settings": masked(each.settings, masks),
                "place": place_of(each.mark),
            }
            for each in stages_of(snapshot, route)
        ],
        "upstream": _target(snapshot, route),
        "bindings": [
            {
                "method": "GET" if each.is_socket else None if each.rule.method == "*" else each.rule.method,
                "path": each.rule.path,
                "calls": each.method.full_name,
                "is_stream": each.method.server_streaming,
                "needs_websocket": each.is_socket,
            }
            for each in bindings_of(route)
        ],
    }


def _match(snapshot: Snapshot, route: Route) -> MatchEntry:
    """Return the conditions of a route, masked."""
    match, node, mask = route.spec.match, route.spec.node.child("match"), snapshot.spec.masks.text

    def text(key: str) -> str | None:
        found = written(node, key, getattr(match, key))
        return None if found is None else mask(str(found))

    def texts(key: str) -> dict[str, str]:
        return {mask(name): mask(str(value)) for name, value in written(node, key, getattr(match, key)).items()}

    return {
        "methods": None if match.methods is None else list(match.methods),
        "host": text("host"),
        "path": text("path"),
        "path_prefix": text("path_prefix"),
        "path_regex": text("path_regex"),
        "grpc": None if match.grpc is None else mask(match.grpc.name),
        "headers": texts("headers"),
        "query": texts("query"),
        "when": text("when"),
    }


def _target(snapshot: Snapshot, route: Route) -> TargetEntry | None:
    """Return the upstream of a route, masked; None for a route with `aggregate`."""
    spec, mask = snapshot.spec.upstreams.get(route.upstream), snapshot.spec.masks.text
    if spec is None:
        return None
    node = snapshot.spec.node.find(("upstreams", route.upstream))
    found: DiscoverEntry | None = None
    if (discover := spec.discover) is not None:
        block = node.child("discover") if node is not None else None
        dns = None if discover.dns is None else mask(str(written(block, "dns", discover.dns)))
        found = {"dns": dns, "port": written(block, "port", discover.port), "source": mask(source_of(discover, block))}
    return {
        "name": mask(route.upstream),
        "endpoints": [mask(str(each)) for each in written_urls(node, spec)],
        "discover": found,
        "place": place_of(snapshot.spec.where("upstreams", route.upstream)),
    }


def _taken(snapshot: Snapshot, route: Route, x: Exchange) -> TakenEntry:
    """Return the entry of the route that a request takes, with all effective values."""
    spec, masks = route.spec, snapshot.spec.masks
    mask, sentences, calls = masks.text, cache_sentences(route, x), translation_sentences(route, x)
    limits, quotas, rules, pages = (
        limit_sentences(route, x),
        quota_sentences(route, x),
        authorization_sentences(route, x),
        cross_origin_sentences(route, x),
    )
    captures: Mapping[str, Any] = x.captures
    workers = snapshot.spec.process.number()
    stages: list[BlockEntry] = [
        {"policy": link.policy, "scope": scope_of(link), "values": _values(values, masks)}
        for link, values in blocks_in_force(snapshot, route)
    ]
    return {
        "name": mask(route.name),
        "place": place_of(spec.where()),
        "match": _match(snapshot, route),
        "captures": {mask(name): mask(str(value)) for name, value in captures.items()},
        "stages": stages,
        "upstream": _upstream(snapshot, route),
        "aggregate": plan_of(snapshot, route),
        "criticality": {"key": CRITICALITY, "value": spec.criticality, "place": place_of(spec.where(CRITICALITY))},
        "cors": None if pages is None else [mask(each) for each in pages],
        "authorize": None if rules is None else [mask(each) for each in rules],
        "rate_limit": None if limits is None else [mask(each) for each in limits],
        "quota": None if quotas is None else [mask(each) for each in quotas],
        "cache": None if sentences is None else [mask(each) for each in sentences],
        "translate": None if calls is None else [mask(each) for each in calls],
        "workers": workers,
        "scopes": [
            {"policy": policy, "name": name, "shared_by": shared_by}
            for policy, name, shared_by, _ in scopes(route, workers)
        ],
    }


def _upstream(snapshot: Snapshot, route: Route) -> UpstreamEntry | None:
    """Return the upstream of a route with its values; None for a route with `aggregate`."""
    masks = snapshot.spec.masks
    if not route.upstream:
        return None
    return {"name": masks.text(route.upstream), "values": _values(upstream_in_force(snapshot, route), masks)}


def _values(values: Iterable[Value], masks: Masks) -> list[ValueEntry]:
    return [{"key": each.key, "value": masked(each.value, masks), "place": place_of(each.mark)} for each in values]


def _refusal(snapshot: Snapshot, refused: Refused) -> RefusalEntry:
    """Return the reason why a request takes no route, masked."""
    mask = snapshot.spec.masks.text
    return {
        "status": refused.status,
        "message": mask(refused.message),
        "allowed": list(refused.allowed),
        "readings": [
            {"path": mask(path), "route": None if route is None else mask(route)} for path, route in refused.readings
        ],
    }
