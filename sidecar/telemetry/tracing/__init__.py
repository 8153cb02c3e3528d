"""Tracing: the place of each request in its trace, and its spans.

    tracer         start here: begins a trace for each request, samples it, and keeps or forgets it at the end
    propagation    reads the caller's headers and writes those of each attempt, in every configured format
    w3c, b3        the formats on the wire
    spans          OpenTelemetry's spans of a request that is kept

Spans are made after a request has ended, and only if it is kept.  They leave by `telemetry/export/`.
"""
