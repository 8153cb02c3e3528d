"""Keeper of the figures of the last hours: reads metrics by a timer, and keeps them in a file if policies name one.

Rules:

1. Metrics are read, and never recorded for this purpose: a request costs nothing more.
2. Each period is appended to the file as a line, so that a kill loses a minute at most.  The file is replaced as a
   whole at the start, at the end, and once the lines are as long as the bound of the figures.  A thread does both.
3. A file that cannot be used is told (`history.failed`), ignored, and replaced at the next writing.
4. After a hand-over the new process has the file, and the old one writes no more.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sidecar.admin.view import AdminView
from sidecar.config.process_spec import HistorySpec
from sidecar.core.events import BUG, HISTORY_FAILED
from sidecar.core.metrics import BUGS
from sidecar.telemetry.files import append_to_file, write_file
from sidecar.telemetry.metrics.history import PERIOD, History
from sidecar.telemetry.metrics.period import MOST_BYTES, HistoryDocument, read_history

SECOND: Final = 1.0
"""Seconds between two readings of permits and tokens."""


class HistoryKeeper:
    """Keeper of one history; the listener starts and stops it."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self.history: History | None = None
        """Figures of the last hours; None if policies turn them off."""
        self._file: str | None = None
        self._appended: int | None = None
        """Bytes of the periods that were appended to the file; None if it must be replaced as a whole."""
        self._task: asyncio.Task[None] | None = None

    def start(self, spec: HistorySpec | None) -> None:
        """Restore what the file has, and start to read metrics."""
        if spec is None:
            return
        self.history = History(self._view.registry, spec.size)
        self._file = spec.file
        self._task = self._view.env.spawn(self._run(self.history))

    def leave(self) -> None:
        """Write no more, because another process has the file."""
        self._file = None

    async def stop(self) -> None:
        """Stop reading metrics, and write the file."""
        if self._task is None or self.history is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._write(self.history)

    async def _run(self, history: History) -> None:
        """Read metrics every second, and end a period every `PERIOD` seconds, until cancelled."""
        env = self._view.env
        await self._restore(history)
        began, number = env.now(), 0
        due = began
        while True:
            due = max(due + SECOND, env.now())  # readings that a stall of the loop has prevented are not repeated
            await env.sleep(due - env.now())
            try:
                history.watch()
                if (passed := env.now() - began) >= PERIOD:
                    began = env.now()
                    number += 1
                    await self._view.refresh()
                    await history.end_period(env.wall(), passed, lambda: env.sleep(0))
                    if not history.ring and number == 1:
                        self._tell("the figures of one minute are larger than admin.history.size; raise it")
                    await self._append(history)
            except Exception as error:  # a bug in one reading must not end all of them
                env.meter.counter(BUGS, where="history").value += 1
                env.emit(BUG, where="history", error=error)

    async def _restore(self, history: History) -> None:
        """Take the periods of the file."""
        if (path := self._file) is None:
            return
        try:
            found = await asyncio.to_thread(_read, path)
        except FileNotFoundError:
            return  # the first start
        except OSError as error:
            self._tell(f"{path} cannot be read: {error.strerror}; make it readable")
        except ValueError as error:
            self._tell(f"{path} is no history of this version: {error}; it is ignored and will be replaced")
        else:
            history.restore(found.periods)

    async def _append(self, history: History) -> None:
        """Append the last period to the file, or replace it where that is due."""
        path, appended = self._file, self._appended
        if path is None or not history.ring:
            return
        line = history.ring[-1] + b"\n"
        if appended is None or appended + len(line) > history.most_bytes:
            await self._write(history)
            return
        try:
            await asyncio.to_thread(append_to_file, path, line)
        except OSError:  # such as a file that somebody has removed
            await self._write(history)
        else:
            self._appended = appended + len(line)

    async def _write(self, history: History) -> None:
        """Replace the file."""
        if (path := self._file) is None:
            return
        self._appended = None
        try:
            await asyncio.to_thread(write_file, path, history.document())
            self._appended = 0
        except OSError as error:
            self._tell(f"{path} cannot be written: {error.strerror}; name a file in a directory that can be")

    def _tell(self, reason: str) -> None:
        self._view.env.emit(HISTORY_FAILED, reason=reason)


def _read(path: str) -> HistoryDocument:
    """Return the history of a file.  Raises `OSError`, and `ValueError` with what is wrong."""
    with open(path, "rb") as file:
        return read_history(file.read(MOST_BYTES))
