"""Check of `cors`: preflights that cannot find the route, and credentials for pages that anyone can change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config.report import Report
from sidecar.config.spec import RouteSpec

if TYPE_CHECKING:
    from sidecar.stages.cors.spec import Spec

CORS: Final = "cors"
LOCAL: Final = ("http://localhost", "http://127.0.0.1", "http://[::1]")
"""Origins of a developer's own machine, which need no TLS."""


def check_cross_origin(route: RouteSpec, report: Report) -> None:
    """Warn of conditions that no preflight meets, and of origins without TLS."""
    block: Spec | None = route.blocks.get(CORS)  # type: ignore[assignment]
    if block is None:
        return
    for name in route.match.headers:
        if name.lower() not in ("host", "origin"):
            message = (
                f"asks for {name}, which no preflight has; so browsers cannot call the route with methods or fields"
            )
            report.warn(route.node.nearest("match", "headers"), f"{message} that need one; match by path instead")
    if block.credentials:
        for number, origin in enumerate(block.origins):
            if origin.startswith("http://") and not is_local(origin):
                message = (
                    f"lets whoever is in the network of a user act as {origin} with the user's cookies; write https"
                )
                report.warn(route.node.nearest(CORS, "origins", number), message)


def is_local(origin: str) -> bool:
    """True if an origin is one of a developer's own machine."""
    return origin in LOCAL or origin.startswith(tuple(f"{each}:" for each in LOCAL))
