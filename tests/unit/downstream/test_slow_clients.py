"""Tests of the bounds for slow clients, at the level of bytes, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.config.process_spec import SlowClientsSpec
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import CLIENT_CLOSED, CLIENT_TIMEOUT, SLOW_READER, Failure, Outcome
from sidecar.downstream.slow_clients import CREDIT_SECONDS, START_AFTER, Pace, SlowClients
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import CLOSE, GET, HANDSHAKE, Client, Front, Taken, Upgraded, always, post, streamed

LONG = b"x" * 100_000
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Calls:
    """Service that records its requests, and answers once their bodies are complete."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    async def __call__(self, x: Exchange) -> Outcome:
        self.exchanges.append(x)
        if x.stream is not None:
            ended = asyncio.get_running_loop().create_future()
            x.stream.attach(Taken())
            x.stream.on_close(lambda failure: ended.done() or ended.set_result(None))
            await ended
        return Outcome(200, body=b"%d" % (x.stream.received if x.stream else len(x.body)))


# ----- requests


@virtual
async def test_a_short_body_is_whole_before_its_route_runs() -> None:
    calls = Calls()
    front = Front(calls)
    client = front.connect()
    client.write(post(b"x" * 1000, sent=100))
    for at in range(100, 1000, 100):
        await asyncio.sleep(0.5)
        assert not calls.exchanges
        client.write(b"x" * (100 if at < 900 else 99))
    await asyncio.sleep(0.5)
    assert not calls.exchanges
    client.write(b"x" + GET)
    assert (await client.answer()).body == b"1000"
    assert (await client.answer()).body == b"0"
    assert [x.stream for x in calls.exchanges] == [None, None], "it can be sent again by whoever wants to"


@pytest.mark.parametrize("head", [post(LONG, sent=0), CHUNKED])
@virtual
async def test_a_long_body_does_not_wait_once_enough_of_it_is_here(head: bytes) -> None:
    calls = Calls()
    front = Front(calls)
    client = front.connect()
    client.write(head)
    client.write((b"" if b"Length" in head else b"186a0\r\n") + LONG[:70_000])
    await settle()
    assert len(calls.exchanges) == 1
    assert front.places.taken == 0


@virtual
async def test_long_bodies_that_come_slowly_hold_a_share_of_the_places() -> None:
    calls = Calls()
    front = Front(calls)
    clients = [front.connect() for _ in range(6)]
    for client in clients:
        client.write(post(LONG, sent=10))
    await asyncio.sleep(START_AFTER)
    assert len(calls.exchanges) == front.places.limit == 4
    clients[0].write(LONG[10:])
    await asyncio.sleep(1.1)
    assert len(calls.exchanges) == 5, "a place is free again once its body is here"
    clients[5].write(LONG[10:])
    assert (await clients[5].answer()).status == 200, "one that comes fast needs none"
    for client in clients:
        client.transport.abort()
    await settle()
    assert front.places.taken == 0
    assert front.is_empty


@virtual
async def test_a_long_body_whose_beginning_came_slowly_needs_a_place_too() -> None:
    calls = Calls()
    front = Front(calls)
    clients = [front.connect() for _ in range(6)]
    for client in clients[:4]:
        client.write(post(LONG, sent=10))  # these occupy all places
    await asyncio.sleep(START_AFTER)
    fair, slow = clients[4:]
    for client in (fair, slow):
        client.write(post(LONG, sent=0))
    for second in range(40):
        for client in clients[:4]:
            client.write(b"x" * 1100)
        fair.write(b"x" * 16_000 if second < 5 else b"")
        slow.write(b"x" * 2000)
        await asyncio.sleep(1)
    assert len(calls.exchanges) == 5, "the fair one went on without a place"
    answer = await slow.answer()
    assert (answer.status, answer.get("x-sidecar-reason")) == (503, "overloaded")
    for client in clients:
        client.transport.abort()
    await settle()
    assert front.places.taken == 0
    assert front.is_empty


@pytest.mark.parametrize("piece", [1, 10, 1000])
@virtual
async def test_a_dribbled_body_ends_within_its_allowance(piece: int) -> None:
    front = Front(Calls())
    clients = [front.connect() for _ in range(3)]
    for client, body in zip(clients, (b"x" * 5000, LONG, b""), strict=True):
        client.write(post(body, sent=0) if body else CHUNKED)
    for _ in range(4):
        for client in clients:
            client.write(b"x" * piece if client is not clients[2] else b"%x\r\n%b\r\n" % (piece, b"x" * piece))
        await asyncio.sleep(5)
    for client in clients:
        assert (await client.answer()).status == 408
    await asyncio.sleep(5)
    assert front.is_empty
    assert {record.reason for record in front.records} == {"client_timeout"}
    assert max(record.seconds for record in front.records) < 25


