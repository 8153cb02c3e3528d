"""First policy of a service (`sidecar init`), from the files that describe it, with a reason beside each value.

- `read`: facts of several files together.
- `facts`: facts about a service and its peers, each with its place.
- `compose`: facts in a Compose file.
- `kubernetes`: facts in Kubernetes manifests.
- `openapi`: facts in an OpenAPI document.
- `writer`: policy file that the facts give.
"""
