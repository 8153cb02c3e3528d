"""Export: spans and metrics over OTLP, with OpenTelemetry's own exporters.

    otlp            start here: the bounded queue of spans, the watch over exports, and the choice of exporter
    otlp_metrics    the registry's metrics as OpenTelemetry's data, once an interval
    otlp_http       the HTTP session that exporters are given
    scrub           parts of a URL as spans may show them

Only the exporter that is configured is imported, when the process starts.
"""
