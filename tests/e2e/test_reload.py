"""Tests of reloads of a running process: fifty in five seconds under load, every way to request one, and bad files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.client import Client, fetch
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server, answering, echoing
from tests.support.files import replace
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

RELOADS = 50
SECONDS = 5.0


def policy(url: str, **blocks: Any) -> dict[str, Any]:
    return policies(upstreams={"app": {"endpoints": [url]}}, routes=[route("app", **blocks)])


async def slowly(connection: Connection, request: Message) -> None:
    """Echo the body in two pieces, over a longer time than from one reload to the next."""
    answer = response(200, request.body)
    await connection.send(answer[:-1])
    await asyncio.sleep(0.15)
    await connection.send(answer[-1:])


async def test_fifty_reloads_in_five_seconds_every_other_one_broken(shared: Sidecar) -> None:
    """No request fails: on a keep-alive or a new connection, with a body, or in flight during a reload."""
    async with Server(echoing) as quick, Server(slowly) as slow:

        def version(number: int) -> dict[str, Any]:
            blocks = {
                "timeout": {"request": f"{10 + number}s"},
                "retry": {"max_attempts": 2 + number % 3},
                "circuit_breaker": {"window": f"{10 + number % 5}s"},
                "concurrency": {"max": 100 + number, "queue": 10},
            }
            upstreams = {"app": {"endpoints": [quick.url], "concurrency": {"max": 200 + number}}}
            upstreams["slow"] = {"endpoints": [slow.url]}
            return policies(upstreams=upstreams, routes=[route("app", **blocks), route("slow", **blocks)])

        async with shared.under(version(0)) as sidecar:
            stop = asyncio.Event()
            seen: Counter[str] = Counter()

            def note(kind: str, answer: Message, body: bytes) -> None:
                seen[f"{kind} {answer.status} {'whole' if answer.body == body else 'mangled'}"] += 1

            async def keep() -> None:
                async with Client(sidecar.inbound) as client:
                    while not stop.is_set():
                        note("kept", await client.request("GET", "/app"), b"")

            async def post() -> None:
                async with Client(sidecar.inbound) as client:
                    while not stop.is_set():
                        note("post", await client.request("POST", "/app", bytes(100_000)), bytes(100_000))

            async def visit() -> None:
                while not stop.is_set():
                    note("fresh", await fetch(sidecar.inbound, "POST", "/slow", b"hello"), b"hello")

            tasks = [asyncio.create_task(work()) for work in (keep, keep, post, visit, visit)]
            began = time.monotonic()
            for number in range(RELOADS):
                text = json.dumps(version(number))
                sidecar.write(text if number % 2 == 0 else text.replace('"retry":', '"retyr":'))
                answer = await sidecar.ask("/reload", "POST")
                assert answer.status == (200 if number % 2 == 0 else 422), answer.body
                await asyncio.sleep(max(0.0, began + (number + 1) * SECONDS / RELOADS - time.monotonic()))
            stop.set()
            await asyncio.gather(*tasks)
            assert set(seen) == {"kept 200 whole", "post 200 whole", "fresh 200 whole"}, seen
            await sidecar.until("reload.rejected", RELOADS // 2)  # or more: the watch of the files may reload first


async def test_a_configmap_s_symlinks_are_swapped(tmp_path: Path) -> None:
    """Kubernetes replaces the link `..data`, which leads to a directory, with one rename."""
    async with Server(echoing) as server:
        mounted = tmp_path / "mounted"
        mounted.mkdir()

        def publish(number: int, text: str) -> None:
            fresh = mounted / f"..{number}"
            fresh.mkdir()
            (fresh / "policies.yaml").write_text(text)
            (mounted / "..data_tmp").symlink_to(fresh.name)
            os.replace(mounted / "..data_tmp", mounted / "..data")

        publish(1, json.dumps(policy(server.url)))
        (mounted / "policies.yaml").symlink_to("..data/policies.yaml")
        async with Sidecar(policy(server.url), tmp_path, path=mounted) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
            publish(2, "version: 1\nroutes: nonsense\n")
            await sidecar.until("reload.rejected")
            assert (await sidecar.fetch("GET", "/app")).status == 200
            publish(3, json.dumps({**policy(server.url), "routes": [route("fresh", "app")]}))
            assert (await sidecar.until("reload.applied", 2))["trigger"] == "file"
            assert (await sidecar.fetch("GET", "/fresh")).status == 200
            assert (await sidecar.fetch("GET", "/app")).status == 404


async def test_the_files_of_a_directory_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    async with Server(echoing) as server:
        (folder / "10-base.yaml").write_text(json.dumps(policy(server.url)))
        async with Sidecar(policy(server.url), tmp_path, path=folder) as sidecar:
            replace(folder / "20-more.yaml", json.dumps({"version": 1, "routes": [route("more", "app")]}))
            assert (await sidecar.until("reload.applied", 2))["added"] == ["more"]
            assert (await sidecar.fetch("GET", "/more")).status == 200
            (folder / "20-more.yaml").unlink()
            assert (await sidecar.until("reload.applied", 3))["removed"] == ["more"]


async def test_a_bad_file_is_told_once_changes_nothing_and_is_tried_again(shared: Sidecar) -> None:
    async with Server(echoing) as server, shared.under(policy(server.url)) as sidecar:
        sidecar.write("version: 1\nroutes:\n  - name: app\n    retyr: {}\n")
        problems = (await sidecar.until("reload.rejected"))["problems"]
        assert any("policies.yaml:4:5" in problem and "did you mean `retry`" in problem for problem in problems), (
            problems
        )
        assert (await sidecar.fetch("GET", "/app")).status == 200
        assert (await sidecar.ask("/readyz")).status == 200
        await asyncio.sleep(2.5)
        assert len(sidecar.said("reload.rejected")) == 1
        answer = await sidecar.ask("/reload", "POST")
        assert (answer.status, json.loads(answer.body)["problems"]) == (422, problems)
        (*_, last) = (await sidecar.state())["reloads"]
        assert (last["result"], last["trigger"]) == ("rejected", "request")
        sidecar.write({**policy(server.url), "routes": [route("repaired", "app")]})
        await sidecar.until("reload.applied", 2)
        assert (await sidecar.fetch("GET", "/repaired")).status == 200


async def test_sighup_reads_the_files_again(shared: Sidecar) -> None:
    async with Server(echoing) as server, shared.under(policy(server.url)) as sidecar:
        sidecar.signal(signal.SIGHUP)
        assert (await sidecar.until("reload.applied", 2))["trigger"] == "signal"
        assert sidecar.is_running


async def test_what_only_a_restart_changes_is_refused_as_a_whole(shared: Sidecar) -> None:
    async with Server(echoing) as server, shared.under(policy(server.url)) as sidecar:
        sidecar.write({**policy(server.url), "service": "renamed", "routes": [route("fresh", "app")]})
        answer = await sidecar.ask("/reload", "POST")
        assert answer.status == 422
        assert b"restart the sidecar" in answer.body
        assert (await sidecar.fetch("GET", "/fresh")).status == 404


async def test_state_survives_a_reload(shared: Sidecar) -> None:
    """Connections, breakers and counters go on; those that a reload drops are closed."""
    async with Server(answering()) as app, Server(answering()) as other, Server(answering(500)) as sick:
        both = policies(
            upstreams={"lasting": {"endpoints": [app.url]}, "other": {"endpoints": [other.url]}},
            routes=[route("lasting"), route("other")],
        )
        both["upstreams"]["sick"] = {"endpoints": [sick.url], "circuit_breaker": {"consecutive_failures": 1}}
        both["routes"].append(route("sick"))
        async with shared.under(both) as sidecar, sidecar.client() as client:
            for target in ("/lasting", "/other", "/sick"):
                await client.request("GET", target)
            del both["upstreams"]["other"]
            both["routes"] = [route("lasting", timeout={"request": "5s"}), route("sick", timeout={"request": "5s"})]
            sidecar.write(both)
            assert (await sidecar.ask("/reload", "POST")).status == 200
            assert await other.are_clients_gone(), "the pool of an upstream that is gone is closed"
            assert (await client.request("GET", "/lasting")).status == 200
            assert len(app.connections) == 1, "the pool of one that stays is kept"
            assert (await client.request("GET", "/sick")).get("x-sidecar-reason") == "breaker_open"
            page = (await sidecar.ask("/metrics")).body.decode()
            counted = [line for line in page.splitlines() if "server_request_duration_seconds_count" in line]
            assert any('route="lasting"' in line and line.endswith(" 2") for line in counted), counted
