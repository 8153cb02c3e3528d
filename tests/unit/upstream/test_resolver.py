"""Tests of names: queries to name servers, cached answers, and the choice of a connection's address."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sidecar.upstream import resolver
from sidecar.upstream.endpoint import literal
from sidecar.upstream.resolver import (
    Entry,
    LookupFailedError,
    NameResolver,
    Queries,
    Resolver,
    fixed_addresses,
    sort_usable,
    system_resolver,
)
from sidecar.upstream.spec import ResolveSpec
from tests.support.names import NameServer


class Bench:
    """Resolvers of one name server, on a clock that a test moves."""

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.now = 1000.0
        self.root = system_resolver(lambda: self.now, asyncio.create_task)

    def names(self, **settings: Any) -> NameResolver:
        return self.root.with_settings(ResolveSpec.model_validate({"nameservers": [self.server.address], **settings}))


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with NameServer({"app.test": ["127.0.0.1"], "other.test": ["127.0.0.2"]}) as server:
        bench = Bench(server)
        yield bench
        bench.root.close()
        await asyncio.sleep(0)


# ----- look-ups


async def test_a_name_is_looked_up_once_for_all_that_wait(bench: Bench) -> None:
    bench.server.delay = 0.05
    some, others = bench.names(), bench.names(stale_for="1s")
    found = await asyncio.gather(
        *(each.look_up(name) for each in (some, others) for name in ("app.test", "APP.test") * 10)
    )
    assert set(found) == {("127.0.0.1",)}
    assert bench.server.asked == ["app.test A", "app.test AAAA"]


async def test_a_look_up_that_hangs_keeps_nobody_else_waiting(bench: Bench) -> None:
    names = bench.names()
    bench.server.hangs = {f"{n}.hangs.test" for n in range(50)}
    waiting = [asyncio.create_task(names.look_up(name)) for name in sorted(bench.server.hangs)]
    while len(bench.server.asked) < 100:
        await asyncio.sleep(0.01)
    assert await names.look_up("app.test") == ("127.0.0.1",)
    assert not any(task.done() for task in waiting)
    bench.root.close()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, LookupFailedError)


async def test_who_leaves_leaves_the_look_up_to_the_others(bench: Bench) -> None:
    bench.server.delay = 0.05
    names = bench.names()
    first, second = (asyncio.create_task(names.look_up("app.test")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == ("127.0.0.1",)
    assert bench.server.count("app.test A") == 1


async def test_an_answer_is_used_until_its_records_expire(bench: Bench) -> None:
    names = bench.names()
    assert await names.look_up("app.test") == ("127.0.0.1",)
    bench.server.records["app.test"] = ["127.0.0.9"]
    bench.now += 59
    assert await names.look_up("app.test") == ("127.0.0.1",)
    bench.now += 2
    bench.root._others.clear()  # the cache of c-ares uses the system's clock
    assert await bench.names().look_up("app.test") == ("127.0.0.9",)


@pytest.mark.parametrize(
    ("ttl", "records", "fresh", "expired"),
    [
        ({"max": "10s"}, 3600, 9, 11),
        ({"min": "30s"}, 0, 29, 31),
        ({}, 0, 0.9, 1.1),
        ({}, 2**31 - 1, 299, 301),
    ],
)
async def test_the_time_to_live_stays_within_its_bounds(
    bench: Bench, ttl: dict[str, str], records: int, fresh: float, expired: float
) -> None:
    bench.server.ttl = records
    names = bench.names(ttl=ttl)
    start = bench.now
    await names.look_up("app.test")
    bench.server.records["app.test"] = ["127.0.0.9"]
    bench.now = start + fresh
    assert await names.look_up("app.test") == ("127.0.0.1",)
    bench.now = start + expired
    assert await names.look_up("app.test") == ("127.0.0.9",), "and not what c-ares remembers"


async def test_the_shortest_time_to_live_of_aliases_and_addresses_counts(bench: Bench) -> None:
    bench.server.aliases["www.test"] = "app.test"
    bench.server.ttl = 20
    assert await bench.names().ask("www.test") == (("127.0.0.1",), 20)


async def test_asking_gets_what_the_servers_say_now(bench: Bench) -> None:
    names = bench.names()
    await names.look_up("app.test")
    bench.server.records["app.test"] = ["127.0.0.9"]
    assert await names.ask("app.test") == (("127.0.0.9",), 60)
    assert await names.look_up("app.test") == ("127.0.0.9",)
    bench.server.rcode = "SERVFAIL"
    with pytest.raises(LookupFailedError):
        await names.ask("app.test")


# ----- failures


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"rcode": "NXDOMAIN"}, "the name does not exist"),
        ({"rcode": "SERVFAIL"}, "server"),
        ({"rcode": "REFUSED"}, "refused"),
        ({"garbage": bytes(40)}, "misformatted"),
        ({"records": {"app.test": []}}, "the name has no addresses"),
        ({"records": {"app.test": ["0.0.0.0", "224.0.0.1", "::"]}}, "the answer has no usable addresses"),
    ],
)
async def test_why_there_is_no_address(bench: Bench, state: dict[str, Any], says: str) -> None:
    for name, value in state.items():
        setattr(bench.server, name, value)
    with pytest.raises(LookupFailedError) as caught:
        await bench.names().look_up("app.test")
    assert str(caught.value).lower().startswith("looking up app.test: ")
    assert says in str(caught.value).lower()


async def test_a_failure_is_remembered_for_a_moment_and_then_asked_about_again(bench: Bench) -> None:
    names = bench.names(ttl={"min": "5s"})
    del bench.server.records["app.test"]
    for _ in range(10):
        with pytest.raises(LookupFailedError):
            await names.look_up("app.test")
    assert bench.server.count("app.test A") == 1
    bench.server.records["app.test"] = ["127.0.0.1"]
    bench.now += 5.1
    assert await names.look_up("app.test") == ("127.0.0.1",)


@pytest.mark.parametrize("how", ["hangs", "fails", "is denied"])
async def test_a_stale_answer_serves_while_look_ups_fail(
    bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", 0.01)
    bench.server.ttl = 0
    names = bench.names(stale_for="100s", ttl={"min": "10s"})
    await names.look_up("app.test")
    if how == "hangs":
        bench.server.hangs.add("app.test")
    elif how == "fails":
        bench.server.rcode = "SERVFAIL"
    else:
        del bench.server.records["app.test"]
    bench.now += 60
    assert await names.look_up("app.test") == ("127.0.0.1",)
    assert await names.look_up("app.test") == ("127.0.0.1",)
    if how != "hangs":
        bench.now += 60
        with pytest.raises(LookupFailedError):
            await names.look_up("app.test")
    bench.server.hangs.clear()
    bench.server.rcode, bench.server.records["app.test"] = "", ["127.0.0.9"]


async def test_nothing_stale_is_used_where_the_policy_says_so(bench: Bench) -> None:
    bench.server.ttl = 0
    names = bench.names(stale_for="0s", ttl={"min": "10s"})
    await names.look_up("app.test")
    bench.server.rcode = "SERVFAIL"
    bench.now += 11
    with pytest.raises(LookupFailedError):
        await names.look_up("app.test")


async def test_a_server_that_ignores_aaaa_queries_is_no_hindrance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "HEDGE", 0.01)
    bench.server.hangs.add("app.test AAAA")
    asked = asyncio.create_task(bench.names().look_up("app.test"))
    assert await asked == ("127.0.0.1",)
    assert bench.server.count("app.test AAAA") == 1, "not even asked again"


async def test_an_answer_too_long_for_a_datagram_comes_over_tcp(bench: Bench) -> None:
    bench.server.records["app.test"] = [f"127.0.{n}.1" for n in range(200)]
    assert len(await bench.names().look_up("app.test")) == 200
    assert bench.server.over_tcp


# ----- look-ups as the system does them


@pytest.mark.parametrize(
    ("family", "asked"),
    [("ipv4", ["app.test A"]), ("ipv6", ["app.test AAAA"]), ("any", ["app.test A", "app.test AAAA"])],
)
async def test_the_family_decides_what_is_asked(bench: Bench, family: str, asked: list[str]) -> None:
    bench.server.records["app.test"] = ["127.0.0.1", "::1"]
    found = await bench.names(family=family).look_up("app.test")
    assert {":" in address for address in found} <= {query.endswith("AAAA") for query in asked}
    assert bench.server.asked == asked


async def test_search_domains_and_ndots_are_the_systems(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "svc.test")  # a variable of resolv.conf(5), as is the next one
    monkeypatch.setenv("RES_OPTIONS", "ndots:2")
    bench.server.records = {"app.svc.test": ["127.0.0.3"], "a.b": ["127.0.0.5"]}
    names = bench.names()
    assert await names.look_up("app") == ("127.0.0.3",)
    assert bench.server.queries("A") == ["app.svc.test"]
    assert await names.look_up("a.b") == ("127.0.0.5",)
    assert bench.server.queries("A")[1:] == ["a.b.svc.test", "a.b"], "below ndots the domain comes first"
    with pytest.raises(LookupFailedError):
        await names.look_up("app.")
    assert bench.server.queries("A")[3:] == ["app"], "a dot at the end makes it absolute"


async def test_the_file_of_hosts_wins(bench: Bench) -> None:
    own = own_host()
    if own is None:
        pytest.skip("/etc/hosts has no name but localhost")
    found = {str(info[4][0]) for info in socket.getaddrinfo(own, 80, socket.AF_INET)}
    assert {*await bench.names(family="ipv4").look_up(own)} == found
    assert bench.server.asked == []


def own_host() -> str | None:
    """Return a name of `/etc/hosts` that has an IPv4 address; None without one."""
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            if address.count(".") == 3 and "localhost" not in name:
                return name
    return None


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "127.1", "2130706433", "localhost", "LOCALHOST", "localhost.", "app.localhost"]
)
async def test_addresses_and_localhost_are_never_looked_up(host: str) -> None:
    async def ask(*_: Any) -> Any:
        raise AssertionError

    names = NameResolver(Resolver(time.monotonic, asyncio.create_task, ask), Queries())
    found = await names.look_up(host)
    assert set(found) <= {"127.0.0.1", "::1"}
    assert (await names.ask(host)).addresses == found
    async with await asyncio.start_server(lambda r, w: w.close(), ["127.0.0.1"], 0) as server:
        port = server.sockets[0].getsockname()[1]
        if "127.0.0.1" in found:
            (await names.open_socket(host, port)).close()


def test_what_is_an_address() -> None:
    assert [literal(host) for host in ("10.0.0.1", "::1", "10.1", "a", "1.2.3.4.5", "", "256.1.1.1")] == [
        "10.0.0.1", "::1", "10.0.0.1", None, None, None, None
    ]  # fmt: skip
    assert fixed_addresses("app.test") == ()


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set that holds the addresses to which there is a route."""
    found: set[str] = set()
    monkeypatch.setattr(resolver, "has_route", found.__contains__)
    return found


