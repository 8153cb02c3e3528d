"""Metrics: instruments that are counted on the event loop, and what is made of them.

    registry      start here: the `Meter` that hands out instruments, and copies all of them for who collects
    durations     histograms of requests and attempts, with a bound on their labels
    process       memory, CPU time and open files of the process
    prometheus    the metrics page
    traffic       the last minutes second by second, for the live page and `sidecar top`

Names, units and help texts stand in `core/metrics.py`, the export over OTLP in `telemetry/export/`.
"""
