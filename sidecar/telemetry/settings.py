"""Settings of telemetry: the policy block, overridden by OpenTelemetry's standard variables.

The variables follow the specification, even where the Python SDK differs: `OTEL_EXPORTER_OTLP_TIMEOUT` is in
milliseconds, which the SDK reads as seconds.  A variable of one signal wins over the general one.  An invalid variable
is reported and ignored; it never stops the sidecar.

Export is on if a destination is named: an endpoint in the block or in a variable, `OTEL_TRACES_EXPORTER=otlp`, or
`OTEL_METRICS_EXPORTER=otlp`.  A collector on localhost is not assumed, because most pods have none.

Not supported, and reported when set: `OTEL_CONFIG_FILE`; exporters other than `otlp`, `console` and `none`; samplers
and propagators of other vendors; exponential histograms; the old conventions beside the stable ones; an address for the
Prometheus page; OTLP export of logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from sidecar.telemetry.spec import ExportTlsSpec, MetricsSpec, TelemetrySpec
from sidecar.telemetry.variables import OTLP, Variables

Kind = Literal["grpc", "http", "json", "console"]
"""Protocol of an export; `http` is protobuf over HTTP, `json` is JSON over HTTP."""
Compression = Literal["gzip", "none"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
ExemplarFilter = Literal["trace_based", "always_on", "always_off"]

PORT_GRPC: Final = 4317
DEFAULTS: Final = {"grpc": "http://localhost:4317", "http": "http://localhost:4318", "json": "http://localhost:4318"}
PROTOCOLS: Final[dict[str, Kind | None]] = {"grpc": "grpc", "http/protobuf": "http", "http/json": "json"}
EXPORTERS: Final = {"otlp": "otlp", "console": "console", "none": "none", "prometheus": "none"}
COMPRESSIONS: Final[dict[str, Compression | None]] = {"gzip": "gzip", "none": "none"}
TEMPORALITIES: Final[dict[str, Temporality]] = {"cumulative": "cumulative", "delta": "delta", "lowmemory": "lowmemory"}
FILTERS: Final[dict[str, ExemplarFilter]] = {
    "trace_based": "trace_based", "always_on": "always_on", "always_off": "always_off",
}  # fmt: skip
FORMATS: Final = {"tracecontext": "w3c", "b3": "b3", "b3multi": "b3multi", "baggage": "", "none": ""}
"""Formats by the standard names of propagators; baggage needs none, because it is forwarded like any field."""
SAMPLERS: Final[dict[str, tuple[float | None, bool] | None]] = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
"""Ratio of each sampler (None: its argument), and True if it follows the caller's decision."""
LIMITS: Final = (
    "ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH",
    "SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT",
)  # fmt: skip
NOT_FOLLOWED: Final = {
    "OTEL_CONFIG_FILE": "is not read; the policy files and the other variables are",
    "OTEL_EXPORTER_PROMETHEUS_HOST": "is not followed; the Prometheus page is /metrics on the admin listener",
    "OTEL_EXPORTER_PROMETHEUS_PORT": "is not followed; the Prometheus page is /metrics on the admin listener",
}
"""Standard variables that have no effect, with the warning for each."""
LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "fatal": "CRITICAL"}


@dataclass(frozen=True, slots=True)
class Target:
    """Destination of one signal."""

    kind: Kind
    endpoint: str = ""
    """URL with its path for HTTP; host and port for gRPC."""
    is_plain: bool = True
    """True if gRPC does not use TLS."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Header fields of each export."""
    timeout: float = 10.0
    """Longest time in seconds for one export, retries included."""
    compression: Compression = "none"
    tls: ExportTlsSpec = field(default_factory=ExportTlsSpec)


@dataclass(frozen=True, slots=True)
class Sampler:
    """Rule that selects the traces to record."""

    ratio: float
    """Share of new traces that are recorded, from 0 to 1."""
    is_parent_based: bool = True
    """True if the sampler follows the caller's decision."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that only a restart changes, and the sampler if a variable sets it."""

    service: str = "sidecar"
    """`service.name` of everything that is exported."""
    traces: Target | None = None
    """Destination of spans; None if they are not exported."""
    metrics: Target | None = None
    """Destination of metrics; None if they are not exported."""
    sampler: Sampler | None = None
    """Sampler that the variables set; None if the policy block decides."""
    formats: tuple[str, ...] = ("w3c",)
    """Formats of trace context on the wire; if empty, trace context is neither read nor written."""
    queue: int = 2048
    """Most spans that wait to be sent."""
    batch: int = 512
    """Most spans in one export."""
    delay: float = 5.0
    """Seconds between two exports of spans."""
    has_limits: bool = False
    """True if variables limit the attributes, events or links of a span."""
    interval: float = 60.0
    """Seconds between two exports of metrics."""
    temporality: Temporality = "cumulative"
    exemplars: ExemplarFilter = "trace_based"
    level: str = "WARNING"
    """Level of the OpenTelemetry library's log."""
    warnings: tuple[str, ...] = ()
    """Sentences about variables that are invalid or not supported."""


