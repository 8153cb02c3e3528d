"""Descriptor sets of running services: `sidecar proto pull`.

- `reflection`: files of a server, by its reflection service (`grpc.reflection.v1`, `v1alpha`).

What is done with a descriptor set is in `sidecar.grpc`.
"""
