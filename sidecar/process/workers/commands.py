"""Commands of the admin listener for all workers: each carries them out, and the supervisor joins the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from sidecar.admin.commands import Reply
from sidecar.admin.view import AdminView
from sidecar.core.env import Env
from sidecar.process.workers.children import Children
from sidecar.process.workers.reloading import Reloading
from sidecar.process.workers.sharing import Sharing
from sidecar.process.workers.summary import join, join_parts
from sidecar.telemetry.metrics import process

REPLY_SECONDS: Final = 2.0
"""Longest wait for the replies to a command."""
SHOWN_EVENTS: Final = 200
"""Events that `/state` shows."""
POOLED: Final = {"state.concurrency": "concurrency", "state.retry_budget": "retry_budget"}
"""Parts of the state with leases of the supervisor, and the kinds of their pools."""


class _Call:
    """Command that workers are carrying out."""

    def __init__(self, asked: set[int]) -> None:
        self.missing = asked
        """Workers that have not replied."""
        self.replies: dict[int, Reply] = {}
        """Replies by worker."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class JoinedCommands:
    """Commands for all workers, with the interface of `sidecar.admin.commands.Commands`."""

    def __init__(self, env: Env, children: Children, sharing: Sharing, reloading: Reloading) -> None:
        self.view: AdminView
        """View of all workers; set before the first command."""
        self._env = env
        self._children = children
        self._sharing = sharing
        self._reloading = reloading
        self._calls: dict[int, _Call] = {}
        self._number = 0

    def receive(self, worker: int, message: list[Any]) -> bool:
        """Handle a message of a worker; False if it is no reply."""
        if message[0] != "reply":
            return False
        _, number, status, result = message
        self._answer(number, worker, (status, result))
        return True

    def leave(self, worker: int) -> None:
        """Take note that a worker has ended."""
        for number in list(self._calls):
            self._answer(number, worker, (503, {"detail": f"worker {worker + 1} has ended"}))

    async def ask(self, command: str, *arguments: Any) -> dict[int, Reply]:
        """Let each worker carry a command out; return the replies of those that answer in time, by worker."""
        asked = self._children.ready
        if not asked:
            return {}
        self._number += 1
        number, call = self._number, _Call({child.number for child in asked})
        self._calls[number] = call
        for child in asked:
            child.send("call", number, command, arguments)
        try:
            await asyncio.wait([call.done], timeout=REPLY_SECONDS)
        finally:
            del self._calls[number]
        return call.replies

    def _answer(self, number: int, worker: int, reply: Reply) -> None:
        """Add a worker's reply to those of a command."""
        call = self._calls.get(number)
        if call is None or worker not in call.missing:
            return
        call.missing.discard(worker)
        call.replies[worker] = reply
        if not call.missing:
            call.done.set_result(None)

    async def call(self, command: str, *arguments: Any) -> Reply:
        """Let all workers carry a command out, and return their joined replies; the first error is the reply."""
        replies = await self.ask(command, *arguments)
        if not replies:
            return 503, {"detail": "no worker answers; see /state and the log"}
        for status, result in replies.values():
            if status != 200:
                return status, result
        results = [result for _, result in replies.values()]
        if command == "keys":
            return 200, [key for keys in results for key in keys]
        if command == "purge":
            return 200, {name: sum(each.get(name, 0) for each in results) for name in results[0]}
        return 200, join(results)

    async def refresh(self) -> None:
        """Bring the sums of the metrics up to date: each worker sends its changes before its reply."""
        await self.ask("metrics")

    async def parts(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield the parts of the state of all workers together, with the supervisor's own."""
        env, view = self._env, self.view
        replies = await self.ask("parts")
        found = [result for status, result in (replies[number] for number in sorted(replies)) if status == 200]
        obstacle = view.readiness.obstacle
        used = [part["process"] for parts in found for name, part in parts if name == "about"]
        yield (
            "about",
            {
                "version": view.version,
                "build": view.build,
                "uptime_seconds": round(env.now() - view.started, 3),
                "ready": not obstacle,
                "not_ready_because": obstacle or None,
                "process": join([_usage(), *used]),
            },
        )
        described = self._children.describe()
        yield "workers", [{**each, "process": _used_by(replies.get(each["number"] - 1))} for each in described]
        own = {
            "policies": {"service": self._reloading.spec.service, "digest": self._reloading.digest[:12]},
            "reloads": view.secrets.plain([reload.describe() for reload in self._reloading.history]),
        }
        for name, value in join_parts(found):
            if name == "events":
                events = sorted([*value, *view.recent], key=lambda event: str(event.get("time")))
                yield name, events[-SHOWN_EVENTS:]
            elif name in POOLED:
                yield name, self._with_leases(POOLED[name], value)
            elif name != "about":
                yield name, own.get(name, value)
        if not found:
            for name, value in own.items():
                yield name, value
            yield "events", list(view.recent)

    def _with_leases(self, kind: str, described: dict[str, Any]) -> dict[str, Any]:
        """Return the descriptions of limits, with what is leased of them."""
        pools = self._sharing.describe(kind)
        return {name: {**value, "shared": pools[name]} if name in pools else value for name, value in described.items()}


def _used_by(reply: Reply | None) -> dict[str, Any] | None:
    """Return what a worker uses, as its reply to `parts` says; None without a reply."""
    if reply is None or reply[0] != 200:
        return None
    return next((part["process"] for name, part in reply[1] if name == "about"), None)


def _usage() -> dict[str, float]:
    """Return what this process uses."""
    return {"rss_bytes": process.memory(), "cpu_seconds": process.cpu(), "files": process.files()}
