"""The benchmark: the sidecar beside other proxies, in turn, in one run.  `python -m bench --help`."""
