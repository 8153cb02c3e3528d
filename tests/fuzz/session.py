"""Target: what a peer sends on an HTTP/2 connection, in both roles.

The laws: nothing is raised; how the bytes were cut changes nothing; each message has one head, content of the length
that it said, and one end; what is sent is whole frames, DATA within the peer's windows among them.
"""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.http2 import frames as f
    from sidecar.http2.limits import WINDOW, Limits
    from sidecar.http2.session import Session
    from sidecar.http2.stream import Stream

from tests.fuzz.pipe import cuts

LIMITS = Limits(max_streams=4, max_head=2000, allows_connect=True)


class Service:
    """Handler that answers each request with what it got, and notes what it is told."""

    session: Session

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.ended: set[int] = set()
        self.heads: set[int] = set()

    def on_head(self, stream: Stream, head: Any, is_end: bool) -> None:
        assert stream.id not in self.heads
        self.heads.add(stream.id)
        self.note("head", stream, (head.method, head.path, head.status, head.lines), is_end)
        if not self.session.is_client:
            self.session.respond(stream, 200, b"x-lines: %d\r\n" % len(head.lines), False)
            self.session.send(stream, head.path * 100, is_end)

    def on_interim(self, stream: Stream, head: Any) -> None:
        self.note("interim", stream, head.status, False)

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        assert stream.id in self.heads
        if stream.expected >= 0:
            assert stream.received <= stream.expected
        self.note("data", stream, data, is_end)
        self.session.send(stream, data, False)
        if is_end:
            self.session.send_trailers(stream, b"x-end: 1\r\n")

    def on_trailers(self, stream: Stream, head: Any) -> None:
        self.note("trailers", stream, head.lines, True)
        self.session.send_trailers(stream, head.lines)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        assert stream.id not in self.session.streams
        self.told.append(("reset", stream.id, code))

    def on_writable(self, stream: Stream) -> None:
        assert not stream.pending

    def on_goaway(self, last: int, code: int) -> None:
        self.told.append(("goaway", last, code))

    def on_pong(self, payload: bytes) -> None:
        self.told.append(("pong", payload))

    def note(self, what: str, stream: Stream, value: Any, is_end: bool) -> None:
        assert stream.id not in self.ended, "something follows the end of a message"
        if is_end:
            self.ended.add(stream.id)
            if stream.expected >= 0 and not stream.forbids_content:
                assert stream.received == stream.expected
        self.told.append((what, stream.id, value, is_end))


def converse(pieces: list[bytes], is_client: bool) -> tuple[Any, ...]:
    """Return what the handler was told, what was sent, and the code of the fault.

    Content is joined for each stream: how it is cut, and its order among the streams, depend on the reads.
    """
    service = Service()
    service.session = session = Session(service, LIMITS, is_client)
    if is_client:
        for method in (b"GET", b"POST", b"HEAD"):
            session.send(session.open(method, b"http", b"a.test", b"/", b"", False), b"x" * 100, method == b"GET")
    for piece in pieces:
        session.receive(piece, 0.0)
    sent = b"".join(iter(session.take_output, b""))
    told: dict[Any, list[Any]] = {}
    for event in service.told:
        events = told.setdefault(event[1] if event[0] not in ("goaway", "pong") else None, [])
        if event[0] == "data" and events and events[-1][0] == "data":
            event = ("data", event[1], events.pop()[2] + event[2], event[3])
        events.append(event)
    return told, *read(sent[len(f.PREFACE) if is_client else 0 :]), -1 if session.fault is None else session.fault.code


def read(sent: bytes) -> tuple[dict[int, bytes], list[bytes]]:
    """Return the content of each stream, and all other frames in their order.

    Content that has used up the connection's window is left out, since the streams share it.
    """
    content: dict[int, bytes] = {}
    others: list[bytes] = []
    at = 0
    while at < len(sent):
        end = at + 9 + int.from_bytes(sent[at : at + 3], "big")
        assert end - at <= 9 + 16384
        frame = sent[at:end]
        if frame[3] == f.DATA:
            number = int.from_bytes(frame[5:9], "big")
            content[number] = content.get(number, b"") + frame[9:]
        else:
            others.append(frame)
        at = end
    assert at == len(sent), "a frame is not whole"
    return ({} if sum(map(len, content.values())) >= WINDOW else content), others


def check(data: bytes) -> None:
    """The first byte says who we are and how the rest is cut; the peer's preface and settings come by themselves."""
    if len(data) < 2:
        return
    is_client, seed = data[0] & 1 == 1, data[0]
    sent = (b"" if is_client else f.PREFACE) + f.settings([]) + data[1:]
    whole = converse([sent], is_client)
    assert converse(cuts(seed, sent), is_client) == whole
    assert converse([sent[at : at + 1] for at in range(len(sent))], is_client) == whole


if __name__ == "__main__":
    fuzz("session", check)
