"""Check of routes for calls of gRPC: an upstream that speaks HTTP/2, and a retry that can happen."""

from __future__ import annotations

from typing import Any

from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.core.conditions import GRPC_WORDS


def check_calls(spec: PolicySpec, report: Report) -> None:
    """Warn of routes of gRPC whose upstream speaks HTTP/1.1, or whose retry never repeats an answer."""
    shared = spec.node.find(("defaults", "retry"))
    for route in spec.all_routes:
        if route.match.grpc is None:
            continue
        upstream = spec.upstreams.get(route.upstream)
        if upstream is not None and not upstream.may_use_http2(upstream.is_tls):
            message = f"takes calls of gRPC, but the upstream {route.upstream} speaks HTTP/1.1"
            report.warn(route.node.nearest("match", "grpc"), f"{message}; give it protocol: http2")
        if (shared is None or route.where("retry") != shared.place) and not _repeats_calls(route):
            message = "never repeats a call that the service may have seen: calls are POSTs, no gRPC status is named"
            report.warn(
                route.node.nearest("retry", "on"), f"{message}; add such as unavailable here, or POST to retry.methods"
            )


def _repeats_calls(route: RouteSpec) -> bool:
    """True if a call may be repeated by its status or its method; True without a retry."""
    retry: Any = route.blocks.get("retry")
    if retry is None or retry.max_attempts == 1:
        return True
    return "POST" in retry.methods or any(isinstance(each, str) and each in GRPC_WORDS for each in retry.on)
