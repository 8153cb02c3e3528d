"""Sidecar in front of one server for each behaviour, each under a route of its name.

The process belongs to one test, or the tests of a module share it and replace its policies in turn."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from chaos.parts.servers import Behaviour, Server
from tests.support.process import Sidecar, policies, route


class World:
    """Sidecar and the servers behind it, by name."""

    def __init__(self, sidecar: Sidecar, servers: dict[str, Server]) -> None:
        self.sidecar = sidecar
        self.servers = servers


@contextlib.asynccontextmanager
async def world(
    place: Path | Sidecar,
    servers: Mapping[str, Behaviour | Server],
    *,
    routes: Mapping[str, Mapping[str, Any]] | None = None,
    upstreams: Mapping[str, Mapping[str, Any]] | None = None,
    command: Path | None = None,
    **sections: Any,
) -> AsyncIterator[World]:
    """Start the servers and the sidecar.

    `place` is the directory for a new sidecar, or a running one, which gets the policies and has none at the end.
    `routes` and `upstreams` add to the policies of each server, `sections` to the file.  A name that only `upstreams`
    has is an upstream without a server.  `command`: see `Sidecar`.
    """
    routes, upstreams = routes or {}, upstreams or {}
    async with contextlib.AsyncExitStack() as stack:
        running = {}
        for name, server in servers.items():
            running[name] = await stack.enter_async_context(server if isinstance(server, Server) else Server(server))
        whole = {name: {"endpoints": [server.url]} for name, server in running.items()}
        for name, more in upstreams.items():
            whole[name] = {**whole.get(name, {}), **more}
        policy = policies(upstreams=whole, routes=[route(name, **routes.get(name, {})) for name in whole], **sections)
        sidecar = Sidecar(policy, place, command=command) if isinstance(place, Path) else place.under(policy)
        yield World(await stack.enter_async_context(sidecar), running)
