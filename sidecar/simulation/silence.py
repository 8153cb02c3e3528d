"""Telemetry of simulated sidecars: there is none."""

from __future__ import annotations

from typing import Any


class NoTelemetry:
    """Telemetry without exporters, for a `Server`."""

    begin = None

    def use(self, *_: Any) -> None:
        """Ignore the settings."""


class NoMetrics:
    """Durations of a route's requests, discarded."""

    def record(self, *_: Any) -> None:
        """Discard a duration."""