@virtual
async def test_a_client_that_waits_for_100_is_not_waited_for() -> None:
    async def service(x: Exchange) -> Outcome:
        await asyncio.sleep(12)
        assert x.interim is not None
        x.interim(100, b"")
        return await calls(x)

    calls = Calls()
    front = Front(service)
    client = front.connect()
    client.write(post(b"hello", b"Expect: 100-continue", sent=0))
    await asyncio.sleep(13)
    assert (await client.answer()).status == 100
    client.write(b"hello")
    assert (await client.answer()).body == b"5"
    client.write(post(b"hello", b"Expect: 100-continue", sent=0))
    await asyncio.sleep(12 + 7)
    assert (await client.answer()).status == 100
    assert (await client.answer()).status == 408, "from the 100 on it is waited for"


@virtual
async def test_an_upload_that_pauses_within_its_allowance_is_not_cut_off() -> None:
    """The upload sends 40 kB in 3 s and pauses for the 15 s that these have earned, five times."""
    front = Front(Calls())
    client = front.connect()
    client.write(post(b"x" * 200_000, sent=0))
    for _ in range(5):
        for _ in range(10):
            client.write(b"x" * 4000)
            await asyncio.sleep(0.3)
        await asyncio.sleep(15)
    assert (await client.answer()).status == 200


@virtual
async def test_what_is_collected_has_a_bound_for_all() -> None:
    front = Front(Calls(), slow_clients={"buffer_total": "80KB"})
    slow = [front.connect() for _ in range(3)]
    for client in slow:
        client.write(post(b"x" * 60_000, sent=25_000))
    await asyncio.sleep(2)
    slow[2].write(b"x" * 10_000)
    answer = await slow[2].answer()
    assert (answer.status, answer.get("x-sidecar-reason"), answer.get("connection")) == (503, "overloaded", "close")
    assert front.listener.slow.buffered == 50_000
    quick = front.connect()
    quick.write(post(b"x" * 60_000, sent=30_000))
    await settle()
    quick.write(b"x" * 30_000)
    assert (await quick.answer()).status == 200, "who is quick is not refused for those who are slow"
    for client in (*slow, quick):
        client.transport.abort()
    await settle()
    assert front.is_empty


@virtual
async def test_a_client_that_leaves_while_its_body_is_collected_is_recorded() -> None:
    calls = Calls()
    front = Front(calls)
    client = front.connect()
    client.write(post(b"x" * 100, sent=10))
    await settle()
    client.transport.abort()
    await settle()
    assert [(record.status, record.reason) for record in front.records] == [(499, "client_closed")]
    assert (calls.exchanges, front.is_empty) == ([], True)


@virtual
async def test_a_drain_lets_a_body_be_collected() -> None:
    front = Front(Calls())
    client = front.connect()
    client.write(post(b"hello", sent=1))
    await settle()
    front.listener.drain()
    client.write(b"ello")
    answer = await client.answer()
    assert (answer.body, answer.get("connection")) == (b"5", "close")


# ----- answers


async def trickle(client: Client, seconds: float) -> None:
    """Read a piece every second, for so many seconds."""
    for _ in range(int(seconds)):
        client.transport.resume_reading()
        await asyncio.sleep(0)
        client.transport.pause_reading()
        await asyncio.sleep(1)


@pytest.mark.parametrize("is_stored", [True, False])
@virtual
async def test_a_reader_below_the_rate_is_cut_off_and_one_above_it_is_not(is_stored: bool) -> None:
    size = 2_000_000

    async def service(x: Exchange) -> Outcome:
        if is_stored:
            return Outcome(200, body=b"x" * size)
        outcome, body, _ = streamed(size)
        body.feed(b"x" * size)
        body.finish()
        return outcome

    front = Front(service)
    slow, fair = front.connect(), front.connect()
    for client, split in ((slow, 100), (fair, 2048)):
        client.pair.right.split = split
        client.transport.pause_reading()
        client.write(GET)
    await asyncio.gather(trickle(slow, 24), trickle(fair, 24))
    assert slow.is_lost
    assert not fair.is_lost
    if is_stored:  # a streamed one is written, and recorded, earlier
        assert [(each.status, each.reason) for each in front.records] == [(200, "client_timeout")], "it has not left"
    fair.pair.right.split = 0
    fair.transport.resume_reading()
    await settle(200)
    assert len((await fair.answer()).body) == size


