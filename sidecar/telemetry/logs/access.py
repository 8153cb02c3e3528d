"""Access log: one line for each request that has ended, with all its attempts, on standard output.

    {"time": ..., "route": ..., "method": ..., "path": ..., "status": ..., "duration_ms": ..., ...,
     "attempts": [{"endpoint": ..., "status": 503, "duration_ms": ..., "why": "first"}, ...]}

Rules:

1. A line has no secrets: the path without its query, no header field except Host, and nothing of a body.
2. Data of a peer is escaped, so that it can neither start a new line nor move the cursor of a terminal.
3. Lines go to a `LineWriter` in batches, because waking its thread costs more than a line.  They are formatted without
   an encoder, which would be slower.  The writer drops and counts lines that it cannot write.
4. `broken_off` is true if the response failed after its head was sent, so that the status alone would mislead.
5. Successes can be sampled.  All other requests are written, and so are those with several attempts or a kept trace.
   The bound on lines a second holds for all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

from sidecar.core.env import Env
from sidecar.core.exchange import HTTP_VERSIONS, Exchange, Part
from sidecar.core.metrics import LOG_SUPPRESSED
from sidecar.core.outcome import CLIENT_CLOSED, Outcome, grpc_code
from sidecar.telemetry.logs.lines import Lines
from sidecar.telemetry.metrics.durations import is_error

FLUSH_SECONDS: Final = 0.1
"""Longest time that a line waits in its batch."""
OK: Final = 200
"""Verdict on a gRPC answer with the status OK."""
MOST_PARTS: Final = 50
"""Most parts of an aggregated answer in one line; a list may have a thousand."""
BATCH_BYTES: Final = 64 * 1024
"""Size from which on a batch is written without waiting."""

_PLAIN: Final = bytes(
    octet if 0x20 <= octet < 0x7F and octet not in b'"\\' else ord("?") for octet in range(256)
)  # fmt: skip
"""Table that changes each octet that needs an escape, and no other octet."""
_traceparent: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-").match

Shown = Callable[[str], bytes]
"""Function that returns a text of the sidecar itself without secrets, as the inside of a JSON string."""


def is_plain(value: bytes) -> bool:
    """True if bytes of a peer need no escape in a JSON string."""
    return value.translate(_PLAIN) == value  # cheaper than a regular expression


def escape(value: bytes) -> bytes:
    """Return bytes of a peer as the inside of a JSON string."""
    return value if is_plain(value) else json.dumps(value.decode("latin-1"))[1:-1].encode()


@lru_cache(1024)
def word(value: str) -> bytes:
    """Return a text of the sidecar itself as the inside of a JSON string; cached, because such texts are few."""
    return json.dumps(value)[1:-1].encode()


class AccessLog:
    """Writer of the access log's lines."""

    def __init__(self, lines: Lines, env: Env, text: Callable[[str], str] = str) -> None:
        """`text` returns a text of the sidecar itself without secrets."""
        self._lines = lines
        self._env = env
        self._wall = env.wall
        self._random = env.rng.random
        self._second = 0
        self._date = b""
        """Latest time, formatted to whole seconds."""
        self._millisecond = 0
        self._stamp = b""
        """Latest time, formatted to milliseconds."""
        self._batch: list[bytes] = []
        self._size = 0
        self._successes = 1.0
        self._line = as_json
        self._text = text
        self._shown = lru_cache(1024)(self._without_secrets)
        self._at_most: float | None = None
        self._room = 0.0
        """Number of lines that may be written now; grows with time, up to the lines of one second."""
        self._refilled = env.now()
        self._suppressed = 0
        """Number of lines left out since the last written line."""
        self._beyond = env.meter.counter(LOG_SUPPRESSED)

    def retune(self, form: Literal["json", "text"], successes: float, at_most: float | None = None) -> None:
        """Put new settings in force.

        `successes` is the share of successes that are written, from 0 to 1.  `at_most` is the most lines a second; None
        for no bound.
        """
        self._line = as_json if form == "json" else as_text
        self._successes = successes
        self._shown.cache_clear()  # new policies may have new secrets
        self._at_most = at_most
        self._room = max(1.0, at_most or 0.0)

    def _without_secrets(self, value: str) -> bytes:
        """Return a text of the sidecar itself without secrets, as the inside of a JSON string."""
        return word(self._text(value))

    def record(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """Write the line of a request that has ended, unless sampling or the bound leaves it out."""
        if (
            self._successes < 1
            and len(x.attempts) <= 1
            and (not reason or reason == CLIENT_CLOSED.code)
            and x.replaced is None
            and not is_error(outcome.verdict, reason)
            and not (x.trace is not None and x.trace.kept)
            and self._random() >= self._successes
        ):
            return
        if self._at_most is not None and not self._take_room(self._at_most):
            self._suppressed += 1
            self._beyond.value += 1
            return
        line = self._line(self._time(), x, outcome, reason, seconds, self._shown)
        if self._suppressed:
            line = _with_suppressed(line, self._suppressed)
            self._suppressed = 0
        if not self._batch:
            self._env.call_later(FLUSH_SECONDS, self.flush)
        self._batch.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()

    def _take_room(self, at_most: float) -> bool:
        """Count one line; False if the bound on lines a second is reached."""
        now = self._env.now()
        self._room = min(max(1.0, at_most), self._room + (now - self._refilled) * at_most)
        self._refilled = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def flush(self) -> None:
        """Write the batch."""
        if self._batch:
            self._lines.write(b"".join(self._batch))
            self._batch.clear()
            self._size = 0

    def _time(self) -> bytes:
        """Return the time in the format of RFC 3339, in UTC; it is formatted only when the millisecond changes."""
        millisecond = int(self._wall() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second = millisecond // 1000
            if second != self._second:
                self._second = second
                self._date = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            self._stamp = b"%b.%03dZ" % (self._date, millisecond % 1000)
        return self._stamp


def as_json(time: bytes, x: Exchange, outcome: Outcome, reason: str, seconds: float, shown: Shown) -> bytes:
    """Return the line of a request as JSON, without members that have no value."""
    stream, sent = x.stream, outcome.stream
    client = x.client_address.encode()
    facts = (x.method, x.authority, x.path, client, x.request_id)
    if is_plain(b"".join(facts)):  # one check for all, because they are almost always plain
        method, host, path, client, request_id = facts
    else:
        method, host, path, client, request_id = map(escape, facts)
    line = (
        b'{"time":"%b","route":"%b","method":"%b","host":"%b","path":"%b","protocol":"HTTP/%b","status":%d,'
        b'"duration_ms":%.3f,"client":"%b","bytes_in":%d,"bytes_out":%d,"request_id":"%b"'
        % (
            time,
            b"" if x.route is None else word(x.route.name),
            method,
            host,
            path,
            b"1.1" if x.version == 11 else HTTP_VERSIONS[x.version].encode(),
            outcome.status,
            seconds * 1000,
            client,
            len(x.body) if stream is None else stream.received,
            len(outcome.body) if sent is None else sent.received,
            request_id,
        )
    )
    if x.is_grpc:
        line += _grpc_status(outcome.verdict)
    trace = x.trace
    if trace is not None:
        line += b',"trace_id":"%b","span_id":"%016x","sampled":%b' % (
            trace.trace_id,
            trace.span_id,
            b"true" if trace.is_sampled else b"false",
        )
    elif (passed := x.header(b"traceparent")) is not None and (match := _traceparent(passed)):
        line += b',"trace_id":"%b"' % match[1]
    if x.caller is not None:
        line += b',"caller":%b' % json.dumps(x.caller.id).encode()
    if x.cache:
        line += b',"cache":"%b"' % word(x.cache)
    if reason or x.refused_by or x.replaced is not None:
        line += _failure(x, outcome, reason, shown)
    if not x.attempts:
        return line + (b"}\n" if x.parts is None else _parts(x.parts, shown) + b"}\n")
    line += b',"attempts":['
    comma = b""
    for a in x.attempts:
        line += b'%b{"endpoint":"%b","status":%d,"duration_ms":%.3f,"why":"%b"' % (
            comma,
            shown(a.endpoint),
            a.status,
            (a.ended - a.started) * 1000,
            word(a.why),
        )
        if a.verdict and (x.is_grpc or a.verdict != a.status):  # also calls of gRPC for requests of REST
            line += _grpc_status(a.verdict)
        if a.reason:
            line += b',"reason":"%b","cause":"%b"' % (word(a.reason), shown(a.cause))
        if a.span_id:
            line += b',"span_id":"%016x"' % a.span_id
        comma = b"},"
    return line + b"}]}\n"


def _parts(parts: list[Part], shown: Shown) -> bytes:
    """Return the member with the parts of an aggregated answer; beyond `MOST_PARTS` only their number."""
    members = []
    for part in parts[:MOST_PARTS]:
        member = b'{"name":"%b","result":"%b","duration_ms":%.3f' % (
            word(part.name),
            word(part.result),
            max(0.0, part.ended - part.started) * 1000,
        )
        if part.reason:
            member += b',"reason":"%b"' % word(part.reason)
        if part.x is not None and part.x.attempts:
            last = part.x.attempts[-1]
            member += b',"endpoint":"%b","attempts":%d' % (shown(last.endpoint), len(part.x.attempts))
        members.append(member + b"}")
    more = len(parts) - MOST_PARTS
    return b',"parts":[%b]' % b",".join(members) + (b',"more_parts":%d' % more if more > 0 else b"")


def _grpc_status(verdict: int) -> bytes:
    """Return the member with the gRPC status of an answer; empty if it is not known."""
    code = 0 if verdict == OK else grpc_code(verdict)
    return b"" if code < 0 else b',"grpc_status":%d' % code


def _with_suppressed(line: bytes, count: int) -> bytes:
    """Return a line with the number of lines that were left out before it."""
    if line.endswith(b"}\n"):
        return b'%b,"suppressed":%d}\n' % (line[:-2], count)
    return b"%b suppressed=%d\n" % (line[:-1], count)


def _failure(x: Exchange, outcome: Outcome, reason: str, shown: Shown) -> bytes:
    """Return the members that describe a failure: its reason, the refusing policy, why retries stopped.

    If a fallback answered, they describe the outcome that it replaced.
    """
    first = x.replaced or outcome
    refusal = first.refusal
    found = {
        "reason": reason,
        "instead_of": "" if x.replaced is None else x.replaced.reason or str(x.replaced.status),
        "refused_by": refusal.policy or x.refused_by,
        "where": refusal.where,
        "detail": refusal.detail,
        "cause": first.whole_cause,
        "retry_stopped": x.retry_stopped,
    }
    line = b',"broken_off":true' if outcome.failure is None and reason else b""
    return line + b"".join([b',"%b":"%b"' % (name.encode(), shown(value)) for name, value in found.items() if value])


def as_text(time: bytes, x: Exchange, outcome: Outcome, reason: str, seconds: float, shown: Shown) -> bytes:
    """Return the line of a request as text for people.

    An example: `12:34:56.789 200 GET /orders/17 12.3ms route=order http://10.0.0.1:80=200/12.1ms`.
    """
    words = [
        b"%b %d %b %b %.1fms" % (time[11:-1], outcome.status, escape(x.method), escape(x.path), seconds * 1000),
        b"route=%b" % (b"-" if x.route is None else word(x.route.name)),
    ]
    if x.is_grpc and (status := _grpc_status(outcome.verdict)):
        words.append(b"grpc_status=%b" % status.rpartition(b":")[2])
    if x.caller is not None:
        words.append(b"caller=%b" % json.dumps(x.caller.id)[1:-1].encode())
    if x.cache:
        words.append(b"cache=%b" % word(x.cache))
    if reason:
        words.append(b"reason=%b%b" % (word(reason), b"" if outcome.failure is not None else b" (broken off)"))
    if refused_by := outcome.refusal.policy or x.refused_by:
        words.append(b"refused_by=%b(%b)" % (word(refused_by), word(outcome.refusal.where)))
    for a in x.attempts:
        how = word(a.reason) if a.reason else b"%d" % a.status
        words.append(b"%b=%b/%.1fms" % (shown(a.endpoint), how, (a.ended - a.started) * 1000))
    if x.parts is not None:
        for part in x.parts[:MOST_PARTS]:
            how = word(part.reason or part.result)
            words.append(b"%b=%b/%.1fms" % (word(part.name), how, max(0.0, part.ended - part.started) * 1000))
    if x.trace is not None:
        words.append(b"trace=%b" % x.trace.trace_id)
    return b" ".join(words) + b"\n"
