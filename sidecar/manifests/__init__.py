"""Manifests: the sidecar in Kubernetes workloads (`sidecar inject`), as edits of their YAML.  No cluster is asked.

- `documents`: documents of a file, of which only the edited ones are written anew.
- `tree`: YAML nodes that are read through merges and edited without touching what they share.
- `pod`: container, volume and annotations of a pod.  The one source for manifests and the kustomize component.
- `inject`: workloads with the sidecar, and without it again.
- `component`: kustomize component with the same content.
"""
