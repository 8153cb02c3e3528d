"""File descriptors: raises their limit and reserves the last of them.

The reserve keeps upstream connections and policy files working when client connections use up the rest.  The admin
listener may use the first half of the reserve.

At the start the soft limit is raised to the hard limit, as Envoy and Go programs do.  The default of 1024 exists for
programs that call select(2).  The kernel assigns the lowest free number, so the number of a new descriptor shows
whether the reserve is reached, and no count is needed.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

RESERVE: Final = 64
"""Number of reserved descriptors; at most a quarter of the limit is reserved."""


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        """Keep the soft limit: some systems report a hard limit that they do not grant."""


class HasFileno(Protocol):
    """Socket, or the interface to it that a transport provides."""

    def fileno(self) -> int: ...


def are_scarce(sock: HasFileno | None, *, is_admin: bool = False) -> bool:
    """True if the socket's descriptor is in the reserve; False for None, which is a transport without a socket.

    For a socket of the admin listener (`is_admin`) only the second half of the reserve counts.
    """
    if sock is None:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    reserve = min(RESERVE, limit // 4)
    return sock.fileno() >= limit - (reserve // 2 if is_admin else reserve)


def share(part: int, most: int) -> int:
    """Return the limit of descriptors divided by `part`, but at least 8 and at most `most`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else min(most, max(8, limit // part))
