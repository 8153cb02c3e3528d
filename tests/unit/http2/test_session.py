"""Sessions: flow control, settings, going away, and heads as the rest of the proxy wants them."""

from __future__ import annotations

import pytest

from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import DRAIN_PING, FIRST_GOAWAY, Session
from sidecar.http2.stream import CLOSED, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, OPEN
from tests.support.cases import each
from tests.unit.http2.peer import GET, OK, POST, Frame, Peer, Recorder, data, headers, setting, split


def content(sent: list[Frame], stream: int = 1) -> bytes:
    return b"".join(frame.payload for frame in sent if frame.kind == f.DATA and frame.stream == stream)


def request(peer: Peer, pairs: list[tuple[bytes, bytes]] = GET, end: bool = True) -> Head:
    peer.feed(headers(1, pairs, end))
    kind, _, head, _ = peer.events[-1]
    assert kind == "head"
    return head


# ----- heads


def test_a_head_is_http1_lines_with_its_host_first() -> None:
    head = request(Peer(), [*GET, (b"accept", b"*/*"), (b"x-a", b"\xe4 b")])
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"http", b"a.test", b"/")
    assert head.lines == b"host: a.test\r\naccept: */*\r\nx-a: \xe4 b\r\n"


def test_cookies_in_pieces_are_one_line() -> None:
    pieces = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"")]
    head = request(Peer(), [*GET, *pieces])
    assert head.lines == b"host: a.test\r\nx: y\r\ncookie: a=1; b=2\r\n"


def test_a_head_that_comes_again_is_the_same_object() -> None:
    peer = Peer()
    peer.feed(headers(1, GET), headers(3, GET), headers(5, [*GET, (b"x", b"y")]))
    heads = [event[2] for event in peer.events]
    assert heads[0] is heads[1]
    assert heads[0] is not heads[2]


@each(
    [
        ("a head that is too large", [(b"x%d" % n, b"v" * 1000) for n in range(70)], 431),
        ("too many fields", [(b"x", b"y")] * 256, 431),
        ("crumbled cookies", [(b"cookie", b"")] * 300, 431),
        ("too many members", [(b"x", b"," * 1025)], 431),
    ]
)
def test_what_is_too_much_is_answered(case: tuple) -> None:
    _, fields, status = case
    head = request(Peer(), [*GET, *fields])
    assert head.refusal is not None
    assert head.refusal.status == status


@each([(b"/" * 1026, 414), (b"/?" + b"&" * 512, 414)])
def test_targets_with_too_many_parts_are_answered(case: tuple[bytes, int]) -> None:
    head = request(Peer(), [*GET[:3], (b":path", case[0])])
    assert head.refusal is not None
    assert head.refusal.status == case[1]


def test_connect_is_refused_with_its_status() -> None:
    head = request(Peer(), [(b":method", b"CONNECT"), GET[2]])
    assert head.refusal is not None
    assert head.refusal.status == 501


