"""Telemetry: metrics, logs and traces of the sidecar and its requests.

    recorder         start here: records each request that has ended
    pipeline         tracing, export and the access log, as policies configure them
    spec             the `telemetry` block of policy files
    settings         effective settings: the block, with OpenTelemetry's standard variables over it
    variables        reader of these variables
    refusals         latest refusals in groups, for `/state` and the live page
    plain            values as JSON, bounded in size and without secrets
    files            files that keep state over a restart
    metrics/         instruments, and the Prometheus page
    logs/            the access log, and diagnostics of the sidecar
    tracing/         trace context on the wire, sampling, spans
    export/          OTLP

Stages do not import this package.  They get instruments from the `Meter` of their `Env` (`core/metrics.py`), emit
events (`core/events.py`), and leave notes on the exchange.  Tracing and export are imported only if they are
configured.
"""
