"""Pool of streams: few connections, shared openers, bounded queue, and what a connection's end means for it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.core import metrics
from sidecar.core.outcome import CLIENT_TIMEOUT, CONNECT_FAILURE, CONNECT_TIMEOUT, NO_ENDPOINT, OVERLOADED, RESET
from sidecar.core.promise import Run
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.simulation.transport import MemoryTransport
from sidecar.upstream.client import Upstream
from sidecar.upstream.http2.pool import HTTP1_SECONDS, StreamPool
from sidecar.upstream.pool import Pool
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store
from tests.support.transports import TransportPair, Wire
from tests.unit.upstream.back import OK, get, outcome_of, start, upload
from tests.unit.upstream.http2.back import StreamBack

FEW = 2


def few(streams: int = FEW) -> Limits:
    return Limits(max_streams=streams, frame_burst=1e9, reset_burst=1e9)


@virtual
async def test_another_connection_only_when_all_are_full() -> None:
    back = StreamBack(few())
    upstream = back.upstream()
    runs = [start(upstream, get())]
    await settle()
    runs.append(start(upstream, get()))
    await settle()
    assert len(back.servers) == 1
    runs.append(start(upstream, get()))
    await settle()
    assert [len(server.asked) for server in back.servers] == [2, 1]
    back.servers[0].answer(back.servers[0].asked[0])
    await settle()
    runs.append(start(upstream, get()))
    await settle()
    assert [len(server.asked) for server in back.servers] == [3, 1], "a free stream is used first"
    for server in back.servers:
        for stream in server.asked:
            server.answer(stream)
    await settle()
    assert [outcome_of(run).status for run in runs] == [200] * 4


@virtual
async def test_a_connection_carries_at_most_100_streams() -> None:
    back = StreamBack(few(1000))
    upstream = back.upstream()
    for _ in range(120):
        start(upstream, get())
    await settle(20)
    assert [len(server.asked) for server in back.servers] == [100, 20]


@virtual
async def test_openers_are_coalesced() -> None:
    back = StreamBack()
    gate = asyncio.Event()
    back.connecting = gate.wait
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(250)]
    await settle()
    assert back.pool.count("opening") == 3, "as many as their streams need"
    gate.set()
    await settle(20)
    assert len(back.servers) == 3
    for server in back.servers:
        for stream in server.asked:
            server.answer(stream)
    await settle(20)
    assert {outcome_of(run).status for run in runs} == {200}


@virtual
async def test_a_stream_waits_for_the_peers_settings() -> None:
    back = StreamBack(few(1))
    gate = asyncio.Event()
    back.connecting = gate.wait
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    gate.set()
    await settle(20)
    assert [len(server.asked) for server in back.servers] == [1, 1, 1], "none was refused"
    assert not any(server.resets for server in back.servers)
    for server in back.servers:
        server.answer(server.asked[0])
    await settle()
    assert {outcome_of(run).status for run in runs} == {200}


@virtual
async def test_the_failure_to_open_goes_to_all_that_share_it() -> None:
    back = StreamBack()

    async def refuse() -> None:
        raise ConnectionRefusedError(111, "refused")

    back.connecting = refuse
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(5)]
    await settle()
    assert {outcome_of(run).failure for run in runs} == {CONNECT_FAILURE}
    assert "connection refused" in outcome_of(runs[0]).cause
    assert back.pool.size == 0
    assert not back.pool.deadlines.entries


@virtual
async def test_a_connection_that_takes_too_long() -> None:
    back = StreamBack(connect_timeout="1s")
    back.connecting = asyncio.Event().wait
    upstream = back.upstream()
    run = start(upstream, get())
    await asyncio.sleep(1.1)
    assert outcome_of(run).failure is CONNECT_TIMEOUT
    assert back.pool.size == 0


@pytest.mark.parametrize("selected", ["h2", "http/1.1"])
@virtual
async def test_a_connection_made_at_the_very_end_of_the_time_for_connecting_is_not_used(
    selected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop may report neither the connection to the task that waits for it nor its end to its protocol."""
    now, write = asyncio.get_running_loop().time, MemoryTransport.write
    ends = [0.0]

    def write_in_time(transport: MemoryTransport, data: bytes) -> None:
        if now() >= ends[-1]:  # like uvloop's, once the socket is closed
            raise RuntimeError("unable to perform operation; the handler is closed")
        write(transport, data)

    monkeypatch.setattr(MemoryTransport, "abort", lambda transport: None)
    monkeypatch.setattr(MemoryTransport, "write", write_in_time)
    back = StreamBack(url="https://test:443", connect_timeout="1s")
    back.selected = selected
    upstream = back.upstream()
    connect = back.pool.connect

    async def connect_too_late(protocol) -> None:
        await connect(protocol)
        await asyncio.Event().wait()

    back.pool.connect = connect_too_late
    for _ in range(2):
        ends.append(now() + 1)
        run = start(upstream, get())
        await asyncio.sleep(1.1)
        assert outcome_of(run).failure is CONNECT_TIMEOUT
        assert back.pool.size == 0
        assert back.pool.opening == 0


