"""Tests of the live page's event stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sidecar.admin import live
from sidecar.core import events
from sidecar.core.metrics import BOUNDS, bucket_index
from sidecar.telemetry.plain import HIDDEN
from tests.browser.scene import Scene, Thing, calm


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(live, "EVERY", 0.02)
    monkeypatch.setattr(live, "LONGEST", 0.0)
    async with calm(Scene()) as scene:
        yield scene


class Reader:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def event(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(60):
            while True:
                line = await self.reader.readline()
                assert line, "the stream has ended"
                if line.startswith(b"event: "):
                    name = line.decode().removeprefix("event: ").strip()
                    data = await self.reader.readline()
                    return name, json.loads(data.removeprefix(b"data: "))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


Read = Callable[..., Awaitable[Reader]]


@pytest.fixture
async def read(scene: Scene) -> AsyncIterator[Read]:
    """Yield a function that opens a stream; all streams are closed at the end."""
    opened: list[asyncio.StreamWriter] = []

    async def read(method: str = "GET") -> Reader:
        reader, writer = await asyncio.open_connection(*scene.url.removeprefix("http://").split(":"), limit=2**20)
        opened.append(writer)
        writer.write(f"{method} /live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return Reader(reader, writer)

    yield read
    for writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_first_all_and_then_what_has_changed(scene: Scene, read: Read) -> None:
    page = await read()
    name, data = await page.event()
    assert name == "full"
    assert {"about", "routes", "reloads", "refusals", "events", "state.breaker"} <= set(data["parts"])
    assert data["bounds"] == list(BOUNDS)
    name, data = await page.event()
    assert (name, set(data["parts"])) == ("tick", {"about"})
    scene.requests("order", [0.001])
    scene.states["retry_budget", "payments"] = Thing(tokens=1)
    del scene.states["cache", "default"]
    seen: dict[str, Any] = {}
    while "state.cache" not in seen or "order" not in seen:
        _, data = await page.event()
        seen |= data["parts"] | data["second"][1]
    assert seen["order"] == [0, 0, bucket_index(0.001), 1]
    assert seen["state.retry_budget"] == {"payments": {"tokens": 1}}
    assert seen["state.cache"] is None


async def test_a_page_that_comes_later_has_the_past(scene: Scene, read: Read) -> None:
    scene.requests("order", [0.001] * 3)
    await asyncio.sleep(0.1)
    page = await read()
    _, data = await page.event()
    assert any(routes.get("order") == [0, 0, bucket_index(0.001), 3] for _, routes in data["seconds"])


async def test_describing_everything_takes_its_share_and_no_more(
    scene: Scene, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LONGEST", 60.0)
    monkeypatch.setattr(live, "SHARE", 1e-6)
    page = await read()
    await page.event()
    first = await page.event()
    scene.requests("order", [0.001])
    later = [await page.event() for _ in range(5)]
    assert first[0] == "tick"
    assert all(data["parts"] == {} for _, data in later), "that waits"
    assert any("order" in data["second"][1] for _, data in later), "traffic does not"


async def test_no_secrets_pass(scene: Scene, read: Read) -> None:
    scene.states["redis", "x"] = Thing(url="redis://user:hunter2@h", password="hunter2")
    page = await read()
    _, data = await page.event()
    assert data["parts"]["state.redis"]["x"] == {"url": f"redis://{HIDDEN}@h", "password": HIDDEN}


async def test_a_reader_that_falls_behind_gets_all_again(scene: Scene) -> None:
    feed = scene.admin.feed
    number, _ = await feed.message(-1)
    await until(lambda: feed.number >= number + 2)
    _, message = await feed.message(number)
    assert message.startswith(b"event: full")


async def test_it_is_bounded_and_counts_who_has_left(scene: Scene, monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    monkeypatch.setattr(live, "MAX_PAGES", 2)
    pages = [await read() for _ in range(2)]
    for page in pages:
        await page.event()
    third = await read()
    assert b" 503 " in await third.reader.readline()
    for page in pages:
        page.writer.close()
    await until(lambda: not scene.admin.feed.pages)


async def test_head_has_no_stream(scene: Scene, read: Read) -> None:
    page = await read("HEAD")
    assert b" 405 " in await page.reader.readline()


async def test_the_end_of_the_listener_ends_the_stream(scene: Scene, read: Read) -> None:
    page = await read()
    await page.event()
    async with asyncio.timeout(60):
        await scene.admin.close()
        await page.reader.read()


async def test_a_bug_in_one_description_does_not_end_it(scene: Scene, read: Read) -> None:
    page = await read()
    await page.event()
    routes = scene.routes
    scene.view.sections["routes"] = lambda: 1 / 0  # type: ignore[index]
    await until(lambda: any(event["event"] == events.BUG for event in scene.events))
    scene.view.sections["routes"] = lambda: routes  # type: ignore[index]
    assert (await page.event())[0] in ("tick", "full")
