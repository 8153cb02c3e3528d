"""The access log: one line for each request that is over, with all its tries, on standard output.

    {"time": ..., "route": ..., "method": ..., "path": ..., "status": ..., "duration_ms": ..., ...,
     "attempts": [{"endpoint": ..., "status": 503, "duration_ms": ..., "why": "first"}, ...]}

Rules:

1. Nothing secret: the path without its query, no header but Host, nothing of a body.
2. What a peer sends is escaped, so that it can neither start a line of its own nor move a cursor.
3. Written off the request's path: a line is formatted by hand, about 3 us with one try against 10 of `json.dumps`, and
   joins a batch that goes to a `LineWriter` ten times a second or when it is full.  One line at a time would wake the
   writer's thread for each, which costs more than the line.  What nobody reads is dropped and counted there.
4. Successes can be sampled; whatever took a second try, failed or was kept as a trace is always written.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, Protocol

from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.telemetry.metrics.durations import is_error

FLUSH: Final = 0.1
"""Seconds for which a line may wait."""
BATCH: Final = 64 * 1024
"""Bytes at which a batch is written at once."""

_odd: Final = re.compile(rb"[^\x20\x21\x23-\x5b\x5d-\x7e]").search
_traceparent: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-").match


class Lines(Protocol):
    """Where lines go (`LineWriter`)."""

    def write(self, line: bytes) -> bool: ...


def escape(value: bytes) -> bytes:
    """Bytes as the inside of a JSON text."""
    return value if _odd(value) is None else json.dumps(value.decode("latin-1"))[1:-1].encode()


@lru_cache(1024)
def word(value: str) -> bytes:
    """A text of our own, of which there are few, as the inside of a JSON text."""
    return json.dumps(value)[1:-1].encode()


class AccessLog:
    """Writes the lines.  `record` is called for each request that is over."""

    def __init__(self, lines: Lines, env: Env) -> None:
        self._lines = lines
        self._env = env
        self._wall = env.wall
        self._random = env.rng.random
        self._second = 0
        self._stamp = b""
        self._batch: list[bytes] = []
        self._size = 0
        self._successes = 1.0
        self._line = as_json

    def retune(self, form: Literal["json", "text"], successes: float) -> None:
        """Take new settings."""
        self._line = as_json if form == "json" else as_text
        self._successes = successes

    def record(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """A request is over."""
        if (
            self._successes < 1
            and len(x.attempts) <= 1
            and not is_error(outcome.status, reason)
            and not (x.trace is not None and x.trace.kept)
            and self._random() >= self._successes
        ):
            return
        line = self._line(self._time(), x, outcome, reason, seconds)
        if not self._batch:
            self._env.call_later(FLUSH, self.flush)
        self._batch.append(line)
        self._size += len(line)
        if self._size >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand over what waits."""
        if self._batch:
            self._lines.write(b"".join(self._batch))
            self._batch.clear()
            self._size = 0

    def _time(self) -> bytes:
        """RFC 3339, UTC, milliseconds; all but these is the same for a second."""
        wall = self._wall()
        second = int(wall)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        return b"%b.%03dZ" % (self._stamp, (wall - second) * 1000)


def as_json(time: bytes, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> bytes:
    """A line for machines.  Members without a value are left out."""
    stream, sent = x.stream, outcome.stream
    line = (
        b'{"time":"%b","route":"%b","method":"%b","host":"%b","path":"%b","protocol":"HTTP/1.%b","status":%d,'
        b'"duration_ms":%.3f,"client":"%b","bytes_in":%d,"bytes_out":%d,"request_id":"%b"'
        % (
            time,
            b"" if x.route is None else x.route.name.encode(),
            x.method,
            x.authority,
            escape(x.path),
            b"0" if x.version == 10 else b"1",
            outcome.status,
            seconds * 1000,
            escape(x.client_address.encode()),
            len(x.body) if stream is None else stream.received,
            len(outcome.body) if sent is None else sent.received,
            escape(x.request_id),
        )
    )
    trace = x.trace
    if trace is not None:
        line += b',"trace_id":"%b","span_id":"%016x","sampled":%b' % (
            trace.trace_id,
            trace.span_id,
            b"true" if trace.is_sampled else b"false",
        )
    elif (passed := x.header(b"traceparent")) is not None and (match := _traceparent(passed)):
        line += b',"trace_id":"%b"' % match[1]
    if x.cache:
        line += b',"cache":"%b"' % word(x.cache)
    if reason or x.refused_by:
        line += _failure(x, outcome, reason)
    attempts = x.attempts
    if not attempts:
        return line + b"}\n"
    tries = []
    for a in attempts:
        entry = b'{"endpoint":"%b","status":%d,"duration_ms":%.3f,"why":"%b"' % (
            word(a.endpoint),
            a.status,
            (a.ended - a.started) * 1000,
            word(a.why),
        )
        if a.reason:
            entry += b',"reason":"%b","cause":"%b"' % (word(a.reason), word(a.cause))
        if a.span_id:
            entry += b',"span_id":"%016x"' % a.span_id
        tries.append(entry)
    return b'%b,"attempts":[%b}]}\n' % (line, b"},".join(tries))


def _failure(x: Exchange, outcome: Outcome, reason: str) -> bytes:
    """What went wrong: the failure, who refused, and why there was no further try."""
    refusal = outcome.refusal
    found = {
        "reason": reason,
        "refused_by": refusal.policy or x.refused_by,
        "where": refusal.where,
        "detail": refusal.detail,
        "cause": outcome.cause,
        "retry_stopped": x.retry_stopped,
    }
    return b"".join(
        [b',"%b":%b' % (name.encode(), json.dumps(value).encode()) for name, value in found.items() if value]
    )


def as_text(time: bytes, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> bytes:
    """A line for people: `12:34:56.789 200 GET /orders/17 12.3ms route=order http://10.0.0.1:80=200/12.1ms`."""
    words = [
        b"%b %d %b %b %.1fms" % (time[11:-1], outcome.status, x.method, escape(x.path), seconds * 1000),
        b"route=%b" % (b"-" if x.route is None else x.route.name.encode()),
    ]
    if x.cache:
        words.append(b"cache=%b" % word(x.cache))
    if reason:
        words.append(b"reason=%b" % word(reason))
    if refused_by := outcome.refusal.policy or x.refused_by:
        words.append(b"refused_by=%b(%b)" % (word(refused_by), word(outcome.refusal.where)))
    for a in x.attempts:
        how = word(a.reason) if a.reason else b"%d" % a.status
        words.append(b"%b=%b/%.1fms" % (word(a.endpoint), how, (a.ended - a.started) * 1000))
    if x.trace is not None:
        words.append(b"trace=%b" % x.trace.trace_id)
    return b" ".join(words) + b"\n"