def test_an_extended_connect() -> None:
    peer = Peer(limits=Limits(allows_connect=True))
    assert b"\x00\x08\x00\x00\x00\x01" in peer.first
    head = request(peer, [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")], end=False)
    assert head.protocol == b"websocket"
    assert head.refusal is None


def test_a_client_uses_extended_connect_once_it_is_offered() -> None:
    client = Peer(is_client=True, settings=setting(f.ENABLE_CONNECT_PROTOCOL, 1))
    assert client.session.allows_connect
    client.session.open(b"CONNECT", b"http", b"a.test", b"/", b"", False, protocol=b"websocket")
    (head,) = client.sent()
    assert (b":protocol", b"websocket") in client.fields(head)


# ----- exchanges


def test_an_exchange_of_a_server() -> None:
    peer = Peer()
    request(peer, POST, end=False)
    stream = peer.handler.streams[1]
    assert stream.state == OPEN
    peer.feed(data(1, b"ping"), headers(1, [(b"x-sum", b"1")]))
    assert peer.events[1:] == [("data", 1, b"ping", False), ("trailers", 1, b"x-sum: 1\r\n")]
    assert stream.state == HALF_CLOSED_REMOTE
    peer.session.respond(stream, 103, b"link: x\r\n", False)
    peer.session.respond(stream, 200, b"Server: y\r\n", False)
    assert peer.session.send(stream, b"pong", False)
    peer.session.send_trailers(stream, b"grpc-status: 0\r\n")
    early, head, body, trailers = peer.sent()
    assert peer.fields(early) == [(b":status", b"103"), (b"link", b"x")]
    assert peer.fields(head) == [(b":status", b"200"), (b"server", b"y")]
    assert body == (f.DATA, 0, 1, b"pong")
    assert peer.fields(trailers) == [(b"grpc-status", b"0")]
    assert trailers.flags == f.END_STREAM | f.END_HEADERS
    assert stream.state == CLOSED
    assert not peer.session.streams


def test_an_exchange_of_a_client() -> None:
    peer = Peer(is_client=True)
    stream = peer.open(b"POST", b"content-type: x\r\n", end=False)
    assert peer.session.send(stream, b"ping", True)
    assert stream.state == HALF_CLOSED_LOCAL
    head, body = peer.sent()
    assert dict(peer.fields(head))[b":authority"] == b"a.test"
    assert body == (f.DATA, f.END_STREAM, 1, b"ping")
    peer.feed(headers(1, OK, end=False), data(1, b"pong", True))
    assert peer.handler.kinds() == ["head", "data"]
    assert peer.events[-1][3]
    assert stream.state == CLOSED


def test_a_head_request_has_no_content() -> None:
    peer = Peer(is_client=True)
    peer.open(b"HEAD")
    peer.open(b"HEAD")
    peer.sent()
    fields = [*OK, (b"content-length", b"5")]
    (reset,) = peer.feed(headers(1, fields), headers(3, fields, end=False), data(3, b"12345", True))
    assert peer.handler.kinds() == ["head", "head", "reset"]
    assert reset.code == e.PROTOCOL_ERROR


def test_nothing_is_sent_on_a_stream_that_is_closed() -> None:
    peer = Peer()
    request(peer)
    stream = peer.handler.streams[1]
    peer.feed(f.rst_stream(1, e.CANCEL))
    peer.session.respond(stream, 200, b"", False)
    peer.session.send(stream, b"x", False)
    peer.session.send_trailers(stream, b"a: b\r\n")
    peer.session.reset(stream, e.CANCEL)
    assert peer.sent() == []


def test_a_final_head_is_sent_once() -> None:
    peer = Peer()
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    peer.session.respond(stream, 500, b"", True)
    assert len(peer.sent()) == 1


def test_an_answer_before_the_end_of_the_request_stops_the_upload() -> None:
    peer = Peer()
    request(peer, POST, end=False)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 413, b"", True)
    peer.session.stop(stream)
    head, reset = peer.sent()
    assert head.flags & f.END_STREAM
    assert (reset.kind, reset.code) == (f.RST_STREAM, e.NO_ERROR)
    assert peer.feed(data(1, b"late"), headers(1, [(b"x", b"y")]), headers(3, GET)) == []
    assert peer.handler.kinds() == ["head", "head"]


def test_a_reset_after_the_whole_answer_says_so() -> None:
    """The answer counts (RFC 9113 8.1), which the owner sees by the stream's messages."""
    peer = Peer(is_client=True)
    peer.open(b"POST", end=False)
    peer.feed(headers(1, OK, end=False), data(1, b"x", True), f.rst_stream(1, e.NO_ERROR))
    assert peer.handler.kinds() == ["head", "data", "reset"]
    assert peer.events[-1] == ("reset", 1, e.NO_ERROR)


def test_long_heads_are_continued() -> None:
    peer = Peer(is_client=True)
    peer.open(lines=b"".join(b"x-%d: %s\r\n" % (n, b"v" * 1000) for n in range(40)))
    sent = peer.sent()
    assert [frame.kind for frame in sent] == [f.HEADERS, f.CONTINUATION, f.CONTINUATION]
    assert [frame.flags for frame in sent] == [f.END_STREAM, 0, f.END_HEADERS]
    whole = Frame(f.HEADERS, 0, 1, b"".join(frame.payload for frame in sent))
    assert len(peer.fields(whole)) == 44


# ----- what we send waits for the peer's windows


def test_content_waits_for_the_streams_window() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 10))
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    assert not peer.session.send(stream, b"0123456789abcdef", False)
    peer.session.send(stream, b"", True)
    assert content(peer.sent()) == b"0123456789"
    assert content(peer.feed(f.window_update(1, 3))) == b"abc"
    assert stream.can_send
    (last,) = peer.feed(f.window_update(1, 3))
    assert last == (f.DATA, f.END_STREAM, 1, b"def")
    assert not peer.session.streams


def test_an_end_needs_no_window() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 3))
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    assert peer.session.send(stream, b"abc", False)
    peer.sent()
    assert peer.session.send(stream, b"", True)
    assert peer.sent() == [(f.DATA, f.END_STREAM, 1, b"")]


