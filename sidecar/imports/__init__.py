"""Policies from the configuration of another proxy (`sidecar import`), with a list of all that has no equal here.

Translation:

- `translate`: policy file from a configuration of any kind, which passes `sidecar check`.
- `source`, `toml`: configuration in YAML or TOML as a tree that knows which of its values were read.
- `findings`: values that are not translated, or differ, each with its place.
- `draft`: policies under construction, each value with its place.
- `writer`: text of a policy file.

Parts that several kinds share:

- `fields`: values that are copied by a table.
- `units`: durations, shares and names of other formats.
- `conditions`: conditions on requests as the match of a route.
- `first_match`: routes that are tried in their order, translated to routes that are chosen by how specific they are.
- `edits`: operations on header fields, paths and hosts.
- `retries`: words, methods and bounds of retries.
- `access`: access rules.
- `kubernetes`: objects of a file, and services as upstreams.

Kinds: `envoy`, `nginx`, `istio`, `dapr`, `traefik`, `gateway_api`.
"""
