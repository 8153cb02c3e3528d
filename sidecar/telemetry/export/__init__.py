"""Export: spans and metrics over OTLP, with OpenTelemetry's own exporters.

    otlp            start here: bounded queue of spans, reports on exports, choice of the exporter
    otlp_metrics    metrics of the registry as OpenTelemetry's data, sent at an interval
    otlp_http       HTTP sessions for the exporters
    scrub           removal of secrets from URLs in spans

Only the configured exporter is imported, when the process starts.
"""
