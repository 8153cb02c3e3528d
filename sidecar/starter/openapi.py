"""Facts in an OpenAPI document (3.x, or Swagger 2.0): paths, methods and streams."""

from __future__ import annotations

from typing import Final

from yaml.nodes import MappingNode, Node

from sidecar.manifests.tree import get, items, text
from sidecar.starter.facts import Facts, Operation, StarterError, place, safe_name

READS: Final = ("get", "head", "options")
WRITES: Final = ("post", "put", "patch", "delete")
MOST_PATHS: Final = 200
"""Most paths that get a route each."""


def read_openapi(file: str, root: Node, service: str) -> Facts:
    """Return the facts in an OpenAPI document.  Raises `StarterError`."""
    paths = get(root, "paths")
    if not isinstance(paths, MappingNode) or not paths.value:
        raise StarterError(f"{file}: has no paths")
    facts = Facts(safe_name(service or text(root, "info", "title").lower()), file)
    base = _base(root)
    names: set[str] = set()
    for key, item in paths.value[:MOST_PATHS]:
        path = base + str(key.value)
        if "?" in path or "#" in path or not path.startswith("/"):
            facts.left_out.append(f"{place(file, key)}: {key.value} is not a path")
            continue
        for methods, suffix in ((READS, ""), (WRITES, "-writes")):
            used = [name for name in methods if get(item, name) is not None]
            if not used:
                continue
            name = _unique(safe_name(path.replace("{", "").replace("}", "")) + suffix, names)
            streams = any(_streams(get(item, each)) for each in used)
            facts.operations.append(Operation(name, path, [each.upper() for each in used], streams, place(file, key)))
    if len(paths.value) > MOST_PATHS:
        where = place(file, paths.value[MOST_PATHS][0])
        facts.left_out.append(f"{where}: paths after the first {MOST_PATHS}; the route `app` takes them")
    return facts


def _base(root: Node) -> str:
    """Return the path before all paths; empty without one."""
    url = text(items(root, "servers")[0], "url") if items(root, "servers") else text(root, "basePath")
    path = "/" + url.partition("://")[2].partition("/")[2] if "://" in url else url
    return "" if "{" in path or not path.startswith("/") else path.rstrip("/")


def _unique(name: str, names: set[str]) -> str:
    """Return a name with a number if it is taken."""
    found, count = name, 1
    while found in names or found == "app":
        count += 1
        found = f"{name}-{count}"
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
