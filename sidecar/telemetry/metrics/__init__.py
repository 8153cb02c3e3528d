"""Metrics: instruments that the event loop updates, and the forms in which they are read.

    registry      start here: the `Meter` that makes instruments, and copies their values for collectors
    durations     histograms of requests and attempts, with a bound on their labels
    process       memory, CPU time and open files of the process
    prometheus    the metrics page
    traffic       requests of the last minutes by second, for the live page and `sidecar top`
    history       figures of the last hours by minute, from which values of policies are suggested
    period        document of these figures

Names, units and help texts are in `core/metrics.py`, the export over OTLP in `telemetry/export/`.
"""
