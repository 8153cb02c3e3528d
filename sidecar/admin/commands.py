"""Commands of the admin listener that concern one process, as calls with JSON-ready arguments and results.

    parts                       parts of `/state`, as a list of name and value
    keys                        public keys of signed tokens about callers
    caches                      contents of each cache
    purge QUERY                 purge of caches
    force NAME ACTION           breaker that is forced, or decides again

The application calls them for its own process.  The supervisor of several workers has each worker call them, and joins
the results.
"""

from __future__ import annotations

import difflib
from typing import Any, Final, Protocol

from sidecar.admin.cache import Caches
from sidecar.admin.view import AdminView, name_of, parts

FORCE: Final = {"open": "open", "close": "closed", "auto": "auto"}
"""Modes of a forced breaker, by the action in the URL."""
Reply = tuple[int, Any]
"""Status of HTTP and result; for an error, the members of the problem document."""


class Commands(Protocol):
    """Object that carries commands out."""

    async def call(self, command: str, *arguments: Any) -> Reply:
        """Return the reply to a command."""


class LocalCommands:
    """Commands for this process."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self._caches = Caches(view)

    async def call(self, command: str, *arguments: Any) -> Reply:
        """Return the reply to a command."""
        if command == "parts":
            return 200, [[name, value] async for name, value in parts(self._view)]
        if command == "keys":
            return 200, [state.jwk for key, state in self._view.states().items() if key[0] == "signing_key"]
        if command == "caches":
            return 200, self._caches.describe()
        if command == "purge":
            return self._purge(*arguments)
        if command == "force":
            return self._force(*arguments)
        return 404, {"detail": f"there is no command {command!r}"}

    def _purge(self, query: dict[str, str]) -> Reply:
        try:
            return 200, self._caches.purge(query)
        except LookupError as error:
            return 404, {"detail": str(error.args[0])}
        except ValueError as error:
            return 400, {"detail": str(error)}

    def _force(self, name: str, action: str) -> Reply:
        if action not in FORCE:
            return 404, {"detail": f"{action!r} is not an action on a breaker; known are {', '.join(FORCE)}"}
        breakers = {
            name: state
            for key, state in self._view.states().items()
            if key[0] == "breaker" and hasattr(state, "force")  # a group of endpoint breakers has no `force`
            for name in (name_of(key), self._view.secrets.text(name_of(key)))  # the name, and its form in `/state`
        }
        breaker = breakers.get(name)
        if breaker is None:
            known = sorted({self._view.secrets.text(each) for each in breakers})
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return 404, {"detail": f"there is no breaker {name!r}{hint}", "breakers": known[:100]}
        breaker.force(FORCE[action])
        return 200, {"name": name, **self._view.secrets.plain(breaker.describe())}
