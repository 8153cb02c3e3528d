"""The stream behind the live page and `sidecar top`: `GET /live`, server-sent events, one a second.

    event: full   {"bounds": […], "keep": 300, "seconds": […], "parts": {…}}      all there is; the first message
    event: tick   {"second": […], "parts": {…}}                                 the last second, and parts that changed

`seconds` are those of `telemetry.traffic`, `parts` those of `edge.view`.

Rules:

1. One clock for all: a second is sampled and serialised once, however many pages are open, and each is sent the same
   bytes.  Without a page only the traffic is sampled, so that a page that is opened after the incident has it.
2. Nobody is waited for: a reader that was too slow for a tick gets `full` the next time, so nothing is queued for it
   beyond its connection's buffer.  At most `MAX_PAGES` at once.
3. It ends when the listener does, else each open page would hold up the shutdown.

It is read with `fetch`, not `EventSource`, since that cannot send an Authorization field; so the token is in no URL
and no cookie, and no other site can ride on it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aiohttp import web

from sidecar.admin.view import AdminView, parts
from sidecar.core.events import BUG
from sidecar.core.metrics import BUGS
from sidecar.telemetry.metrics.traffic import BOUNDS, KEEP, Traffic

MAX_PAGES: Final = 200
EVERY: Final = 1.0
"""Seconds between ticks."""
SHARE: Final = 0.01
"""Of the time that describing everything may take: with hundreds of breakers it is done every second or third tick."""
LONGEST: Final = 3.0
"""Seconds for which the parts may be old."""
HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}


class Feed:
    """Samples, serialises and sends.  `start` and `stop` are for the application that serves `stream`."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self.traffic = Traffic(view.registry)
        self._parts: dict[str, bytes] = {}
        self.number = 0
        """Of the last tick."""
        self._fresh = -1
        """The tick for which the parts were last looked at."""
        self._due = 0.0
        """When they may be made again."""
        self._tick = b""
        self._full = b""
        self.pages = 0
        """Open streams."""
        self._is_over = False
        self._turned = asyncio.Event()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self, _: web.Application) -> None:
        """Begin to sample."""
        self._task = self._view.env.spawn(self._run())

    async def stop(self, _: web.Application) -> None:
        """End every stream."""
        self._is_over = True
        self._turned.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ----- once a second

    async def _run(self) -> None:
        env = self._view.env
        due = env.now()
        while True:
            due = max(due + EVERY, env.now())  # a loop that was held up does not catch up with a burst
            await env.sleep(due - env.now())
            await self._turn()

    async def _turn(self) -> None:
        second = self.traffic.sample(self._view.env.wall())
        async with self._lock:
            changed = await self._refresh() if self.pages else []
            self.number += 1
            if self.pages:
                self._fresh = self.number
            self._tick = b'event: tick\ndata: {"second":%b,"parts":{%b}}\n\n' % (second, b",".join(changed))
            self._full = b""
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def _refresh(self) -> list[bytes]:
        """Make the parts anew; those that differ, each as a member of a JSON object."""
        began = self._view.env.now()
        if began < self._due:
            return []
        before, now = self._parts, {}
        try:
            async for name, value in parts(self._view):
                now[name] = b"%b:%b" % (_json(name), _json(value))
        except Exception as error:  # a bug in one description must not end the page: it keeps what it has
            self._view.env.meter.counter(BUGS, where="live").value += 1
            self._view.env.emit(BUG, where="live", error=error)
            return []
        self._due = began + min((self._view.env.now() - began) / SHARE, LONGEST)
        self._parts = now
        gone = [b"%b:null" % _json(name) for name in before if name not in now]
        return [text for name, text in now.items() if before.get(name) != text] + gone

    # ----- for each page

    async def message(self, seen: int) -> tuple[int, bytes]:
        """What to send to a page that has `seen` that tick, and the tick it has then."""
        if seen >= 0 and seen + 1 == self.number:
            return self.number, self._tick
        async with self._lock:
            if self._fresh != self.number:  # nobody was looking
                await self._refresh()
                self._fresh = self.number
            if not self._full:
                self._full = b'event: full\ndata: {"bounds":%b,"keep":%d,"seconds":[%b],"parts":{%b}}\n\n' % (
                    _json(BOUNDS),
                    KEEP,
                    b",".join(self.traffic.ring),
                    b",".join(self._parts.values()),
                )
            return self.number, self._full

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /live`."""
        if self.pages >= MAX_PAGES:
            raise web.HTTPServiceUnavailable(reason=f"{MAX_PAGES} pages are open already; close one of them")
        response = web.StreamResponse(headers=HEADERS)
        self.pages += 1
        try:
            await response.prepare(request)
            seen = -1
            while not self._is_over:
                seen, message = await self.message(seen)
                await response.write(message)
                if seen == self.number and not self._is_over:
                    await self._turned.wait()
        except ConnectionError:  # the page was closed
            pass
        finally:
            self.pages -= 1
        return response


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
