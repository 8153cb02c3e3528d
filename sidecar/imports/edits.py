"""Operations on requests and responses: header fields, paths and hosts, as `transform` of a route."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.core.message import HOP_BY_HOP
from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.units import literal
from sidecar.stages.transform.spec import RESERVED_UPSTREAM

OWN: Final = "is written by the sidecar itself"


FRAMING: Final = HOP_BY_HOP | {b"content-length"}
"""Fields that belong to one connection or to the framing of the body."""


def is_own(side: str, name: str) -> bool:
    """True if the sidecar writes a field of requests or responses (`side`) itself."""
    return name.lower().encode() in (RESERVED_UPSTREAM if side == "request" else FRAMING)


def header(draft: Draft, keys: dict[str, Any], side: str, how: str, name: str, value: str, line: int) -> None:
    """Set or add (`how`) a field of requests or responses (`side`)."""
    if side == "request" and name.lower() == "host":
        rewrite_host(draft, keys, value, line)
        return
    if is_own(side, name):
        draft.findings.lose(line, f"field {name}", OWN)
        return
    fields = keys.setdefault("transform", {}).setdefault(side, {}).setdefault("headers", {})
    fields.setdefault(how, {})[name.lower()] = draft.value(literal(value), line)


def remove_headers(draft: Draft, keys: dict[str, Any], side: str, names: list[str], line: int) -> None:
    """Remove fields of requests or responses."""
    for name in (each for each in names if is_own(side, each)):
        draft.findings.lose(line, f"field {name}", OWN)
    names = [each for each in names if not is_own(side, each)]
    if not names:
        return
    fields = keys.setdefault("transform", {}).setdefault(side, {}).setdefault("headers", {})
    known = fields["remove"].value if "remove" in fields else []
    fields["remove"] = draft.value([*known, *(each.lower() for each in names)], line)


def remove_parameter(draft: Draft, keys: dict[str, Any], name: str, line: int) -> None:
    """Remove a query parameter of requests."""
    query = keys.setdefault("transform", {}).setdefault("request", {}).setdefault("query", {})
    known = query["remove"].value if "remove" in query else []
    query["remove"] = draft.value([*known, name], line)


def rewrite_host(draft: Draft, keys: dict[str, Any], host: str, line: int) -> None:
    """Replace the host."""
    put(keys, "transform.request.host", draft.value(literal(host), line))


def rewrite_path(draft: Draft, keys: dict[str, Any], path: str, line: int) -> None:
    """Replace the whole path."""
    put(keys, "transform.request.path", draft.value(literal(path), line))


def rewrite_prefix(draft: Draft, keys: dict[str, Any], prefix: str, to: str, line: int) -> None:
    """Replace the prefix of a path; an empty one adds `to` to every path."""
    to = to.rstrip("/") or "/"
    if prefix.strip("/"):
        path = keys.setdefault("transform", {}).setdefault("request", {}).setdefault("path_prefix", {})
        path[prefix.rstrip("/")] = draft.value(to, line)
    elif to != "/":
        rewrite_pattern(draft, keys, "^/(.*)$", to.replace("\\", "\\\\") + "/\\1", line)


def rewrite_pattern(draft: Draft, keys: dict[str, Any], pattern: str, to: str, line: int) -> str:
    r"""Replace what a regular expression matches in a path; `\1` is a group.

    Return the difference of meaning; empty without one.  Patterns are for the whole path here, so the end of a path
    that one leaves open becomes a group.
    """
    is_anchored = pattern.startswith("^")
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1]
    elif is_anchored:
        pattern, to = f"(?:{pattern})(?P<rest>.*)", to + "\\g<rest>"
    put(keys, "transform.request.path_regex", {"pattern": draft.value(pattern, line), "to": draft.value(to, line)})
    return "" if is_anchored else "replaces each match of a part of the path there, but the whole path here"


def from_dollars(text: str) -> str:
    r"""Return a replacement with groups such as `$1` or `${name}` as one with `\1` and `\g<name>`."""
    text = text.replace("\\", "\\\\")
    return re.sub(r"\$(?:([0-9])|\{(\w+)\})", lambda found: f"\\{found[1]}" if found[1] else f"\\g<{found[2]}>", text)


def cors(draft: Draft, keys: dict[str, Any], name: str, value: Any, line: int) -> None:
    """Set a key of `cors`."""
    put(keys, f"cors.{name}", value if isinstance(value, Value) else draft.value(value, line))
