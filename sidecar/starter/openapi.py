"""Facts in an OpenAPI document (3.x, or Swagger 2.0): paths, methods and streams."""

from __future__ import annotations

import re
from typing import Final

from yaml.nodes import MappingNode, Node

from sidecar.core import uri
from sidecar.manifests.tree import get, items, text
from sidecar.starter.facts import Facts, Operation, StarterError, place, safe_name

READS: Final = ("get", "head", "options")
WRITES: Final = ("post", "put", "patch", "delete")
PARAMETER: Final = re.compile(r"\{([^{}/]+)\}")
UNNAMED: Final = re.compile(r"[^A-Za-z0-9_]")
"""Characters that the name of a capture cannot have."""
MOST_PATHS: Final = 200
"""Most paths that get a route each."""


def read_openapi(file: str, root: Node, service: str) -> Facts:
    """Return the facts in an OpenAPI document.  Raises `StarterError`."""
    paths = get(root, "paths")
    if not isinstance(paths, MappingNode) or not paths.value:
        raise StarterError(f"{file}: has no paths")
    facts = Facts(safe_name(service or text(root, "info", "title").lower()), file)
    base = _base(root)
    names = {"app"}
    for key, item in paths.value[:MOST_PATHS]:
        path = base + str(key.value)
        try:
            uri.literal(PARAMETER.sub("x", path).replace("{", "x"))
        except ValueError as error:
            facts.left_out.append(f"{place(file, key)}: {key.value} gets no route: it {str(error).partition(';')[0]}")
            continue
        for methods, suffix in ((READS, ""), (WRITES, "-writes")):
            used = [name for name in methods if get(item, name) is not None]
            if not used:
                continue
            name = _unique(safe_name(path.replace("{", "").replace("}", "")) + suffix, names)
            streams = any(_streams(get(item, each)) for each in used)
            spelt, is_pattern = _match(path)
            verbs = [each.upper() for each in used]
            facts.operations.append(Operation(name, spelt, verbs, streams, place(file, key), is_pattern))
    if len(paths.value) > MOST_PATHS:
        where = place(file, paths.value[MOST_PATHS][0])
        facts.left_out.append(f"{where}: paths after the first {MOST_PATHS}; the route `app` takes them")
    return facts


def _base(root: Node) -> str:
    """Return the path before all paths; empty without one."""
    url = text(items(root, "servers")[0], "url") if items(root, "servers") else text(root, "basePath")
    path = "/" + url.partition("://")[2].partition("/")[2] if "://" in url else url
    return "" if "{" in path or not path.startswith("/") else path.rstrip("/")


def _match(path: str) -> tuple[str, bool]:
    """Return a path with captures that policies can name, and False; or a regular expression, and True."""
    names: set[str] = set()
    parts: list[str] = []
    for part in path.split("/"):
        if (found := PARAMETER.fullmatch(part)) is not None:
            name = UNNAMED.sub("_", found[1])
            part = f"{{{_unique(name if not name[:1].isdigit() else f'_{name}', names, '_')}}}"
        elif "{" in part or "}" in part:
            return _pattern(path), True
        parts.append(part)
    return "/".join(parts), False


def _pattern(path: str) -> str:
    """Return the regular expression of a path, which matches in linear time.

    In a segment, all between the first and the last parameter counts as one.  If a parameter follows in a later
    segment, this one stops at the character behind it.
    """
    segments: list[str] = []
    left = path
    for segment in path.split("/"):
        left = left.partition("/")[2]
        literals = PARAMETER.split(segment)[::2]
        first, last = re.escape(literals[0]), re.escape(literals[-1])
        stop = re.escape(literals[-1][:1]) if PARAMETER.search(left) else ""
        segments.append(first if len(literals) == 1 else f"{first}[^/{stop}]+{last}")
    return "/".join(segments)


def _unique(name: str, names: set[str], joint: str = "-") -> str:
    """Return a name with a number if it is taken."""
    found, count = name, 1
    while found in names:
        count += 1
        found = f"{name}{joint}{count}"
    names.add(found)
    return found


def _streams(operation: Node | None) -> bool:
    """True if a response of an operation is a stream of events."""
    responses = get(operation, "responses")
    pairs = responses.value if isinstance(responses, MappingNode) else []
    kinds = [str(each.value) for each in items(operation, "produces")]
    for _, response in pairs:
        content = get(response, "content")
        if isinstance(content, MappingNode):
            kinds += [str(name.value) for name, _ in content.value]
    return any(each in ("text/event-stream", "application/x-ndjson", "application/stream+json") for each in kinds)
