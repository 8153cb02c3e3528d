"""File descriptors: as many as the system allows, with the last of them kept for what has to go on when clients use up
the rest: upstream connections, policy files, and the admin listener, on which one looks up what is happening.

The soft limit is raised to the hard one at the start, as Envoy and Go programs do: the default of 1024 is there for
programs that call select(2).  The kernel hands out the lowest number that is free, so the number of a new connection
tells how near the end is, in one system call a connection and with nothing to count.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

RESERVE: Final = 64
"""Descriptors, or a quarter of all where they are few."""


def raise_limit() -> None:
    """Take as many as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        """Some systems report a limit that they do not grant: then it stays as it is."""


class Numbered(Protocol):
    """A socket, or what a transport shows of it."""

    def fileno(self) -> int: ...


def are_scarce(sock: Numbered | None) -> bool:
    """Has this connection got one of the last?"""
    if sock is None:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    return sock.fileno() >= limit - min(RESERVE, limit // 4)
