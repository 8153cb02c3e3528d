"""Target: a client's bytes, through a downstream connection with its parser and its states.

Laws:

1. Nothing is raised, and no bug is reported.
2. Each request that reached the service is answered once and in order, with at most one refusal, at the end.
3. The pieces in which the bytes arrive change nothing.
4. A message that llhttp accepts too has the same method, target and body, so that no two readers see different ends.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

import httptools

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.config.listen_address import parse_listen_address
    from sidecar.config.process_spec import ListenerSpec
    from sidecar.core.exchange import Exchange
    from sidecar.core.outcome import Outcome
    from sidecar.downstream.connection import DownstreamConnection
    from sidecar.downstream.listener import Listener
    from sidecar.downstream.server import Server

from tests.fuzz.pipe import Pipe, Taken, cuts
from tests.support.clock import make_env
from tests.support.routes import one_route

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[!-9;-~]+: ?[^\r\n\x00]*\r\n)*)\r\n")


class Seen(NamedTuple):
    """Request as it reached the service, or as the connection answered it itself (Max-Forwards)."""

    method: bytes
    path: bytes
    target: bytes
    lines: bytes
    body: bytes | None
    """Body of the request; None if it was not read."""
    status: int
    """Status of the answer."""


def seen(x: Exchange, body: bytes | None, status: int) -> Seen:
    fields = [field for field in x.headers if field[0] != b"x-request-id"]
    return Seen(x.method, x.path, x.target, b"".join(b"%b: %b\r\n" % field for field in fields), body, status)


class Service:
    """Service behind the route of all requests: it reads the body and answers 200."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def serve(self, x: Exchange) -> Outcome:
        body = x.body
        if x.stream is not None:
            taken = Taken(x.stream)
            failure = await taken.ended
            if failure is not None:
                return Outcome(400)
            body = bytes(taken.data)
        self.seen.append(seen(x, body, 200))
        return Outcome(200, lines=b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")


class Last(Listener):
    """Listener that also records requests that it answers itself."""

    service: Service

    def last_hop(self, x: Exchange) -> Outcome:
        outcome = super().last_hop(x)
        self.service.seen.append(seen(x, None, outcome.status))
        return outcome


class Untraced:
    """Telemetry that records nothing."""

    begin = None

    def use(self, *_: object) -> None:
        pass


class Conversation(NamedTuple):
    """Requests and answers that some bytes caused."""

    seen: list[Seen]
    statuses: list[int]


def converse(pieces: list[bytes]) -> Conversation:
    """Feed a fresh connection; the client disconnects at the end."""
    env, service = make_env(), Service()
    route = one_route(service.serve)
    spec = ListenerSpec.model_construct(address=parse_listen_address("127.0.0.1:0"), protocols=("http1",))
    listener = Last("fuzz", spec, Server(env, lambda *_: None, Untraced()))
    listener.service = service
    listener.match = lambda _: route  # type: ignore[assignment,return-value]
    connection: Any = DownstreamConnection(listener)
    pipe = Pipe(connection)
    connection.connection_made(pipe)
    for piece in pieces:
        if pipe.closing:
            break
        pipe.feed(piece)
    written = bytes(pipe.written)
    assert pipe.closing or pipe.protocol.expires < float("inf"), "it is the client's turn, and it has for ever"
    assert pipe.closing or pipe.reading, "it is the client's turn, and nobody listens"
    pipe.break_off()
    assert not env.emitted("bug"), env.emitted("bug")
    assert not listener.connections
    return Conversation(service.seen, statuses(written, service.seen))


def statuses(written: bytes, seen: list[Seen]) -> list[int]:
    """Return the statuses of the written answers; fail unless the bytes are complete answers."""
    found: list[int] = []
    at = 0
    while at < len(written):
        match = HEAD.match(written, at)
        assert match, f"not an answer: {written[at : at + 80]!r}"
        length = re.search(rb"(?mi)^content-length: (\d+)\r$", match[2])
        is_head = len(found) < len(seen) and seen[len(found)].method == b"HEAD"
        at = match.end() + (0 if is_head or length is None else int(length[1]))
        found.append(int(match[1]))
    assert at == len(written), "an answer is not whole"
    return found


class Oracle:
    """Parser of the same bytes with llhttp."""

    def __init__(self, data: bytes) -> None:
        self.messages: list[tuple[bytes, bytes, bytes]] = []
        self.url, self.body = b"", b""
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages.append((self.parser.get_method(), self.url, self.body))


def check(data: bytes) -> None:
    """Check two or more bytes; the first one says how the rest is cut, and transports pass on no empty piece."""
    if len(data) < 2:
        return
    seed, data = data[0], data[1:]
    whole = converse([data])
    good, bad = whole.statuses[: len(whole.seen)], whole.statuses[len(whole.seen) :]
    assert good == [request.status for request in whole.seen], whole
    assert len(bad) <= 1, whole
    assert all(400 <= status <= 505 for status in bad), whole
    pieces = converse(cuts(seed, data))
    assert pieces.seen == whole.seen, (pieces, whole)
    assert [s >= 400 for s in pieces.statuses] == [s >= 400 for s in whole.statuses], (pieces, whole)
    theirs = Oracle(data).messages
    for (method, url, body), ours in zip(theirs, whole.seen, strict=False):
        assert (method, body if ours.body is not None else None) == (ours.method, ours.body), (theirs, whole)
        if url.startswith(b"/") and not (b"/." in url or b"/%2" in url):  # dot segments are removed
            assert url == ours.target, (theirs, whole)


if __name__ == "__main__":
    fuzz("request", check)
