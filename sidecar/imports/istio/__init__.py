"""Istio's traffic management and access rules (networking.istio.io and security.istio.io).

- `routes`: gateways as listeners, and virtual services as routes.
- `destinations`: destination rules and service entries as upstreams.
- `access`: policies, and the workloads that they hold for.
- `conditions`: conditions of policies.
"""
