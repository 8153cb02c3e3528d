"""Tests of `sidecar import`."""
