"""Other proxies, configured for the same policies as the sidecars, to compare: Envoy.

- `envoy`: its process, listeners and routes; start reading here.
- `envoy_clusters`: its clusters, with limits, retry budgets and outlier detection.
"""
