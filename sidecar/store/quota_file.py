"""Quotas in a file, for one machine: a database of SQLite, which each process opens.

Rules:

1. A call is one transaction in a worker thread, one at a time.  Its cost is that of the keys that it asks for, whatever
   the size of the file.
2. A transaction survives the end of the process.  An operating system that fails may lose the last ones, since the
   journal is not forced to the disk at each of them (`synchronous = NORMAL`); the file stays whole.
3. A file that cannot be read is never written, moved or replaced: the error says so, and `on_store_failure` holds.  A
   file is checked as a whole when a process opens it for the first time, and after an error that says it is damaged.
4. A file that was removed or replaced is noticed by the next call, which opens what the path then leads to.
5. A call waits for transactions of other processes by short naps.  SQLite's own wait sleeps longer with each attempt,
   so under contention the one who came first may starve; and where it fears a deadlock it does not wait at all.
6. Counts are deleted an hour after their window.  Keys of one quota and window are bounded as in any other store.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import Lock
from time import sleep
from typing import Any, Final

from sidecar.leases.quota import SKEW, QuotaGrant, recall, settle_ask
from sidecar.leases.rate import OVERFLOW
from sidecar.store.shared_quotas import MEMBER_FOR, Order

BUSY_FOR: Final = 0.3
"""Seconds that a transaction waits for those of other processes."""
NAP: Final = 0.001
"""Seconds between two attempts to begin a transaction while another process writes."""
PURGE_EVERY: Final = 60.0
"""Seconds between two deletions of old counts."""
VERSION: Final = 1
"""Version of the tables."""
TABLES: Final = f"""
begin immediate;
create table if not exists windows (quota text, start real, ends real, keys integer, primary key (quota, start))
  without rowid;
create table if not exists counts (quota text, start real, key blob, used real, primary key (quota, start, key))
  without rowid;