@virtual
async def test_a_stored_body_goes_out_as_its_reader_takes_it() -> None:
    """With twelve pipelined answers of a megabyte, a connection holds no more than with one."""
    front = Front(always(lambda x: Outcome(200, body=b"x" * 2**20)))
    client = front.connect()
    client.transport.pause_reading()
    client.write(GET * 12)
    await settle(100)
    assert client.pair.right.get_write_buffer_size() < 200_000
    assert front.listener.slow.buffered < 200_000
    client.transport.resume_reading()
    await settle(2000)
    assert [len((await client.answer()).body) for _ in range(12)] == [2**20] * 12
    assert [record.status for record in front.records] == [200] * 12
    assert front.listener.slow.buffered == 0


@pytest.mark.parametrize("request_", [GET, CLOSE])
@virtual
async def test_when_the_account_is_full_a_new_slow_reader_ends_the_slowest(request_: bytes) -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 128_000)), slow_clients={"buffer_total": "200KB"})
    clients = []
    for _ in range(20):
        clients.append(client := front.connect())
        client.transport.pause_reading()
        client.write(request_)
        await settle()
        await asyncio.sleep(0.6)
        assert front.listener.slow.buffered < 500_000
    assert [client.transport.is_closing() for client in clients[-2:]] == [False, False]
    for client in clients:
        client.transport.abort()
    await settle()
    assert front.is_empty
    assert front.listener.slow.buffered == len(front.listener.slow.behind) == 0


@virtual
async def test_who_is_ended_to_make_room_has_not_left() -> None:
    ended: list[Failure | None] = []

    async def service(x: Exchange) -> Outcome:
        outcome, body, _ = streamed(10**6)
        body.on_close(ended.append)
        body.feed(b"x" * 128_000)
        return outcome

    front = Front(service, slow_clients={"buffer_total": "200KB"})
    clients = [front.connect() for _ in range(6)]
    for client in clients:
        client.transport.pause_reading()
        client.write(GET)
        await asyncio.sleep(0.6)
    assert len(ended) == len(front.records) > 0
    assert {record.reason for record in front.records} == {SLOW_READER.code}
    assert set(ended) == {SLOW_READER}
    clients[-1].transport.abort()
    await settle()
    assert (front.records[-1].reason, ended[-1]) == ("client_closed", CLIENT_CLOSED)


@virtual
async def test_a_reader_that_goes_on_is_not_ended_when_the_account_is_full() -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 2**20)), slow_clients={"buffer_total": "100KB"})
    good, *others = [front.connect() for _ in range(6)]
    for client in (good, *others):
        client.transport.pause_reading()
    good.write(GET)
    for client in others:
        for _ in range(8):
            await asyncio.sleep(0.1)
            good.transport.resume_reading()
            await settle(5)
            good.transport.pause_reading()
        client.write(GET)
    good.transport.resume_reading()
    await settle(500)
    assert len((await good.answer()).body) == 2**20


@pytest.mark.parametrize("is_stored", [True, False])
@virtual
async def test_a_reader_that_is_ended_for_memory_is_recorded_as_slow(is_stored: bool) -> None:
    async def service(x: Exchange) -> Outcome:
        if is_stored:
            return Outcome(200, body=b"x" * 2**20)
        outcome, body, _ = streamed(2**20)
        body.feed(b"x" * 90_000)
        return outcome

    front = Front(service, slow_clients={"buffer_total": "80KB"})
    clients = []
    for _ in range(3):
        clients.append(client := front.connect())
        client.transport.pause_reading()
        client.write(GET)
        await asyncio.sleep(1.5)
    assert clients[0].is_lost
    assert [(each.status, each.reason) for each in front.records][:1] == [(200, "client_timeout")]
    for client in clients:
        client.transport.abort()
    await settle()
    assert front.is_empty
    assert front.listener.slow.buffered == len(front.listener.slow.behind) == 0


@pytest.mark.parametrize("failure", [CLIENT_TIMEOUT, SLOW_READER])
@virtual
async def test_nothing_is_kept_for_a_reader_that_has_given_way(failure: Failure) -> None:
    outcome, body, _ = streamed(2_000_000)
    front = Front(always(outcome))
    client = front.connect()
    client.transport.pause_reading()
    client.write(GET)
    await settle()
    body.feed(b"x" * 200_000)
    body.fail(failure)
    await settle()
    assert isinstance(client.error, ConnectionResetError)
    assert [(record.status, record.reason) for record in front.records] == [(200, "client_timeout")]
    assert front.listener.slow.buffered == len(front.listener.slow.behind) == 0
    assert front.is_empty