@virtual
async def test_settings_that_do_not_come() -> None:
    back = StreamBack(connect_timeout="1s")
    upstream = back.upstream()
    peer = Wire()

    async def connect(protocol) -> None:
        TransportPair(protocol(), peer)

    back.pool.connect = connect
    run = start(upstream, get())
    await asyncio.sleep(1.1)
    assert outcome_of(run).failure is CONNECT_TIMEOUT
    assert peer.is_lost
    assert b"GET" not in peer.received
    assert back.pool.size == 0


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers in HTTP/1.1, not in HTTP/2; set protocol: http1"),
        (b"220 mail.test ESMTP\r\n", "does not speak HTTP/2"),
        (f.ping(b"12345678"), "does not speak HTTP/2: PROTOCOL_ERROR: the first frame is not SETTINGS"),
        (b"", "closed before its settings arrived"),
    ],
)
@virtual
async def test_a_peer_that_does_not_speak_http2(said: bytes, cause: str) -> None:
    back = StreamBack()
    upstream = back.upstream()
    peer = Wire()

    async def connect(protocol) -> None:
        TransportPair(protocol(), peer)
        peer.write(said) if said else peer.transport.close()

    back.pool.connect = connect
    run = start(upstream, get(b"POST"))
    await settle(20)
    outcome = outcome_of(run)
    assert outcome.failure is CONNECT_FAILURE
    assert outcome.cause.startswith(f"http://test:80: {cause}")
    assert peer.is_lost
    assert back.pool.size == 0


@virtual
async def test_requests_wait_for_a_stream() -> None:
    back = StreamBack(few(1), connections={"max": 1})
    upstream = back.upstream()
    one, two = start(upstream, get()), start(upstream, get())
    await settle()
    (stream,) = back.server.asked
    assert back.pool.describe()["waiting"] == 1
    back.server.answer(stream, b"1")
    await settle()
    back.server.answer(back.server.asked[1], b"2")
    await settle()
    assert [outcome_of(run).body for run in (one, two)] == [b"1", b"2"]
    assert len(back.servers) == 1


@virtual
async def test_the_queue_is_bounded() -> None:
    back = StreamBack(few(1), connections={"max": 1}, connect_timeout="1s")
    upstream = back.upstream()
    back.pool.min_queue = 3
    runs = [start(upstream, get())]
    await settle()
    runs += [start(upstream, get()) for _ in range(4)]
    outcome = outcome_of(runs[4])
    assert outcome.failure is OVERLOADED
    assert outcome.refusal.policy == "connections"
    await asyncio.sleep(1.1)
    assert [outcome_of(run).failure for run in runs[1:4]] == [OVERLOADED] * 3, "without blame for the upstream"
    assert upstream.endpoints.members[0].failures == 0


@virtual
async def test_a_request_that_leaves_the_queue() -> None:
    back = StreamBack(few(1), connections={"max": 1})
    upstream = back.upstream()
    one, two, three = (start(upstream, get()) for _ in range(3))
    await settle()
    two.cancel()
    back.server.answer(back.server.asked[0])
    await settle()
    back.server.answer(back.server.asked[1])
    await settle()
    assert outcome_of(one).status == outcome_of(three).status == 200
    assert len(back.server.asked) == 2


