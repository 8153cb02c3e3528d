"""Istio's traffic management (networking.istio.io): VirtualService, DestinationRule, ServiceEntry and Gateway.

- `routes`: gateways as listeners, and virtual services as routes.
- `destinations`: destination rules and service entries as upstreams.
"""
