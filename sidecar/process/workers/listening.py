"""Listening sockets of the supervisor, of which each worker gets copies."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from sidecar.config.listen_address import ListenAddress
from sidecar.config.process_spec import ListenerSpec
from sidecar.downstream.sockets import Sockets, socket_key
from sidecar.process.handover import Inheritance
from sidecar.process.workers import inbox
from sidecar.process.workers.children import Child


class ListeningSockets:
    """Sockets of all listeners, by their key (`socket_key`)."""

    def __init__(self, inheritance: Inheritance) -> None:
        """`inheritance` has the sockets of a process that this one replaces."""
        self._inheritance = inheritance
        self._sockets: dict[str, Sockets] = {}

    async def open(self, specs: Mapping[str, ListenerSpec]) -> set[str]:
        """Open the addresses of listeners that are not open; return their keys.  Raises `OSError`, with none opened."""
        opened: set[str] = set()
        for name, spec in specs.items():
            key = socket_key(name, spec.address)
            if key in self._sockets:
                continue
            try:
                self._sockets[key] = await self._inheritance.open(name, spec.address)
            except OSError as error:
                self.close(opened)
                reason = f"listener {name} cannot listen on {spec.address}: {error.strerror}"
                raise OSError(error.errno, reason) from error
            opened.add(key)
        return opened

    @property
    def keys(self) -> set[str]:
        """Keys of all open addresses."""
        return set(self._sockets)

    def send(self, child: Child, keys: Iterable[str] | None = None) -> None:
        """Send a worker copies of the sockets with these keys; by default of all."""
        for key in self.keys if keys is None else keys:
            sockets = self._sockets[key].listening
            for sock in sockets:
                inbox.send(child.inbox, ["listen", key, len(sockets)], sock)

    def by_place(self, specs: Mapping[str, ListenerSpec]) -> dict[tuple[str, ListenAddress], list[socket.socket]]:
        """Return the sockets by name and address of their listeners."""
        return {
            (name, spec.address): self._sockets[socket_key(name, spec.address)].listening
            for name, spec in specs.items()
        }

    def addresses(self, specs: Mapping[str, ListenerSpec]) -> dict[str, str]:
        """Return the first address of each listener."""
        return {name: self._sockets[socket_key(name, spec.address)].addresses[0] for name, spec in specs.items()}

    def disown(self) -> None:
        """Leave the files of Unix sockets to the process that replaces this one."""
        for sockets in self._sockets.values():
            sockets.disown()

    def close(self, keys: Iterable[str] | None = None) -> None:
        """Close the sockets with these keys, if they are open; by default all."""
        for key in self.keys if keys is None else self.keys.intersection(keys):
            self._sockets.pop(key).close()
