"""Diagnostics of the sidecar: one line for each event on standard error, as JSON, or as text at a terminal.

Rules:

1. Events are transitions and failures (`Env.emit`), never requests.  The level follows from the event.
2. Frequent events are throttled.  At most `BURST` lines of an event are written in a second; then one line a second has
   the latest of the others and their number as `suppressed`.  Reloads are never throttled: people ask for them, and
   each costs more than its line.
3. Writing never blocks the loop (`LineWriter`).  After lines were dropped, the next line has their number as `dropped`.
4. A line has no secrets (`Secrets`).  Data of a peer cannot start a new line or move the cursor of a terminal: JSON
   escapes it, and the text form quotes unprintable characters.
5. `emit` never raises, so that logging never breaks its caller.
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
from sidecar.core.env import TimerHandle
from sidecar.telemetry.logs.lines import Lines
from sidecar.telemetry.plain import Secrets

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[dict[str, Level]] = {
    events.BREAKER_TRANSITION: "warning",
    events.BUDGET_EXHAUSTED: "warning",
    events.RATE_LIMIT_FULL: "warning",
    events.QUOTA_FULL: "warning",
    events.PACING_BEGAN: "warning",
    events.STORE_DOWN: "warning",
    events.ROLLOUT_RETURNED: "warning",
    events.ENDPOINT_EJECTED: "warning",
    events.ENDPOINT_PANIC: "warning",
    events.DISCOVERY_FAILED: "warning",
    events.LOOP_STALLED: "warning",
    events.CONNECTION_REFUSED: "warning",
    events.CAPTURE_REFUSED: "warning",
    events.KEYS_FAILED: "warning",
    events.CREDENTIALS_FAILED: "warning",
    events.CREDENTIALS_REJECTED: "warning",
    events.EXPORT_FAILED: "warning",
    events.WORKER_ENDED: "error",
    events.WORKER_STUCK: "error",
    events.HANDOVER_FAILED: "error",
    events.RELOAD_REJECTED: "error",
    events.CERTIFICATE_FAILED: "error",
    events.CERTIFICATE_EXPIRING: "warning",
    events.CERTIFICATE_INVALID: "error",
    events.ADMIN_FAILED: "error",
    events.HISTORY_FAILED: "warning",
    events.BUG: "error",
}
"""Level of each event; others are `info`.  An attribute `level` wins."""
ORDER: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""Rank of each level."""
NEVER_THROTTLED: Final = frozenset((events.RELOAD_APPLIED, events.RELOAD_REJECTED, events.RELOAD_RESTORED))
"""Events that are never throttled."""
BURST: Final = 10
"""Lines of one event in a second before it is throttled."""
RECENT: Final = 200
"""Number of events that are kept for `/state` and the live page."""


class Throttle:
    """Number of lines of one event in the current second."""

    __slots__ = ("latest", "logged", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        """Beginning of the second, by `Env.now`."""
        self.logged = 0
        """Number of written lines."""
        self.suppressed = 0
        """Number of suppressed lines."""
        self.latest: dict[str, Any] = {}
        """Attributes of the latest suppressed event."""


class Emitter:
    """Writer of events to the log; its `emit` is used as `Env.emit`."""

    def __init__(
        self,
        lines: Lines,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        call_later: Callable[..., TimerHandle],
        secrets: Secrets,
        form: Literal["json", "text"] = "json",
        level: Level = "info",
        worker: int = 0,
    ) -> None:
        """`worker` is the number of this process among several workers, which its events then have; 0 without any."""
        self._worker = worker
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
        if event in NEVER_THROTTLED:
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
        """Log the latest suppressed event at the end of the second, with the number of suppressed events."""
        latest, throttle.latest = throttle.latest, {}
        suppressed, throttle.suppressed = throttle.suppressed, 0
        throttle.since, throttle.logged = self._now(), BURST  # the burst is used up, so one line a second follows
        self._log(event, latest["level"], {**latest, "suppressed": suppressed})

    def _log(self, event: str, level: str, attributes: dict[str, Any]) -> None:
        """Write the line of an event, and keep it in `recent`."""
        entry: dict[str, Any] = {"time": timestamp(self._wall()), "level": level, "event": event}
        if self._worker:
            entry["worker"] = self._worker
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
    """Return a Unix time in the format of RFC 3339, in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(entry: dict[str, Any]) -> bytes:
    """Return the line of an event as JSON."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def as_text(entry: dict[str, Any]) -> bytes:
    """Return the line of an event as text: `12:34:56.789 WARNING breaker.transition name=payments to=open`.

    A stack follows on further lines.
    """
    rest = {name: value for name, value in entry.items() if name not in ("time", "level", "event", "stack")}
    words = [entry["time"][11:-1], f"{entry['level'].upper():7}", entry["event"]]
    words += [f"{name}={_word(value)}" for name, value in rest.items()]
    lines = [" ".join(words), *("    " + _printable(line) for line in entry.get("stack", "").splitlines())]
    return "\n".join(lines).encode() + b"\n"


def _word(value: Any) -> str:
    """Return a value as text, quoted if it needs that."""
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value)


def _printable(line: str) -> str:
    """Return a line with its unprintable characters escaped."""
    return line if line.isprintable() else json.dumps(line)[1:-1]


class LibraryLog(logging.Handler):
    """Logging handler that turns records of libraries (asyncio, aiohttp, opentelemetry) into events, in any thread."""

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
