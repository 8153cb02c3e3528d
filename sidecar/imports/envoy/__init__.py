"""Envoy's bootstrap (v3).

- `bootstrap`: listeners, routes and their policies.
- `access`: filters that keep requests out.
- `cluster`: clusters.
"""
