"""Policies from the configuration of another proxy (`sidecar import`), with a list of all that has no equal here.

- `translate`: policy file from a configuration of any kind, which passes `sidecar check`.
- `source`: configuration in YAML as a tree that knows which of its values were read.
- `findings`: values that are not translated, or differ, each with its place.
- `draft`: policies under construction, each value with its place.
- `writer`: text of a policy file.
- `units`: durations, shares and names of other formats.
- `first_match`: routes that are tried in their order, translated to routes that are chosen by how specific they are.
- `envoy`: Envoy's bootstrap, its listeners and routes.
- `envoy_cluster`: Envoy's clusters.
"""
