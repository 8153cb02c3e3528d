"""Routes that their proxy tries in their order, in a policy file that chooses routes by how specific they are."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.imports.conditions import common_host
from sidecar.imports.findings import Findings

ORDER: Final = "the other proxy tries this route first for some requests, but here the more specific one wins"
CONDITIONS: Final = ("methods", "headers", "query", "when")


class Ordered(NamedTuple):
    """Route in its order."""

    line: int
    what: str
    match: dict[str, Any]
    """Match as a policy file has it, with plain values."""


def is_reached(findings: Findings, earlier: list[Ordered], route: Ordered) -> bool:
    """Return False for a route whose requests an earlier one takes, which is reported.

    Reports also the earlier routes that would lose requests to this one.
    """
    for other in earlier:
        if other.match.get("host") != route.match.get("host"):
            continue
        if "path_regex" in other.match and "path" in route.match:
            findings.differ(other.line, other.what, ORDER)
        if not _covers(other.match, route.match):
            continue
        conditions = [{key: each[key] for key in CONDITIONS if key in each} for each in (other.match, route.match)]
        if not conditions[0] or conditions[0] == conditions[1]:
            findings.lose(route.line, route.what, f"is never reached: line {other.line} takes its requests first")
            return False
        if _space(other.match) != _space(route.match):
            findings.differ(other.line, other.what, ORDER)
    return True


def may_take(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """True if a match may take requests of another one."""
    hosts = [each.get("host") for each in (one, other)]
    if None not in hosts and not common_host(*map(str, hosts)):
        return False
    return "path_regex" in one or "path_regex" in other or _covers(one, other)


def _space(match: dict[str, Any]) -> tuple[str, str]:
    for key in ("path", "path_prefix", "path_regex"):
        if key in match:
            return key, match[key]
    return "path_prefix", "/"


def _covers(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """True if the paths of one match include those of another, as far as that can be seen."""
    kind, space = _space(one)
    other_kind, other_space = _space(other)
    if kind == "path_prefix":
        prefix = space.rstrip("/")
        return not prefix or (
            other_kind != "path_regex" and (other_space == prefix or other_space.startswith(prefix + "/"))
        )
    return (kind, space) == (other_kind, other_space)
