"""Spec of the `telemetry` block: destinations of traces and metrics, sampling, and the access log.

Rules:

1. A standard variable (`OTEL_*`, see `variables.py`) wins over the block.  So a deployment can override the file, and
   an OpenTelemetry operator can configure the sidecars of a fleet.
2. A reload changes sampling, tail rules and the access log, because people change them during an incident.  Only a
   restart changes destinations and propagation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Rate, Share

Format = Literal["w3c", "b3", "b3multi"]


class KeepSpec(Model):
    """Tail rules: traces to keep although they were not sampled, decided at the end of the request."""

    errors: bool = True
    """True keeps requests that failed or were answered with 5xx."""
    slower_than: Duration | None = None
    """Duration above which a request is kept; by default no request is kept for its duration."""
    breaker_transitions: bool = True
    """True keeps requests that changed the state of a circuit breaker."""
    at_most: Rate = 100.0
    """Highest rate of traces that the tail rules keep, so that an outage does not make every request record spans."""


class SamplingSpec(Model):
    """Share of requests that are traced, and tail rules for the others."""

    ratio: Share = 1.0
    """Share of new traces that are sampled; a request that is part of its caller's trace follows the caller."""
    keep: KeepSpec | None = None


class ExportTlsSpec(Model):
    """TLS towards the collector."""

    ca: str | None = None
    """File with the certificate authorities to trust (PEM); by default those of the system."""
    cert: str | None = None
    """File with the client certificate (PEM), for a collector that asks for one."""
    key: str | None = None
    """File with its private key (PEM, not encrypted)."""


class MetricsSpec(Model):
    """Export of metrics over OTLP; the Prometheus page is always available."""

    interval: Duration = 60.0
    """Time between two exports (OpenTelemetry: 60s)."""


class AccessLogSpec(Model):
    """Access log: one line for each request, on standard output.

    Without the block, it has only requests that failed or were refused, at most 20 a second.
    """

    format: Literal["json", "text", "off"] = "json"
    """Format of a line: `json` for machines, `text` for people; `off` writes no lines."""
    successes: Share = 1.0
    """Share of successes that are written.  A success took one attempt, was not refused, did not fail and was not
    answered with 5xx.  All other requests are always written."""
    at_most: Rate | None = None
    """Most lines a second.  The number of lines left out is `suppressed` in the next line, and is counted by
    `sidecar_log_suppressed_total`."""

    @classmethod
    def failures(cls, form: Literal["json", "text"] = "json") -> Self:
        """Return the settings for policies without the block: requests that fail or are refused, at a bounded rate."""
        return cls.built_in(format=form, successes=0.0, at_most=20.0)


class TelemetrySpec(Model):
    """Traces, metrics and logs of the sidecar, and their destinations."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = None
    """URL of the collector, such as `http://collector:4317`.  Without it, and without the standard variables, there is
    no export."""
    protocol: Literal["grpc", "http"] | None = None
    """Protocol of exports: `grpc`, or `http` (protobuf).  By default `grpc` for port 4317, and `http` for any other."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Header fields of each export, such as an API key."""
    compression: Literal["gzip", "none"] = "none"
    timeout: Duration = 10.0
    """Longest time for one export, retries included (OpenTelemetry: 10s)."""
    tls: ExportTlsSpec | None = None
    propagation: Annotated[
        tuple[Format, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = ("w3c",)
    """Format of trace headers, or a list of formats, which are all read and all written."""
    sampling: SamplingSpec | None = SamplingSpec.built_in()
    """Sampling of traces; with `off` there are no traces, and trace headers pass unchanged."""
    metrics: MetricsSpec | None = MetricsSpec.built_in()
    """Export of metrics; `off` exports none."""
    access_log: AccessLogSpec | None = AccessLogSpec.failures()
    """Access log; `off` writes no lines."""


def wiring(spec: TelemetrySpec | None) -> dict[str, Any]:
    """Return the part of a block (None: built-in defaults) that only a restart changes."""
    return (spec or TelemetrySpec.built_in()).model_dump(exclude={"sampling", "access_log"})
