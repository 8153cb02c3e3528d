"""Second tier of a cache: a Redis that several sidecars fill and purge together, behind the memory of each.

Rules:

1. It can only help.  No request fails because of it, and none waits longer than `timeout`.  The first fault opens the
   tier's breaker: it releases everyone who waits and keeps all others out.  A background probe closes it again.
2. *Generations.*  The cache, each URI and each tag that was ever purged have a counter of purges.  An answer is written
   with the counts that were read before its fetch, and is valid only while they are unchanged.  A purge is thus one
   increment, and also covers answers that are on their way.
3. *A stream of purges* is read by every sidecar each `SYNC_EVERY`; what was purged leaves its memory.  A sidecar that
   has missed a part of the stream clears its memory.  (With pub/sub it could not know what it missed.)
4. While Redis is away each sidecar uses its own memory.  Its purges are published when Redis is back.

A purge by prefix also scans the keys, in the background.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from sidecar.cache.codec import Record, ttl_of
from sidecar.cache.entry import Entry, Variants
from sidecar.cache.redis_client import RedisClient, RefusedByRedis, Unreadable
from sidecar.cache.spec import RedisSpec
from sidecar.core import events, metrics
from sidecar.core.env import Env, Handle

LONGEST: Final = 86400.0
"""Seconds for which an answer is kept, at most; counters of purges live twice as long."""
SHORTEST: Final = 0.001
"""Seconds; Redis refuses a shorter expiry."""
SYNC_EVERY: Final = 1.0
"""Seconds between two reads of the stream of purges."""
SLOWEST_PROBE: Final = 30.0
"""Seconds between two probes of a Redis that stays away."""
STREAM_LENGTH: Final = 10_000
"""Purges that the stream holds."""
SLOWEST_PURGE: Final = 60.0
"""Seconds for one round of purges; a prefix is looked for in all keys."""
MAX_UNPUBLISHED: Final = 1000
"""Purges that wait for Redis to come back; more are replaced by one of everything."""
MAX_IN_FLIGHT: Final = 256
"""Operations in flight; beyond it the tier is passed over."""
MAX_BEFORE_WRITE: Final = 32
"""Operations in flight beside which a write may begin.  Nobody waits for a write, and a queue of writes would take
their time from the reads."""
LONGEST_KEY: Final = 4096
"""Bytes; answers with longer keys stay in memory."""
SCAN_COUNT: Final = 1000
"""Keys that one step of a scan looks at."""
EVERYTHING: Final = "g"
"""Name of the counter of the whole cache."""
GLOB: Final = re.compile(r"([\\*?\[\]])")
"""Matches the special characters of Redis's patterns."""

Purged = Callable[[str, bytes], None]
"""`purged(kind, value)`, with the arguments of `RedisTier.purge`."""
Operation = Callable[..., Coroutine[Any, Any, Any]]


def _name(kind: bytes, value: bytes) -> str:
    """Return the name of an entry (`e:`), or of the counter of a URI (`u:`) or tag (`t:`), without the namespace."""
    return (kind + value).decode("latin-1")


