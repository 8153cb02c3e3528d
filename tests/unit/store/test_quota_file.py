"""Tests of quotas in a file: restarts, several processes, bounds, old windows, and files that cannot be used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.engine.pipeline import Pipeline
from sidecar.leases.quota import QuotaAsk, QuotaGrant
from sidecar.leases.rate import OVERFLOW
from sidecar.stages.quota import stage as quota
from sidecar.stages.quota.spec import Spec
from sidecar.store.quota_file import PURGE_EVERY, QuotaFile
from sidecar.store.shared_quotas import Order, SharedQuotas
from sidecar.store.spec import StoreSpec
from tests.support.loop import virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange

DAY = 86_400.0


async def at_once(function: Any) -> Any:
    return function()


class File(QuotaFile):
    """File whose calls are made at once, with a wall clock that the test sets."""

    def __init__(self, path: Path) -> None:
        self.wall = 100.0
        super().__init__(str(path), lambda: self.wall, at_once)

    async def ask(
        self, key: str = "a", firm: float = 1.0, me: str = "me", start: float = 0.0, **more: Any
    ) -> QuotaGrant:
        most, max_keys = more.pop("most", 10.0), more.pop("max_keys", 100)
        numbers = {"want": firm, "back": 0.0, "owed": 0.0, "known": 0.0, **more}
        ask = QuotaAsk(key, start, firm, **numbers)
        members, (grant,) = await self.exchange(me, [Order("q", most, max_keys, start + DAY, ask)])
        self.members = members
        return grant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quotas.db"


async def test_a_restart_forgets_nothing(path: Path) -> None:
    file = File(path)
    assert await file.ask(firm=7.0) == QuotaGrant(7.0, 3.0, False)
    await file.close()
    again = File(path)
    assert await again.ask(firm=7.0) == QuotaGrant(3.0, 0.0, False)
    await again.close()


async def test_a_process_that_is_killed_forgets_nothing_either(path: Path) -> None:
    """Nothing closes its connection."""
    first = File(path)
    await first.ask(firm=7.0)
    second = File(path)
    assert (await second.ask(firm=7.0, me="other")).units == 3.0
    assert second.members == 2
    await first.close()
    await second.close()


async def test_keys_beyond_the_bound_share_a_count(path: Path) -> None:
    file = File(path)
    for key in ("a", "b"):
        assert not (await file.ask(key, max_keys=2)).is_overflow
    assert await file.ask("c", firm=9.0, max_keys=2) == QuotaGrant(9.0, 1.0, True)
    assert await file.ask("d", firm=9.0, max_keys=2) == QuotaGrant(1.0, 0.0, True)
    assert await file.ask("a", max_keys=2) == QuotaGrant(1.0, 8.0, False)
    assert await file.ask(OVERFLOW, max_keys=2) == QuotaGrant(0.0, 0.0, True)
    await file.close()


async def test_a_key_that_no_text_can_hold_is_counted(path: Path) -> None:
    file = File(path)
    assert (await file.ask("\ud800", firm=10.0)).units == 10
    assert (await file.ask("\ud800")).units == 0
    await file.close()


async def test_old_windows_are_deleted_an_hour_after_their_end(path: Path) -> None:
    file = File(path)
    await file.ask()
    file.wall = DAY + 3599
    await file.ask(start=DAY)
    assert (await file.ask(firm=10.0)).units == 9, "a clock that steps back finds its count"
    file.wall = DAY + 3601 + PURGE_EVERY
    await file.ask(start=DAY)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select start, used from counts").fetchall() == [(DAY, 2.0)]
    await file.close()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"not a database, but something long enough to be taken for one" * 20, "file is not a database; restore"),
        (None, "unable to open database file; the folder must exist, be writable"),
    ],
)
async def test_a_file_that_cannot_be_used_is_left_alone_and_named(
    path: Path, content: bytes | None, error: str
) -> None:
    if content is not None:
        path.write_bytes(content)
    else:
        path = path / "no folder" / "quotas.db"
    with pytest.raises(OSError, match=error) as raised:
        await File(path).ask()
    assert str(path) in str(raised.value)
    assert content is None or path.read_bytes() == content


async def test_a_damaged_file_is_left_alone_and_used_again_once_it_is_mended(path: Path) -> None:
    file = File(path)
    for number in range(300):
        await file.ask(f"key {number:060}", max_keys=1000)
    await file.close()
    whole = path.read_bytes()
    damaged = whole[:8192] + os.urandom(4096) + whole[12288:]
    path.write_bytes(damaged)
    with pytest.raises(OSError, match="restore the file, or move it away"):
        await file.ask()
    assert path.read_bytes() == damaged
    path.write_bytes(whole)
    assert (await file.ask(f"key {1:060}", firm=10.0, max_keys=1000)).units == 9
    await file.close()


async def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(OSError, match="was written by a newer version"):
        await File(path).ask()


async def test_a_call_beside_one_that_was_given_up_is_refused(path: Path) -> None:
    file = File(path)
    with file._lock, pytest.raises(OSError, match="has not ended yet"):
        await file.ask()


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_transaction_begins_as_soon_as_that_of_another_process_has_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """A reader of a new file keeps the journal from being changed, for which SQLite does not wait."""
    file, other = File(path), sqlite3.connect(path, isolation_level=None)
    if is_new:
        other.executescript("create table another (x); begin; select * from another")
    else:
        await file.ask()
        other.execute("begin immediate")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 20:
            other.execute("rollback")

    monkeypatch.setattr("sidecar.store.quota_file.sleep", nap)
    assert (await file.ask(firm=10.0)).units == 9 + is_new
    assert len(naps) == 20
    assert sum(naps) < 0.05
    other.close()
    await file.close()


async def test_a_file_is_checked_as_a_whole_once_and_after_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads all of a large file.  Each time that the store is away for a moment the file is opened anew."""
    connect, statements = sqlite3.connect, list[str]()

    def traced(*arguments: Any, **options: Any) -> Any:
        database = connect(*arguments, **options)
        database.set_trace_callback(statements.append)
        return database

    def checks() -> int:
        return sum("quick_check" in statement for statement in statements)

    monkeypatch.setattr(sqlite3, "connect", traced)
    file = File(path)
    for _ in range(3):
        await file.ask()
        await file.disconnect()
    assert checks() == 1
    file._drop()
    whole = path.read_bytes()
    path.write_bytes(b"damaged" * 1000)
    with pytest.raises(OSError, match="restore the file"):
        await file.ask()
    path.write_bytes(whole)
    assert (await file.ask(firm=10.0)).units == 7
    assert checks() == 2
    await file.close()


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_file_that_was_removed_or_replaced_is_not_written_any_more(path: Path, is_replaced: bool) -> None:
    first, second = File(path), File(path)
    await first.ask(firm=4.0)
    await second.ask(firm=2.0, me="other")
    if is_replaced:
        new = path.with_name("new")
        new.touch()
        new.rename(path)
    else:
        path.unlink()
    epochs = first.epoch, second.epoch
    assert await first.ask(firm=1.0, known=4.0, epoch=epochs[0]) == QuotaGrant(1.0, 5.0, False)
    assert await second.ask(firm=1.0, me="other", known=6.0, epoch=epochs[1]) == QuotaGrant(1.0, 3.0, False), "it knew"
    assert await first.ask(firm=9.0, known=9.0, epoch=first.epoch) == QuotaGrant(3.0, 0.0, False)
    for file in (first, second):
        await file.close()
    again = File(path)
    assert (await again.ask()).left == 0.0
    await again.close()