def test_trailers_wait_behind_the_content_and_are_encoded_when_they_are_sent() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 2))
    peer.feed(headers(1, GET), headers(3, GET))
    one, three = peer.handler.streams[1], peer.handler.streams[3]
    peer.session.respond(one, 200, b"", False)
    peer.session.send(one, b"abc", False)
    peer.session.send_trailers(one, b"x-late: 1\r\n")
    peer.session.respond(three, 200, b"x-early: 1\r\n", True)
    sent = peer.sent() + peer.feed(f.window_update(1, 9))
    blocks = [peer.fields(frame)[-1][0] for frame in sent if frame.kind == f.HEADERS]
    assert blocks == [b":status", b"x-early", b"x-late"]


def test_trailers_that_wait_keep_their_marks() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 2))
    peer.feed(headers(1, GET), headers(3, GET))
    for number, content in ((1, b"abc"), (3, b"")):
        stream = peer.handler.streams[number]
        peer.session.respond(stream, 200, b"", False)
        peer.session.send(stream, content, False)
        peer.session.send_trailers(stream, b"x-late: 1\r\n", frozenset((b"x-late",)))
    sent = peer.sent() + peer.feed(f.window_update(1, 9))
    blocks = [frame.payload for frame in sent if frame.kind == f.HEADERS and frame.flags & f.END_STREAM]
    assert blocks == [b"\x10\x06x-late\x011"] * 2


def test_the_owner_is_told_when_all_is_sent() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 2))
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    assert not peer.session.send(stream, b"abcd", False)
    peer.feed(f.window_update(1, 1))
    assert peer.handler.kinds() == ["head"]
    peer.feed(f.window_update(1, 1))
    assert peer.handler.kinds() == ["head", "writable"]
    assert peer.session.unsent == 0


def test_streams_take_turns_at_the_connections_window() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 1 << 20))
    peer.feed(*(headers(number, GET) for number in (1, 3, 5)))
    for number in (1, 3, 5):
        stream = peer.handler.streams[number]
        peer.session.respond(stream, 200, b"", False)
        peer.session.send(stream, b"x" * 200_000, True)
    assert sum(len(frame.payload) for frame in peer.sent() if frame.kind == f.DATA) == 65535
    turns = [frame.stream for frame in peer.feed(f.window_update(0, 6 * 16384))]
    assert set(turns[:3]) == set(turns[3:6]) == {1, 3, 5}


def test_a_new_initial_window_holds_for_open_streams_and_may_be_negative() -> None:
    peer = Peer()
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    peer.session.send(stream, b"x" * 100, False)
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 0))
    assert stream.window == -100
    assert not peer.session.send(stream, b"y", False)
    assert content(peer.feed(f.window_update(1, 100))) == b""
    assert content(peer.feed(f.window_update(1, 1))) == b"y"


def test_nothing_but_control_is_sent_while_the_transport_is_full() -> None:
    peer = Peer()
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    peer.session.pause_writing()
    assert not peer.session.send(stream, b"x", False)
    assert content(peer.feed(f.window_update(1, 5))) == b""
    peer.session.resume_writing()
    assert content(peer.sent()) == b"x"
    assert peer.handler.kinds() == ["head", "writable"]


def test_a_reset_forgets_what_waits() -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 0))
    request(peer)
    stream = peer.handler.streams[1]
    peer.session.send(stream, b"x" * 1000, False)
    peer.feed(f.rst_stream(1, e.CANCEL))
    assert peer.session.unsent == 0
    assert not stream.pending


# ----- what the peer sends waits for ours


def test_windows_are_given_back_as_content_is_taken() -> None:
    peer = Peer()
    request(peer, POST, end=False)
    updates = [frame for _ in range(100) for frame in peer.feed(data(1, b"x" * 16384))]
    assert peer.session.fault is None
    given = sum(int.from_bytes(frame.payload, "big") for frame in updates if frame.stream == 1)
    assert 100 * 16384 - 65535 <= given <= 100 * 16384


def test_a_paused_stream_holds_one_window_and_no_other_stream() -> None:
    peer = Peer()
    peer.feed(headers(1, POST, end=False), headers(3, POST, end=False))
    peer.session.pause(peer.handler.streams[1])
    sent = peer.feed(*(data(1, b"x" * 16383) for _ in range(4)))
    assert [frame for frame in sent if frame.stream == 1] == []
    for _ in range(100):
        peer.feed(data(3, b"x" * 16384))
    assert peer.session.fault is None
    peer.session.resume(peer.handler.streams[1])
    (update,) = peer.sent()
    assert (update.stream, int.from_bytes(update.payload, "big")) == (1, 4 * 16383)


