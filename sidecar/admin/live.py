"""Stream of the live page and of `sidecar top`: `GET /live` with one server-sent event every second.

    event: full   {"bounds": […], "keep": 300, "seconds": […], "parts": {…}}      whole state; the first message
    event: tick   {"second": […], "parts": {…}}                                 last second, and changed parts

`seconds` are those of `telemetry/metrics/traffic.py`, `parts` those of `view.py`.  Rules:

1. A second is sampled and encoded once, for all pages.  Without an open page only the traffic is sampled, so that a
   page opened after an incident shows it.
2. The feed never waits for a reader.  A reader that was too slow for a tick gets `full` next, so no messages are queued
   for it.  At most `MAX_PAGES` pages are open at a time.
3. All streams end with the listener; otherwise each open page would delay the shutdown.
4. The page reads with `fetch`, since `EventSource` sends no Authorization field.  So the token is in no URL or cookie.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sidecar.admin.view import AdminView, parts
from sidecar.core.events import BUG
from sidecar.core.metrics import BOUNDS, BUGS
from sidecar.telemetry.metrics.traffic import KEEP, Traffic

MAX_PAGES: Final = 200
"""Most streams that are open at a time."""
EVERY: Final = 1.0
"""Seconds between two ticks."""
SHARE: Final = 0.01
"""Largest share of time for describing parts; with hundreds of breakers, some ticks have no new parts."""
LONGEST: Final = 3.0
"""Longest time in seconds between two descriptions of the parts."""


class Feed:
    """Source of all streams; the listener starts and stops it."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self.traffic = Traffic(view.registry)
        self._parts: dict[str, bytes] = {}
        self.number = 0
        """Number of the last tick."""
        self._fresh = -1
        """Number of the tick for which the parts were last described."""
        self._due = 0.0
        """Instant of `Env.now` from which on the parts may be described again."""
        self._tick = b""
        """Latest message `tick`."""
        self._full = b""
        """Latest message `full`; empty if it has not been made since the last tick."""
        self.room = MAX_PAGES
        """Number of the listener's connections that streams may use."""
        self.pages = 0
        """Number of open streams."""
        self._is_over = False
        self._ticked = asyncio.Event()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sampling every second."""
        self._task = self._view.env.spawn(self._run())

    async def stop(self) -> None:
        """Stop sampling, and end all streams."""
        self._is_over = True
        self._ticked.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ----- once a second

    async def _run(self) -> None:
        """Sample every `EVERY` seconds, until cancelled."""
        env = self._view.env
        due = env.now()
        while True:
            due = max(due + EVERY, env.now())  # ticks that a stall of the loop has prevented are not repeated
            await env.sleep(due - env.now())
            await self._make_tick()

    async def _make_tick(self) -> None:
        """Make the next tick, and wake the readers."""
        second = self.traffic.sample(self._view.env.wall())
        async with self._lock:
            changed = await self._refresh() if self.pages else []
            self.number += 1
            if self.pages:
                self._fresh = self.number
            self._tick = b'event: tick\ndata: {"second":%b,"parts":{%b}}\n\n' % (second, b",".join(changed))
            self._full = b""
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    async def _refresh(self) -> list[bytes]:
        """Describe the parts again, unless that was done a moment ago.

        Returns changed and removed parts, each as a member of a JSON object.
        """
        began = self._view.env.now()
        if began < self._due:
            return []
        before, now = self._parts, {}
        try:
            async for name, value in parts(self._view):
                now[name] = b"%b:%b" % (_json(name), _json(value))
        except Exception as error:  # a bug in one description must not end the stream; the old parts stay
            self._view.env.meter.counter(BUGS, where="live").value += 1
            self._view.env.emit(BUG, where="live", error=error)
            return []
        self._due = began + min((self._view.env.now() - began) / SHARE, LONGEST)
        self._parts = now
        gone = [b"%b:null" % _json(name) for name in before if name not in now]
        return [text for name, text in now.items() if before.get(name) != text] + gone

    # ----- for each page

    async def message(self, seen: int) -> tuple[int, bytes]:
        """Return the number of the latest tick and the message that brings a page there from tick `seen` (-1: none)."""
        if seen >= 0 and seen + 1 == self.number:
            return self.number, self._tick
        async with self._lock:
            if self._fresh != self.number:  # no page was open at the last tick
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

    @property
    def is_full(self) -> bool:
        """True if no further stream may be opened."""
        return self.pages >= self.max_pages

    @property
    def max_pages(self) -> int:
        """Most streams that may be open at a time."""
        return min(MAX_PAGES, self.room)

    @contextmanager
    def page(self) -> Iterator[None]:
        """Return a context that counts one open stream."""
        self.pages += 1
        try:
            yield
        finally:
            self.pages -= 1

    async def messages(self) -> AsyncGenerator[bytes]:
        """Yield the messages for one page: the whole state, then each tick until the feed stops."""
        seen = -1
        while not self._is_over:
            seen, message = await self.message(seen)
            yield message
            if seen == self.number and not self._is_over:
                await self._ticked.wait()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