async def test_another_process_that_writes_is_waited_for_but_not_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.store.quota_file.BUSY_FOR", 0.01)
    file = File(path)
    await file.ask()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(OSError, match="is locked by another program for"):
        await file.ask()
    other.execute("rollback")
    other.close()
    assert (await file.ask(firm=10.0)).units == 9
    await file.close()


@virtual
async def test_a_quota_holds_over_a_restart_of_the_process(path: Path) -> None:
    spec = StoreSpec.model_validate({"file": str(path)})
    block = Spec.model_validate([{"name": "day", "max": 10, "per": "day", "store": "disk"}])

    async def serve(requests: int) -> list[int]:
        env = virtual_env()
        store = SharedQuotas("disk", spec, env, lambda _: QuotaFile(str(path), env.wall, at_once))
        ctx = context(env, store=Store(), resources={("quota_store", "disk"): store})
        call = Pipeline([quota.build(block, ctx)], ScriptedService(200))
        found = [each.status for each in await asyncio.gather(*(call(exchange()) for _ in range(requests)))]
        await store.give_back()
        return found

    assert await serve(6) == [200] * 6
    assert sorted(await serve(6)) == [200] * 4 + [429] * 2


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "must be either"),
        ({"file": "/a", "redis": {"url": "redis://a"}}, "must be either"),
        ({"file": "quotas.db"}, "is not an absolute path"),
    ],
)
def test_a_store_is_of_one_kind(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreSpec.model_validate(block)