create table if not exists processes (id text primary key, seen real) without rowid;
pragma user_version = {VERSION};
commit;
"""


FileId = tuple[int, int]
"""Device and inode of a file."""


class QuotaFile:
    """Quotas in one file."""

    def __init__(
        self,
        path: str,
        wall: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        """Open the file at the first call.  `in_thread` runs a function in a worker thread."""
        self.epoch = ""
        """Epoch of the counts: path and identity of the file that was opened last."""
        self._path = path
        self._wall = wall
        self._in_thread = in_thread
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None
        self._is_stale = False
        """True to open the file anew at the next call."""
        self._opened: FileId | None = None
        """Identity of the open file."""
        self._checked: FileId | None = None
        """Identity of the file that was found to be whole; None if none was, or if it is damaged since."""
        self._purge_at = 0.0

    async def exchange(self, me: str, orders: Sequence[Order]) -> tuple[int, list[QuotaGrant]]:
        """Return the number of processes, and the answer to each order.  Raises `OSError`."""
        found: tuple[int, list[QuotaGrant]] = await self._in_thread(partial(self._exchange, me, orders, self._wall()))
        return found

    async def disconnect(self) -> None:
        """Open the file anew at the next call."""
        self._is_stale = True

    async def close(self) -> None:
        """Close the file."""
        await self._in_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._checked = None
            self._drop()

    def _drop(self) -> None:
        """Close the connection, if there is one."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _exchange(self, me: str, orders: Sequence[Order], wall: float) -> tuple[int, list[QuotaGrant]]:
        if not self._lock.acquire(blocking=False):  # a call that was given up still runs
            raise OSError(f"{self._path}: the last transaction has not ended yet; is the disk slow?")
        try:
            return self._transact_when_free(me, orders, wall)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                self._checked = None
            raise OSError(f"{self._path}: {_describe(error)}") from error
        finally:
            self._lock.release()

    def _transact_when_free(self, me: str, orders: Sequence[Order], wall: float) -> tuple[int, list[QuotaGrant]]:
        """Make one transaction, once no other process has one."""
        for _ in range(round(BUSY_FOR / NAP)):
            try:
                return self._transact(me, orders, wall)
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
            sleep(NAP)
        return self._transact(me, orders, wall)

    def _transact(self, me: str, orders: Sequence[Order], wall: float) -> tuple[int, list[QuotaGrant]]:
        database = self._open()
        database.execute("begin immediate")
        try:
            found = self._members(database, me, wall), [self._grant(database, order) for order in orders]
            if wall >= self._purge_at:
                self._purge(database, wall)
            database.execute("commit")
        except BaseException:
            if database.in_transaction:  # some errors have ended it
                database.execute("rollback")
            raise
        return found

    def _open(self) -> sqlite3.Connection:
        if self._is_stale or self._opened != _identify(self._path):
            self._drop()
        self._is_stale = False
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=0.0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Check the file, and make what it does not have yet."""
        (version,) = database.execute("pragma user_version").fetchone()
        if version > VERSION:
            raise OSError(f"{self._path}: was written by a newer version; use that one, or name another file")
        self._opened = _identify(self._path)
        self.epoch = f"{self._path}:{self._opened}"
        if self._checked is None or self._checked != self._opened:
            problem = database.execute("pragma quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            self._checked = self._opened
        if database.execute("pragma journal_mode").fetchone()[0] != "wal":
            database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")
        if version < VERSION:
            database.executescript(TABLES)

    @staticmethod
    def _members(database: sqlite3.Connection, me: str, wall: float) -> int:
        """Return the number of processes that used the file within `MEMBER_FOR` seconds, this one included."""
        database.execute("insert or replace into processes values (?, ?)", (me, wall))
        database.execute("delete from processes where seen < ?", (wall - MEMBER_FOR,))
        (found,) = database.execute("select count(*) from processes").fetchone()
        return int(found)

    def _grant(self, database: sqlite3.Connection, order: Order) -> QuotaGrant:
        """Answer one order."""
        ask = order.ask
        place: tuple[Any, ...] = (order.quota, ask.start)
        select = "select used from counts where quota = ? and start = ? and key = ?"
        key = ask.key.encode("utf-8", "surrogatepass")
        row = database.execute(select, (*place, key)).fetchone()
        if row is not None:
            row = (recall(row[0], ask, self.epoch),)
        else:
            database.execute("insert or ignore into windows values (?, ?, ?, 0)", (*place, order.ends))
            (keys,) = database.execute("select keys from windows where quota = ? and start = ?", place).fetchone()
            if keys >= order.max_keys and ask.key != OVERFLOW:
                key = OVERFLOW.encode()
                row = database.execute(select, (*place, key)).fetchone() or (0.0,)
            else:
                row = (ask.known,)
                if ask.key != OVERFLOW:
                    database.execute("update windows set keys = keys + 1 where quota = ? and start = ?", place)
        used, granted = settle_ask(row[0], ask, order.most)
        database.execute("insert or replace into counts values (?, ?, ?, ?)", (*place, key, used))
        return QuotaGrant(granted, max(0.0, order.most - used), key == OVERFLOW.encode())

    def _purge(self, database: sqlite3.Connection, wall: float) -> None:
        """Delete the counts of windows that have ended."""
        self._purge_at = wall + PURGE_EVERY
        for place in database.execute("select quota, start from windows where ends < ?", (wall - SKEW,)).fetchall():
            database.execute("delete from counts where quota = ? and start = ?", place)
            database.execute("delete from windows where quota = ? and start = ?", place)


def _identify(path: str) -> FileId | None:
    """Return the identity of the file that a path leads to; None without one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """True if another process has the file locked."""
    code: int = getattr(error, "sqlite_errorcode", 0)  # an error of the module itself has none
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the higher bits say in which way


def _describe(error: sqlite3.DatabaseError) -> str:
    """Return the words for an error of SQLite, with a remedy."""
    words = str(error)
    if isinstance(error, sqlite3.OperationalError):
        if _is_busy(error):
            return f"{words} by another program for {BUSY_FOR:g} s; end that program, or its transaction"
        return f"{words}; the folder must exist, be writable, and be on a local disk with space"
    return f"{words}; restore the file, or move it away to begin all counts anew"
