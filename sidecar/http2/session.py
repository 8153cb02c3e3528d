"""Session: one HTTP/2 connection in either role, without I/O (RFC 9113).

Bytes from the peer go into `receive`, which calls the `Handler`; what is to be sent is taken from `take_output`.
Nothing raises: after a connection error `fault` is set, a GOAWAY is in the output, and nothing more is read.

Rules:

1. Frames on streams are judged by the stream's state (`stream`).  A stream error resets that stream alone.
2. Header blocks are decoded whatever becomes of their stream: the table is the connection's.
3. A stream's window is given back as its content is taken.  While the owner has paused a stream it is not, so a body
   that nobody takes costs one window at most.  The connection's window is given back at once: what one stream holds up
   must not hold up the others.
4. What is sent waits for the peer's windows, and while the transport is full.  Streams that wait for the connection's
   window take turns, a frame each.
5. Header blocks are encoded when they are sent, never before: their order is the order of the tables.
6. What a peer costs is bounded by rates (`limits`).
7. A message that arrives whole in one read, as a head, one DATA and perhaps trailers, can be passed with its head
   (`joins_content`).
8. Priorities are ignored (RFC 9113 5.3.2); nothing is pushed.
9. Other DATA frames of less than `USEFUL` bytes are held back to the end of the read, and those of a stream are
   delivered as one piece: a piece costs far more on its way than a frame.

It does not keep time: its owner closes a peer that does not acknowledge settings, answer a PING, or open a window.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.core.body import add_piece
from sidecar.http2 import frames
from sidecar.http2.errors import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    name_of,
)
from sidecar.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LAST_HEADERS,
    PACK,
    PREFACE,
    FrameReader,
)
from sidecar.http2.heads import Head, request_of, response_of, trailers_of
from sidecar.http2.hpack import Block, Decoder, Encoder
from sidecar.http2.limits import (
    MAX_FRAME,
    MAX_STREAMS,
    MAX_UNREAD,
    MAX_WINDOW,
    REMEMBERED_RESETS,
    WINDOW,
    Bucket,
    Limits,
)
from sidecar.http2.stream import CLOSED, NOTHING, RECEIVED_END, RESET, SENT_END, Stream

BODILESS: Final = (204, 304)
EXTENDED: Final = frames.PADDED | frames.PRIORITIZED
"""Flags of a payload with more than its content."""
LARGE_HEAD: Final = 10.0
"""Frames of no use for which a head that is too large counts, beside its fields and bytes."""
EXCESS_FIELDS: Final = 64
"""Fields beyond the limit that count for one more.  An index of one byte can stand for each."""
LARGE_BYTES: Final = 1024
"""Bytes of such a head that count for one more."""
SETTINGS_COST: Final = 10.0
"""Frames of no use for which one SETTINGS counts, because it may touch every stream."""
CLOSED_STREAM_DATA: Final = 0.1
"""Frames of no use for which one DATA counts that was under way when its stream was reset: at most a window is."""
USEFUL: Final = 256
"""Bytes of the smallest DATA frame that pays for window updates."""
WORTH: Final = 2.0
"""Window updates that it pays for: one of its stream, one of the connection."""
FIRST_GOAWAY: Final = MAX_WINDOW
"""Last stream of the GOAWAY that announces the end (RFC 9113 6.8)."""
PIECE: Final = 64 * 1024
"""Bytes of a piece that waits."""
MAX_OUTPUT: Final = 256 * 1024
"""Bytes of content that are sent before the output is taken: the transport may be full by then."""
TUNNEL: Final = -2
"""Value of `Stream.expected` before the answer to an extended CONNECT: a 2xx has no length, whatever it says
(RFC 9110 9.3.6)."""
PSEUDO_HEADERS: Final = 5
"""Pseudo-headers that a request may have beside its fields."""
DRAIN_PING: Final = b"draining"
"""Payload of the PING whose answer shows that the peer has seen that GOAWAY."""


class Handler(Protocol):
    """Owner of a session.  Its methods never raise, and may call the session."""

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        """Take a request's or a final response's head; `head.refusal` says that it is to be answered at once.

        With `is_end` the message is whole, and may have content (`Stream.content`) and trailers (`Stream.ending`).
        """

    def on_interim(self, stream: Stream, head: Head) -> None:
        """Take an interim response."""

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        """Take content.  With `is_end` it may be empty, and the message is whole."""

    def on_trailers(self, stream: Stream, head: Head) -> None:
        """Take the trailers; the message is whole."""

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        """The stream has ended before its time: by the peer, or by us for what the peer has sent (`text` says what).
        With REFUSED_STREAM the request was not processed."""

    def on_writable(self, stream: Stream) -> None:
        """All that waited on the stream is sent, its end included where it was given."""

    def on_goaway(self, last: int, code: int) -> None:
        """The peer opens no streams, and takes none after `last`."""

    def on_pong(self, payload: bytes) -> None:
        """The peer has answered a PING."""


class NoHandler:
    """Handler of a session whose connection is lost."""

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None: ...
    def on_interim(self, stream: Stream, head: Head) -> None: ...
    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None: ...
    def on_trailers(self, stream: Stream, head: Head) -> None: ...
    def on_reset(self, stream: Stream, code: int, text: str) -> None: ...
    def on_writable(self, stream: Stream) -> None: ...
    def on_goaway(self, last: int, code: int) -> None: ...
    def on_pong(self, payload: bytes) -> None: ...


NO_HANDLER: Final = NoHandler()


class Session:
    """State of one connection."""

    __slots__ = (
        "_block", "_block_frames", "_block_is_end", "_block_size", "_credit", "_decoder", "_encoder", "_frames",
        "_held", "_highest", "_least_credit", "_line", "_most_credit", "_next", "_now", "_out", "_out_size",
        "_peer_settings", "_preface_left", "_reader", "_reset_ids", "_resets", "_unread", "_window", "allows_connect",
        "fault", "goaway", "handler", "is_acknowledged", "is_client", "is_draining", "is_writing_paused",
        "joins_content", "last_accepted", "limits", "max_peer_streams", "peer_window", "progress", "streams", "unsent",
    )  # fmt: skip

    def __init__(self, handler: Handler, limits: Limits, is_client: bool) -> None:
        self.handler = handler
        self.limits = limits
        self.is_client = is_client
        self.streams: dict[int, Stream] = {}
        """Streams that are not closed, by their numbers."""
        self.fault: ConnectionFault | None = None
        """Connection error; None while there is none."""
        self.goaway = -1
        """Last stream that the peer takes, as its GOAWAY says; -1 before one has come."""
        self.is_draining = False
        """True once we have announced that the connection ends."""
        self.last_accepted = MAX_WINDOW
        """Last stream of the peer that is taken."""
        self.is_acknowledged = False
        """True once the peer has acknowledged our settings."""
        self.is_writing_paused = False
        """True while the transport is full."""
        self.joins_content = False
        """True if content, and the trailers of a response, are passed with their head where all are whole in one
        read."""
        self.unsent = 0
        """Bytes of content that wait on all streams for the peer's windows or for the transport."""
        self.peer_window = WINDOW
        """Initial window of streams, as the peer has set it."""
        self.max_peer_streams = MAX_STREAMS
        """Streams that we may open."""
        self.allows_connect = False
        """True if the peer serves an extended CONNECT (RFC 8441)."""
        self._reader = FrameReader()
        self._decoder = Decoder(limits.max_head, limits.max_fields + PSEUDO_HEADERS)
        self._encoder = Encoder()
        self._out: list[bytes] = []
        self._out_size = 0
        """Bytes of content in it."""
        self._window = WINDOW
        """Bytes that the peer lets us send on all streams."""
        self._credit = self._most_credit = max(WINDOW, limits.connection_window)
        """Bytes that we let it send, now and at most."""
        self._least_credit = self._most_credit - (limits.connection_window + 1) // 2
        """Bytes at which those that were taken are given back, because that is worth a frame."""
        self._next = 1
        """Number of the next stream that we open."""
        self._highest = 0
        """Highest number of a stream that the peer has opened."""
        self._preface_left = 0 if is_client else len(PREFACE)
        """Bytes of the client's preface that have not arrived."""
        self._peer_settings = False
        """True once the peer's first frame, SETTINGS, was read."""
        self._block: list[bytes] = []
        """Parts of a header block that is not whole."""
        self._block_size = 0
        self._block_frames = 0
        self._block_is_end = False
        self._line: list[Stream] = []
        """Streams that wait for the connection's window, or for the transport; a deque would take more memory."""
        self._reset_ids: dict[int, None] = {}
        """Streams that we have reset lately, whose frames may still arrive."""
        self._resets = Bucket(limits.reset_burst, limits.reset_rate)
        self._frames = Bucket(limits.frame_burst, limits.frame_rate)
        self._held: list[Stream] = []
        """Streams whose content is held back."""
        self._unread = 0
        """Answers to control frames since the transport became full."""
        self._now = 0.0
        self.progress = 0
        """Number of frames that were whole, a header block counted as one."""
        self._begin()

    def _begin(self) -> None:
        limits = self.limits
        values = [(frames.MAX_HEADER_LIST_SIZE, limits.max_head)]
        if self.is_client:
            self._out.append(PREFACE)
            values.append((frames.ENABLE_PUSH, 0))
        else:
            values.append((frames.MAX_CONCURRENT_STREAMS, limits.max_streams))
            values.append((frames.NO_RFC7540_PRIORITIES, 1))
            if limits.allows_connect:
                values.append((frames.ENABLE_CONNECT_PROTOCOL, 1))
        if limits.window != WINDOW:
            values.append((frames.INITIAL_WINDOW_SIZE, limits.window))
        self._out.append(frames.settings(values))
        if self._credit > WINDOW:
            self._out.append(frames.window_update(0, self._credit - WINDOW))

    def detach(self) -> None:
        """Forget the handler and the streams once the connection is lost.

        Handler, session and streams refer to each other, which only the garbage collector would free.
        """
        self.handler = NO_HANDLER
        for stream in self.streams.values():
            stream.user = None
        self.streams.clear()
        self._held = []
        self._line = []

    # ----- receiving

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the peer; `now` is an instant in seconds."""
        if self.has_failed:
            return
        self._now = now
        try:
            if self._preface_left:
                data = self._read_preface(data)
                if not data:
                    return
            reader = self._reader
            reader.feed(data)
            while reader.advance():
                if reader.kind == HEADERS and self._peer_settings:
                    if self._held:
                        self._release_held()
                    self._take_headers(reader)
                else:
                    self._take_frame(reader)
                if not reader.block:
                    self.progress += 1
                if self.fault is not None:
                    break
        except ConnectionFault as fault:
            self._release_held()
            self.fail(fault.code, fault.text)
        if self._held:
            self._release_held()

    @property
    def has_failed(self) -> bool:
        """True once there is a connection error.  For mypyc, `fault` would stay None where it was None once."""
        return self.fault is not None

    @property
    def has_settings(self) -> bool:
        """True once the peer's settings have arrived, which are its first frame."""
        return self._peer_settings

    @property
    def last_opened(self) -> int:
        """Number of the last stream that we have opened; negative without one."""
        return self._next - 2

    @property
    def has_preface(self) -> bool:
        """True once the client's preface has arrived; always for clients."""
        return not self._preface_left

    @property
    def is_unfinished(self) -> bool:
        """True while a frame or a header block has begun and is not whole."""
        return self._reader.block != 0 or self._reader.is_within_frame

    @property
    def is_within_head(self) -> bool:
        """True while a header block has begun and is not whole, or may be about to."""
        return self._reader.block != 0 or (self._reader.is_within_frame and self._reader.kind == frames.HEADERS)

    def fail(self, code: int, text: str) -> None:
        """End the connection with an error; what waits is dropped, and the owner closes after the output is sent."""
        if self.fault is None:
            self.fault = ConnectionFault(code, text)
            self._out.append(frames.goaway(self._highest, code, text.encode()))
            self._line.clear()

    def _read_preface(self, data: bytes) -> bytes:
        """Read the client's preface; return what follows it."""
        left = self._preface_left
        part = data[:left]
        if PREFACE[len(PREFACE) - left :][: len(part)] != part:
            raise ConnectionFault(PROTOCOL_ERROR, "the connection does not begin with the preface of HTTP/2")
        self._preface_left = left - len(part)
        return data[len(part) :]

    def _take_frame(self, reader: FrameReader) -> None:
        kind = reader.kind
        if not self._peer_settings:
            if kind != frames.SETTINGS or reader.flags & frames.ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._peer_settings = True
        if kind == DATA:
            self._take_data(reader)
            return
        if self._held:
            self._release_held()
        if kind == frames.WINDOW_UPDATE:
            self._take_window_update(reader)
        elif kind == frames.RST_STREAM:
            self._take_rst_stream(reader)
        elif kind == frames.CONTINUATION:
            self._take_continuation(reader)
        elif kind == frames.SETTINGS:
            self._take_settings(reader)
        elif kind == frames.PING:
            self._take_ping(reader)
        elif kind == frames.GOAWAY:
            self._take_goaway(reader)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE, which is not allowed here")
        elif kind == frames.PRIORITY:
            self._take_priority(reader)
        else:
            self._charge(1.0 + (reader.end - reader.start) / 1024)

    def _charge(self, cost: float) -> None:
        """Note frames of no use."""
        if self._frames.charge(cost, self._now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that are of no use")

    def _charge_reset(self) -> None:
        """Note a request that was begun for nothing."""
        if self._resets.charge(1.0, self._now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams are reset")

    def _charge_large(self, block: Block, size: int) -> None:
        """Note a header block with more fields or bytes than are allowed."""
        self._charge(LARGE_HEAD + block.excess / EXCESS_FIELDS + size / LARGE_BYTES)

    def _is_idle(self, number: int) -> bool:
        """True for a stream that was never opened."""
        if number % 2:
            return number >= self._next if self.is_client else number > self._highest
        return True  # nobody pushes

    # DATA

    def _take_data(self, reader: FrameReader) -> None:
        size = reader.end - reader.start
        if size > self._credit:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "DATA is more than the connection's window")
        self._count_taken(size)
        start, end, flags = reader.start, reader.end, reader.flags
        if flags & frames.PADDED:
            start, end = reader.payload()
        is_end = flags & END_STREAM != 0
        stream = self.streams.get(reader.stream)
        if stream is None:
            self._take_on_closed_stream(reader.stream, "DATA", CLOSED_STREAM_DATA)
            return
        if stream.state & RECEIVED_END:
            self._fail_content(stream, STREAM_CLOSED, "DATA after the end of the stream")
            return
        if size > stream.credit:
            self._fail_content(stream, FLOW_CONTROL_ERROR, "DATA is more than the stream's window")
            return
        stream.credit -= size
        if not stream.has_final_head:
            self._fail_content(stream, PROTOCOL_ERROR, "DATA before a head")
            return
        if start == end and not is_end:
            self._charge(1.0)
            self._give_back(stream, size)
            return
        stream.received += end - start
        if (stream.expected >= 0 or stream.forbids_content) and self._contradicts(stream, is_end):
            stream.received -= end - start  # what is refused is not received
            self._fail_content(stream, PROTOCOL_ERROR, "the content is not as long as its head says")
            return
        if is_end:
            self._end_received(stream)
        else:
            self._give_back(stream, size)
        data = reader.data[start:end]
        pieces = stream.held
        if pieces is not None:
            add_piece(pieces, data)
            if is_end:
                self._release(stream, True)
        elif is_end or size >= USEFUL:
            self.handler.on_data(stream, data, is_end)
        else:
            stream.held = [data]
            self._held.append(stream)

    def _fail_content(self, stream: Stream, code: int, text: str) -> None:
        """Reset a stream for its DATA, once the content before that is delivered, however it was cut."""
        self._release(stream, False)
        if stream.id in self.streams:
            self._fail_stream(stream, code, text)

    def _count_taken(self, size: int) -> None:
        """Count bytes of the connection's window, and give them back once that is worth a frame."""
        self._credit = credit = self._credit - size
        if credit <= self._least_credit:
            step = self._most_credit - credit
            self._out.append(frames.window_update(0, step))
            self._credit = self._most_credit

    def _release(self, stream: Stream, is_end: bool) -> None:
        """Deliver the content of a stream that was held back."""
        pieces, stream.held = stream.held, None
        if pieces is not None:
            self.handler.on_data(stream, b"".join(pieces), is_end)

    def _release_held(self) -> None:
        """Deliver all content that was held back."""
        held, self._held = self._held, []
        for stream in held:
            self._release(stream, False)

    def _contradicts(self, stream: Stream, is_end: bool) -> bool:
        """True if the content is longer, or at its end shorter, than the head says (RFC 9113 8.1.1)."""
        if stream.forbids_content:
            return stream.received > 0
        expected = stream.expected
        return expected >= 0 and (stream.received > expected or (is_end and stream.received != expected))

    def _give_back(self, stream: Stream, size: int) -> None:
        """Note bytes that were taken, and let the peer send as many again, once it is worth a frame."""
        stream.taken += size
        if not stream.paused and stream.taken * 2 >= self.limits.window:
            self._out.append(frames.window_update(stream.id, stream.taken))
            stream.credit += stream.taken
            stream.taken = 0

    def _take_on_closed_stream(self, number: int, name: str, cost: float) -> None:
        """Judge DATA or HEADERS on a stream that is not open: what was under way when we reset it is let pass."""
        if self._is_idle(number):
            raise ConnectionFault(PROTOCOL_ERROR, f"{name} on an idle stream")
        is_known = number > self.last_accepted or number in self._reset_ids
        if not is_known and len(self._reset_ids) < REMEMBERED_RESETS:
            raise ConnectionFault(STREAM_CLOSED, f"{name} on a closed stream")
        self._charge(cost)

    # HEADERS

    def _take_headers(self, reader: FrameReader) -> None:
        start, end, flags = reader.start, reader.end, reader.flags
        if flags & EXTENDED:
            start, end = reader.payload()
            if flags & frames.PRIORITIZED:
                at = 1 if flags & frames.PADDED else 0
                if reader.number(at) & MAX_WINDOW == reader.stream:
                    raise ConnectionFault(PROTOCOL_ERROR, "a stream depends on itself")
        part = reader.data[start:end]
        is_end = flags & END_STREAM != 0
        if flags & END_HEADERS:
            self._take_block(reader.stream, part, is_end)
            return
        self._block = [part]
        self._block_size = len(part)
        self._block_frames = 0
        self._block_is_end = is_end

    def _take_continuation(self, reader: FrameReader) -> None:
        size = reader.end - reader.start
        self._block_frames += 1
        self._block_size += size
        if not size:
            self._charge(1.0)
        limits = self.limits
        if self._block_size > limits.max_block or self._block_frames > limits.max_continuations:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too long")
        self._block.append(reader.data[reader.start : reader.end])
        if reader.flags & frames.END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._take_block(reader.stream, block, self._block_is_end)

    def _take_block(self, number: int, data: bytes, is_end: bool) -> None:
        """Take a whole header block."""
        block = self._decoder.decode(data)
        if block.is_too_large:
            self._charge_large(block, len(data))
        stream = self.streams.get(number)
        if stream is None:
            if self.is_client or number <= self._highest:
                self._take_on_closed_stream(number, "HEADERS", 1.0)
                return
            stream = self._accept(number)
            if stream is None:
                return
        elif stream.state & RECEIVED_END:
            self._fail_stream(stream, STREAM_CLOSED, "HEADERS after the end of the stream")
            return
        if stream.has_final_head:
            self._take_trailers(stream, block, is_end)
        elif self.is_client:
            self._take_response(stream, block, is_end)
        else:
            head = block.request or request_of(block, self.limits)
            if head.error:
                self._fail_stream(stream, PROTOCOL_ERROR, head.error)
            else:
                self._take_head(stream, head, is_end)

    def _accept(self, number: int) -> Stream | None:
        """Return a new stream of the client's; None if it is refused, or comes after the last that is taken."""
        if number % 2 == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "a client opens a stream with an even number")
        self._highest = number
        if number > self.last_accepted:
            self._charge(1.0)
            return None
        if len(self.streams) >= self.limits.max_streams:
            self._charge(1.0)
            self._write_reset(number, REFUSED_STREAM)
            return None
        return self._open(number)

    def _open(self, number: int) -> Stream:
        credit = self.limits.window if self.is_acknowledged else max(WINDOW, self.limits.window)
        stream = Stream(number, self.peer_window, credit)
        self.streams[number] = stream
        return stream

    def _take_response(self, stream: Stream, block: Block, is_end: bool) -> None:
        head = block.response or response_of(block, self.limits)
        if head.error:
            self._fail_stream(stream, PROTOCOL_ERROR, head.error)
        elif head.status < 200:
            if is_end:
                self._fail_stream(stream, PROTOCOL_ERROR, "an interim response ends the stream")
                return
            self._charge(1.0)
            self.handler.on_interim(stream, head)
        else:
            if head.status in BODILESS:
                stream.forbids_content = True
            self._take_head(stream, head, is_end)

    def _take_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        stream.has_final_head = True
        expected = head.content_length
        joins = self.joins_content and not stream.forbids_content
        if stream.expected == TUNNEL and head.status < 300:
            expected = -1
            joins = False
        stream.expected = expected
        if is_end:
            if (expected >= 0 or stream.forbids_content) and self._contradicts(stream, True):
                self._fail_stream(stream, PROTOCOL_ERROR, "the content is not as long as its head says")
                return
            self._end_received(stream)
        elif joins:
            reader = self._reader
            most = stream.credit if stream.credit < self._credit else self._credit
            content = reader.take_content(stream.id, most, expected, self.is_client)
            if content is not None:
                self.progress += 1
                self._count_taken(len(content))
                if reader.trailers is not None and not self._take_ending(stream, head, content, reader.trailers):
                    return
                stream.content = content
                is_end = True
                self._end_received(stream)
        self.handler.on_head(stream, head, is_end)

    def _take_ending(self, stream: Stream, head: Head, content: bytes, data: bytes) -> bool:
        """Take the trailers of a response that has come whole; False if they are wrong, and all is done."""
        block = self._decoder.decode(data)
        ending = block.trailers or trailers_of(block, self.limits)
        if not ending.error:
            self.progress += 1
            stream.ending = ending
            return True
        stream.received = len(content)
        self.handler.on_head(stream, head, False)
        self.handler.on_data(stream, content, False)
        if block.is_too_large:
            self._charge_large(block, len(data))
        if stream.id in self.streams:
            self._fail_stream(stream, PROTOCOL_ERROR, ending.error)
        return False

    def _take_trailers(self, stream: Stream, block: Block, is_end: bool) -> None:
        head = block.trailers or trailers_of(block, self.limits)
        if not is_end:
            self._fail_stream(stream, PROTOCOL_ERROR, "a second head does not end the stream")
        elif head.error:
            self._fail_stream(stream, PROTOCOL_ERROR, head.error)
        elif self._contradicts(stream, True):
            self._fail_stream(stream, PROTOCOL_ERROR, "the content is not as long as its head says")
        else:
            self._end_received(stream)
            self.handler.on_trailers(stream, head)

    def _end_received(self, stream: Stream) -> None:
        """The peer has ended its side, and its message is whole."""
        stream.state = state = stream.state | RECEIVED_END
        if state == CLOSED:
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        """A stream has run its course, which pays for one that does not."""
        self.streams.pop(stream.id, None)
        if self._resets.level > 0.0:
            self._resets.pay(1.0)
        if self._frames.level > 0.0:
            self._frames.pay(1.0)

    # RST_STREAM, WINDOW_UPDATE, PRIORITY

    def _take_rst_stream(self, reader: FrameReader) -> None:
        number = reader.stream
        if self._is_idle(number):
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._charge(1.0)
            return
        code = reader.number(0)
        stream.move(RESET)
        self._forget_pending(stream)
        self.handler.on_reset(stream, code, f"the peer has reset the stream: {name_of(code)}")
        if not self.is_client:
            self._charge_reset()

    def _fail_stream(self, stream: Stream, code: int, text: str) -> None:
        """Reset a stream for what the peer has sent on it."""
        stream.fault = text
        self.reset(stream, code)
        self.handler.on_reset(stream, code, text)
        self._charge_reset()

    def _take_window_update(self, reader: FrameReader) -> None:
        step = reader.number(0) & MAX_WINDOW
        self._charge(1.0)
        if reader.stream == 0:
            if step == 0:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._window += step
            if self._window > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is too large")
            self._serve_line()
            return
        stream = self.streams.get(reader.stream)
        if stream is None:
            if self._is_idle(reader.stream):
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        stream.window += step
        if step == 0:
            self._fail_stream(stream, PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        elif stream.window > MAX_WINDOW:
            self._fail_stream(stream, FLOW_CONTROL_ERROR, "the stream's window is too large")
        else:
            self._enqueue(stream)
            self._serve_line()

    def _take_priority(self, reader: FrameReader) -> None:
        self._charge(1.0)
        stream = self.streams.get(reader.stream)
        if reader.end - reader.start != 5:
            code, text = FRAME_SIZE_ERROR, "PRIORITY has another length than 5"
        elif reader.number(0) & MAX_WINDOW == reader.stream:
            code, text = PROTOCOL_ERROR, "a stream depends on itself"
        else:
            return
        if stream is None:
            raise ConnectionFault(code, text)
        self._fail_stream(stream, code, text)

    # frames of the connection

    def _take_settings(self, reader: FrameReader) -> None:
        if reader.flags & frames.ACK:
            self.is_acknowledged = True
            self._charge(1.0)
            return
        self._charge(SETTINGS_COST)
        if reader.end - reader.start > 6 * frames.MAX_SETTINGS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many settings")
        for offset in range(0, reader.end - reader.start, 6):
            at = reader.start + offset
            self._set(reader.data[at] << 8 | reader.data[at + 1], reader.number(offset + 2))
        self._reply(frames.SETTINGS_ACK)
        self._serve_line()

    def _set(self, key: int, value: int) -> None:
        """Take one setting of the peer's (RFC 9113 6.5.2)."""
        if key == frames.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif key == frames.ENABLE_PUSH:
            if value > 1 or (self.is_client and value):
                raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is not 0 or 1, or a server's")
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.max_peer_streams = min(value, MAX_STREAMS)
        elif key == frames.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
            step = value - self.peer_window
            self.peer_window = value
            for stream in self.streams.values():
                stream.window += step
                if stream.window > MAX_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE makes a window too large")
                self._enqueue(stream)
        elif key == frames.MAX_FRAME_SIZE:
            if not MAX_FRAME <= value < 1 << 24:
                raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
        elif key == frames.ENABLE_CONNECT_PROTOCOL:
            if value > 1 or (self.allows_connect and not value):
                raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL is not 0 or 1, or taken back")
            self.allows_connect = value == 1

    def _reply(self, answer: bytes) -> None:
        """Answer a frame, unless too many answers wait already."""
        self._out.append(answer)
        if self.is_writing_paused:
            self._unread += 1
            if self._unread > MAX_UNREAD:
                self.fail(ENHANCE_YOUR_CALM, "the peer does not read the answers to its frames")

    def _take_ping(self, reader: FrameReader) -> None:
        self._charge(1.0)
        payload = reader.data[reader.start : reader.end]
        if not reader.flags & frames.ACK:
            self._reply(frames.ping(payload, is_ack=True))
            return
        if payload == DRAIN_PING and self.is_draining:
            self.finish_drain()
        self.handler.on_pong(payload)

    def _take_goaway(self, reader: FrameReader) -> None:
        self._charge(1.0)
        last = reader.number(0) & MAX_WINDOW
        if 0 <= self.goaway < last:
            raise ConnectionFault(PROTOCOL_ERROR, "a second GOAWAY takes more streams than the first")
        self.goaway = last
        code = reader.number(4)
        if self.is_client:
            for stream in [stream for number, stream in self.streams.items() if number > last]:
                self.streams.pop(stream.id, None)
                stream.move(RESET)
                self._forget_pending(stream)
                self.handler.on_reset(stream, REFUSED_STREAM, "the peer goes away and has not seen the request")
        self.handler.on_goaway(last, code)

    # ----- sending

    @property
    def can_open(self) -> bool:
        """True if another stream can be opened now."""
        return (
            self.is_client
            and self.fault is None
            and self.goaway < 0
            and not self.is_draining
            and len(self.streams) < self.max_peer_streams
            and self._next < MAX_WINDOW
        )

    def open(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        lines: bytes,
        is_end: bool,
        sensitive: frozenset[bytes] = frozenset(),
        protocol: bytes = b"",
        request_id: bytes = b"",
        steady: tuple[bytes, bytes] = (b"", b""),
        content: bytes = b"",
    ) -> Stream:
        """Send a request's head on a new stream, and its content if that is given; only if `can_open`.

        `lines` are HTTP/1.1 field lines; those of the connection and Host among them are left out.  `steady` are
        further lines, before and after the request's id and these, which many requests have in common.
        """
        stream = self._open(self._next)
        self._next += 2
        if method == b"HEAD":
            stream.forbids_content = True
        elif protocol:
            stream.expected = TUNNEL
        stream.has_sent_head = True
        block = self._encoder.encode_request(
            method, scheme, authority, path, lines, request_id, steady, sensitive, protocol
        )
        size = len(content)
        if not size:
            self._write_block(stream, block, is_end)
        elif (
            size > MAX_FRAME
            or size > stream.window
            or size > self._window
            or len(block) > MAX_FRAME
            or self._out_size >= MAX_OUTPUT
            or self.is_writing_paused
        ):
            self._write_block(stream, block, False)
            self.send(stream, content, True)
        else:
            number = stream.id
            self._out.append(
                b"".join(
                    (
                        PACK(0, len(block), HEADERS, END_HEADERS, number), block,
                        PACK(0, size, DATA, END_STREAM, number), content,
                    )
                )
            )  # fmt: skip
            self._note_sent(stream, size)
        return stream

    def respond(
        self, stream: Stream, status: int, lines: bytes, is_end: bool, sensitive: frozenset[bytes] = frozenset()
    ) -> None:
        """Send a response's head, an interim one too; nothing if the stream is closed."""
        if stream.state & SENT_END or stream.has_sent_head or self.fault is not None:
            return
        stream.has_sent_head = status >= 200
        self._write_block(stream, self._encoder.encode_response(status, lines, sensitive), is_end and status >= 200)

    def answer(self, stream: Stream, status: int, lines: bytes, content: bytes, trailers: bytes) -> bool:
        """Send a response with content and trailers at once.  Return False, and send nothing, if that is not possible
        now."""
        size = len(content)
        if (
            not 0 < size <= MAX_FRAME
            or size > stream.window
            or size > self._window
            or stream.state & SENT_END
            or stream.has_sent_head
            or self._out_size >= MAX_OUTPUT
            or self.is_writing_paused
            or self.fault is not None
        ):
            return False
        block, ending = self._encoder.encode_answer(status, lines, trailers)
        if len(block) > MAX_FRAME or len(ending) > MAX_FRAME:
            out = [frames.header_frames(stream.id, block, False), frames.frame(DATA, 0, stream.id, content)]
            out.append(frames.header_frames(stream.id, ending, True))
            self._out += out
        else:
            number = stream.id
            self._out.append(
                b"".join(
                    (
                        PACK(0, len(block), HEADERS, END_HEADERS, number), block,
                        PACK(0, size, DATA, 0, number), content,
                        PACK(0, len(ending), HEADERS, LAST_HEADERS, number), ending,
                    )
                )
            )  # fmt: skip
        stream.has_sent_head = True
        self._note_sent(stream, size)
        return True

    def _note_sent(self, stream: Stream, size: int) -> None:
        """Note content that was sent as a whole, and the end of our side."""
        self._window -= size
        self._out_size += size
        if self._frames.level > 0.0:
            self._frames.pay(WORTH)
        stream.state = state = stream.state | SENT_END
        if state == CLOSED:
            self._close(stream)

    def _write_block(self, stream: Stream, block: bytes, is_end: bool) -> None:
        size = len(block)
        if size > MAX_FRAME:
            self._out.append(frames.header_frames(stream.id, block, is_end))
        else:
            flags = frames.END_HEADERS | frames.END_STREAM if is_end else frames.END_HEADERS
            self._out.append(frames.frame_head(frames.HEADERS, flags, stream.id, size))
            self._out.append(block)
        if is_end:
            self._end_sent(stream)

    def send(self, stream: Stream, data: bytes, is_end: bool) -> bool:
        """Send content.  Return False if some of it waits: more should come after `Handler.on_writable` only."""
        if (
            stream.state & SENT_END
            or stream.ends_after_pending
            or stream.trailers is not None
            or self.fault is not None
        ):
            return True
        size = len(data)
        if not size:
            if stream.pending:
                stream.waits = True
                stream.ends_after_pending = is_end
            elif is_end:
                self._write_data(stream, data, True)
            return not stream.pending
        if (
            not stream.pending
            and size <= MAX_FRAME
            and size <= stream.window
            and size <= self._window
            and self._out_size < MAX_OUTPUT
            and not self.is_writing_paused
        ):
            self._write_data(stream, data, is_end)
            return True
        for at in range(0, size, PIECE):  # or each frame would copy all that is left
            add_piece(stream.pending, data[at : at + PIECE])
        stream.unsent += size
        self.unsent += size
        stream.ends_after_pending = is_end
        self._enqueue(stream)
        self._serve_line()
        if stream.pending:
            stream.waits = True
        return not stream.pending

    def send_trailers(self, stream: Stream, lines: bytes, sensitive: frozenset[bytes] = NOTHING) -> None:
        """Send trailers, HTTP/1.1 field lines, after all content; they end the stream.

        Those whose lower-case names are `sensitive` go out as never indexed.
        """
        if (
            stream.state & SENT_END
            or stream.ends_after_pending
            or stream.trailers is not None
            or self.fault is not None
        ):
            return
        if stream.pending:
            stream.waits = True
            stream.trailers = lines
            stream.marks = sensitive
        elif lines:
            self._write_block(stream, self._encoder.encode_trailers(lines, sensitive), True)
        else:
            self._write_data(stream, b"", True)

    def _write_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        size = len(data)
        stream.window -= size
        self._window -= size
        self._out_size += size
        self._out.append(frames.frame_head(frames.DATA, frames.END_STREAM if is_end else 0, stream.id, size))
        if size:
            self._out.append(data)
            if self._frames.level > 0.0 and (size >= USEFUL or not stream.pending):
                self._frames.pay(WORTH)
        if is_end:
            self._end_sent(stream)

    def _end_sent(self, stream: Stream) -> None:
        stream.state = state = stream.state | SENT_END
        if state == CLOSED:
            self._close(stream)

    def _enqueue(self, stream: Stream) -> None:
        """Put a stream that can go on into the line."""
        if stream.has_pending and not stream.is_queued and stream.window > 0:
            stream.is_queued = True
            self._line.append(stream)

    def _serve_line(self) -> None:
        """Send what the windows and the transport allow, a frame of each stream in turn."""
        line = self._line
        while line and self._window > 0 and self._out_size < MAX_OUTPUT and not self.is_writing_paused:
            stream = line.pop(0)
            stream.is_queued = False
            if not stream.has_pending:
                continue
            self._send_pending(stream)
            if stream.has_pending:
                self._enqueue(stream)
            elif stream.waits:
                stream.waits = False
                self.handler.on_writable(stream)

    def _send_pending(self, stream: Stream) -> None:
        """Send the next frame of what waits on a stream, and its trailers behind the last."""
        pending = stream.pending
        room = min(stream.window, self._window, MAX_FRAME)
        piece = pending[0]
        if len(piece) <= room:
            del pending[0]
        else:
            pending[0] = piece[room:]
            piece = piece[:room]
        stream.unsent -= len(piece)
        self.unsent -= len(piece)
        self._write_data(stream, piece, stream.ends_after_pending and not pending)
        lines = stream.trailers
        if lines is not None and not pending:
            stream.trailers = None
            self.send_trailers(stream, lines, stream.marks)

    def _forget_pending(self, stream: Stream) -> None:
        """Drop what waits on a stream that is reset, in both directions."""
        self.unsent -= stream.unsent
        stream.unsent = 0
        stream.held = None  # what has not been delivered is not wanted
        stream.pending.clear()
        stream.trailers = None
        stream.waits = False

    def dismiss(self, stream: Stream, code: int) -> None:
        """Reset a stream for what its peer does not do in time, which counts like a reset of the peer's."""
        if stream.id in self.streams:
            self.reset(stream, code)
            try:
                self._charge_reset()
            except ConnectionFault as fault:
                self.fail(fault.code, fault.text)

    def reset(self, stream: Stream, code: int) -> None:
        """Send RST_STREAM; nothing if the stream is closed."""
        if self.streams.pop(stream.id, None) is None:
            return
        stream.move(RESET)
        self._forget_pending(stream)
        self._write_reset(stream.id, code)

    def _write_reset(self, number: int, code: int) -> None:
        known = self._reset_ids
        known[number] = None
        if len(known) > REMEMBERED_RESETS:
            del known[next(iter(known))]
        self._reply(frames.rst_stream(number, code))

    def stop(self, stream: Stream) -> None:
        """Tell a client whose request is not whole that its answer is (RFC 9113 8.1)."""
        if stream.can_receive:
            self.reset(stream, NO_ERROR)

    def pause(self, stream: Stream) -> None:
        """Give the peer no window on a stream, because nobody takes what arrives."""
        stream.paused = True

    def resume(self, stream: Stream) -> None:
        """Give it back."""
        if stream.paused:
            stream.paused = False
            if stream.can_receive:
                self._give_back(stream, 0)

    def pause_writing(self) -> None:
        """The transport is full: content waits here."""
        self.is_writing_paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.is_writing_paused = False
        self._unread = 0
        self._serve_line()

    def ping(self, payload: bytes) -> None:
        """Send a PING of 8 bytes."""
        self._out.append(frames.ping(payload))

    def drain(self) -> None:
        """Announce that the connection ends; streams that are under way to us are still taken (RFC 9113 6.8).

        `finish_drain` follows when the peer answers the PING, or when the owner does not wait any longer.
        """
        if self.is_draining or self.fault is not None:
            return
        self.is_draining = True
        if not self.is_client:
            self._out.append(frames.goaway(FIRST_GOAWAY, NO_ERROR))
            self._out.append(frames.ping(DRAIN_PING))

    def finish_drain(self) -> None:
        """Take no streams but those that have begun."""
        if self.fault is None and self.last_accepted == MAX_WINDOW:
            self.is_draining = True
            self.last_accepted = self._highest
            self._out.append(frames.goaway(self._highest, NO_ERROR))

    @property
    def is_done(self) -> bool:
        """True if no stream is open and none can follow: the connection can be closed."""
        if self.streams:
            return False
        if self.is_client:
            return self.is_draining or self.goaway >= 0
        return self.last_accepted != MAX_WINDOW

    def take_output(self) -> bytes:
        """Return the bytes to send.  Call it until there are none."""
        out = self._out
        if not out:
            return b""
        self._out = []
        was_full, self._out_size = self._out_size >= MAX_OUTPUT, 0
        if was_full:
            self._serve_line()
        return out[0] if len(out) == 1 else b"".join(out)
