"""Joining of several files to one document, and merging of several layers to one block.

Files are joined section by section: named members by their names, routes as one list.  A repeated definition is an
error that shows both places; neither wins silently.

Layers are merged key by key at any depth, and the nearest layer wins.  Lists and scalars are replaced whole.  A layer
that says `off` hides the layers further away: a nearer block inherits nothing from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.config.node import OFF, Node
from sidecar.config.report import Report


def join(roots: Iterable[Node], report: Report) -> Node | None:
    """Return the documents of all files as one; None if no file has a document."""
    joined: Node | None = None
    own: set[str] = set()
    for root in roots:
        if not isinstance(root.value, dict):
            report.error_in(root, "must be a mapping with the keys version, listeners, upstreams and routes")
        elif joined is None:
            joined = root.with_items(dict(root.value))
        else:
            _join_sections(joined.value, own, root, report)
    return joined


def _join_sections(sections: dict[str, Node], own: set[str], root: Node, report: Report) -> None:
    """Add the sections of one file to `sections`, and report repeated definitions.

    `own` names the sections that are copies and may be extended in place, so that each member is copied only once.
    """
    for key, node in root.items.items():
        known = sections.get(key)
        if known is None or known.value is None:
            sections[key] = node
        elif isinstance(known.value, dict | list) and type(known.value) is type(node.value):
            if key not in own:
                own.add(key)
                known = sections[key] = Node(known.value.copy(), known.mark, known.key, known.path)
            if isinstance(node.value, list):
                known.value.extend(node.value)
                continue
            for name, member in node.items.items():
                if name in known.value:
                    _report_duplicate(member, known.value[name], report)
                else:
                    known.value[name] = member
        elif node.value is not None and (key != "version" or node.value != known.value):
            _report_duplicate(node, known, report)


def _report_duplicate(again: Node, first: Node, report: Report) -> None:
    where = ":".join(map(str, first.key))
    report.error(again.key, again.path, f"is defined twice: here and at {where}; keep one of them")


def unique(nodes: Iterable[tuple[str, Node]], report: Report) -> None:
    """Report each repeated name; each pair is a name and the node that holds the name."""
    seen: dict[str, Node] = {}
    for name, node in nodes:
        if name in seen:
            report.error(
                node.mark, node.path, f"`{name}` is defined twice: here and at {_position(seen[name])}; rename one"
            )
        seen.setdefault(name, node)


def _position(node: Node) -> str:
    return ":".join(map(str, node.mark))


def inherit(layers: Sequence[Node]) -> Node | None:
    """Return the block that results from its layers, nearest first.

    None without layers.  A block that is turned off is a node with the value `off`.
    """
    merged: Node | None = None
    for layer in layers:
        if merged is None:
            merged = layer
        elif layer.value == OFF or not isinstance(layer.value, dict) or not isinstance(merged.value, dict):
            break
        else:
            merged = _overlay(merged, layer)
        if merged.value == OFF:
            break
    return merged


def _overlay(near: Node, far: Node) -> Node:
    """Return the mapping `near` with the keys that only `far` has, at any depth."""
    items = dict(near.items)
    for key, inherited in far.items.items():
        own = items.get(key)
        if own is None:
            items[key] = inherited
        elif isinstance(own.value, dict) and isinstance(inherited.value, dict):
            items[key] = _overlay(own, inherited)
    return near.with_items(items)