@pytest.mark.parametrize("leaves", [False, True])
@virtual
async def test_what_waits_for_the_reader_of_a_last_answer_is_on_the_account(leaves: bool) -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 128_000)))
    client = front.connect()
    client.transport.pause_reading()
    client.write(CLOSE)
    await settle(100)
    assert len(front.records) == 1
    assert front.listener.slow.buffered == client.pair.right.get_write_buffer_size() > 50_000
    if leaves:
        client.transport.abort()
    else:
        await asyncio.sleep(10)  # the connection is cut off
    await settle()
    assert front.is_empty
    assert front.listener.slow.buffered == 0


@virtual
async def test_a_client_that_leaves_during_a_stored_body_is_recorded_once() -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 2**20)))
    client = front.connect()
    client.transport.pause_reading()
    client.write(GET)
    await settle()
    client.transport.abort()
    await settle()
    assert [(record.status, record.reason) for record in front.records] == [(200, "client_closed")]
    assert front.is_empty


@pytest.mark.parametrize("media_type", [b"text/event-stream", b"application/grpc+proto"])
@virtual
async def test_streams_without_an_end_are_read_as_slowly_as_one_likes(media_type: bytes) -> None:
    outcome, body, _ = streamed()
    outcome.headers = [(b"content-type", media_type)]
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    client.pair.right.split = 100
    body.feed(b"x" * 300_000)
    await trickle(client, 50)
    assert not client.is_lost
    await asyncio.sleep(121)
    assert client.is_lost, "but not when nothing moves for `body_timeout`"
    assert front.is_empty


@pytest.mark.parametrize(("length", "said"), [(None, []), (250_000, []), (2_000_000, ["pause"])])
@virtual
async def test_an_answer_is_read_in_advance_if_that_frees_the_upstream(length: int | None, said: list[str]) -> None:
    outcome, body, source = streamed(length)
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 100_000)
    assert source.said == said


@pytest.mark.parametrize("length", [None, 200_000])
@virtual
async def test_long_pieces_are_whole_where_memory_is_tight(length: int | None) -> None:
    outcome, body, _ = streamed(length)
    front = Front(always(outcome))
    front.listener.slow.buffered = front.listener.slow.total // 4
    client = front.connect()
    client.write(GET)
    await settle()
    data = bytes(range(250)) * 800
    body.feed(data)
    body.finish()
    assert (await client.answer()).body == data


@pytest.mark.parametrize("length", [None, 2_000_000])
@virtual
async def test_all_of_a_long_piece_is_on_the_account(length: int | None) -> None:
    outcome, body, source = streamed(length)
    front = Front(always(outcome))
    slow = front.listener.slow
    slow.buffered = others = slow.total // 4
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 400_000)
    assert source.said == ["pause"]
    assert slow.buffered - others == pytest.approx(client.pair.right.get_write_buffer_size(), abs=20)


@virtual
async def test_a_client_is_behind_before_much_waits_for_it() -> None:
    outcome, body, source = streamed(2_000_000)
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    while not source.said:
        body.feed(b"x" * 1000)
    assert client.pair.right.get_write_buffer_size() < 20_000


@virtual
async def test_an_idle_answer_costs_its_client_nothing() -> None:
    outcome, body, _ = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(3600)
    body.finish()
    assert (await client.answer()).body == b"x"


# ----- the allowance


def test_the_allowance() -> None:
    slow = SlowClients(SlowClientsSpec.built_in())
    pace = Pace(slow)
    assert pace.expires == NEVER, "nobody waits"
    pace.wait(100.0)
    assert pace.expires == 105.0
    pace.move(2048, 101.0)
    assert pace.expires == 107.0
    pace.stop(102.0)
    pace.stop(103.0)
    assert pace.expires == NEVER
    pace.wait(200.0)
    pace.wait(201.0)
    assert pace.expires == 205.0
    pace.move(10**9, 202.0)
    assert pace.expires == 202.0 + slow.grace + CREDIT_SECONDS


def test_a_trickle_does_not_add_up_to_a_second_grace() -> None:
    pace = Pace(SlowClients(SlowClientsSpec.built_in()))
    pace.wait(0.0)
    for now in range(1, 100):
        pace.move(100, float(now))
        if pace.expires <= now:
            break
    assert now == 6


@virtual
async def test_a_client_that_is_behind_and_switches_protocols_is_off_the_account() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.interim is not None
        x.interim(103, b"link: %b\r\n" % (b"x" * 100_000))
        assert front.listener.slow.buffered > 0
        outcome = Outcome(101)
        outcome.tunnel = upstream
        return outcome

    upstream = Upgraded()
    front = Front(service)
    client = front.connect()
    client.transport.pause_reading()
    client.write(HANDSHAKE)
    await settle()
    assert front.listener.slow.buffered == 0