@virtual
async def test_an_idle_connection_is_closed() -> None:
    back = StreamBack(connections={"idle_timeout": "10s"})
    upstream = back.upstream()
    await whole(back, start(upstream, get()))
    await asyncio.sleep(9)
    assert back.pool.count("idle") == 1
    await whole(back, start(upstream, get()))
    await asyncio.sleep(15)
    run = start(upstream, get())
    await asyncio.sleep(60)
    assert back.pool.count("active") == 1, "an active one is not"
    back.server.answer(back.server.asked[-1])
    await settle()
    assert outcome_of(run).status == 200
    await asyncio.sleep(25)
    assert back.pool.size == 0
    assert back.server.is_eof


async def whole(back: StreamBack, run: Run) -> None:
    await settle()
    back.server.answer(back.server.asked[-1])
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_connection_of_max_requests_is_replaced() -> None:
    back = StreamBack(connections={"max_requests": 2})
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    await settle(20)
    assert [len(server.asked) for server in back.servers] == [2, 1]
    for server in list(back.servers):
        for stream in server.asked:
            server.answer(stream)
    await settle()
    assert {outcome_of(run).status for run in runs} == {200}
    assert back.servers[0].is_eof
    assert back.pool.count("idle") == 1


@virtual
async def test_retired_pools_end_after_their_exchanges() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get())
    await settle()
    upstream.pools.retire()
    await settle()
    assert not back.server.is_eof
    await whole(back, run)
    assert back.server.is_eof
    assert back.pool.size == 0


@virtual
async def test_retired_pools_close_idle_connections() -> None:
    back = StreamBack()
    upstream = back.upstream()
    await whole(back, start(upstream, get()))
    upstream.pools.retire()
    await settle()
    assert back.server.is_eof


@virtual
async def test_a_lower_limit_closes_what_is_too_many() -> None:
    back = StreamBack(few(1))
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    await settle(20)
    back.pool.retune(UpstreamSpec.model_validate({"endpoints": ["http://test:80"], "connections": {"max": 1}}))
    for server in back.servers:
        server.answer(server.asked[0])
    await settle()
    assert {outcome_of(run).status for run in runs} == {200}
    assert back.pool.count("idle") == 1


@virtual
async def test_counts() -> None:
    back = StreamBack(few())
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    await settle(20)

    def value(state: str) -> float:
        return back.env.meter.value(metrics.POOL_CONNECTIONS, upstream="test", state=state)

    assert (value("active"), value("idle"), value("opening")) == (2, 0, 0)
    assert back.env.meter.value(metrics.POOL_STREAMS, upstream="test") == 3
    found = back.pool.describe()
    assert (found["open"], found["streams"], found["draining"], found["opened"]) == (2, 3, 0, 2)
    assert found["max_streams"] == 2 * FEW
    for server in back.servers:
        for stream in server.asked:
            server.answer(stream)
    await settle()
    assert (value("active"), value("idle")) == (0, 2)
    assert back.env.meter.value(metrics.POOL_STREAMS, upstream="test") == 0
    assert {outcome_of(run).status for run in runs} == {200}


@virtual
async def test_a_peer_that_changes_its_limit() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(2)]
    await settle()
    back.server.say(f.settings([(f.MAX_CONCURRENT_STREAMS, 1)]))
    await settle()
    runs.append(start(upstream, get()))
    await settle(20)
    assert [len(server.asked) for server in back.servers] == [2, 1]
    back.servers[0].say(f.settings([(f.MAX_CONCURRENT_STREAMS, 3)]))
    await settle()
    runs.append(start(upstream, get()))
    await settle()
    assert [len(server.asked) for server in back.servers] == [3, 1]


@virtual
async def test_a_peer_that_takes_no_streams() -> None:
    back = StreamBack(few(0))
    run = start(back.upstream(), get())
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is CONNECT_FAILURE
    assert outcome.cause == "http://test:80: takes no streams"
    assert back.server.is_lost


@virtual
async def test_former_addresses_are_left() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get())
    await settle()
    back.pool.leave_addresses(["10.0.0.1"])
    other = start(upstream, get())
    await settle(20)
    assert len(back.servers) == 2
    back.servers[0].answer(back.servers[0].asked[0], b"old")
    await whole(back, other)
    assert outcome_of(run).body == b"old"
    assert back.servers[0].is_eof


