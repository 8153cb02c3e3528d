"""Demonstrations that run on one machine, from a checkout or an installed package: `sidecar demo` and its shop.

Start reading at `trial`:

- `trial`: `sidecar demo`, with four services behind one sidecar, which tries each policy once.
- `services`: three of these services: one is healthy, one slow, and one fails on command.
- `prices`: the fourth, which speaks gRPC, and its client.
- `shop/`: `sidecar demo shop`, with five services that call each other, each with a sidecar.
- `examples`: paths of the policy files of both.

Not here: services with limited capacity, and network faults (`chaos`).
"""
