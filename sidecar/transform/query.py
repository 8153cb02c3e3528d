"""Operations on the query of a request.

Parameters that no operation names keep their bytes and their place.  Names are compared in decoded form (`%71` is
`q`), and values are written percent-encoded.  The operations apply in this order, whatever the order in the file:
remove, rename, set, add.  *set* replaces the first parameter of its name and removes the others.  An empty text leaves
its parameter out, and an empty query is sent without a question mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from sidecar.core.exchange import Exchange
from sidecar.core.template import Template
from sidecar.core.uri import decoded


def written(text: str) -> str:
    """Return a name or value percent-encoded for a query."""
    return text if text.isalnum() and text.isascii() else quote(text, safe="")


class QueryEdit:
    """Compiled operations on a query."""

    __slots__ = ("_add", "_remove", "_rename", "_set")

    def __init__(
        self,
        set_: Mapping[str, Template],
        add: Mapping[str, Template],
        remove: Sequence[str],
        rename: Mapping[str, str],
    ) -> None:
        self._set = tuple((name.encode(), value) for name, value in set_.items())
        self._add = tuple((name.encode(), value) for name, value in add.items())
        self._remove = frozenset(name.encode() for name in remove)
        self._rename = {old.encode(): written(new).encode() for old, new in rename.items()}

    def apply(self, query: bytes | None, x: Exchange) -> bytes | None:
        """Return the rewritten query, None if it is empty.  Templates read the request `x`."""
        pairs = query.split(b"&") if query else []
        if pairs and (self._remove or self._rename):
            pairs = [self._renamed(pair) for pair in pairs if _name(pair) not in self._remove]
        for name, value in self._set:
            pairs = _set(pairs, name, _pair(name, value, x))
        for name, value in self._add:
            if pair := _pair(name, value, x):
                pairs.append(pair)
        return b"&".join(pairs) if pairs else None

    def _renamed(self, pair: bytes) -> bytes:
        new = self._rename.get(_name(pair))
        return pair if new is None else new + pair[len(pair.partition(b"=")[0]) :]


def _name(pair: bytes) -> bytes:
    name = pair.partition(b"=")[0]
    return decoded(name) if b"%" in name or b"+" in name else name


def _pair(name: bytes, value: Template, x: Exchange) -> bytes:
    text = value.render(x)
    return f"{written(name.decode())}={written(text)}".encode() if text else b""


def _set(pairs: list[bytes], name: bytes, new: bytes) -> list[bytes]:
    """Return the parameters with `new` in place of those named `name`; an empty `new` only removes them."""
    kept = []
    for pair in pairs:
        if _name(pair) != name:
            kept.append(pair)
        elif new:
            kept.append(new)
            new = b""
    return [*kept, new] if new else kept
