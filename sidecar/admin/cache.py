"""Contents and purges of caches on the admin listener.

    GET  /cache                                        each cache: size, lookups by kind, evictions, most used responses
    POST /cache/purge?url=http://orders/orders/7       drop the responses of one URL, with all variants
    POST /cache/purge?prefix=http://orders/orders/     drop the responses of all URLs with this prefix
    POST /cache/purge?tag=order-7                      drop the responses with this tag in Cache-Tag or Surrogate-Key
    POST /cache/purge?everything=true                  drop all responses

`&cache=NAME` purges one cache; without it, all are purged.  A purge reaches other sidecars through a shared Redis.
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
    """State object under the key `("cache", name)`; its purges return the number of dropped responses."""

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
        """Return the contents of all caches, as `GET /cache` shows them."""
        return {name: self._view.secrets.plain(cache.describe()) for name, cache in self._all().items()}

    def purge(self, query: Mapping[str, str]) -> dict[str, int]:
        """Purge the responses that the query names; return the number of dropped responses of each cache.

        Raises `ValueError` for a query that does not say what to purge, and `LookupError` for an unknown cache.
        """
        asked = [kind for kind in KINDS if kind in query]
        if len(asked) != 1 or query.keys() - {*KINDS, "cache"}:
            raise ValueError(
                "say what to purge with one of ?url=…, ?prefix=…, ?tag=… or ?everything=true; &cache=NAME is optional"
            )
        (kind,) = asked
        if not query[kind] or (kind == "everything" and query[kind] != "true"):
            raise ValueError("everything must be true" if kind == "everything" else f"{kind} is empty; give a value")
        caches = self._all()
        if (name := query.get("cache")) is not None:
            if name not in caches:
                near = difflib.get_close_matches(name, caches, 1)
                raise LookupError(f"there is no cache {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            caches = {name: caches[name]}
        return {name: KINDS[kind](cache, query[kind]) for name, cache in caches.items()}

    def _all(self) -> dict[str, Cache]:
        return {name_of(key): cast("Cache", state) for key, state in self._view.states().items() if key[0] == "cache"}
