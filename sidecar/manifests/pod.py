"""Content that a pod gets: the sidecar as an init container that is restarted always (Kubernetes 1.29 and later).

It starts before the service and is ready before it, and it ends after it.  Jobs end with their own containers.  With
capture an init container before it redirects the connections of the pod, and ends.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

CONTAINER: Final = "sidecar"
"""Name of the container."""
CAPTURE: Final = "sidecar-capture"
"""Name of the init container that redirects connections, and of the port to which it does."""
VOLUME: Final = "sidecar-policies"
"""Name of the volume with the policies."""
POLICIES: Final = "/etc/sidecar"
"""Directory in the container with the policies."""
USER: Final = 65532
"""User and group of the container."""
INJECTED: Final = "resilience-sidecar/injected"
"""Annotation of pods that have the sidecar; its value is the version."""
INJECT: Final = "resilience-sidecar/inject"
"""Annotation of workloads or pods; `false` leaves them as they are."""
POLICIES_OF: Final = "resilience-sidecar/policies-of"
"""Label of ConfigMaps with policies: the name of the workload that they are for, or `all`."""
HARDENED: Final = {
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": USER,
    "runAsGroup": USER, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
REDIRECTING: Final = {
    **HARDENED, "runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
}  # fmt: skip
"""Security context of the container that changes the rules of the kernel."""
RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}


class Options(NamedTuple):
    """Choices of a person for all workloads of a run."""

    image: str = "resilience-sidecar"
    admin_port: int = 9901
    """Port of the admin listener, which the probes ask: the policies must have it on all addresses."""
    config_maps: tuple[str, ...] = ()
    """ConfigMaps with policies for every workload; without any `NAME-policies`."""
    capture_port: int | None = None
    """Port of the listener that takes redirected connections; None redirects none."""


def containers(options: Options) -> list[dict[str, Any]]:
    """Return the init containers that a pod gets, in the order of their start."""
    ready = {"httpGet": {"path": "/readyz", "port": options.admin_port}}
    mounts = [{"name": VOLUME, "mountPath": POLICIES, "readOnly": True}]
    port = options.capture_port
    first = [] if port is None else [{
        "name": CAPTURE,
        "image": options.image,
        "args": ["capture", "--apply", "--uid", str(USER), POLICIES],
        "resources": RESOURCES,
        "securityContext": REDIRECTING,
        "volumeMounts": mounts,
    }]  # fmt: skip
    ports = {} if port is None else {"ports": [{"name": CAPTURE, "containerPort": port}]}
    return [*first, {
        "name": CONTAINER,
        "image": options.image,
        "restartPolicy": "Always",
        "args": ["run", POLICIES],
        **ports,
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "service.instance.id=$(POD_NAME),k8s.pod.name=$(POD_NAME)"},
        ],
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": options.admin_port}, "periodSeconds": 10, "timeoutSeconds": 3,
            "failureThreshold": 6,
        },
        "resources": RESOURCES,
        "securityContext": HARDENED,
        "volumeMounts": mounts,
    }]  # fmt: skip


def volume(config_maps: list[str]) -> dict[str, Any]:
    """Return the volume with the policies of several ConfigMaps."""
    sources = [{"configMap": {"name": name}} for name in config_maps]
    return {"name": VOLUME, "projected": {"sources": sources}}
