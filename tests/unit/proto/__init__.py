"""Tests of `sidecar.proto`."""
