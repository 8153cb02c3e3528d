"""Check of `translate` blocks: descriptor sets that can be used, an upstream that speaks HTTP/2, methods that are served.

The descriptor set is read, since the routes of a block are in it.
"""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, RouteSpec

if TYPE_CHECKING:
    from sidecar.grpc.bindings import Binding, Bindings

BLOCK: Final = "translate"
MOST_NAMES: Final = 5
"""Most methods that one message names."""


def check_translation(spec: PolicySpec, route: RouteSpec, report: Report) -> None:
    """Report errors and warnings about the `translate` block of a route."""
    block: Any = route.blocks.get(BLOCK)
    if block is None:
        return
    from sidecar.stages.translate.source import load

    node = route.node.nearest(BLOCK, "grpc", "descriptors")
    try:
        bindings = load(block.grpc, route.where(BLOCK).file)[1]
    except ValueError as error:
        report.error_in(node, str(error))
        return
    upstream = spec.upstreams.get(route.upstream)
    if upstream is not None and not upstream.may_use_http2(upstream.is_tls):
        report.error_in(
            route.node.nearest(BLOCK),
            f"calls gRPC, but the upstream `{route.upstream}` speaks HTTP/1.1; write `protocol: http2` there",
        )
    services = route.node.nearest(BLOCK, "grpc", "services")
    if not bindings.all:
        report.warn(services, "serves nothing: no method has a google.api.http rule; add the rules to the proto files")
    elif bindings.unbound:
        names = [method.full_name for method in bindings.unbound]
        report.warn(services, f"does not serve {_listed(names)}: without a google.api.http rule there is no path")
    _check_paths(route, bindings, report)
    _check_times(route, bindings, report)


def _check_paths(route: RouteSpec, bindings: Bindings, report: Report) -> None:
    """Warn of bindings that the match of the route keeps away."""
    transform: Any = route.blocks.get("transform")
    rules = () if transform is None else (transform.request, *transform.request.cases)
    if any(rule.path or rule.path_prefix or rule.path_regex or rule.method for rule in rules):
        return  # bindings see the rewritten path
    lost = [f"{each.text} ({each.method.full_name})" for each in bindings.all if _is_lost(route, each)]
    if lost:
        report.warn(route.node.nearest("match"), f"keeps {_listed(lost)} away from `{BLOCK}`; widen the match")


def _is_lost(route: RouteSpec, binding: Binding) -> bool:
    """True if no request for a binding takes the route, as far as methods and the first segments tell."""
    match, method = route.match, binding.rule.method
    if match.methods is not None and method not in ("*", *match.methods):
        return True
    path = match.path or match.path_prefix
    if path is None:
        return False
    wanted = [segment for segment in path.encode().split(b"/")[1:] if segment or match.path]
    own = binding.template.segments
    for ours, theirs in zip(own, wanted, strict=False):
        if ours == b"**":
            return False
        if ours != b"*" and ours != theirs and not theirs.startswith(b"{"):
            return True
    if len(own) < len(wanted):
        return own[-1] != b"**"
    return match.path is not None and len([each for each in own if each != b"**"]) > len(wanted)


def _check_times(route: RouteSpec, bindings: Bindings, report: Report) -> None:
    """Warn of a limit on the time of streams."""
    timeout: Any = route.blocks.get("timeout")
    streams = dict.fromkeys(each.method.full_name for each in bindings.all if each.method.server_streaming)
    if timeout is None or isinf(timeout.request) or not streams:
        return
    seconds = route.node.printable(f"{timeout.request:g}s", "timeout", "request")
    report.warn(
        route.node.nearest("timeout", "request"),
        f"ends the streams of {_listed(list(streams))} after {seconds}; write request: off, or give them a route",
    )


def _listed(names: list[str]) -> str:
    """Return names as a list, of which the longest are cut off."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
