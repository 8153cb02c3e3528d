"""Edit of the text of a policy file: one value of a route or an upstream is set, and nothing else changes."""

from __future__ import annotations

from typing import Final, Literal

from sidecar.config.files import Part, locate

Kind = Literal["routes", "upstreams"]
BY_HAND: Final = "edit it by hand"


def put(text: str, kind: Kind, name: str, path: tuple[str, ...], value: str) -> str:
    """Return a text in which the route or upstream of a name has a scalar at a path.

    A scalar that is there is replaced; what is missing is added behind the last key of the innermost mapping.  Raises
    `ValueError` if the text has no such owner, or something else than mappings on the way.
    """
    part = _owner(locate(text), kind, name)
    for depth, key in enumerate(path):
        if not part.is_mapping:
            raise ValueError(f"`{'.'.join(path[:depth])}` is no mapping; {BY_HAND}")
        members = {key.word: value for key, value in part.members}
        if key not in members:
            return _add(text, part, path[depth:], value)
        part = members[key]
    if not part.is_scalar or not part.is_flow or part.start == part.end:
        raise ValueError(f"`{'.'.join(path)}` is not a plain value; {BY_HAND}")
    return text[: part.start] + value + text[part.end :]


def _owner(root: Part, kind: Kind, name: str) -> Part:
    """Return the part of a route or of an upstream."""
    sections = {key.word: value for key, value in root.members}
    section = sections.get(kind)
    if section is not None and kind == "upstreams":
        for key, value in section.members:
            if key.word == name:
                return value
    elif section is not None:
        for _, route in section.items:
            if any(key.word == "name" and value.word == name for key, value in route.members):
                return route
    raise ValueError(f"its name is not written in the file; {BY_HAND}")  # such as one from a variable


def _add(text: str, mapping: Part, path: tuple[str, ...], value: str) -> str:
    """Return the text with a new last key in a mapping; a path of several keys becomes mappings in braces."""
    entry = ": {".join(path) + f": {value}" + "}" * (len(path) - 1)
    if not mapping.members:
        return f"{text[: mapping.start]}{{{entry}}}{text[mapping.end :]}"
    first, last = mapping.members[0][0], mapping.members[-1][1]
    if mapping.is_flow:
        return f"{text[: last.end]}, {entry}{text[last.end :]}"
    indent = first.start - (text.rfind("\n", 0, first.start) + 1)
    end = text.find("\n", last.end)
    if end < 0:
        text, end = f"{text}\n", len(text)
    return f"{text[:end]}\n{' ' * indent}{entry}{text[end:]}"
