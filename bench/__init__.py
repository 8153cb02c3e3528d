"""Benchmark of the sidecar and other proxies, measured in turn in one run: `python -m bench --help`."""