# ----- versions


@pytest.mark.parametrize(
    ("protocol", "url", "has_streams"),
    [
        ("auto", "http://test:80", False),
        ("auto", "https://test:443", True),
        ("auto", "unix:/run/app.sock", False),
        ("http1", "https://test:443", False),
        ("http2", "http://test:80", True),
        ("http2", "unix:/run/app.sock", True),
    ],
)
@virtual
async def test_the_pool_is_chosen_by_the_protocol(protocol: str, url: str, has_streams: bool) -> None:
    env = virtual_env()
    spec = UpstreamSpec.model_validate({"endpoints": [url], "protocol": protocol})
    upstream = Upstream("test", spec, env, Store().obtain)
    pool = upstream.pools.of(upstream.endpoints.members[0])
    assert (type(pool) is Pool) == (not has_streams)
    assert isinstance(pool, StreamPool) == has_streams


@virtual
async def test_another_protocol_has_pools_of_its_own() -> None:
    env, store = virtual_env(), Store()
    found = [
        Upstream(
            "test", UpstreamSpec.model_validate({"endpoints": ["http://test:80"], **more}), env, store.obtain
        ).pools
        for more in ({}, {"protocol": "http2"}, {"protocol": "auto"})
    ]
    assert found[0] is found[2]
    assert found[0] is not found[1]


@virtual
async def test_alpn_selects_http2() -> None:
    back = StreamBack(url="https://test:443")
    run = start(back.upstream(), get())
    await settle()
    assert back.server.heads[1].scheme == b"https"
    await whole(back, run)


@pytest.mark.parametrize("selected", ["http/1.1", None])
@virtual
async def test_alpn_falls_back_on_the_same_connection(selected: str | None) -> None:
    back = StreamBack(url="https://test:443")
    back.selected = selected
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    await settle(20)
    assert len(back.plain) == 3, "one exchange at a time"
    for server in back.plain:
        assert server.received.startswith(b"GET / HTTP/1.1\r\n")
        server.write(OK)
    await settle()
    assert {outcome_of(run).body for run in runs} == {b"hi"}
    assert back.pool.count("idle") == 3
    run = start(upstream, get())
    await settle()
    assert len(back.plain) == 3, "an idle one is used again"
    back.plain[-1].write(OK)
    await settle()
    assert outcome_of(run).body == b"hi"


@virtual
async def test_a_server_that_selects_nothing_where_http2_is_demanded() -> None:
    back = StreamBack(url="https://test:443", protocol="http2")
    back.selected = None
    run = start(back.upstream(), get())
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is CONNECT_FAILURE
    assert outcome.cause == ("https://test:443: does not select h2 by ALPN but nothing; set protocol: auto or http1")
    assert back.plain[0].is_lost


@virtual
async def test_a_websocket_gets_a_connection_of_http1() -> None:
    back = StreamBack(url="https://test:443")
    upstream = back.upstream()
    await whole(back, start(upstream, get()))
    run = start(upstream, get(upgrade=b"websocket"))
    await settle()
    (server,) = back.plain
    assert b"upgrade: websocket\r\n" in server.received
    server.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    await settle()
    assert outcome_of(run).status == 403
    run = start(upstream, get(upgrade=b"websocket"))
    await settle()
    assert len(back.plain) == 1, "and leaves it for the next"
    assert back.pool.size == 2


@virtual
async def test_a_websocket_is_refused_where_http2_is_demanded_and_does_not_carry_it() -> None:
    back = StreamBack()
    run = start(back.upstream(), get(upgrade=b"websocket"))
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is NO_ENDPOINT
    assert outcome.refusal.policy == "protocol"
    assert outcome.refusal.detail == (
        "http://test:80 does not serve WebSockets over HTTP/2 (RFC 8441); set protocol: auto or http1."
    )
    assert not back.server.asked


@virtual
async def test_an_error_of_the_connection_ends_its_exchanges_alone() -> None:
    back = StreamBack(few())
    upstream = back.upstream()
    runs = [start(upstream, get(b"POST")) for _ in range(3)]
    await settle(20)
    back.servers[0].say(f.frame(f.DATA, 0, 0, b"x"))
    await settle()
    assert [outcome_of(run).reason for run in runs[:2]] == ["protocol_error"] * 2
    goaway = back.servers[0].received[-200:].find(e.PROTOCOL_ERROR.to_bytes(4, "big"))
    assert goaway >= 0, "the peer is told"
    await whole(back, runs[2])


