"""Check of policies for several workers: warnings for limits that are too small, or not shared."""

from __future__ import annotations

from typing import Any

from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec


def check_workers(spec: PolicySpec, report: Report) -> None:
    """Warn of limits with fewer permits or requests than there are workers, and of quotas of each worker."""
    workers = spec.process.number()
    if workers == 1:
        return
    seen: set[int] = set()
    owners: list[tuple[Any, Any, Any, Node | None]] = [
        (each.concurrency, each.rate_limit, each.quota, spec.node.find(("upstreams", name)))
        for name, each in spec.upstreams.items()
    ]
    for route in spec.routes:
        blocks = route.blocks
        owners.append((blocks.get("concurrency"), blocks.get("rate_limit"), blocks.get("quota"), route.node))
    for concurrency, rate_limit, quota, owner in owners:
        if owner is None:
            continue
        node = owner.child("concurrency")
        if concurrency is not None and node is not None and id(node) not in seen:
            seen.add(id(node))
            if concurrency.adaptive is None and concurrency.max < workers:
                message = f"is less than the number of workers ({workers}), so permits have to move between them"
                report.warn(node.nearest("max"), f"{message}; raise it, or lower process.workers")
        node = owner.child("rate_limit")
        if rate_limit is not None and node is not None and id(node) not in seen:
            seen.add(id(node))
            for number, limit in enumerate(rate_limit.limits):
                if limit.delay is not None and limit.capacity < workers:
                    message = f"with a delay is divided among {workers} workers, and a burst below {workers - 1}"
                    message += " leaves each less than a request; raise burst, or take delay out"
                    report.warn((node.child("limits") or node).nearest(number), message)
        node = owner.child("quota")
        if quota is not None and node is not None and id(node) not in seen:
            seen.add(id(node))
            for number, each in enumerate(quota.quotas):
                if each.store is None:
                    message = f"has no store, so each of {workers} workers counts for itself, and up to {workers} times"
                    message += f" {each.max} requests pass; name a store, such as a file of this machine"
                    report.warn((node.child("quotas") or node).nearest(number), message)
