"""Tests of several workers, and of the hand-over to a new process, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.client import Client
from chaos.parts.http import Message
from chaos.parts.servers import Connection, Server, answering
from tests.support.process import COMMAND, PATIENCE, Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")


def policy(url: str, **blocks: Any) -> dict[str, Any]:
    """Return policies for two workers with one route to one upstream."""
    return policies(process={"workers": 2}, upstreams={"app": {"endpoints": [url]}}, routes=[route("app", **blocks)])


async def test_two_workers_are_one_sidecar(tmp_path: Path) -> None:
    async with Server(answering()) as server, Sidecar(policy(server.url), tmp_path) as sidecar:
        assert [(await sidecar.fetch("GET", "/app")).status for _ in range(6)] == [200] * 6
        metrics = (await sidecar.ask("/metrics")).body.decode()
        counts = [
            line for line in metrics.splitlines() if line.startswith("http_server_request_duration_seconds_count")
        ]
        assert sum(int(line.split()[-1]) for line in counts) == 6, "the sum over both workers"

        async with sidecar.client() as first, sidecar.client() as second:
            for client in (first, second):
                await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
                assert (await client.response()).status == 200
            state = await sidecar.state()
            assert [worker["connections"] for worker in state["workers"]] == [1, 1], "balanced"

        answer = await sidecar.ask("/breakers/route:none/open", "POST")
        assert answer.status == 404
        sidecar.write({**policy(server.url), "process": {"workers": 3}})
        answer = await sidecar.ask("/reload", "POST")
        assert (answer.status, b"restart" in answer.body) == (422, True), answer.body
        sidecar.write(policy(server.url, timeout={"request": "5s"}))
        answer = await sidecar.ask("/reload", "POST")
        done = json.loads(answer.body)
        assert (answer.status, done["changed"]) == (200, ["app"])
        assert "timeout added" in done["meaning"][0]

        victim = state["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        ended = await sidecar.until("worker.ended")
        assert (ended["pid"], ended["cause"]) == (victim, "signal SIGKILL")
        assert (await sidecar.fetch("GET", "/app")).status == 200, "the other worker serves"
        await sidecar.until("worker.ready", 3)
        assert sidecar.is_running


async def test_a_breaker_that_one_worker_opens_is_open_in_all(tmp_path: Path) -> None:
    rules = policy("http://127.0.0.1:9", circuit_breaker={"consecutive_failures": 3, "open_for": "60s"})
    async with Sidecar(rules, tmp_path) as sidecar, sidecar.client() as first, sidecar.client() as second:

        async def status(client: Any) -> tuple[int, str | None]:
            await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = await client.response()
            return answer.status, answer.get("x-sidecar-reason")

        assert [await status(first) for _ in range(4)][3] == (503, "breaker_open")
        async with asyncio.timeout(20):
            while (await status(second))[1] != "breaker_open":
                assert len(sidecar.said("breaker.transition")) <= 2
        await sidecar.until("breaker.transition", 2)
        assert {event["worker"] for event in sidecar.said("breaker.transition")} == {1, 2}


async def test_workers_for_which_there_are_no_descriptors_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(json.dumps(policies(process={"workers": 64})))
    command = f"ulimit -n 64; exec {COMMAND} run {path}"
    process = await asyncio.create_subprocess_shell(command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert (process.returncode, said.decode()) == (
        1,
        "process.workers: 64 workers cannot be supervised: Too many open files; "
        "allow more open files (ulimit -n), or lower it\n",
    )


async def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    async with Server(answering()) as server:
        sidecar = Sidecar(policy(server.url), tmp_path)
        await sidecar.__aenter__()
        workers = [worker["pid"] for worker in (await sidecar.state())["workers"]]
        await sidecar.kill()  # waits until the workers have closed its output, too
        for pid in workers:
            assert not Path(f"/proc/{pid}/exe").exists()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hand_over_refuses_nothing(tmp_path: Path, workers: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(answering()))
        sidecar = Sidecar({**policy(server.url), "process": {"workers": workers}}, tmp_path)
        await sidecar.__aenter__()
        old = sidecar.pid
        stack.callback(end, old)
        idle = await stack.enter_async_context(sidecar.client())
        await idle.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await idle.response()).status == 200
        sidecar.signal(signal.SIGUSR2)
        new = (await sidecar.until("handover.begun"))["pid"]
        stack.callback(end, new)
        while not sidecar.said("handover.done"):
            assert (await sidecar.fetch("GET", "/app")).status == 200
        connection: str | None = ""
        while connection != "close":  # the drain reaches a worker a moment after the event
            await idle.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = await idle.response()
            assert answer.status == 200, "the old process answers once more"
            connection = answer.get("connection")
        assert (await sidecar.fetch("GET", "/app")).status == 200
        assert new != old
        os.kill(new, signal.SIGTERM)
        assert await sidecar.wait() == 0
        assert not sidecar.said("bug")


def with_listener(rules: dict[str, Any]) -> dict[str, Any]:
    """Return these policies with one more listener."""
    return {**rules, "listeners": {**rules["listeners"], "more": {"address": "127.0.0.1:0"}}}


async def holding(connection: Connection, request: Message) -> None:
    """Never answer."""
    await connection.reader.read()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_process_that_drains_listens_no_more(tmp_path: Path, workers: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(holding))
        rules = {**policy(server.url), "process": {"workers": workers}}
        sidecar = await stack.enter_async_context(Sidecar(rules, tmp_path))
        client = await stack.enter_async_context(sidecar.client())
        await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while not server.requests:
                await asyncio.sleep(0.01)
        sidecar.signal(signal.SIGTERM)
        await sidecar.until("draining")
        sidecar.write(with_listener(rules))
        answer = await sidecar.ask("/reload", "POST")
        assert (answer.status, b"drains" in answer.body) == (422, True), answer.body
        async with asyncio.timeout(PATIENCE):
            while not await is_refused(sidecar.inbound):
                await asyncio.sleep(0.01)
        assert sidecar.is_running, "for the request in flight"
        sidecar.signal(signal.SIGTERM)


async def is_refused(address: str) -> bool:
    """True if nothing listens at an address."""
    try:
        async with Client(address):
            return False
    except OSError:
        return True


@pytest.mark.parametrize("workers", [1, 2])
async def test_policies_of_a_hand_over_are_those_of_the_new_process_alone(tmp_path: Path, workers: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(holding))
        rules = {**policy(server.url), "process": {"workers": workers}}
        sidecar = Sidecar(rules, tmp_path)
        await sidecar.__aenter__()
        stack.callback(end, sidecar.pid)
        client = await stack.enter_async_context(sidecar.client())
        await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        sidecar.signal(signal.SIGUSR2)
        new = (await sidecar.until("handover.begun"))["pid"]
        stack.callback(end, new)
        sidecar.write(with_listener(rules))
        sidecar.signal(signal.SIGHUP)  # waits for the end of the hand-over, and comes too late then
        rejected = await sidecar.until("reload.rejected")
        assert sidecar.said("handover.done")
        assert "drains" in rejected["problems"][0]
        os.kill(new, signal.SIGHUP)
        applied = await sidecar.until("reload.applied", 3)
        assert applied["trigger"] in ("signal", "file")
        os.kill(new, signal.SIGTERM)
        sidecar.signal(signal.SIGTERM)  # the request in flight need not end
        assert await sidecar.wait() == 0
        assert not sidecar.said("bug")


def end(pid: int) -> None:
    """End a process that a failed test has left."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def test_a_hand_over_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with Server(answering()) as server, Sidecar({**policy(server.url), "process": {}}, tmp_path) as sidecar:
        sidecar.write("version: 7")
        sidecar.signal(signal.SIGUSR2)
        failed = await sidecar.until("handover.failed")
        assert "ended with 1" in failed["cause"]
        assert (await sidecar.fetch("GET", "/app")).status == 200
        sidecar.signal(signal.SIGUSR2)
        os.kill((await sidecar.until("handover.begun", 2))["pid"], signal.SIGKILL)
        assert "ended with SIGKILL" in (await sidecar.until("handover.failed", 2))["cause"]
        assert (await sidecar.fetch("GET", "/app")).status == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_signal_to_end_during_a_hand_over_ends_both(tmp_path: Path, workers: int) -> None:
    async with Server(answering()) as server:
        async with Sidecar({**policy(server.url), "process": {"workers": workers}}, tmp_path) as sidecar:
            sidecar.signal(signal.SIGUSR2)
            sidecar.signal(signal.SIGUSR2)  # without effect: one is in progress
            begun = await sidecar.until("handover.begun")
        assert len(sidecar.said("handover.begun")) == 1
        assert not sidecar.said("handover.done")
        assert not Path(f"/proc/{begun['pid']}/exe").exists()
