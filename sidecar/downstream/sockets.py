"""The sockets of a listener: made by us and not by the loop, so that it can be handed on and is tidied up.

Rules:

1. A listener whose address stays and whose settings change (TLS, trusted proxies) hands its sockets to its successor.
   The kernel's queue of connections stays with them, so that no client is turned away; a second bind would fail, or
   with SO_REUSEPORT let a second process of the same user listen there without anyone noticing.
2. The file of a Unix socket is replaced only where nobody answers at it: left by a process that was killed.  (asyncio
   and uvloop remove the socket of a process that lives, too.)  At the end our own is removed, and no one else's.
3. A name is listened on at every address that it has.  IPv6 sockets take IPv6 alone, whatever the system's default is,
   so that `0.0.0.0` and `[::]` mean what they say everywhere.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from sidecar.config.process_spec import Address

BACKLOG: Final = 1024
REMEDIES: Final = {
    errno.EADDRINUSE: "stop what listens there, or choose another address",
    errno.EADDRNOTAVAIL: "write an address that this machine has, or 0.0.0.0 for all",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket a directory that we may write to",
    errno.ENOENT: "make the directory of the Unix socket first",
}


class Sockets:
    """What one address is listened on with; open until the last that shares it has closed it."""

    def __init__(self, address: Address, sockets: list[socket.socket]) -> None:
        self._path = address.path
        self._sockets = sockets
        self._inode = os.stat(address.path).st_ino if address.path else 0
        self._users = 1

    @classmethod
    async def open(cls, address: Address) -> Sockets:
        """Listen at an address.  Raises `OSError` that says why not and what would help, with nothing left open."""
        opened: list[socket.socket] = []
        try:
            if address.path:
                opened.append(_open_unix(address.path))
            else:
                found = await asyncio.get_running_loop().getaddrinfo(
                    address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
                for family, place in dict.fromkeys((info[0], info[4]) for info in found):
                    opened.append(_open(family, place))
            return cls(address, opened)
        except OSError as error:
            for one in opened:
                one.close()
            raise OSError(error.errno, _explain(error)) from error

    @property
    def addresses(self) -> list[str]:
        """Where it can be reached: `127.0.0.1:8080`, `[::1]:8080` or `unix:/run/app.sock`."""
        return [f"unix:{self._path}"] if self._path else [_spelled(one) for one in self._sockets]

    def share(self) -> Sockets:
        """The same for one more user, who closes it too."""
        self._users += 1
        return self

    def duplicates(self) -> list[socket.socket]:
        """Sockets to give away: whoever takes them closes them."""
        return [one.dup() for one in self._sockets]

    def close(self) -> None:
        """One user less."""
        self._users -= 1
        if self._users == 0:
            with suppress(OSError):
                if self._path and os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
            for one in self._sockets:
                one.close()


def _explain(error: OSError) -> str:
    number = error.errno or 0
    reason = os.strerror(number).lower() if number > 0 else error.strerror or str(error)
    return f"{reason}; {REMEDIES[number]}" if number in REMEDIES else reason


def _open(family: int, place: Any) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an earlier life left in TIME_WAIT is no one
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return _listen(one, place)
    except OSError:
        one.close()
        raise


def _open_unix(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_forsaken(path):
            os.unlink(path)
        return _listen(one, path)
    except OSError:
        one.close()
        raise


def _listen(one: socket.socket, place: Any) -> socket.socket:
    one.setblocking(False)
    one.bind(place)
    one.listen(BACKLOG)
    return one


def _is_forsaken(path: str) -> bool:
    """Is there a socket at which nobody listens any more?"""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
                visitor.setblocking(False)
                return visitor.connect_ex(path) == errno.ECONNREFUSED
    return False


def _spelled(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
