"""Law of the logs: whatever a peer sends, each entry is one line, and its members are those that the sidecar wrote.

Requests go through a real connection, so a head that the grammar lets pass and one that it refuses are both tried.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core import events
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import PROTOCOL, Outcome, failed
from sidecar.telemetry.logs import access, log
from sidecar.telemetry.plain import Secrets
from tests.support.clock import make_env
from tests.support.loop import run, settle
from tests.unit.downstream.front import Front

MEMBERS = (
    "time", "route", "method", "host", "path", "protocol", "status", "duration_ms", "client", "bytes_in", "bytes_out",
    "request_id", "trace_id", "reason", "refused_by", "where", "detail", "cause", "retry_stopped", "attempts",
)  # fmt: skip
OF_AN_ATTEMPT = ("endpoint", "status", "duration_ms", "why", "reason", "cause")

hostile = st.one_of(
    st.sampled_from([
        b'a","status":200,"x":"b', b'a"', b"\\", b"\\u0022", b"a\x1b[2J", b"a\x9b2J", b"\xe2\x80\xa8", b"\x00", b"a b",
        b"a\nb", b"a\r", b"\x7f", b"", b"a", b"00-0af7651916cd43dd8448eb211c80319c-\"}", b"1.2.3.4, x\"y", b"0", b"-1",
    ]),
    st.binary(max_size=12),
)  # fmt: skip
names = st.sampled_from([
    b"Host", b"X-Forwarded-For", b"Forwarded", b"X-Forwarded-Proto", b"X-Request-Id", b"traceparent", b"Max-Forwards",
    b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"X-Criticality", b"Upgrade", b"a\"b",
])  # fmt: skip
requests = st.tuples(
    st.one_of(st.sampled_from([b"GET", b"OPTIONS", b"TRACE", b"HEAD"]), hostile),
    st.one_of(st.sampled_from([b"/", b"*", b"/a?b"]), hostile.map(lambda value: b"/" + value), hostile),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b'HTTP/1.1"']),
    st.lists(st.tuples(names, hostile), max_size=5),
    st.booleans(),
)


def head(method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes]], has_host: bool) -> bytes:
    first = [(b"Host", b"a")] if has_host else []
    lines = [b"%b %b %b" % (method, target, version), *(b"%b: %b" % field for field in first + fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Lines:
    """Writer that keeps the data instead of writing it to a file descriptor."""

    dropped = 0

    def __init__(self) -> None:
        self.data = b""

    def write(self, line: bytes) -> bool:
        self.data += line
        return True

    @property
    def each(self) -> list[bytes]:
        """Return the lines; fail if the data does not end with one, or a byte could move a terminal's cursor."""
        assert self.data[-1:] in (b"", b"\n")
        lines = self.data.split(b"\n")[:-1]
        assert all(line.decode().isprintable() for line in lines), lines
        return lines


def members(line: bytes) -> dict[str, Any]:
    """Return the members of a line, which must be known ones, each once and in the order of the documentation."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = [name for name, _ in pairs]
        known = OF_AN_ATTEMPT if found[0] == "endpoint" else MEMBERS
        assert found == [name for name in known if name in found], line
        return dict(pairs)

    entry: dict[str, Any] = json.loads(line, object_pairs_hook=once)
    return entry


@given(st.lists(requests, min_size=1, max_size=3), st.text(max_size=20), st.booleans())
@example(
    [(b"OPTIONS", b"/", b"HTTP/1.1", [(b"Max-Forwards", b"0"), (b"Host", b'a","status":200,"x":"b')], True)], "", False
)
@example([(b"TRACE", b"/", b"HTTP/1.1", [(b"Host", b'a","x":"'), (b"Max-Forwards", b"0")], False)], "", False)
@example([(b"GET", b"/", b"HTTP/1.1", [(b"X-Forwarded-For", b'1.2.3.4","x":"\\')], True)], "", False)
@example([(b"GET", b"/\x22\\", b"HTTP/1.1", [], True)], 'a"}\n\x1b', True)
def test_a_line_of_the_access_log_cannot_be_forged(
    heads: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bool]], cause: str, fails: bool
) -> None:
    async def serve(form: Any) -> Lines:
        async def service(x: Exchange) -> Outcome:
            attempt = Attempt(1, 0.0)
            attempt.endpoint, attempt.reason, attempt.cause = "http://10.0.0.1:80", PROTOCOL.code, cause
            x.attempts.append(attempt)
            return failed(PROTOCOL, cause=cause) if fails else Outcome(200)

        front, lines = Front(service, listener={"trusted_proxies": ["192.0.2.0/24"]}), Lines()
        written = access.AccessLog(lines, front.env)
        written.retune(form, 1.0)

        front.listener.recorder = lambda x, outcome, reason, _: written.record(x, outcome, reason, 0.1)
        for each in heads:
            client = front.connect()
            client.write(head(*each))
            await settle()
            client.transport.abort()
            await settle()
        written.flush()
        assert front.bugs == []
        return lines

    for line in run(serve("json")).each:
        entry = members(line)
        assert entry["route"] in ("", "all")
        assert isinstance(entry["status"], int)
    for line in run(serve("text")).each:
        assert re.match(rb"\d\d:\d\d:\d\d\.\d{3} \d{3} [^ ]* [^ ]* [\d.]+ms route=(?:all|-)(?= |\Z)", line), line


@given(st.text(max_size=30), st.binary(max_size=30))
@example('x" forged="1', b"\x1b]0;owned\x07")
@example("a\nlevel=error", b"\x9b\xe2\x80\xa8")
def test_a_line_of_the_diagnostics_cannot_be_forged(text: str, data: bytes) -> None:
    for form in ("json", "text"):
        env, lines = make_env(1), Lines()
        emitter = log.Emitter(
            lines,
            now=env.now,
            wall=env.wall,
            call_later=env.call_later,
            secrets=Secrets(),
            form=form,  # type: ignore[arg-type]
        )
        x = Exchange(b"GET", b"/" + data, [(b"a", data)])
        try:
            raise ValueError(text, data)
        except ValueError as error:
            emitter.emit(events.BUG, request=repr(x), error=error, name=text, nested={text: data.decode("latin-1")})
        found = lines.each
        assert found
        if form == "json":
            assert len(found) == 1
            assert set(json.loads(found[0])) == {
                "time",
                "level",
                "event",
                "request",
                "error",
                "name",
                "nested",
                "stack",
            }
        else:
            assert all(line.startswith(b"    ") for line in found[1:]), "only a stack has lines of its own"
