"""Check of `{path.NAME}` in the policies of a route: its match must capture the name.

The syntax of a template is checked with the text (`core/template.py`).  The captured names are known only when a route
is resolved, because routes with different matches inherit the same policies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sidecar.config.node import Node
from sidecar.config.report import Report, suggest
from sidecar.config.spec import AGGREGATE, RouteSpec
from sidecar.core.template import names
from sidecar.routing.rule import MatchError, Rule

TEMPLATED = ("transform", "fallback", "rate_limit", "quota", "aggregate")
"""Blocks that may contain templates."""
_CAPTURE: Final = re.compile(r"(?<!\{)\{path\.([A-Za-z0-9_.-]+)\}")
"""Matches a capture in a text with names that only `aggregate` has."""


def check_captures(route: RouteSpec, report: Report) -> None:
    """Report each `{path.NAME}` that the route's match does not capture."""
    if route.blocks.keys().isdisjoint(TEMPLATED):
        return
    try:
        rule = Rule(route.match, None)
    except MatchError:
        return  # reported by check_matches
    known = {name for name, _ in rule.captures} | set(rule.pattern.groupindex if rule.pattern is not None else ())
    for block in TEMPLATED:
        node = route.node.child(block) if block in route.blocks else None
        for text in _texts(node) if node is not None else ():
            try:
                used = [name.removeprefix("path.") for name in names(text.value) if name.startswith("path.")]
            except ValueError:
                used = _CAPTURE.findall(text.value) if block == AGGREGATE else []
            for name in used:
                if name not in known and not report.has_error(text):
                    message = f"names {{path.{name}}}, which the route `{route.name}` does not capture"
                    report.error_in(text, f"{message}; {suggest(name, known)}")


def _texts(node: Node) -> Iterator[Node]:
    """Yield the nodes of all texts in a value, at any depth."""
    if isinstance(node.value, str):
        yield node
    for member in node.value.values() if isinstance(node.value, dict) else ():
        yield from _texts(member)
    for member in node.value if isinstance(node.value, list) else ():
        yield from _texts(member)
