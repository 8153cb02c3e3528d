"""A resilience sidecar: a proxy that stands beside a service and applies per-route policies to its traffic."""

__version__ = "0.1.0"
