"""File descriptors: as many as the system allows, the last of them reserved.

The reserve keeps upstream connections, policy files and the admin listener working when clients use up the rest.

The soft limit is raised to the hard one at the start, as Envoy and Go programs do: the default of 1024 exists for
programs that call select(2).  The kernel assigns the lowest free number, so the number of a new connection tells how
many are left: one system call a connection, and nothing to count.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

RESERVE: Final = 64
"""Reserved descriptors, at most a quarter of all."""


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        """Some systems report a limit that they do not grant; the soft limit then stays."""


class HasFileno(Protocol):
    """Socket, or the part of it that a transport shows."""

    def fileno(self) -> int: ...


def are_scarce(sock: HasFileno | None) -> bool:
    """True if the socket's descriptor is one of the reserved ones; False for None, a transport without a socket."""
    if sock is None:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    return sock.fileno() >= limit - min(RESERVE, limit // 4)
