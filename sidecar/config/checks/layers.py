"""One layer of policies, checked where it stands: a bundle, an upstream's `policy`, `defaults`.

Each layer is checked also if no route uses it.  A route's blocks are checked once more as they are merged.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.node import OFF, Node
from sidecar.config.report import Report, suggest
from sidecar.config.spec import CRITICALITY, POLICIES, CriticalitySpec, RouteHead, UpstreamSpec
from sidecar.config.validate import validate
from sidecar.core.spec import Block
from sidecar.stages import BY_NAME

UPSTREAM_ONLY: Final = frozenset(UpstreamSpec.model_fields) - {*POLICIES, *RouteHead.model_fields}
"""Keys that stand under an upstream and nowhere else."""


def check_layer(layer: Node, name: str, report: Report) -> None:
    """Report what is wrong with a layer.  Keys may be missing, but those that are there must be right."""
    if layer.value is None:
        return
    if not isinstance(layer.value, dict):
        report.at(layer, f"must be a mapping of policies, such as {name}: {{timeout: {{request: 3s}}}}")
    for key, node in layer.items.items():
        if key not in POLICIES:
            report.error(node.key, node.path, f"is not a policy; {_hint(key)}")
        elif key == CRITICALITY:
            validate(CriticalitySpec, layer.only({key: node}), report)
        elif node.value != OFF:
            check_block(key, node, report, partial=True)


def check_block(key: str, node: Node, report: Report, *, partial: bool = False) -> Block | None:
    """Return the spec of a block, None where there are problems, which are reported.

    `partial`: the block is one layer of several, so that keys may be missing.
    """
    if node.value is None:
        report.at(node, "is empty; write {} for its defaults, off to turn it off, or leave it out")
        return None
    return validate(BY_NAME[key].spec, node, report, partial=partial)


def _hint(key: str) -> str:
    if key in UPSTREAM_ONLY:
        return "it stands under an upstream itself"
    return "it stands on a route itself" if key in RouteHead.model_fields else suggest(key, POLICIES)
