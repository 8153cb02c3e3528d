"""Shop of the demonstration: four services that call each other through their sidecars.

    client -> web -> orders -> inventory
                            -> payments

The same services and policies (`policies/shop/`) run as plain processes (`sidecar demo shop`, `make shop`), in
containers (`docker-compose.yml`) and in Kubernetes (`deploy/kubernetes/`).

- `run`: starts all processes of the shop on loopback.
- `service`: the program of a service.
- `traffic`: requests of customers, and faults in the services.
- `collector`: an OpenTelemetry collector, if one is installed.
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "web": ("orders",),
    "orders": ("inventory", "payments"),
    "inventory": (),
    "payments": (),
}
"""Services that a service calls to answer a request, one after the other."""
