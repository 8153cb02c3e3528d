"""Shop of the demonstration: five services that call each other through their sidecars.

    client -> web -> orders -> inventory
                            -> payments
                            -> prices, by gRPC

The same services and policies (`policies/shop/`) run as plain processes (`sidecar demo shop`, `make shop`), in
containers (`docker-compose.yml`) and in Kubernetes (`deploy/kubernetes/`).

- `run`: starts all processes of the shop on loopback.
- `captured`: the same in network namespaces, where no service has an address of a sidecar.
- `service`: the program of a service; that of `prices` is `sidecar.demo.prices`.
- `traffic`: requests of customers, and faults in the services.
- `collector`: an OpenTelemetry collector, if one is installed.
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "web": ("orders",),
    "orders": ("inventory", "payments", "prices"),
    "inventory": (),
    "payments": (),
    "prices": (),
}
"""Services that a service calls to answer a request, one after the other."""

TOKEN: Final = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImRlbW8iLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lkLnNob3AuZXhhbXBsZSIsI"
    "mF1ZCI6InNob3AiLCJzdWIiOiJhZGEiLCJleHAiOjQxMDI0NDQ4MDB9.z3aDtL7iIfyrqu3QGS7B6KpLDsqrWFOkXvO_Gf-WoP-K"
    "SO-Xv4Hjz_pAsIbvrAcubspsiAFwdaoc-E4-A3PXSA"
)
"""Token of a customer, `ada`, for `GET /profile` of the demonstration (`policies/shop/web.yaml`).

Nobody has the key that has signed it, so there are no other tokens.
"""
