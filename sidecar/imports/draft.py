"""Policies under construction: mappings and lists as in a policy file, in which each value has its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sidecar.imports.findings import Findings, TranslationError
from sidecar.imports.units import safe_name, shares

MOST_ROUTES: Final = 2000
"""Most routes of one policy file."""


class Value(NamedTuple):
    """Scalar, or list of scalars, with a comment that states where it comes from."""

    value: Any
    comment: str
    line: int = 0
    """Line of the configuration; 0 for a default of the other proxy."""


class Closed(NamedTuple):
    """Route of the original that answers by itself, so that no request of it may reach an upstream here."""

    name: str
    line: int
    what: str
    """Key of the original that answers."""
    listener: str
    match: dict[str, Any]


class LostGuard(NamedTuple):
    """Route with access rules that is left out, so that others would take its requests without these rules."""

    line: int
    what: str
    listener: str
    hosts: tuple[str, ...]
    """Hosts of its requests; empty for all."""


class Draft:
    """Policies under construction."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.listeners: dict[str, dict[str, Any]] = {}
        self.upstreams: dict[str, dict[str, Any]] = {}
        self.routes: list[dict[str, Any]] = []
        self.identities: dict[str, dict[str, Any]] = {}
        self.closed: list[Closed] = []
        """Routes of the original that have no upstream here."""
        self.textual: set[str] = set()
        """Prefixes of paths that take texts in the original, and whole segments here."""
        self.is_ordered = False
        """True if the original tries routes in their order."""
        self.lost_guards: list[LostGuard] = []
        """Routes with access rules that are left out."""
        self._upstream_names: dict[str, str] = {}
        self._names: set[str] = set()
        self.refused: tuple[int, str] | None = None
        """Line and name of what keeps requests out of all routes of the original; None without it."""

    def value(self, value: Any, line: int) -> Value:
        """Return a value that stands at a line."""
        return Value(value, self.findings.place(line), line)

    def listener(self, name: str, line: int, **keys: Any) -> str:
        """Add a listener; return its name."""
        name = self._free(safe_name(name), self.listeners)
        self.listeners[name] = {"address": self.value("127.0.0.1:8080", line), **keys}
        return name

    def listener_at(self, name: str, address: str, line: int) -> str:
        """Return the name of the listener of an address, which is added under a name if it is new."""
        for known, keys in self.listeners.items():
            if keys["address"].value == address:
                return known
        name = self.listener(name, line)
        self.listeners[name]["address"] = self.value(address, line)
        return name

    def upstream(self, source_name: str, keys: dict[str, Any]) -> str:
        """Add an upstream under a name of the configuration; return its name here."""
        name = self._free(safe_name(source_name), self.upstreams)
        self._upstream_names[source_name] = name
        self.upstreams[name] = keys
        return name

    def upstream_of(self, source_name: str) -> str | None:
        """Return the name of an upstream that is known by a name of the configuration; None for an unknown one."""
        return self._upstream_names.get(source_name)

    def route(self, name: str, line: int, keys: dict[str, Any]) -> None:
        """Add a route.  Raises `TranslationError` beyond `MOST_ROUTES`."""
        if len(self.routes) >= MOST_ROUTES:
            where = self.findings.place(line)
            raise TranslationError(f"{where}: gives more than {MOST_ROUTES} routes; split the file")
        name = self._free(safe_name(name), self._names)
        self._names.add(name)
        self.routes.append({"name": self.value(name, line), **keys})

    def identity(self, name: str, keys: dict[str, Any]) -> str:
        """Return the name of an identity, which is added unless there is one with the same settings."""
        for known, each in self.identities.items():
            if plain(each) == plain(keys):
                return known
        name = self._free(safe_name(name), self.identities)
        self.identities[name] = keys
        return name

    def close(self, name: str, line: int, what: str, listener: str, match: dict[str, Any]) -> None:
        """Keep the requests of a route that answers by itself from other routes."""
        if len(self.closed) < MOST_ROUTES:
            self.closed.append(Closed(name, line, what, listener, match))

    def lose_guard(self, line: int, what: str, listener: str, hosts: Iterable[str] = ()) -> None:
        """Note a route with access rules that is left out."""
        self.lost_guards.append(LostGuard(line, what, listener, tuple(hosts)))

    def refuse_all(self, line: int, what: str) -> None:
        """Let all routes refuse, because something that is not translated keeps requests out of the original."""
        self.refused = self.refused or (line, what)

    def _free(self, name: str, taken: Iterable[str]) -> str:
        found, count = name, 1
        known = set(taken)
        while found in known:
            count += 1
            found = f"{name}-{count}"
        return found


def plain(match: dict[str, Any]) -> dict[str, Any]:
    """Return a block with plain values."""
    return {
        key: plain(each) if isinstance(each, dict) else each.value if isinstance(each, Value) else each
        for key, each in match.items()
    }


def merged(*blocks: dict[str, Any]) -> dict[str, Any]:
    """Return blocks as one, key by key; the last one that has a value counts."""
    whole: dict[str, Any] = {}
    for block in blocks:
        for key, value in block.items():
            old = whole.get(key)
            whole[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return whole


def put(keys: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path, with the mappings on the way."""
    *ways, last = path.split(".")
    for each in ways:
        keys = keys.setdefault(each, {})
    keys[last] = value


def split(draft: Draft, arms: list[tuple[int, str, int]]) -> Any:
    """Return the upstream of weights, names and lines: one name, or a split, the largest share first."""
    joined: dict[str, tuple[int, int]] = {}
    for weight, name, line in arms:
        joined[name] = (joined.get(name, (0, 0))[0] + weight, line)
    if len(joined) == 1:
        name, (_, line) = next(iter(joined.items()))
        return draft.value(name, line)
    largest = sorted(joined.items(), key=lambda each: -each[1][0])
    sizes = shares([weight for _, (weight, _) in largest])
    return {"split": {name: draft.value(size, line) for (name, (_, line)), size in zip(largest, sizes, strict=True)}}
