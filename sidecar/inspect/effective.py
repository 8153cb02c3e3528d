"""Effective values of a spec, each with its place in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sidecar.config.node import BUILT_IN, Mark, Node
from sidecar.config.schema import defaults
from sidecar.core.spec import Model

EMPTY: Final = Node({}, BUILT_IN)
"""Node of a block that no file has."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./%*~+-][A-Za-z0-9_./%*~+ -]*")
"""Texts that need no quotes."""


class Value(NamedTuple):
    """Effective value of one key."""

    key: str
    """Path of the key, such as `backoff.base`."""
    value: Any
    """Value in the notation of policy files, as plain dicts, lists and scalars."""
    mark: Mark | None
    """Place of the value; None for a built-in default."""

    @property
    def row(self) -> tuple[str, str, str]:
        """Row of a table: key, value on one line, and `file:line` or `built-in`."""
        return self.key, flow(self.value), "built-in" if self.mark is None else str(self.mark)


def values(model: Model, node: Node | None, without: tuple[str, ...] = (), path: str = "") -> Iterator[Value]:
    """Yield the values of a model: those in its node, and built-in defaults.

    Keys without value and default are left out, as are the keys in `without`.  `path` is put before each key.
    """
    node = node or EMPTY
    built_in = defaults(type(model))
    for name, field in type(model).model_fields.items():
        key = field.alias or name
        value = getattr(model, name)
        given = node.child(key)
        if given is None and isinstance(node.value, list) and field.is_required():
            given = node  # a block that may be written as its only list
        if key in without or (given is None and value in (None, (), {})):
            continue
        if isinstance(value, Model):
            yield from values(value, given, path=f"{path}{key}.")
        elif given is None:
            yield Value(path + key, built_in.get(key, value), None)
        else:
            yield Value(path + key, given.shown(), given.place)


def flow(value: Any) -> str:
    """Return a value on one line, in YAML's flow style."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(member)}' for key, member in value.items())}}}"
    if isinstance(value, list | tuple | frozenset):
        return f"[{', '.join(map(flow, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) and not text.endswith(" ") else json.dumps(text, ensure_ascii=False)
