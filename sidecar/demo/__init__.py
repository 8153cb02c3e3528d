"""Demonstrations that run on one machine, from a checkout or an installed package: `sidecar demo` and its shop.

Start reading at `trial`:

- `trial`: `sidecar demo`: three services, the sidecar in front of them, and one try of each policy.
- `services`: these services: one healthy, one slow, one that fails on command.
- `shop/`: `sidecar demo shop`: four services that call each other, a sidecar beside each.
- `examples`: finds the policy files of both.

Not here: services with finite capacity, and faults on the wire (`chaos`).
"""
