"""Check of one layer of policies before it is merged: a bundle, `defaults`, the `policy` of an upstream.

Layers are checked even if no route uses them.  The blocks of a route are checked again once they are merged.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.node import OFF, Node
from sidecar.config.report import Report, suggest
from sidecar.config.spec import AGGREGATE, CRITICALITY, POLICIES, CriticalitySpec, RouteHead, UpstreamSpec
from sidecar.config.validate import validate
from sidecar.core.spec import Block
from sidecar.stages import BY_NAME

POLICY: Final = "policy"
UPSTREAM_ONLY: Final = frozenset(UpstreamSpec.model_fields) - {*POLICIES, *RouteHead.model_fields}
"""Keys that are allowed only under an upstream."""


def check_layer(layer: Node, name: str, report: Report) -> None:
    """Report unknown and wrong keys of a layer; keys may be missing."""
    if layer.value is None:
        return
    if not isinstance(layer.value, dict):
        report.error_in(layer, f"must be a mapping of policies, such as {name}: {{timeout: {{request: 3s}}}}")
    for key, node in layer.items.items():
        if key not in POLICIES:
            report.error(node.key, node.path, f"is not a policy; {_hint(key)}")
        elif key == AGGREGATE and name in (POLICY, "defaults"):
            report.error(node.key, node.path, "belongs under one route, or in a bundle; other routes have an upstream")
        elif key == CRITICALITY:
            validate(CriticalitySpec, layer.with_items({key: node}), report)
        elif node.value != OFF:
            check_block(key, node, report, partial=True)


def check_block(key: str, node: Node, report: Report, *, partial: bool = False) -> Block | None:
    """Return the spec of a block; None if there are problems, which are reported.

    `partial`: True for one layer of several, in which keys may be missing.
    """
    if node.value is None:
        report.error_in(node, "is empty; write {} for its defaults, off to turn it off, or leave it out")
        return None
    return validate(BY_NAME[key].spec, node, report, partial=partial)


def _hint(key: str) -> str:
    """Return the remedy for a key that is not a policy."""
    if key in UPSTREAM_ONLY:
        return "it belongs directly under an upstream"
    return "it belongs directly under a route" if key in RouteHead.model_fields else suggest(key, POLICIES)
