"""Envoy's bootstrap (v3).

- `bootstrap`: listeners, routes and their policies.
- `cluster`: clusters.
"""
