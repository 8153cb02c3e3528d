"""Stand-ins for telemetry, which simulated sidecars do not have."""

from __future__ import annotations

from typing import Any


class NoTelemetry:
    """Telemetry without exporters, for a `Server`."""

    begin = None

    def use(self, *_: Any) -> None:
        """Ignore the settings."""


class NoMetrics:
    """Metrics of a route that discard every value."""

    def record(self, *_: Any) -> None:
        """Discard a duration."""
