"""The shared tier: a Redis that several sidecars fill and purge together, behind the memory of each.

It can only help.  No request fails or waits longer than `timeout` for it, and that once: the first fault opens the
tier's own breaker, which lets go of everyone who waits and keeps all others out; a probe in the background, not a
request, closes it again.

What the sidecars tell each other:

- *Generations.*  A counter for the store, one for each URI and one for each tag that was ever purged.  An answer is
  written with the generations that were read before it was fetched from the upstream, and is believed only while they
  are still the same.  A purge is one increment, and an answer that was on its way meanwhile is never believed.
- *A stream of purges*, read once a second by everyone: what was purged leaves the memory in front.  Who missed a part
  of it clears that memory.  Streams rather than pub/sub: a subscriber who was away does not know what it missed.

So a purge here is seen by the others within `SYNC_EVERY`, and at once where they do not hold the answer in memory.
While Redis is away each sidecar lives by its own memory, and its purges reach the others when they meet again in the
stream.

Purging by prefix also scans the keys, in the background.  redis-py is imported when a tier is made, not before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sidecar.cache.codec import decode, encode, ttl_of
from sidecar.cache.entry import Entry, Variants
from sidecar.cache.redis_client import connect, harmless
from sidecar.core import events, metrics
from sidecar.core.env import Env, Handle

if TYPE_CHECKING:
    from sidecar.cache.spec import RedisSpec

LONGEST: Final = 86400.0
"""Seconds for which an answer is kept at most; the counters of purges live twice as long."""
SYNC_EVERY: Final = 1.0
"""Seconds between two looks at the stream of purges."""
SLOWEST_PROBE: Final = 30.0
"""Seconds between two probes of a Redis that stays away."""
STREAM_LENGTH: Final = 10_000
"""Purges that the stream remembers."""
SLOWEST_PURGE: Final = 60.0
"""Seconds; a prefix is looked for in all keys."""
MAX_UNTOLD: Final = 1000
"""Purges that wait for Redis to come back; more become one of everything."""
MAX_UNDER_WAY: Final = 256
"""Reads and writes at once; beyond it the tier is passed over."""
MAX_BEFORE_WRITE: Final = 32
"""Reads and writes under way beside which another write may begin: nobody waits for a write, and a queue of them would
take from the reads the time that they have."""
LONGEST_KEY: Final = 4096
"""Bytes; answers to longer URIs stay in memory."""
GLOB: Final = re.compile(r"([\\*?\[\]])")

Purged = Callable[[str, bytes], None]
Work = Callable[..., Coroutine[Any, Any, Any]]


def _text(kind: bytes, what: bytes) -> str:
    return (kind + what).decode("latin-1")


class RedisTier:
    """One cache's share of a Redis database.  `purged(kind, what)` is called for what others have purged."""

    def __init__(self, spec: RedisSpec, name: str, env: Env, purged: Purged) -> None:
        self.timeout = spec.timeout
        self.is_up = True
        self.last_error = ""
        self._env = env
        self._purged = purged
        self._namespace = f"sidecar:{name}"
        self._client = connect(spec, self._namespace)
        self._me = f"{env.rng.getrandbits(64):016x}"
        self._name = name
        self._harmless: type[Exception] = harmless()
        self._errors = env.meter.counter(metrics.CACHE_TIER_ERRORS, cache=name)
        self._under_way: dict[Any, list[Exception]] = {}
        """Tasks, each with what ended it from outside."""
        self._untold: dict[tuple[str, bytes], None] = {}
        self._pause = SYNC_EVERY
        self._seen = ""
        self._timer: Handle = env.call_later(0.0, self._tick)

    # ----- entries

    async def fetch(self, key: bytes, uri: bytes) -> tuple[Entry | Variants | None, bytes | None]:
        """What Redis has under a key, and the generation to store its successor with (None: do not)."""
        if not self.is_up or len(self._under_way) >= MAX_UNDER_WAY or len(key) > LONGEST_KEY:
            return None, None
        task = self._start(self.timeout, self._fetch, key, uri)
        over = self._under_way[task]
        try:
            return (await task) or (None, None)
        except asyncio.CancelledError:
            if over:  # let go before it had even begun
                return None, None
            raise

    async def _fetch(self, key: bytes, uri: bytes) -> tuple[Entry | Variants | None, bytes]:
        everything, of_uri = self._counters(uri)
        data, *counts = await self._client.multi_get([_text(b"e:", key), everything, of_uri])
        generation = b"/".join(count or b"0" for count in counts)
        if data is None:
            return None, generation
        try:
            record = decode(data, key, self._env.now(), self._env.wall())
        except ValueError as error:
            self._count(error)
            return None, generation
        written, _, of_tags = record.generation.partition(b" ")
        if written != generation:
            return None, generation
        if isinstance(record.item, Entry) and record.item.tags and of_tags != await self._tag_counts(record.item.tags):
            return None, generation
        return record.item, generation

    def store(self, item: Entry | Variants, generation: bytes) -> None:
        """Write an item in the background, unless there is too much to do already."""
        if self.is_up and len(self._under_way) < MAX_BEFORE_WRITE and len(item.key) <= LONGEST_KEY:
            self._start(self.timeout, self._store, item, generation)

    async def _store(self, item: Entry | Variants, generation: bytes) -> None:
        tags = item.tags if isinstance(item, Entry) else ()
        if tags:
            generation += b" " + await self._tag_counts(tags)
        now = self._env.now()
        ttl = ttl_of(item, now, LONGEST)
        if ttl >= 0.001:  # less is an error to Redis
            await self._client.set(_text(b"e:", item.key), encode(item, generation, now, self._env.wall()), ttl=ttl)

    async def _tag_counts(self, tags: tuple[bytes, ...]) -> bytes:
        return b"/".join(count or b"0" for count in await self._client.multi_get([_text(b"t:", tag) for tag in tags]))

    @staticmethod
    def _counters(uri: bytes) -> tuple[str, str]:
        return "g", _text(b"u:", uri)

    # ----- purges

    def purge(self, kind: str, what: bytes) -> None:
        """Tell the others: `uri`, `prefix`, `tag` or `everything`.  In the background, as soon as Redis is there."""
        if len(self._untold) >= MAX_UNTOLD:
            self._untold.clear()
            kind, what = "everything", b""
        self._untold[kind, what] = None
        if self.is_up and len(self._under_way) < MAX_UNDER_WAY:
            self._start(SLOWEST_PURGE, self._flush)

    async def _flush(self) -> None:
        for kind, what in list(self._untold):
            await self._purge(kind, what)
            self._untold.pop((kind, what), None)

    async def _purge(self, kind: str, what: bytes) -> None:
        counter = {"uri": _text(b"u:", what), "tag": _text(b"t:", what), "everything": "g"}.get(kind)
        if counter is not None:
            await self._client.increment(counter)
            if counter != "g":
                await self._client.expire(counter, int(2 * LONGEST))
        else:
            await self._scan(what)
        fields = {"kind": kind, "what": what, "by": self._me}
        await self._client.client.xadd(self._stream, fields, maxlen=STREAM_LENGTH, approximate=False)

    async def _scan(self, prefix: bytes) -> None:
        pattern = GLOB.sub(r"\\\1", prefix.decode("latin-1"))
        cursor: Any = 0
        while True:
            cursor, keys = await self._client.client.scan(cursor, f"{self._namespace}:e:* {pattern}*", 1000)
            if keys:
                await self._client.client.unlink(*keys)
            if not cursor:
                return

    @property
    def _stream(self) -> str:
        return f"{self._namespace}:purges"

    def _tick(self) -> None:
        self._start(max(SYNC_EVERY, self.timeout), self._sync).add_done_callback(self._rearm)

    async def _sync(self) -> None:
        client = self._client.client
        if not self._seen:
            last = await client.xrevrange(self._stream, count=1)
            self._seen = last[0][0].decode() if last else "0-0"
        else:
            streams = await client.xread({self._stream: self._seen}, count=STREAM_LENGTH)
            records = streams[0][1] if streams else []
            if len(records) >= STREAM_LENGTH:
                self._purged("everything", b"")
            for number, fields in records:
                self._seen = number.decode()
                if fields.get(b"by") != self._me.encode():
                    self._purged(fields[b"kind"].decode(), fields[b"what"])
        await self._flush()
        if not self.is_up:
            self.is_up = True
            self._env.emit(events.CACHE_TIER_UP, cache=self._name)

    def _rearm(self, _: Any) -> None:
        self._pause = SYNC_EVERY if self.is_up else min(SLOWEST_PROBE, 2 * self._pause)
        self._timer = self._env.call_later(self._pause, self._tick)

    # ----- faults

    def _start(self, limit: float, work: Work, *args: Any) -> Any:
        """Run `work(*args)` as a task that has `limit` seconds."""
        over: list[Exception] = []
        task = self._env.spawn(self._guarded(over, work, args))
        timer = self._env.call_later(limit, self._expire, task, limit)
        self._under_way[task] = over
        task.add_done_callback(partial(self._finish, timer))
        return task

    def _finish(self, timer: Handle, task: Any) -> None:
        timer.cancel()
        del self._under_way[task]

    async def _guarded(self, over: list[Exception], work: Work, args: tuple[Any, ...]) -> Any:
        """Do the work; None if it fails, which is no request's business.  Its caller's cancellation goes on."""
        try:
            return await work(*args)
        except asyncio.CancelledError:
            if not over:
                raise
        except self._harmless as error:  # Redis is well and says no, because it is full for example
            self._count(error)
        except Exception as error:  # whatever else a client library may raise
            self._fail(error)
        return None

    def _expire(self, task: Any, limit: float) -> None:
        self._fail(TimeoutError(f"no answer within {limit:g} s"))
        self._let_go(task)

    def _fail(self, error: Exception) -> None:
        self._count(error)
        if self.is_up:
            self.is_up = False
            self._env.emit(events.CACHE_TIER_DOWN, cache=self._name, error=self.last_error)
            for task in list(self._under_way):
                self._let_go(task)

    def _let_go(self, task: Any) -> None:
        if task in self._under_way:
            self._under_way[task].append(TimeoutError())
            task.cancel()

    def _count(self, error: Exception) -> None:
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"

    def describe(self) -> dict[str, Any]:
        return {"up": self.is_up, "errors": self._errors.value, "last_error": self.last_error}

    def close(self) -> None:
        """Stop; the connections are closed in the background."""
        self._timer.cancel()
        self.is_up = False
        for task in list(self._under_way):
            self._let_go(task)
        self._env.spawn(self._client.client.aclose())

    def __repr__(self) -> str:
        return f"<RedisTier {self._namespace} {'up' if self.is_up else 'down'}>"
