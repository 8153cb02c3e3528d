"""File descriptors: as many as the system allows, the last of them reserved.

The reserve keeps upstream connections, policy files and the admin listener working when clients use up the rest; its
second half is not for the admin listener either.

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


def are_scarce(sock: HasFileno | None, *, is_admin: bool = False) -> bool:
    """True if the socket's descriptor is one of the reserved ones; False for None, a transport without a socket.

    `is_admin`: the socket is one of the admin listener, which may use the first half of the reserve.
    """
    if sock is None:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    reserve = min(RESERVE, limit // 4)
    return sock.fileno() >= limit - (reserve // 2 if is_admin else reserve)


def share(part: int, most: int) -> int:
    """Return the n-th part of all descriptors, at least 8 and at most `most`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else min(most, max(8, limit // part))
