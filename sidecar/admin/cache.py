"""Caches on the admin listener: what they hold, and purging them.

    GET  /cache                                          every cache: size, lookups by kind, evictions, hottest answers
    POST /cache/purge?url=http://orders/orders/7         all answers of one URL, for all variants
    POST /cache/purge?prefix=http://orders/orders/       all below it
    POST /cache/purge?tag=order-7                        all with the tag in Cache-Tag or Surrogate-Key
    POST /cache/purge?everything=true                    all

`&cache=NAME` purges one cache, otherwise all of them.  A purge reaches other sidecars through a shared Redis.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from sidecar.admin.view import AdminView, name_of

KINDS: Final[dict[str, Callable[[Cache, str], int]]] = {
    "url": lambda cache, value: cache.purge_uri(value),
    "prefix": lambda cache, value: cache.purge_prefix(value),
    "tag": lambda cache, value: cache.purge_tag(value),
    "everything": lambda cache, _: cache.purge_everything(),
}


class Cache(Protocol):
    """State object under the key `("cache", name)`; each purge returns the number of dropped answers."""

    def describe(self) -> dict[str, Any]: ...
    def purge_uri(self, text: str) -> int: ...
    def purge_prefix(self, text: str) -> int: ...
    def purge_tag(self, tag: str) -> int: ...
    def purge_everything(self) -> int: ...


class Caches:
    """Caches in force."""

    def __init__(self, view: AdminView) -> None:
        self._view = view

    def describe(self) -> dict[str, Any]:
        """Return the answer to `GET /cache`."""
        return {name: self._view.secrets.plain(cache.describe()) for name, cache in self._all().items()}

    def purge(self, query: Mapping[str, str]) -> dict[str, int]:
        """Purge what the query names; return how many answers each cache dropped.

        Raises `ValueError` for a query that does not say what to purge, `LookupError` for an unknown cache.
        """
        asked = [kind for kind in KINDS if kind in query]
        if len(asked) != 1 or query.keys() - {*KINDS, "cache"}:
            raise ValueError(
                "say what to purge by one of ?url=…, ?prefix=…, ?tag=… and ?everything=true, and &cache=NAME"
            )
        (kind,) = asked
        if not query[kind] or (kind == "everything" and query[kind] != "true"):
            raise ValueError("everything takes true and nothing else" if kind == "everything" else f"{kind} is empty")
        caches = self._all()
        if (name := query.get("cache")) is not None:
            if name not in caches:
                near = difflib.get_close_matches(name, caches, 1)
                raise LookupError(f"there is no cache {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            caches = {name: caches[name]}
        return {name: KINDS[kind](cache, query[kind]) for name, cache in caches.items()}

    def _all(self) -> dict[str, Cache]:
        return {name_of(key): cast("Cache", thing) for key, thing in self._view.states().items() if key[0] == "cache"}
