"""The other end of a session: frames as a test writes them, and as it reads them back."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.http2 import frames as f
from sidecar.http2.hpack import Decoder, Encoder
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
OK = [(b":status", b"200")]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Error code of RST_STREAM or GOAWAY."""
        at = 0 if self.kind == f.RST_STREAM else 4
        return int.from_bytes(self.payload[at : at + 4], "big")


def split(data: bytes) -> list[Frame]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        number = int.from_bytes(data[5:9], "big")
        assert len(data) >= 9 + size
        found.append(Frame(data[3], data[4], number, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def literal(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A header block that uses no table, whatever it says."""
    out = b""
    for name, value in pairs:
        for text in (name, value):
            out += (b"\x00" if text is name else b"") + size_of(text) + text
    return out


def size_of(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),))
    rest, out = len(text) - 127, b"\x7f"
    while rest >= 128:
        out += bytes((rest & 127 | 128,))
        rest >>= 7
    return out + bytes((rest,))


def headers(stream: int, pairs: list[tuple[bytes, bytes]], end: bool = True) -> bytes:
    return f.header_frames(stream, literal(pairs), end)


def data(stream: int, content: bytes, end: bool = False) -> bytes:
    return f.frame(f.DATA, f.END_STREAM if end else 0, stream, content)


def setting(key: int, value: int) -> bytes:
    return f.settings([(key, value)])


class Recorder:
    """Handler that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple] = []
        self.streams: dict[int, object] = {}

    def on_head(self, stream, head, is_end):
        self.streams[stream.id] = stream
        self.events.append(("head", stream.id, head, is_end))

    def on_interim(self, stream, head):
        self.events.append(("interim", stream.id, head.status))

    def on_data(self, stream, data, is_end):
        self.events.append(("data", stream.id, data, is_end))

    def on_trailers(self, stream, head):
        self.events.append(("trailers", stream.id, head.lines))

    def on_reset(self, stream, code, text):
        self.events.append(("reset", stream.id, code))

    def on_writable(self, stream):
        self.events.append(("writable", stream.id))

    def on_goaway(self, last, code):
        self.events.append(("goaway", last, code))

    def on_pong(self, payload):
        self.events.append(("pong", payload))

    def kinds(self) -> list[str]:
        return [event[0] for event in self.events]


class Peer:
    """A session with its handler, past the exchange of settings."""

    def __init__(self, is_client: bool = False, limits: Limits | None = None, settings: bytes | None = None) -> None:
        self.handler = Recorder()
        self.session = Session(self.handler, limits or Limits(), is_client)
        self.now = 100.0
        self.decoder = Decoder(1 << 20, 1000)
        self.encoder = Encoder()
        self.first = self.session.take_output()
        self.session.receive(
            (b"" if is_client else f.PREFACE) + (settings or f.settings([])) + f.SETTINGS_ACK, self.now
        )
        self.session.take_output()

    def feed(self, *data: bytes) -> list[Frame]:
        self.session.receive(b"".join(data), self.now)
        return self.sent()

    def sent(self) -> list[Frame]:
        sent = b""
        while piece := self.session.take_output():
            sent += piece
        return split(sent)

    @property
    def events(self) -> list[tuple]:
        return self.handler.events

    def open(self, method: bytes = b"GET", lines: bytes = b"", end: bool = True):
        return self.session.open(method, b"http", b"a.test", b"/", lines, end)

    def fields(self, frame: Frame) -> list[tuple[bytes, bytes]]:
        return [(field.name, field.value) for field in self.decoder.decode(frame.payload).fields]