def test_more_than_a_streams_window_resets_it() -> None:
    peer = Peer()
    request(peer, POST, end=False)
    peer.session.pause(peer.handler.streams[1])
    sent = peer.feed(*(data(1, b"x" * 16384) for _ in range(4)))
    assert [frame.code for frame in sent if frame.kind == f.RST_STREAM] == [e.FLOW_CONTROL_ERROR]


def test_more_than_the_connections_window_ends_it() -> None:
    peer = Peer(limits=Limits(connection_window=65535, window=1 << 20))
    peer.session._credit = 100  # type: ignore[attr-defined]
    request(peer, POST, end=False)
    peer.feed(data(1, b"x" * 101))
    assert peer.session.fault is not None
    assert peer.session.fault.code == e.FLOW_CONTROL_ERROR


def test_padding_counts_for_windows() -> None:
    peer = Peer()
    request(peer, POST, end=False)
    peer.feed(f.frame(f.DATA, f.PADDED, 1, b"\x09" + b"x" + bytes(9)))
    stream = peer.handler.streams[1]
    assert stream.credit + stream.taken == 65535
    assert stream.taken == 11


# ----- the connection


def test_settings_and_pings_are_answered() -> None:
    peer = Peer()
    assert peer.feed(setting(0x99, 1), f.ping(b"12345678")) == [
        (f.SETTINGS, f.ACK, 0, b""),
        (f.PING, f.ACK, 0, b"12345678"),
    ]


def test_more_streams_than_allowed_are_refused() -> None:
    peer = Peer(limits=Limits(max_streams=2))
    (reset,) = peer.feed(*(headers(number, GET) for number in (1, 3, 5)))
    assert (reset.stream, reset.code) == (5, e.REFUSED_STREAM)


def test_a_client_opens_no_more_streams_than_the_server_takes() -> None:
    peer = Peer(is_client=True, settings=setting(f.MAX_CONCURRENT_STREAMS, 1))
    assert peer.session.can_open
    peer.open()
    assert not peer.session.can_open
    peer.feed(headers(1, OK))
    assert peer.session.can_open


def test_a_drain_takes_what_is_under_way_in_two_steps() -> None:
    peer = Peer()
    request(peer)
    peer.session.drain()
    first, ping = peer.sent()
    assert int.from_bytes(first.payload[:4], "big") == FIRST_GOAWAY
    peer.feed(headers(3, GET))
    assert len(peer.session.streams) == 2
    (second,) = peer.feed(f.ping(ping.payload, is_ack=True))
    assert ping.payload == DRAIN_PING
    assert (int.from_bytes(second.payload[:4], "big"), second.code) == (3, e.NO_ERROR)
    assert peer.feed(headers(5, GET)) == []
    assert 5 not in peer.session.streams
    assert not peer.session.is_done
    for number in (1, 3):
        peer.session.respond(peer.handler.streams[number], 200, b"", True)
    assert peer.session.is_done


def test_a_client_that_is_told_of_the_end_opens_nothing_and_repeats_what_was_not_seen() -> None:
    peer = Peer(is_client=True)
    peer.open()
    peer.open()
    peer.feed(f.goaway(FIRST_GOAWAY, 0))
    assert not peer.session.can_open
    peer.feed(f.goaway(1, 0))
    assert ("reset", 3, e.REFUSED_STREAM) in peer.events
    assert not peer.session.is_done
    peer.feed(headers(1, OK))
    assert peer.session.is_done


def test_the_fault_is_told_to_the_peer() -> None:
    peer = Peer()
    request(peer)
    (goaway,) = peer.feed(data(0, b"x"))
    assert goaway.payload == b"\x00\x00\x00\x01\x00\x00\x00\x01DATA on stream 0"
    assert peer.feed(headers(3, GET)) == []


def test_announced_settings() -> None:
    first = split(Peer(limits=Limits(max_streams=7, window=1000)).first)
    text = first[0].payload
    values = [text[at : at + 6] for at in range(0, len(text), 6)]
    found = {int.from_bytes(value[:2], "big"): int.from_bytes(value[2:], "big") for value in values}
    assert found[f.MAX_CONCURRENT_STREAMS] == 7
    assert found[f.INITIAL_WINDOW_SIZE] == 1000
    assert found[f.NO_RFC7540_PRIORITIES] == 1
    client = Peer(is_client=True).first
    assert client.startswith(f.PREFACE)
    assert b"\x00\x02\x00\x00\x00\x00" in client