def resolve_settings(spec: TelemetrySpec | None, service: str, environ: Mapping[str, str]) -> Settings:
    """Return the effective settings of a block (None: built-in defaults), a service name and an environment."""
    spec = spec or TelemetrySpec()
    read = Variables(environ)
    if read.flag("OTEL_SDK_DISABLED"):
        return Settings(service)
    for name in [name for name in NOT_FOLLOWED if read.text(name)]:
        read.warn(name, NOT_FOLLOWED[name])
    if "otlp" in read.text("OTEL_LOGS_EXPORTER"):
        read.warn("OTEL_LOGS_EXPORTER", "names otlp; logs go to standard output and standard error")
    if "/dup" in read.text("OTEL_SEMCONV_STABILITY_OPT_IN"):
        read.warn("OTEL_SEMCONV_STABILITY_OPT_IN", "asks for two conventions at once; the stable one alone is written")
    read.word(OTLP + "METRICS_DEFAULT_HISTOGRAM_AGGREGATION", {"explicit_bucket_histogram": None}, None)
    queue, batch = read.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048), read.whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
    if batch > queue:
        read.warn("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", f"is more than the queue holds; {queue} is used")
    return Settings(
        service=service,
        traces=_target(spec, "TRACES", read),
        metrics=None if spec.metrics is None else _target(spec, "METRICS", read),
        sampler=_sampler(read),
        formats=_formats(spec, read),
        queue=queue,
        batch=min(batch, queue),
        delay=read.seconds("OTEL_BSP_SCHEDULE_DELAY") or 5.0,
        has_limits=any(read.text(f"OTEL_{name}_LIMIT") for name in LIMITS),
        interval=read.seconds("OTEL_METRIC_EXPORT_INTERVAL") or (spec.metrics or MetricsSpec()).interval,
        temporality=read.word(OTLP + "METRICS_TEMPORALITY_PREFERENCE", TEMPORALITIES, "cumulative"),
        exemplars=read.word("OTEL_METRICS_EXEMPLAR_FILTER", FILTERS, "trace_based"),
        level=read.word("OTEL_LOG_LEVEL", LEVELS, "WARNING"),
        warnings=read.warnings,
    )


def _target(spec: TelemetrySpec, signal: Literal["TRACES", "METRICS"], read: Variables) -> Target | None:
    """Return the destination of a signal; None if it is not exported."""
    exporter = read.word(f"OTEL_{signal}_EXPORTER", EXPORTERS, "")
    if exporter == "console":
        return Target("console")
    own = read.text(f"{OTLP}{signal}_ENDPOINT")
    base = read.text(f"{OTLP}ENDPOINT") or spec.endpoint or ""
    if exporter == "none" or not (own or base or exporter):
        return None
    given: Kind | None = read.of(signal, "PROTOCOL", lambda name: read.word(name, PROTOCOLS, None)) or spec.protocol
    kind: Kind = given or ("grpc" if _port(own or base) == PORT_GRPC else "http")
    endpoint = own or base or DEFAULTS[kind]
    if kind != "grpc" and not own:
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal.lower()}"
    scheme = endpoint.partition("://")[0].lower() if "://" in endpoint else ""
    if scheme not in ("http", "https") and (scheme or kind != "grpc"):
        read.warn(f"{OTLP}ENDPOINT", f"is {own or base!r} and not a URL; write it such as {DEFAULTS[kind]}")
        return None
    timeout = read.of(signal, "TIMEOUT", read.seconds) or spec.timeout
    longest = read.seconds("OTEL_BSP_EXPORT_TIMEOUT" if signal == "TRACES" else "OTEL_METRIC_EXPORT_TIMEOUT")
    compression: Compression | None = read.of(signal, "COMPRESSION", lambda name: read.word(name, COMPRESSIONS, None))
    tls = spec.tls or ExportTlsSpec()
    return Target(
        kind=kind,
        endpoint=endpoint,
        is_plain=scheme == "http" if scheme else read.of(signal, "INSECURE", read.flag),
        headers={
            **{name.lower(): value.get_secret_value() for name, value in spec.headers.items()},
            **read.of(signal, "HEADERS", read.headers),
        },
        timeout=min(timeout, longest or timeout),
        compression=compression or spec.compression,
        tls=ExportTlsSpec(
            ca=read.of(signal, "CERTIFICATE", read.text) or tls.ca,
            cert=read.of(signal, "CLIENT_CERTIFICATE", read.text) or tls.cert,
            key=read.of(signal, "CLIENT_KEY", read.text) or tls.key,
        ),
    )


def _sampler(read: Variables) -> Sampler | None:
    """Return the sampler that the variables set; None if they set none."""
    found = read.word("OTEL_TRACES_SAMPLER", SAMPLERS, None)
    if found is None:
        return None
    ratio, is_parent_based = found
    return Sampler(read.ratio("OTEL_TRACES_SAMPLER_ARG") if ratio is None else ratio, is_parent_based)


def _formats(spec: TelemetrySpec, read: Variables) -> tuple[str, ...]:
    """Return the formats of trace context, each once."""
    if not read.text("OTEL_PROPAGATORS"):
        return tuple(dict.fromkeys(spec.propagation))
    return tuple(dict.fromkeys(name for name in read.words("OTEL_PROPAGATORS", FORMATS) if name))


def _port(endpoint: str) -> int | None:
    """Return the port of an endpoint; None if it has none."""
    try:
        return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None
