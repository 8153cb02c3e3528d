"""Text of a policy file, in which each value has its place as a comment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from sidecar.imports.draft import Draft, Value
from sidecar.imports.findings import printable

COLUMN: Final = 64
"""Column of the comments."""
PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*|[0-9]+(?:\.[0-9]+)?(?:us|ms|s|m|h|%|/s|/m|/h|B|KiB|MiB|GiB)")
"""Scalars that no reader of YAML takes for another kind."""
WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "y", "n"})


def write_policy(draft: Draft, kind: str) -> str:
    """Return the policy file of a draft that came from one kind of configuration."""
    findings = draft.findings.lines()
    lines = [f"# From {draft.findings.file} ({kind}).  Each value has its line beside it."]
    lines += ["# Read it, change it, and check it with `sidecar check`.", "version: 1", "", "listeners:"]
    lines += _mapping(draft.listeners, 2)
    lines += ["", "identities:", *_mapping(draft.identities, 2)] if draft.identities else []
    lines += ["", "upstreams:", *_mapping(draft.upstreams, 2)] if draft.upstreams else []
    lines += ["", "routes:", *_list(draft.routes, 2)] if draft.routes else []
    if findings:
        lines += ["", "# Not translated, or with another meaning here:", *(f"#   {each}" for each in findings)]
    return "\n".join(lines) + "\n"


def _mapping(members: dict[str, Any], indent: int) -> Iterator[str]:
    for name, value in members.items():
        key = f"{' ' * indent}{scalar(name)}:"
        if isinstance(value, dict):
            if value:
                yield key
                yield from _mapping(value, indent + 2)
            else:
                yield f"{key} {{}}"
        elif isinstance(value, list):
            yield key
            yield from _list(value, indent + 2)
        else:
            text, comment = _leaf(value)
            line = f"{key} {text}"
            yield f"{line:<{COLUMN - 1}} # {printable(comment)}" if comment else line


def _list(items: list[Any], indent: int) -> Iterator[str]:
    for item in items:
        if isinstance(item, dict):
            lines = list(_mapping(item, indent + 2))
            yield f"{' ' * indent}- {lines[0][indent + 2 :]}"
            yield from lines[1:]
        else:
            text, comment = _leaf(item)
            line = f"{' ' * indent}- {text}"
            yield f"{line:<{COLUMN - 1}} # {printable(comment)}" if comment else line


def _leaf(value: Any) -> tuple[str, str]:
    if isinstance(value, Value):
        return _text(value.value), value.comment
    return _text(value), ""


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(each) for each in value)}]"
    return scalar(value) if isinstance(value, str) else json.dumps(value)


def scalar(text: str) -> str:
    """Return a text as a scalar, quoted where that is needed, in which nothing is taken from the environment."""
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    quoted = json.dumps(text.replace("${", "$${"), ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)
