"""Listening sockets of one address, opened without the event loop so that listeners can share them.

Rules:

1. If a reload changes the settings of a listener (TLS, trusted proxies) but not its address, the old and the new
   listener share their sockets.  The kernel's accept queue remains, so no connection is refused.  A second bind would
   fail; with SO_REUSEPORT, another process of the same user could listen there unnoticed.
2. The file of a Unix socket is replaced only if no process listens on it: then a killed process has left it.  (asyncio
   and uvloop also remove the socket of a running process.)  At its end a process removes only its own file.
3. Workers share one listening socket of each address, which the supervisor has opened.  With a socket for each worker
   (SO_REUSEPORT), the connections in the accept queue of a worker that dies would be reset.
4. A host name is bound at each of its addresses.  IPv6 sockets accept IPv6 only, regardless of the system's default, so
   that `0.0.0.0` and `[::]` mean the same on every system.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sidecar.config.listen_address import ListenAddress

BACKLOG: Final = 1024
"""Length of the kernel's accept queue, in connections."""
UNSENT: Final = 128 * 1024
"""Most unsent bytes of a connection in the kernel (TCP_NOTSENT_LOWAT); its default is much higher."""
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
Make = Callable[[int, int], Any]
"""Function that returns a new socket of a family and a type, such as `socket.socket`."""
NOBODYS: Final = -1
"""Inode of no file, and of one that another process removes."""
REMEDIES: Final = {
    errno.EADDRINUSE: "stop the process that listens there, or choose another address",
    errno.EADDRNOTAVAIL: "write an address of this machine, or 0.0.0.0 for all",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket needs a directory that may be written to",
    errno.ENOENT: "create the directory of the Unix socket first",
}
"""Remedy by error number."""


class Sockets:
    """Listening sockets of one address, closed when the last of the listeners that share them closes them."""

    def __init__(self, address: ListenAddress, sockets: list[socket.socket]) -> None:
        self._path = address.path
        self._sockets = sockets
        self._inode = _inode(address.path)
        self._users = 1

    @classmethod
    async def open(cls, address: ListenAddress, make: Make = socket.socket) -> Sockets:
        """Return sockets from `make` that listen at an address.  Raises `OSError` with the reason and a remedy."""
        opened: list[socket.socket] = []
        try:
            if address.path:
                opened.append(_open_unix(address.path))
            else:
                found = await asyncio.get_running_loop().getaddrinfo(
                    address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
                for family, socket_address in dict.fromkeys((info[0], info[4]) for info in found):
                    opened.append(_open(make, family, socket_address))
            return cls(address, opened)
        except OSError as error:
            for sock in opened:
                sock.close()
            raise OSError(error.errno, _explain(error)) from error

    @classmethod
    def adopt(cls, address: ListenAddress, sockets: list[socket.socket], *, is_owner: bool = False) -> Sockets:
        """Return sockets that another process has opened; `is_owner`: True to remove the file of a Unix socket."""
        adopted = cls(address, sockets)
        if not is_owner:
            adopted.disown()
        return adopted

    def disown(self) -> None:
        """Leave the file of a Unix socket to another process."""
        self._inode = NOBODYS

    @property
    def listening(self) -> list[socket.socket]:
        """Listening sockets, which stay this object's own."""
        return self._sockets

    @property
    def addresses(self) -> list[str]:
        """Addresses that clients can connect to: `127.0.0.1:8080`, `[::1]:8080` or `unix:/run/app.sock`."""
        return [f"unix:{self._path}"] if self._path else [_format(sock) for sock in self._sockets]

    def share(self) -> Sockets:
        """Return these sockets to one more listener, which must also close them."""
        self._users += 1
        return self

    def duplicates(self) -> list[socket.socket]:
        """Return a duplicate of each socket; the caller must close the duplicates."""
        return [sock.dup() for sock in self._sockets]

    def close(self) -> None:
        """Release the sockets; the last listener's release closes them and removes the file of a Unix socket."""
        self._users -= 1
        if self._users == 0:
            with suppress(OSError):
                if self._path and _inode(self._path) == self._inode != NOBODYS:
                    os.unlink(self._path)
            for sock in self._sockets:
                sock.close()


def has_lost_file(address: ListenAddress) -> bool:
    """True for a Unix socket whose file somebody has removed, so that no client can reach who listens there."""
    return bool(address.path) and _inode(address.path) == NOBODYS


def socket_key(name: str, address: ListenAddress) -> str:
    """Return the key of a listener's sockets among processes that pass sockets on.

    It is the address, with the listener's name if the system chooses the port.
    """
    return str(address) if address.path or address.port else f"{name} {address}"


def _inode(path: str) -> int:
    """Return the inode of a file; `NOBODYS` if there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return NOBODYS


def _explain(error: OSError) -> str:
    """Return the reason for an error and, if known, the remedy."""
    number = error.errno or 0
    reason = os.strerror(number).lower() if number > 0 else error.strerror or str(error)
    return f"{reason}; {REMEDIES[number]}" if number in REMEDIES else reason


def _open(make: Make, family: int, address: Any) -> socket.socket:
    sock = make(family, socket.SOCK_STREAM)
    try:
        # Rebind although sockets of the previous process are in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with suppress(OSError):  # not every system supports it; accepted connections inherit it
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT)
        return _listen(sock, address)
    except OSError:
        sock.close()
        raise


def _open_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_orphaned(path):
            os.unlink(path)
        return _listen(sock, path)
    except OSError:
        sock.close()
        raise


def _listen(sock: socket.socket, address: Any) -> socket.socket:
    sock.setblocking(False)
    sock.bind(address)
    sock.listen(BACKLOG)
    return sock


def _is_orphaned(path: str) -> bool:
    """True if the file is a socket on which no process listens."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                return probe.connect_ex(path) == errno.ECONNREFUSED
    return False


def _format(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
