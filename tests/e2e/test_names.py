"""Tests of upstreams' names in a real process, with a name server that hangs, sends garbage, changes and expires."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from chaos.parts.http import Message
from chaos.parts.servers import Server, answering
from tests.support.authority import Authority
from tests.support.names import NameServer
from tests.support.process import Sidecar, policies, route


def named(names: NameServer, url: str, **resolve: Any) -> dict[str, Any]:
    """Return an upstream with one named endpoint, to which a busy machine may take long to connect."""
    return {"endpoints": [url], "connect_timeout": "30s", "resolve": {"nameservers": [names.address], **resolve}}


async def until(sidecar: Sidecar, target: str, status: int) -> Message:
    """Return the first answer with that status."""
    while (answer := await sidecar.fetch("GET", target)).status != status:
        await asyncio.sleep(0.02)
    return answer


async def test_names_whose_look_ups_hang_take_nobody_else_down(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.1"]}) as names:
        hanging = [f"hangs-{n}" for n in range(8)]
        names.hangs = {f"{name}.test" for name in (*hanging, "last")}
        upstreams = {
            name: named(names, f"http://{name}.test:80") | {"connect_timeout": "1s"} for name in (*hanging, "last")
        }
        upstreams["app"] = named(names, f"http://app.test:{server.port}")
        upstreams["local"] = {"endpoints": [f"http://localhost:{server.port}"], "connect_timeout": "30s"}
        policy = policies(upstreams=upstreams, routes=[route(name) for name in upstreams])
        async with Sidecar(policy, tmp_path) as sidecar:
            waiting = [asyncio.create_task(sidecar.fetch("GET", f"/{name}")) for name in hanging]
            while len({*names.asked} & {f"{name}.test A" for name in hanging}) < len(hanging):
                await asyncio.sleep(0.01)
            assert (await sidecar.fetch("GET", "/app")).status == 200
            assert (await sidecar.fetch("GET", "/local")).status == 200
            assert {(await answer).status for answer in waiting} == {504}
            last = asyncio.create_task(sidecar.fetch("GET", "/last"))
            while not names.count("last.test AAAA"):
                await asyncio.sleep(0.01)
            await sidecar.stop()
            # c-ares would query a third time, after seconds; so the process has ended before it gave up the name.
            assert names.count("last.test AAAA") < 3
            assert (await last).status == 504
            assert sidecar.noise == []


async def test_a_thousand_requests_ask_once(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.1"]}) as names:
        names.delay = 0.1
        upstreams = {"app": named(names, f"http://app.test:{server.port}")}
        async with Sidecar(policies(upstreams=upstreams, routes=[route("app")]), tmp_path) as sidecar:
            for _ in range(4):
                answers = await asyncio.gather(*(sidecar.fetch("GET", "/app") for _ in range(50)))
                assert {answer.status for answer in answers} == {200}
        assert names.count("app.test AAAA") == 1, "after a while without an answer A is asked for again, on its own"


async def test_a_name_with_dead_addresses_reaches_the_one_that_answers(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    async with (
        Server(answering(), tls=ca.server(ca.sign("app.test"))) as server,
        NameServer({"app.test": ["127.0.0.2", "127.0.0.3", "127.0.0.1", "0.0.0.0"]}) as names,
    ):
        app = named(names, f"https://app.test:{server.port}")
        app |= {"tls": {"ca": ca.ca_file}, "connections": {"max_requests": 1}}
        async with Sidecar(policies(upstreams={"app": app}, routes=[route("app")]), tmp_path) as sidecar:
            for _ in range(3):
                assert (await sidecar.fetch("GET", "/app")).status == 200


async def test_an_address_that_changes_is_followed_and_the_last_good_one_kept(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.2"]}, ttl=0) as names:
        app = named(names, f"http://app.test:{server.port}", ttl={"min": "50ms"}) | {"connections": {"max_requests": 1}}
        async with Sidecar(policies(upstreams={"app": app}, routes=[route("app")]), tmp_path) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 502
            names.records["app.test"] = ["127.0.0.1"]
            await until(sidecar, "/app", 200)
            names.rcode = "SERVFAIL"
            asked = len(names.asked)
            while len(names.asked) < asked + 6:
                assert (await sidecar.fetch("GET", "/app")).status == 200, "the last good answer serves"
            names.rcode, names.records["app.test"] = "", ["127.0.0.2"]
            await until(sidecar, "/app", 502)


async def test_a_name_that_moves_takes_its_kept_connections_along(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew")

    async with Server(answering(body=b"old")) as server, NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as names:
        new = await asyncio.start_server(answer, "127.0.0.2", server.port)
        app = named(names, f"http://app.test:{server.port}", ttl={"min": "50ms"})
        async with Sidecar(policies(upstreams={"app": app}, routes=[route("app")]), tmp_path) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).body == b"old"
            names.rcode = "SERVFAIL"
            while names.asked.count("app.test A") < 3:
                assert (await sidecar.fetch("GET", "/app")).body == b"old"
                await asyncio.sleep(0.02)
            assert len(server.connections) == 1, "kept while nothing better is known"
            names.rcode, names.records["app.test"] = "", ["127.0.0.2"]
            while (await sidecar.fetch("GET", "/app")).body != b"new":
                await asyncio.sleep(0.02)
        new.close()


async def test_a_name_without_an_address_says_why(tmp_path: Path) -> None:
    async with NameServer({}) as names:
        upstreams = {"app": named(names, "http://gone.test:80")}
        async with Sidecar(policies(upstreams=upstreams, routes=[route("app")]), tmp_path) as sidecar:
            answer = await sidecar.fetch("GET", "/app")
            assert answer.status == 502
            assert b"the name does not exist" in answer.body
            state = (await sidecar.state())["names"]
            assert state[names.address]["gone.test (any)"]["problem"] == "the name does not exist"
            assert state["system"] == {}


async def test_another_name_server_counts_from_the_next_reload_on(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.2"]}) as old, NameServer({}) as new:
        new.records["app.test"] = ["127.0.0.1"]
        url = f"http://app.test:{server.port}"
        policy = policies(upstreams={"app": named(old, url)}, routes=[route("app")])
        async with Sidecar(policy, tmp_path) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 502
            sidecar.write(policies(upstreams={"app": named(new, url)}, routes=[route("app")]))
            await until(sidecar, "/app", 200)


async def test_discovery_follows_records_that_expire_and_probes_under_the_name(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.2"]}, ttl=0) as names:
        app = {
            "discover": {"dns": "app.test", "port": server.port, "interval": "1h"},
            "resolve": {"nameservers": [names.address], "ttl": {"min": "50ms"}},
            "health_check": {"path": "/health", "interval": "50ms"},
        }
        async with Sidecar(policies(upstreams={"app": app}, routes=[route("app")]), tmp_path) as sidecar:
            names.records["app.test"] = ["127.0.0.1"]
            await until(sidecar, "/app", 200)
            while not (hosts := [r.get("host") for r in server.requests if r.target == "/health"]):
                await asyncio.sleep(0.02)
            assert {*hosts} == {f"app.test:{server.port}"}


async def test_a_probe_looks_names_up_too(tmp_path: Path) -> None:
    async with Server(answering()) as server, NameServer({"app.test": ["127.0.0.2", "127.0.0.1"]}) as names:
        app = named(names, f"http://app.test:{server.port}")
        app["health_check"] = {"path": "/health", "interval": "50ms", "host": "status.test"}
        async with Sidecar(policies(upstreams={"app": app}, routes=[route("app")]), tmp_path):
            while not (hosts := [r.get("host") for r in server.requests if r.target == "/health"]):
                await asyncio.sleep(0.02)
            assert {*hosts} == {"status.test"}