def test_a_family_without_a_route_is_left_out_unless_there_is_no_other(routes: set[str]) -> None:
    both = ["192.0.2.1", "2001:db8::1"]
    assert sort_usable(both) == ("2001:db8::1", "192.0.2.1"), "no route at all: they may come"
    routes.add("192.0.2.1")
    assert sort_usable(both) == ("192.0.2.1",)
    assert sort_usable(["2001:db8::1"]) == ("2001:db8::1",)
    routes |= {"2001:db8::1", "fd00::1"}
    assert sort_usable([*both, "fd00::1"]) == ("2001:db8::1", "192.0.2.1", "fd00::1")


# ----- choice of an address


def order(entry: Entry) -> list[str]:
    return entry.order(0.0)


def test_connections_take_the_addresses_of_a_family_in_turn_and_the_families_alternate() -> None:
    entry = Entry()
    entry.addresses = ("::1", "::2", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert order(entry) == ["::1", "10.0.0.1", "::2", "10.0.0.2", "10.0.0.3"]
    assert order(entry) == ["::2", "10.0.0.2", "::1", "10.0.0.3", "10.0.0.1"]


def test_a_slow_address_goes_last_for_a_while() -> None:
    entry = Entry()
    entry.addresses = ("10.0.0.1", "10.0.0.2")
    entry.mark(["10.0.0.1"], 100.0)
    assert {tuple(entry.order(100.0)) for _ in range(4)} == {("10.0.0.2", "10.0.0.1")}
    later = 100.0 + resolver.SLOW_SECONDS
    assert {tuple(entry.order(later)) for _ in range(4)} == {("10.0.0.2", "10.0.0.1"), ("10.0.0.1", "10.0.0.2")}


async def test_a_connection_reaches_the_address_that_accepts(bench: Bench) -> None:
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.5", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bench.server.records["app.test"] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]
        names = bench.names()
        for _ in range(4):
            with await names.open_socket("app.test", port) as sock:
                assert sock.getpeername() == ("127.0.0.5", port)
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await names.open_socket("app.test", port)


async def test_an_address_that_swallows_connections_is_overtaken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "STAGGER", 0.01)
    loop: Any = asyncio.get_running_loop()
    connect = loop.sock_connect
    tried: list[str] = []

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        if address[0] == "127.0.0.2":
            await asyncio.sleep(3600)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.5", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bench.server.records["app.test"] = ["127.0.0.2", "127.0.0.5"]
        names = bench.names()
        for _ in range(3):
            (await names.open_socket("app.test", port)).close()
    assert tried == ["127.0.0.2", "127.0.0.5", "127.0.0.5", "127.0.0.5"], "what was overtaken goes last"


async def test_who_is_cancelled_while_connecting_leaves_the_next_a_better_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        await asyncio.sleep(3600)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    bench.server.records["app.test"] = ["127.0.0.2", "127.0.0.5"]
    names = bench.names()
    for number in (1, 2):
        task = asyncio.create_task(names.open_socket("app.test", 80))
        while len(tried) < number:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))
    assert tried == ["127.0.0.2", "127.0.0.5"]


def test_settings_share_the_resolver_of_their_name_servers() -> None:
    root = system_resolver(time.monotonic, asyncio.create_task)
    spec = ResolveSpec.model_validate({"nameservers": ["10.0.0.53"], "stale_for": "1s"})
    same = ResolveSpec.model_validate({"nameservers": ["10.0.0.53:53"]})
    assert root.with_settings(None) is root
    assert root.with_settings(ResolveSpec.built_in())._resolver is root._resolver
    kept = root.with_settings(spec)
    assert kept._resolver is root.with_settings(same)._resolver
    assert kept._resolver is not root._resolver
    del kept
    assert not root._others, "and it goes with the last of them"