class RedisTier:
    """One cache's share of a Redis database."""

    def __init__(self, spec: RedisSpec, name: str, env: Env, purged: Purged) -> None:
        """`purged` is called for each purge by another sidecar."""
        self.timeout = spec.timeout
        self.is_up = True
        """False while the breaker is open."""
        self.last_error = ""
        self._env = env
        self._purged = purged
        self._client = RedisClient(spec, f"sidecar:{name}", env.now, env.wall, env.names)
        self._stream = self._client.build_key("purges")
        self._id = f"{env.rng.getrandbits(64):016x}"
        """Name of this sidecar in the stream."""
        self._cache = name
        self._errors = env.meter.counter(metrics.CACHE_TIER_ERRORS, cache=name)
        self._in_flight: dict[Any, list[Exception]] = {}
        """Tasks of operations, each with the error by which the tier has ended it."""
        self._unpublished: dict[tuple[str, bytes], None] = {}
        """Purges to be published, oldest first; a dict for its order."""
        self._pause = SYNC_EVERY
        """Seconds until the next probe."""
        self._seen = ""
        """Number of the last purge read from the stream; empty before the first read."""
        self._timer: Handle = env.call_later(0.0, self._tick)

    # ----- entries

    async def load(self, key: bytes, uri: bytes) -> tuple[Entry | Variants | None, bytes | None]:
        """Return what Redis has under a key, and the generation for the entry that replaces it.

        The generation is None if nothing should be written.
        """
        if not self.is_up or len(self._in_flight) >= MAX_IN_FLIGHT or len(key) > LONGEST_KEY:
            return None, None
        task = self._start(self.timeout, self._load, key, uri)
        ended = self._in_flight[task]
        try:
            return (await task) or (None, None)
        except asyncio.CancelledError:
            if ended:  # released before it had begun
                return None, None
            raise

    async def _load(self, key: bytes, uri: bytes) -> tuple[Entry | Variants | None, bytes]:
        found, *counts = await self._client.multi_get([_name(b"e:", key), EVERYTHING, _name(b"u:", uri)])
        generation = _joined(counts)
        if found is None:
            return None, generation
        if not isinstance(found, Record) or found.item.key != key:
            self._count(ValueError(found.reason if isinstance(found, Unreadable) else "a record is of another key"))
            return None, generation
        written, _, of_tags = found.generation.partition(b" ")
        item = found.item
        if written != generation:
            return None, generation
        if isinstance(item, Entry) and item.tags and of_tags != await self._tag_counts(item.tags):
            return None, generation
        return item, generation

    def save(self, item: Entry | Variants, generation: bytes) -> None:
        """Write an item in the background, unless too much is in flight."""
        if self.is_up and len(self._in_flight) < MAX_BEFORE_WRITE and len(item.key) <= LONGEST_KEY:
            self._start(self.timeout, self._save, item, generation)

    async def _save(self, item: Entry | Variants, generation: bytes) -> None:
        tags = item.tags if isinstance(item, Entry) else ()
        if tags:
            generation += b" " + await self._tag_counts(tags)
        ttl = ttl_of(item, self._env.now(), LONGEST)
        if ttl >= SHORTEST:
            await self._client.set(_name(b"e:", item.key), Record(item, generation), ttl=ttl)

    async def _tag_counts(self, tags: tuple[bytes, ...]) -> bytes:
        return _joined(await self._client.multi_get([_name(b"t:", tag) for tag in tags]))

    # ----- purges

    def purge(self, kind: str, value: bytes) -> None:
        """Publish a purge in the background, as soon as Redis is there.

        `kind` is `uri`, `prefix`, `tag` or `everything`; `value` is empty for the last.
        """
        if len(self._unpublished) >= MAX_UNPUBLISHED:
            self._unpublished.clear()
            kind, value = "everything", b""
        self._unpublished[kind, value] = None
        if self.is_up and len(self._in_flight) < MAX_IN_FLIGHT:
            self._start(SLOWEST_PURGE, self._publish)

    async def _publish(self) -> None:
        for kind, value in list(self._unpublished):
            await self._purge(kind, value)
            self._unpublished.pop((kind, value), None)

    async def _purge(self, kind: str, value: bytes) -> None:
        counter = {"uri": _name(b"u:", value), "tag": _name(b"t:", value), "everything": EVERYTHING}.get(kind)
        if counter is not None:
            await self._client.increment(counter)
            if counter != EVERYTHING:
                await self._client.expire(counter, int(2 * LONGEST))
        else:
            await self._delete_prefix(value)
        fields = {"kind": kind, "what": value, "by": self._id}
        await self._client.raw("xadd", self._stream, fields, maxlen=STREAM_LENGTH, approximate=False)

    async def _delete_prefix(self, prefix: bytes) -> None:
        escaped = GLOB.sub(r"\\\1", prefix.decode("latin-1"))
        pattern = self._client.build_key(f"e:* {escaped}*")
        cursor: Any = 0
        while True:
            cursor, keys = await self._client.raw("scan", cursor, pattern, SCAN_COUNT)
            if keys:
                await self._client.raw("unlink", *keys)
            if not cursor:
                return

    def _tick(self) -> None:
        self._start(max(SYNC_EVERY, self.timeout), self._sync).add_done_callback(self._rearm)

    async def _sync(self) -> None:
        """Read the stream of purges and publish our own: also the probe that closes the breaker."""
        if not self._seen:
            last = await self._client.raw("xrevrange", self._stream, count=1)
            self._seen = last[0][0].decode() if last else "0-0"
        else:
            streams = await self._client.raw("xread", {self._stream: self._seen}, count=STREAM_LENGTH)
            purges = streams[0][1] if streams else []
            if len(purges) >= STREAM_LENGTH:
                self._purged("everything", b"")
            for number, fields in purges:
                self._seen = number.decode()
                if fields.get(b"by") != self._id.encode():
                    self._purged(fields[b"kind"].decode(), fields[b"what"])
        await self._publish()
        if not self.is_up:
            self.is_up = True
            self._env.emit(events.CACHE_TIER_UP, cache=self._cache)

    def _rearm(self, _: Any) -> None:
        self._pause = SYNC_EVERY if self.is_up else min(SLOWEST_PROBE, 2 * self._pause)
        self._timer = self._env.call_later(self._pause, self._tick)

    # ----- faults

    def _start(self, limit: float, operation: Operation, *args: Any) -> Any:
        """Run `operation(*args)` as a task that has `limit` seconds."""
        ended: list[Exception] = []
        task = self._env.spawn(self._guarded(ended, operation, args))
        timer = self._env.call_later(limit, self._time_out, task, limit)
        self._in_flight[task] = ended
        task.add_done_callback(partial(self._finish, timer))
        return task

    def _finish(self, timer: Handle, task: Any) -> None:
        timer.cancel()
        del self._in_flight[task]

    async def _guarded(self, ended: list[Exception], operation: Operation, args: tuple[Any, ...]) -> Any:
        """Run an operation; None if it fails.  Only the caller's own cancellation is passed on."""
        try:
            return await operation(*args)
        except asyncio.CancelledError:
            if not ended:
                raise
        except RefusedByRedis as error:
            self._count(error)
        except Exception as error:  # a client library may raise anything
            self._fail(error)
        return None

    def _time_out(self, task: Any, limit: float) -> None:
        self._fail(TimeoutError(f"no answer within {limit:g} s"))
        self._end(task)

    def _fail(self, error: Exception) -> None:
        """Count a fault and open the breaker."""
        self._count(error)
        if self.is_up:
            self.is_up = False
            self._env.emit(events.CACHE_TIER_DOWN, cache=self._cache, error=self.last_error)
            for task in list(self._in_flight):
                self._end(task)

    def _end(self, task: Any) -> None:
        """End an operation and release who waits for it."""
        if task in self._in_flight:
            self._in_flight[task].append(TimeoutError())
            task.cancel()

    def _count(self, error: Exception) -> None:
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values."""
        return {"up": self.is_up, "errors": self._errors.value, "last_error": self.last_error}

    def close(self) -> None:
        """Stop at once; the connections are closed in the background."""
        self._timer.cancel()
        self.is_up = False
        for task in list(self._in_flight):
            self._end(task)
        self._env.spawn(self._client.close())

    def __repr__(self) -> str:
        return f"<RedisTier {self._cache} {'up' if self.is_up else 'down'}>"


def _joined(counts: list[Any]) -> bytes:
    """Return counters, as they were read, joined to a part of a generation."""
    return b"/".join(count if isinstance(count, bytes) else b"0" for count in counts)
