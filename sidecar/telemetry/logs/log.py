"""Diagnostics of the sidecar: one line for each event on standard error, as JSON, or as text at a terminal.

Rules:

1. Events are transitions and troubles (`Env.emit`), never requests.  The level follows from the event.
2. A storm does not flood the log: of one event, `BURST` lines a second pass, and then one line a second with the latest
   of the rest and the number that was `suppressed`.  Reloads are all told: whoever asks for many knows of it, and each
   costs more than its line.
3. Writing never blocks the loop (`LineWriter`).  A line after a gap says how many lines were `dropped`.
4. Nothing secret is printed (`Secrets`), and nothing that a peer sends can start a line of its own or move a cursor:
   JSON escapes it, and the text form quotes what is not printable.
5. `emit` never raises: a log must not break what it reports on.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sidecar.core import events
from sidecar.core.env import Handle
from sidecar.telemetry.logs.lines import Lines
from sidecar.telemetry.plain import Secrets

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[dict[str, Level]] = {
    events.BREAKER_TRANSITION: "warning",
    events.BUDGET_EXHAUSTED: "warning",
    events.ENDPOINT_EJECTED: "warning",
    events.ENDPOINT_PANIC: "warning",
    events.DISCOVERY_FAILED: "warning",
    events.LOOP_STALLED: "warning",
    events.CONNECTION_REFUSED: "warning",
    events.EXPORT_FAILED: "warning",
    events.RELOAD_REJECTED: "error",
    events.CERTIFICATE_FAILED: "error",
    events.ADMIN_FAILED: "error",
    events.BUG: "error",
}
"""Level of each event; others are `info`.  A `level` among the attributes wins."""
ORDER: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
ALL_TOLD: Final = frozenset((events.RELOAD_APPLIED, events.RELOAD_REJECTED, events.RELOAD_RESTORED))
"""Events that are never throttled."""
BURST: Final = 10
"""Lines a second that pass of one event before it is throttled."""
RECENT: Final = 200
"""Events that are kept for `/state` and the live page."""


class Throttle:
    """Count of the lines that one event had in the current second."""

    __slots__ = ("latest", "logged", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        """Beginning of the second, by `Env.now`."""
        self.logged = 0
        self.suppressed = 0
        self.latest: dict[str, Any] = {}
        """Attributes of the latest suppressed event."""


class Emitter:
    """Writer of events; its `emit` is that of `Env`."""

    def __init__(
        self,
        lines: Lines,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        call_later: Callable[..., Handle],
        secrets: Secrets,
        form: Literal["json", "text"] = "json",
        level: Level = "info",
    ) -> None:
        self._lines = lines
        self._now = now
        self._wall = wall
        self._call_later = call_later
        self._secrets = secrets
        self._line = as_json if form == "json" else as_text
        self._least = ORDER[level]
        self._throttles: dict[str, Throttle] = {}
        self._dropped = 0
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        """Latest events that were logged, oldest first, as plain JSON values."""

    def emit(self, event: str, /, **attributes: Any) -> None:
        """Log an event with its attributes."""
        level = attributes.get("level") or LEVELS.get(event, "info")
        if ORDER.get(level, 0) < self._least:
            return
        if event in ALL_TOLD:
            self._log(event, level, attributes)
            return
        now = self._now()
        throttle = self._throttles.get(event)
        if throttle is None:
            throttle = self._throttles[event] = Throttle(now)
        elif now - throttle.since >= 1.0 and not throttle.suppressed:
            throttle.since, throttle.logged = now, 0
        if throttle.logged < BURST:
            throttle.logged += 1
            self._log(event, level, attributes)
            return
        if not throttle.suppressed:
            self._call_later(max(0.0, throttle.since + 1.0 - now), self._summarise, event, throttle)
        throttle.suppressed += 1
        throttle.latest = {**attributes, "level": level}

    def _summarise(self, event: str, throttle: Throttle) -> None:
        """The storm's second is over: log the latest of what was held back."""
        latest, throttle.latest = throttle.latest, {}
        suppressed, throttle.suppressed = throttle.suppressed, 0
        throttle.since, throttle.logged = self._now(), BURST  # the burst is used up: from now on one line a second
        self._log(event, latest["level"], {**latest, "suppressed": suppressed})

    def _log(self, event: str, level: str, attributes: dict[str, Any]) -> None:
        entry: dict[str, Any] = {"time": timestamp(self._wall()), "level": level, "event": event}
        for name, value in self._secrets.plain(attributes).items():
            entry[name if name not in ("time", "event") else f"{name}_"] = value
        entry["level"] = level
        for value in attributes.values():
            if isinstance(value, BaseException) and value.__traceback__ is not None:
                entry["stack"] = self._secrets.text("".join(traceback.format_exception(value)))
        self.recent.append(entry)
        if (dropped := self._lines.dropped) > self._dropped:
            entry = {**entry, "dropped": dropped - self._dropped}
        if self._lines.write(self._line(entry)):
            self._dropped = dropped


def timestamp(wall: float) -> str:
    """Return Unix time by RFC 3339, in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(entry: dict[str, Any]) -> bytes:
    """Return a line for machines."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def as_text(entry: dict[str, Any]) -> bytes:
    """Return a line for people: `12:34:56.789 WARNING breaker.transition name=payments to=open`.

    A stack follows on lines of its own.
    """
    rest = {name: value for name, value in entry.items() if name not in ("time", "level", "event", "stack")}
    words = [entry["time"][11:-1], f"{entry['level'].upper():7}", entry["event"]]
    words += [f"{name}={_word(value)}" for name, value in rest.items()]
    lines = [" ".join(words), *("    " + _printable(line) for line in entry.get("stack", "").splitlines())]
    return "\n".join(lines).encode() + b"\n"


def _word(value: Any) -> str:
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value)


def _printable(line: str) -> str:
    return line if line.isprintable() else json.dumps(line)[1:-1]


class LibraryLog(logging.Handler):
    """Handler that turns what libraries log (asyncio, aiohttp, opentelemetry) into events, from any thread."""

    def __init__(self, emit: Callable[..., None], submit: Callable[..., Any]) -> None:
        """`submit(function, ...)` runs a function on the loop, as `loop.call_soon_threadsafe` does."""
        super().__init__(logging.WARNING)
        self._emit = emit
        self._submit = submit

    def emit(self, record: logging.LogRecord) -> None:
        attributes: dict[str, Any] = {"level": "error" if record.levelno >= logging.ERROR else "warning"}
        try:
            attributes["message"] = record.getMessage()
        except Exception:  # arguments that do not fit the format
            attributes["message"] = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            attributes["error"] = record.exc_info[1]
        try:
            self._submit(lambda: self._emit(f"library.{record.name.partition('.')[0]}", **attributes))
        except RuntimeError:  # the loop is closed, and so is the log
            return
