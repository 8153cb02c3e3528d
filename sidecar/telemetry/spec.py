"""The `telemetry` block of policy files: destinations of traces and metrics, sampling, and the access log.

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
    """Requests that failed or were answered with 5xx."""
    slower_than: Duration | None = None
    """Requests that took longer."""
    breaker_transitions: bool = True
    """Requests on which a circuit breaker changed its state."""
    at_most: Rate = 100.0
    """What the tail rules may keep: an outage must not make every request pay for its spans."""


class SamplingSpec(Model):
    """Which requests are traced."""

    ratio: Share = 1.0
    """Of the requests that begin a trace; those of a traced caller follow its decision."""
    keep: KeepSpec | None = None


class ExportTlsSpec(Model):
    """TLS towards the collector."""

    ca: str | None = None
    """File with the certificates to trust; the system's without it."""
    cert: str | None = None
    """File with our certificate, where the collector asks for one."""
    key: str | None = None
    """File with its key."""


class MetricsSpec(Model):
    """Metrics sent over OTLP; the Prometheus page is there in any case."""

    interval: Duration = 60.0
    """Between two exports."""


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
    """What the sidecar tells about itself, and to whom."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = None
    """The collector: `http://collector:4317`.  Without it, and without the standard variables, nothing is exported."""
    protocol: Literal["grpc", "http"] | None = None
    """`grpc`, or `http` (protobuf); unless given `grpc` for port 4317 and `http` for any other."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Fields to send with each export, such as an API key."""
    compression: Literal["gzip", "none"] = "none"
    timeout: Duration = 10.0
    """For one export, retries included."""
    tls: ExportTlsSpec | None = None
    propagation: Annotated[
        tuple[Format, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = ("w3c",)
    """How a trace travels: one format or a list; what comes in is read and what goes out is written in all of them."""
    sampling: SamplingSpec | None = SamplingSpec.built_in()
    """`off`: no traces at all, and trace headers pass through untouched."""
    metrics: MetricsSpec | None = MetricsSpec.built_in()
    access_log: AccessLogSpec | None = AccessLogSpec.failures()
    """`off`: no lines at all."""


def wiring(spec: TelemetrySpec | None) -> dict[str, Any]:
    """Return the part of a block (None: built-in defaults) that only a restart changes."""
    return (spec or TelemetrySpec.built_in()).model_dump(exclude={"sampling", "access_log"})
