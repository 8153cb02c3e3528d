"""Tracing: trace context of requests, sampling, and spans.

    tracer         start here: begins the trace of a request, samples it, and keeps or discards it at the end
    propagation    trace headers: reads those of the caller, writes those of each attempt
    w3c, b3        formats of these headers
    spans          OpenTelemetry spans of a request that is kept

Spans are made after a request has ended, and only if it is kept.  `telemetry/export/` sends them.
"""
