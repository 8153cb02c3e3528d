"""gRPC on the upstream side.

    answer      reads the status of an answer, from its head or its trailers
    health      probes an endpoint by the gRPC health checking protocol

The transport is that of every other request; the values are those of `sidecar.grpc`.
"""
