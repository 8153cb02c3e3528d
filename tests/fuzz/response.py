"""Target: an upstream's bytes, through an upstream connection with its parser and its states.

Laws:

1. Nothing is raised; there is one outcome, and its body ends once.
2. The answer to the client is valid HTTP, without fields of the connection.
3. The pieces in which the bytes arrive change nothing.
4. An answer that llhttp accepts too is the same one.
5. A connection returns to the pool only after exactly one complete message, with no bytes behind it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import httptools

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.core.exchange import Exchange
    from sidecar.core.http1 import FIELDS
    from sidecar.core.message import HOP_BY_HOP, Headers, parse_fields
    from sidecar.core.outcome import Outcome
    from sidecar.core.promise import Run
    from sidecar.upstream.connection import UpstreamConnection
    from sidecar.upstream.deadlines import Deadlines
    from sidecar.upstream.pool import Pool

from chaos.parts.websocket import KEY
from tests.fuzz.pipe import Pipe, Taken, cuts
from tests.support.clock import make_env
from tests.support.receiver import exchanged

VALID = re.compile(FIELDS)
BODILESS = (204, 304)


class Answer(NamedTuple):
    """Answer that some bytes caused."""

    status: int
    lines: bytes
    body: bytes
    trailers: Headers
    failure: str
    """Code of the failure; empty for a complete answer."""
    interims: list[int]
    is_tunnel: bool


def ask(seed: int) -> Exchange:
    """Return a request; the seed chooses among those that change how an answer is read."""
    x = Exchange((b"GET", b"HEAD", b"GET", b"GET")[seed % 4], b"/", [])
    x.authority = b"test"
    x.forwarding = b""
    x.accepts_trailers = seed % 8 > 3
    if seed % 4 == 3:
        x.upgrade = b"websocket"
        x.headers = [(b"sec-websocket-key", KEY.encode())]
    return x


def converse(pieces: list[bytes], seed: int, *, ends: bool) -> tuple[Answer | None, bool]:
    """Return the answer on a fresh connection, which the upstream closes if `ends`, and whether it was kept."""
    env = make_env()
    x, interims, answers = ask(seed), [], []
    x.interim = lambda status, lines: interims.append((status, lines))  # type: ignore[assignment,misc]
    pool = Pool("fuzz", env, Deadlines(env), connect=None)  # type: ignore[arg-type]
    connection: Any = UpstreamConnection(pool)
    pipe = Pipe(connection)
    connection.connection_made(pipe)
    pool.connections.add(connection)

    async def call() -> None:
        outcome: Outcome = await exchanged(connection, x, float("inf"), env.now())
        body, failure, trailers = outcome.body, outcome.failure, []
        if outcome.stream is not None and outcome.tunnel is None:  # a tunnel's stream ends with the session
            taken = Taken(outcome.stream)
            failure = await taken.ended
            body, trailers = bytes(taken.data), taken.trailers
        code = "" if failure is None else failure.code
        lines = b"" if outcome.failure else outcome.lines
        statuses = [status for status, _ in interims]
        answers.append(Answer(outcome.status, lines, body, trailers, code, statuses, outcome.tunnel is not None))

    run: Run[None] = Run(call(), lambda _: None)
    for piece in pieces:
        if pipe.closing or pool.idle:
            break
        pipe.feed(piece)
    kept = bool(pool.idle)
    if ends and not kept:
        if not pipe.closing and not pipe.protocol.eof_received():
            pipe.close()
        pipe.settle()
    if run.error is not None:
        raise run.error
    run.cancel()
    assert len(answers) <= 1
    for _, lines in interims:
        assert VALID.fullmatch(lines), lines
    return (answers[0] if answers else None), kept


class Oracle:
    """Parser of the same bytes with llhttp."""

    def __init__(self, data: bytes) -> None:
        self.messages: list[tuple[int, Headers, bytes]] = []
        self.fields: Headers = []
        self.body = b""
        self.broken = False
        self.parser = httptools.HttpResponseParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.broken = True

    def on_message_begin(self) -> None:
        self.fields, self.body = [], b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self.messages.append((self.parser.get_status_code(), self.fields, self.body))


def check(data: bytes) -> None:
    """Check an answer; the first byte chooses the request, the second says how the rest is cut."""
    if len(data) < 2:
        return
    seed, cut, data = data[0], data[1], data[2:]
    whole, kept = converse([data], seed, ends=True)
    assert whole is not None, "a connection has ended and nobody was told"
    if not whole.failure:
        assert VALID.fullmatch(whole.lines), whole
        passed = {name for name, _ in parse_fields(whole.lines)}
        assert not passed & HOP_BY_HOP, whole
        assert 200 <= whole.status <= 599 or whole.is_tunnel, whole
    pieces, _ = converse(cuts(cut, data), seed, ends=True)
    assert pieces is not None
    assert bool(pieces.failure) == bool(whole.failure), (pieces, whole)  # a broken body may follow a good head
    if not seed % 8 > 3:  # trailers may be dropped unless the request accepts them
        pieces, whole = pieces._replace(trailers=[]), whole._replace(trailers=[])
    assert whole.failure or pieces == whole, (pieces, whole)
    if seed % 4 == 0 or seed % 4 == 2:
        compare(whole, kept, Oracle(data))


def compare(ours: Answer, kept: bool, oracle: Oracle) -> None:
    """Compare an answer with llhttp's.  llhttp does not complete an answer that ends with the connection."""
    if ours.failure or not oracle.messages:
        return
    status, fields, body = oracle.messages[0]
    assert (status, body) == (ours.status, ours.body), (oracle.messages, ours)
    theirs = {(name, value.strip(b" \t")) for name, value in fields}
    made = {field for field in parse_fields(ours.lines) if field[0] != b"date"}
    assert made <= theirs, (made - theirs, fields)
    if kept:
        assert len(oracle.messages) == 1, (oracle.messages, ours)
        assert not oracle.broken, ours


if __name__ == "__main__":
    fuzz("response", check)