def test_content_that_is_whole_in_one_read_comes_with_its_head() -> None:
    peer = Peer()
    peer.session.joins_content = True

    peer.feed(headers(1, POST, end=False), data(1, b"hi", end=True))

    assert peer.handler.kinds() == ["head"]
    assert peer.handler.events[0][3]
    assert peer.handler.streams[1].content == b"hi"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "rest", "kinds"),
    [
        (POST, [data(1, b"hi")], ["head", "data"]),
        (POST, [data(1, b"hi"), data(1, b"", end=True)], ["head", "data"]),
        ([*POST, (b"content-length", b"3")], [data(1, b"hi", end=True)], ["head", "reset"]),
        ([*POST, (b"content-length", b"1")], [data(1, b"hi", end=True)], ["head", "reset"]),
        (POST, [data(1, b"hi", end=True)[:-1]], ["head"]),
        (POST, [f.frame(f.DATA, f.END_STREAM | f.PADDED, 1, b"\x01hi\x00")], ["head", "data"]),
    ],
)
def test_other_content_comes_by_itself(fields: list[tuple[bytes, bytes]], rest: list[bytes], kinds: list[str]) -> None:
    peer = Peer()
    peer.session.joins_content = True

    peer.feed(headers(1, fields, end=False), *rest)

    assert peer.handler.kinds() == kinds
    assert peer.handler.streams[1].content is None  # type: ignore[attr-defined]


# ----- small frames


def small(session: Session, recorder: Recorder, *pieces: bytes) -> list[tuple]:
    """Return what the handler of a server with the streams 1 and 3 is told of one read."""
    recorder.events.clear()
    session.receive(b"".join(pieces), 0.0)
    return recorder.events


def with_two_streams() -> tuple[Session, Recorder]:
    recorder = Recorder()
    session = Session(recorder, Limits(), False)
    begin = f.PREFACE + f.settings([]) + f.SETTINGS_ACK
    session.receive(begin + headers(1, POST, False) + headers(3, POST, False), 0.0)
    return session, recorder


def test_small_frames_of_one_read_are_one_piece_of_each_stream() -> None:
    session, recorder = with_two_streams()
    one, three = data(1, b"a"), data(3, b"b")
    assert small(session, recorder, (one + three) * 5000) == [
        ("data", 1, b"a" * 5000, False), ("data", 3, b"b" * 5000, False),
    ]  # fmt: skip
    assert small(session, recorder, one) == [("data", 1, b"a", False)], "nothing is held over a read"
    assert small(session, recorder, one, data(1, b"c" * 1000), one) == [("data", 1, b"a" + b"c" * 1000 + b"a", False)]
    assert small(session, recorder, one, three, data(1, b"", True)) == [
        ("data", 1, b"a", True), ("data", 3, b"b", False),
    ]  # fmt: skip


def test_small_frames_come_before_what_follows_them() -> None:
    session, recorder = with_two_streams()
    events = small(
        session, recorder, data(1, b"a"), f.rst_stream(1, e.CANCEL), data(3, b"b"), headers(3, [(b"x", b"1")])
    )
    assert [event[:3] for event in events][:2] == [("data", 1, b"a"), ("reset", 1, e.CANCEL)]
    assert [event[0] for event in events[2:]] == ["data", "trailers"]
    session, recorder = with_two_streams()
    events = small(session, recorder, data(1, b"a"), data(5, b"x"))
    assert events[0] == ("data", 1, b"a", False)
    assert session.has_failed


def test_small_frames_come_before_the_frame_that_is_too_much() -> None:
    session, recorder = with_two_streams()
    session.receive(headers(5, [*POST, (b"content-length", b"2")], False), 0.0)
    events = small(session, recorder, data(5, b"a"), data(5, b"b"), data(5, b"c"), data(1, b"d"))
    assert [event[:3] for event in events] == [("data", 5, b"ab"), ("reset", 5, e.PROTOCOL_ERROR), ("data", 1, b"d")]


def test_a_stream_that_its_owner_resets_delivers_nothing_more() -> None:
    session, recorder = with_two_streams()

    class Resetting(Recorder):
        def on_data(self, stream: object, data: bytes, is_end: bool) -> None:
            super().on_data(stream, data, is_end)
            session.reset(session.streams[3], e.CANCEL)

    session.handler = handler = Resetting()
    assert small(session, handler, data(1, b"a"), data(3, b"b")) == [("data", 1, b"a", False)]
    assert recorder.kinds() == ["head", "head"]
