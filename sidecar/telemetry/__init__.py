"""Telemetry: what the sidecar tells about itself and its requests.

    recorder         start here: what is recorded of each request that has ended
    pipeline         what policies configure: tracing, export and the access log, wired once and tuned by each reload
    spec             the `telemetry` block; settings and variables put OpenTelemetry's standard variables over it
    refusals         the latest refusals, grouped, for `/state` and the live page
    plain            values as JSON, bounded and without secrets
    metrics/         instruments, and the Prometheus page made of them
    logs/            the access log and the sidecar's own diagnostics
    tracing/         trace context on the wire, sampling, spans
    export/          OTLP

Stages do not import this package.  They ask the `Meter` of their `Env` for instruments (`core/metrics.py`), emit events
(`core/events.py`), and leave notes on the exchange.  Tracing and export are imported when a block or a variable asks
for them.
"""
