"""Tests of `sidecar.grpc`."""
