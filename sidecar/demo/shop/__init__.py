"""A small shop: four services that call each other through the sidecars beside them.

    client -> web -> orders -> inventory
                            -> payments

The same services and policies (`policies/shop/`) run as plain processes (`sidecar demo shop`, `make shop`), in
containers (`docker-compose.yml`) and in Kubernetes (`deploy/kubernetes/`).

- `run`: all processes of the shop on loopback.
- `service`: one service.
- `traffic`: customers, and trouble for the services.
- `collector`: an OpenTelemetry collector, where one is installed.
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "web": ("orders",),
    "orders": ("inventory", "payments"),
    "inventory": (),
    "payments": (),
}
"""Services that each service calls, one after the other, to answer a request."""
