"""Kustomize component that adds the sidecar to the workloads of a kustomization, from the same source as `inject`."""

from __future__ import annotations

from typing import Any, Final

import yaml

from sidecar import __version__
from sidecar.manifests import pod
from sidecar.manifests.inject import TEMPLATES

KINDS: Final = {
    "Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1", "CronJob": "batch/v1",
}  # fmt: skip
"""API version of each kind that the component patches."""


def files(options: pod.Options) -> dict[str, str]:
    """Return the files of the component by name."""
    names = {kind: f"{kind.lower()}.yaml" for kind in KINDS}
    patches = [
        {"path": name, "target": {"kind": kind, "annotationSelector": f"{pod.INJECT}!=false"}}
        for kind, name in names.items()
    ]
    head: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": patches}
    return {"kustomization.yaml": _dump(head), **{name: _dump(_patch(kind, options)) for kind, name in names.items()}}


def _patch(kind: str, options: pod.Options) -> dict[str, Any]:
    """Return the patch of one kind."""
    content: dict[str, Any] = {
        "metadata": {"annotations": {pod.INJECTED: __version__}},
        "spec": {
            "initContainers": pod.containers(options),
            "volumes": [pod.volume(list(options.config_maps) or ["sidecar-policies"])],
        },
    }
    for key in reversed(TEMPLATES[kind]):
        content = {key: content}
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": "any"}, **content}


def _dump(value: dict[str, Any]) -> str:
    text: str = yaml.dump(value, Dumper=_Plain, sort_keys=False, width=1 << 20)
    return text


class _Plain(yaml.SafeDumper):
    """Writer without anchors, which would hide what a patch says."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
