"""Check of `translate` blocks: usable descriptor sets, an upstream that speaks HTTP/2, methods that are served.

The descriptor set is read, since the routes of a block are in it.  A method may have another route than the rest of its
service, such as a stream without a limit on its time.
"""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.routing.match_spec import MatchSpec

if TYPE_CHECKING:
    from sidecar.grpc.bindings import Binding, Bindings

BLOCK: Final = "translate"
MOST_NAMES: Final = 5
"""Most methods that one message names."""


def check_translations(spec: PolicySpec, report: Report) -> None:
    """Report errors and warnings about the `translate` blocks of all routes."""
    loaded = [(route, bindings) for route in spec.all_routes if (bindings := _load(spec, route, report)) is not None]
    for route, bindings in loaded:
        services = route.node.nearest(BLOCK, "grpc", "services")
        if not bindings.all:
            report.warn(services, "serves nothing: no method has a google.api.http rule; add them to the proto files")
        elif bindings.unbound:
            names = _listed([method.full_name for method in bindings.unbound])
            report.warn(services, f"does not serve {names}: without a google.api.http rule there is no path")
        lost, limited = [], []
        for binding in bindings.all:
            routes = [each for each, others in loaded if others is bindings and _may_take(each, binding)]
            if not routes:
                lost.append(f"{binding.text} ({binding.method.full_name})")
            elif (
                binding.method.server_streaming
                and not binding.is_socket
                and route in routes
                and all(map(_limits_requests, routes))
            ):
                limited.append(binding.method.full_name)
        if lost:
            report.warn(route.node.nearest("match"), f"keeps {_listed(lost)} away from `{BLOCK}`; widen the match")
        if limited:
            seconds = route.node.printable(f"{_timeout(route).request:g}s", "timeout", "request")
            report.warn(
                route.node.nearest("timeout", "request"),
                f"ends the streams of {_listed(limited)} after {seconds}; write request: off, or give them a route",
            )


def _load(spec: PolicySpec, route: RouteSpec, report: Report) -> Bindings | None:
    """Return the bindings of a route; None without a `translate` block, and for one with errors."""
    block: Any = route.blocks.get(BLOCK)
    if block is None:
        return None
    from sidecar.stages.translate.source import load

    upstream = spec.upstreams.get(route.upstream)
    if upstream is not None and not upstream.may_use_http2(upstream.is_tls):
        report.error_in(
            route.node.nearest(BLOCK),
            f"calls gRPC, but the upstream `{route.upstream}` speaks HTTP/1.1; write `protocol: http2` there",
        )
    try:
        return load(block.grpc, route.where(BLOCK).file)[1]
    except ValueError as error:
        report.error_in(route.node.nearest(BLOCK, "grpc", "descriptors"), str(error))
        return None


def _timeout(route: RouteSpec) -> Any:
    return route.blocks.get("timeout")


def _limits_requests(route: RouteSpec) -> bool:
    timeout = _timeout(route)
    return timeout is not None and not isinf(timeout.request)


def _may_take(route: RouteSpec, binding: Binding) -> bool:
    """True if a request for a binding may take the route; always if the route rewrites paths or methods first."""
    transform: Any = route.blocks.get("transform")
    rules = () if transform is None else (transform.request, *transform.request.cases)
    if any(rule.path or rule.path_prefix or rule.path_regex or rule.method for rule in rules):
        return True
    return may_take(route.match, binding)


def may_take(match: MatchSpec, binding: Binding) -> bool:
    """True if a request for a binding may meet a match, as far as its method and its segments tell."""
    method = "GET" if binding.is_socket else binding.rule.method
    if match.methods is not None and method not in ("*", *match.methods):
        return False
    path = match.path or match.path_prefix
    if path is None:
        return True
    wanted = [segment for segment in path.encode().split(b"/")[1:] if segment or match.path]
    own = [*binding.template.segments]
    if binding.template.verb:
        own[-1] += b":" + binding.template.verb
    for ours, theirs in zip(own, wanted, strict=False):
        if ours.startswith(b"**"):
            return True
        if b"*" not in ours and b"{" not in theirs and ours != theirs:
            return False
    if len(own) < len(wanted):
        return own[-1].startswith(b"**")
    return match.path is None or len(own) - own[-1].startswith(b"**") <= len(wanted)


def _listed(names: list[str]) -> str:
    """Return names as a list, of which the longest are cut off."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
