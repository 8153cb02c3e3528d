"""Spec of the `telemetry` block: destinations of traces and metrics, sampling, and the access log.

Rules:

1. A standard variable (`OTEL_*`, see `variables.py`) wins over the block.  Who deploys has the last word over who wrote
   the file, and a sidecar fits into a fleet that an OpenTelemetry operator configures.
2. Sampling, tail rules and the access log follow a reload, since they are turned up during an incident.  Destinations
   and propagation are wired when the process starts, and only a restart changes them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Rate, Share

Format = Literal["w3c", "b3", "b3multi"]


class KeepSpec(Model):
    """Tail rules: traces that are kept whatever the sampling says, decided when the request has ended."""

    errors: bool = True
    """True keeps requests that failed or were answered with 5xx."""
    slower_than: Duration | None = None
    """Duration above which a request is kept; without it none is kept for its duration."""
    breaker_transitions: bool = True
    """True keeps requests on which a circuit breaker changed its state."""
    at_most: Rate = 100.0
    """Largest rate that the tail rules keep: an outage must not make every request pay for its spans."""


class SamplingSpec(Model):
    """Share of requests that are traced, and those that are traced in any case."""

    ratio: Share = 1.0
    """Share of the requests that begin a trace; requests of a traced caller follow its decision."""
    keep: KeepSpec | None = None


class ExportTlsSpec(Model):
    """TLS towards the collector."""

    ca: str | None = None
    """File with the certificate authorities to trust (PEM); without it those of the system."""
    cert: str | None = None
    """File with the certificate to present (PEM), for a collector that asks for one."""
    key: str | None = None
    """File with its private key (PEM, not encrypted)."""


class MetricsSpec(Model):
    """Metrics sent over OTLP; the Prometheus page is there in any case."""

    interval: Duration = 60.0
    """Time between two exports (OpenTelemetry: 60s)."""


class AccessLogSpec(Model):
    """One line for each request, on standard output.  Without the block: one for each that failed or was refused, at
    most 20 a second."""

    format: Literal["json", "text", "off"] = "json"
    """`json` for machines, `text` for people."""
    successes: Share = 1.0
    """Share of the successes to write down: requests that took one try, were not refused, did not fail and were not
    answered with 5xx.  All others are always written."""
    at_most: Rate | None = None
    """Lines a second; `suppressed` in the next line, and `sidecar_log_suppressed_total`, say how many more there
    were."""

    @classmethod
    def failures(cls, form: Literal["json", "text"] = "json") -> Self:
        """Return the settings where policies have none: requests that fail or are refused, and not too many of them."""
        return cls.built_in(format=form, successes=0.0, at_most=20.0)


class TelemetrySpec(Model):
    """Traces, metrics and logs of the sidecar, and their destinations."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = None
    """URL of the collector, such as `http://collector:4317`.  Without it, and without the standard variables, nothing
    is exported."""
    protocol: Literal["grpc", "http"] | None = None
    """Protocol of exports: `grpc`, or `http` (protobuf).  Without it `grpc` for port 4317 and `http` for any other."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Fields to send with each export, such as an API key."""
    compression: Literal["gzip", "none"] = "none"
    timeout: Duration = 10.0
    """Longest time for one export, retries included (OpenTelemetry: 10s)."""
    tls: ExportTlsSpec | None = None
    propagation: Annotated[
        tuple[Format, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = ("w3c",)
    """Format of trace headers, or a list: incoming ones are read and outgoing ones written in all of them."""
    sampling: SamplingSpec | None = SamplingSpec.built_in()
    """Sampling of traces; `off` makes none at all, and trace headers pass through untouched."""
    metrics: MetricsSpec | None = MetricsSpec.built_in()
    access_log: AccessLogSpec | None = AccessLogSpec.failures()
    """`off`: no lines at all."""


def wiring(spec: TelemetrySpec | None) -> dict[str, Any]:
    """Return the part of a block (None: built-in defaults) that only a restart changes."""
    return (spec or TelemetrySpec.built_in()).model_dump(exclude={"sampling", "access_log"})
