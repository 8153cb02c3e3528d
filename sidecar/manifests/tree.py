"""YAML nodes, read through merges and aliases, and edited without touching what they share with others.

Scalars keep their spelling, because a text such as `0644` or `yes` means different things to different readers of YAML.
"""

from __future__ import annotations

from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MERGE: Final = "tag:yaml.org,2002:merge"
WIDTH: Final = 1 << 20
"""Longest line in characters: longer than any, so that no text is folded."""
MOST_NODES: Final = 200_000
"""Most nodes of a document once its aliases are written out."""


def compose(value: Any) -> Node:
    """Return plain values as a node."""
    node = yaml.compose(yaml.safe_dump(value, sort_keys=False, width=WIDTH), Loader=yaml.SafeLoader)
    assert node is not None
    return node


class TooLargeError(ValueError):
    """Tree whose aliases stand for more nodes than a manifest has."""


def serialize(node: Node) -> str:
    """Return a node as YAML without anchors, which ends with a line feed.  Raises `TooLargeError`."""
    text: str = yaml.serialize(_unshare(node, [MOST_NODES]), Dumper=yaml.SafeDumper, width=WIDTH, allow_unicode=True)
    return text.removesuffix("...\n")  # the mark after a plain scalar


def _unshare(node: Node, left: list[int]) -> Node:
    """Return a copy in which no node has two places; `left` has the number of nodes that it may still have."""
    left[0] -= 1
    if left[0] < 0:
        raise TooLargeError
    if isinstance(node, MappingNode):
        pairs = [(_unshare(name, left), _unshare(value, left)) for name, value in node.value]
        return MappingNode(node.tag, pairs, flow_style=node.flow_style)
    if isinstance(node, SequenceNode):
        return SequenceNode(node.tag, [_unshare(each, left) for each in node.value], flow_style=node.flow_style)
    return ScalarNode(node.tag, node.value, style=node.style if isinstance(node, ScalarNode) else None)


def value_of(node: Node | None) -> Any:
    """Return a node as plain values; None for no node."""
    return None if node is None else yaml.safe_load(serialize(node))


def get(node: Node | None, *path: str) -> Node | None:
    """Return the member of a mapping at a path; None if there is none.  Merged members (`<<`) count."""
    for key in path:
        if not isinstance(node, MappingNode):
            return None
        node = _member(node, key)
    return node


def _member(node: MappingNode, key: str) -> Node | None:
    merged: list[Node] = []
    for name, value in node.value:
        if name.tag == MERGE:
            merged += value.value if isinstance(value, SequenceNode) else [value]
        elif name.value == key:
            return value  # type: ignore[no-any-return]
    for each in merged:
        if isinstance(each, MappingNode) and (found := _member(each, key)) is not None:
            return found
    return None


def text(node: Node | None, *path: str) -> str:
    """Return the scalar at a path as it is spelt; empty if there is none."""
    found = get(node, *path)
    return str(found.value) if isinstance(found, ScalarNode) else ""


def items(node: Node | None, *path: str) -> list[Node]:
    """Return the items of the list at a path; empty if there is none."""
    found = get(node, *path)
    return list(found.value) if isinstance(found, SequenceNode) else []


def members(node: Node | None, *path: str) -> list[ScalarNode]:
    """Return the scalar members of the mapping at a path."""
    found = get(node, *path)
    return (
        [value for _, value in found.value if isinstance(value, ScalarNode)] if isinstance(found, MappingNode) else []
    )


def parse(text: str) -> Node | None:
    """Return a text as a node; None if it is no YAML or empty."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def with_member(node: Node | None, path: tuple[str, ...], value: Node | None) -> MappingNode:
    """Return a mapping with another member at a path; None takes the member out.

    Mappings on the way are copied, and made if they are missing, so no other place that shares them changes.
    """
    if not isinstance(node, MappingNode):
        node = MappingNode("tag:yaml.org,2002:map", [], flow_style=False)
    key, *rest = path
    if rest:
        value = with_member(_member(node, key), tuple(rest), value)
    pairs = [(name, old) for name, old in node.value if name.tag == MERGE or name.value != key]
    if value is not None:
        places = [at for at, (name, _) in enumerate(node.value) if name.tag != MERGE and name.value == key]
        name = node.value[places[0]][0] if places else compose(key)
        pairs.insert(places[0] if places else len(pairs), (name, value))
    return MappingNode(node.tag, pairs, flow_style=False)


def listed(values: list[Node]) -> SequenceNode:
    """Return a list of nodes."""
    return SequenceNode("tag:yaml.org,2002:seq", values, flow_style=False)
