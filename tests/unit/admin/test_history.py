"""Tests of the keeper of the history: its timer and its file, on a clock that a test moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.admin.history import HistoryKeeper
from sidecar.admin.view import AdminView, Readiness
from sidecar.config.process_spec import HistorySpec
from sidecar.core.events import BUG, HISTORY_FAILED
from sidecar.core.metrics import BOUNDS
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.history import PERIOD
from sidecar.telemetry.metrics.period import read_history
from sidecar.telemetry.metrics.registry import Registry
from tests.support.clock import make_env


class World:
    """Keeper whose seconds pass at once, up to an instant."""

    def __init__(self, file: Path | None = None) -> None:
        self.env = make_env()
        self.end = self.env.now()
        """Instant at which the clock stands still."""
        self.refreshed = 0

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)
            if seconds:
                while self.env.now() + seconds > self.end:
                    await asyncio.sleep(0)
                self.env.advance(seconds)

        self.env.sleep = sleep
        self.registry = Registry()
        self.route = RouteMetrics(self.registry, {"route": "order"})
        view = AdminView(
            env=self.env, registry=self.registry, version="1", build="pure", started=0.0, readiness=Readiness(),
            reload=None, states=dict, refresh=self.refresh,
        )  # type: ignore[arg-type]  # fmt: skip
        self.keeper = HistoryKeeper(view)
        self.spec = HistorySpec.model_validate({"file": None if file is None else str(file)})

    async def refresh(self) -> None:
        self.refreshed += 1

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let turns of the loop pass until something holds."""
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0)

    async def run(self, periods: int) -> None:
        """Let so many periods of virtual time pass, and no more."""
        history = self.keeper.history
        assert history is not None
        many = len(history.ring) + periods
        self.end += PERIOD * periods
        await self.until(lambda: len(history.ring) == many)

    @property
    def periods(self) -> list[dict[str, Any]]:
        assert self.keeper.history is not None
        return [json.loads(each) for each in self.keeper.history.ring]


async def started(file: Path | None = None) -> World:
    world = World(file)
    world.keeper.start(world.spec)
    await asyncio.sleep(0)
    return world


async def test_a_period_ends_every_minute_with_sums_that_are_up_to_date() -> None:
    world = await started()
    await world.run(1)
    world.route.record(b"GET", 200, "", 0.02)
    await world.run(2)
    await world.keeper.stop()
    assert [("order" in each.get("routes", {}), each["seconds"]) for each in world.periods] == [
        (False, 60.0), (True, 60.0), (False, 60.0),
    ]  # fmt: skip
    assert world.refreshed == 3


async def test_no_history_if_it_is_off() -> None:
    world = World()
    world.keeper.start(None)
    assert world.keeper.history is None
    await world.keeper.stop()


async def test_the_file_keeps_the_figures_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    world = await started(file)
    await world.run(5)
    await world.until(file.exists)
    world.route.record(b"GET", 200, "", 0.02)
    await world.run(1)
    await world.keeper.stop()
    assert len(read_history(file.read_bytes()).periods) == 6
    assert not world.env.emitted(HISTORY_FAILED), "that there is no file at the first start is no failure"
    after = await started(file)
    await after.until(lambda: len(after.periods) == 6)
    assert after.periods == world.periods
    await after.keeper.stop()


@pytest.mark.parametrize(
    ("text", "reason"), [(b'{"version":', "is no history of this version: "), (None, "cannot be read: Is a directory")]
)
async def test_a_file_that_cannot_be_used_is_told_and_ignored(tmp_path: Path, text: bytes | None, reason: str) -> None:
    file = tmp_path / "history.json"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text)
    world = await started(file)
    await world.until(lambda: bool(world.env.emitted(HISTORY_FAILED)))
    assert reason in world.env.emitted(HISTORY_FAILED)[0]["reason"]
    await world.run(1)
    await world.keeper.stop()
    if text is not None:
        assert len(read_history(file.read_bytes()).periods) == 1, "the next writing replaces it"
    else:
        assert "cannot be written" in world.env.emitted(HISTORY_FAILED)[-1]["reason"]


async def kept(file: Path, periods: int) -> list[dict[str, Any]]:
    """Return what a sidecar restores from a file, which has so many periods."""
    world = await started(file)
    await world.until(lambda: len(world.periods) == periods)
    assert not world.env.emitted(HISTORY_FAILED)
    world.keeper.leave()
    await world.keeper.stop()
    return world.periods


async def test_a_kill_loses_a_minute_at_most(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    world = await started(file)
    for number in range(1, 6):
        world.route.record(b"GET", 200, "", 0.02)
        await world.run(1)
        await world.until(lambda many=number: file.exists() and file.read_bytes().count(b"\n") == many)  # type: ignore[misc]
        assert await kept(file, number) == world.periods, "as after a kill"
    whole = file.read_bytes()
    for left in (whole[:-1], whole[:-20], whole[: whole.rindex(b"\n", 0, -1) + 1]):
        file.write_bytes(left)
        assert await kept(file, 4) == world.periods[:4], "a line that is cut off is left out"
    await world.keeper.stop()
    assert file.read_bytes().count(b"\n") == 1, "at the end it is replaced as a whole"


async def test_a_file_that_was_removed_is_made_again_with_all_periods(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    world = await started(file)
    for number in (1, 2):
        await world.run(1)
        await world.until(lambda many=number: file.exists() and file.read_bytes().count(b"\n") == many)  # type: ignore[misc]
    file.unlink()
    await world.run(1)
    await world.until(file.exists)
    assert len(read_history(file.read_bytes()).periods) == 3
    world.keeper.leave()
    await world.keeper.stop()


async def test_the_file_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    world = World(file)
    world.spec = world.spec.model_copy(update={"size": 300})
    world.keeper.start(world.spec)
    await asyncio.sleep(0)
    bounds = len(b'{"version":1,"bounds":[],"periods":[]}') + len(json.dumps(BOUNDS))
    sizes = []
    for number in range(40):
        world.end += PERIOD
        await world.until(lambda many=number + 1: world.refreshed == many)  # type: ignore[misc]
        await world.until(file.exists)
        sizes.append(file.stat().st_size)
    assert max(sizes) <= bounds + 2 * 300
    assert sizes.count(min(sizes[20:])) < 20, "it is not replaced each time"
    await world.keeper.stop()


async def test_a_bound_below_one_period_is_told_once() -> None:
    world = World()
    world.spec = world.spec.model_copy(update={"size": 10})
    world.keeper.start(world.spec)
    await asyncio.sleep(0)
    world.end += 2 * PERIOD
    await world.until(lambda: world.refreshed == 2)
    await world.keeper.stop()
    assert [each["reason"] for each in world.env.emitted(HISTORY_FAILED)] == [
        "the figures of one minute are larger than admin.history.size; raise it"
    ]


async def test_nothing_is_written_after_a_hand_over(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    world = await started(file)
    await world.run(1)
    await world.until(file.exists)
    file.unlink()
    world.keeper.leave()
    await world.keeper.stop()
    assert not file.exists()


async def test_a_bug_in_one_reading_does_not_end_the_others() -> None:
    world = await started()
    assert world.keeper.history is not None
    good, world.keeper.history.watch = world.keeper.history.watch, lambda: 1 // 0  # type: ignore[method-assign]
    world.end += 1
    await world.until(lambda: bool(world.env.emitted(BUG)))
    world.keeper.history.watch = good  # type: ignore[method-assign]
    world.end -= 1
    await world.run(1)
    await world.keeper.stop()
    assert len(world.periods) == 1