# ----- connections that end, and clients that are slow


@pytest.mark.parametrize(("method", "is_replaced"), [(b"POST", True), (b"GET", False)])
@virtual
async def test_what_must_not_be_sent_twice_takes_no_connection_that_the_peer_has_ended(
    method: bytes, is_replaced: bool
) -> None:
    back = StreamBack()
    near, far = socket.socketpair()
    back.extra = {"socket": near}
    upstream = back.upstream()
    await whole(back, start(upstream, get()))
    far.close()  # the event loop has not read it yet
    back.extra = {}
    run = start(upstream, get(method))
    await settle(20)
    assert len(back.servers) == (2 if is_replaced else 1)
    await whole(back, run)
    near.close()


@virtual
async def test_a_slow_client_yields_its_stream_to_a_request_that_waits() -> None:
    back = StreamBack(few(1), connections={"max": 1}, connect_timeout="1s")
    upstream = back.upstream()
    x, body, _ = upload(attempt_timeout=60.0)
    slow = start(upstream, x)
    await settle()
    body.feed(b"x")
    await settle()
    run = start(upstream, get())
    await asyncio.sleep(0.5)
    assert outcome_of(slow).failure is CLIENT_TIMEOUT
    await whole(back, run)
    assert upstream.endpoints.members[0].failures == 0


@virtual
async def test_a_request_that_demands_http1_is_repeated_over_it_once() -> None:
    back = StreamBack(url="https://test:443")
    upstream = back.upstream()
    x, body, _ = upload()
    runs = [start(upstream, get()), start(upstream, x)]
    body.feed(b"hello")
    await settle(20)
    server = back.server
    server.reset(server.asked[1], e.HTTP_1_1_REQUIRED)
    await settle(20)
    (plain,) = back.plain
    body.feed(b" there")
    body.finish()
    await settle()
    assert plain.received.startswith(b"POST / HTTP/1.1\r\n")
    assert plain.received.endswith(b"\r\n\r\n5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n")
    plain.write(OK)
    server.answer(server.asked[0])
    await settle()
    assert [outcome_of(run).status for run in runs] == [200, 200], "the others go on"
    assert [attempt.reason for attempt in x.attempts] == [""]
    assert back.pool.carriers == [], "and then the connection is closed"
    run = start(upstream, get())
    await settle()
    assert (len(back.servers), len(back.plain)) == (1, 1), "it is remembered"
    plain.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_the_demand_for_http1_is_forgotten_after_a_time() -> None:
    back = StreamBack(url="https://test:443", connections={"idle_timeout": "1s"})
    upstream = back.upstream()
    run = start(upstream, get())
    await settle(20)
    back.server.say(f.goaway(0, e.HTTP_1_1_REQUIRED))
    await settle(20)
    back.plain[0].write(OK)
    await settle()
    assert outcome_of(run).status == 200
    await asyncio.sleep(HTTP1_SECONDS - 2)
    start(upstream, get())
    await settle(20)
    assert (len(back.servers), len(back.plain)) == (1, 2)
    await asyncio.sleep(3)
    run = start(upstream, get())
    await settle(20)
    assert (len(back.servers), len(back.plain)) == (2, 2)
    await whole(back, run)


@virtual
async def test_a_demand_for_http1_is_a_reset_where_the_policy_demands_http2_or_the_response_has_begun() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.reset(back.server.asked[0], e.HTTP_1_1_REQUIRED)
    await settle()
    assert outcome_of(run).failure is RESET
    assert "HTTP_1_1_REQUIRED" in outcome_of(run).cause
    back = StreamBack(url="https://test:443")
    run = start(back.upstream(), get())
    await settle()
    back.server.answer(back.server.asked[0], b"a", end=False)
    await settle()
    back.server.reset(back.server.asked[0], e.HTTP_1_1_REQUIRED)
    await settle()
    stream = outcome_of(run).stream
    assert stream is not None
    assert stream.failure is RESET
    assert back.plain == []
