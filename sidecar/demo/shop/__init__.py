"""A small shop: four services that call each other through the sidecars beside them.

    client -> web -> orders -> inventory
                            -> payments

The same services and the same policies (`policies/shop/`) run as plain processes (`python -m sidecar.demo.shop`,
`make shop`), in containers (`docker-compose.yml`) and in Kubernetes (`deploy/kubernetes/`).
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "web": ("orders",),
    "orders": ("inventory", "payments"),
    "inventory": (),
    "payments": (),
}
"""Whom each service calls, in turn, to answer a request."""
