"""Second tier of a cache: a Redis that several sidecars fill and purge together, behind the memory of each.

Rules:

1. The tier can only help.  No request fails because of it, and none waits longer than `timeout`.  The first fault
   opens the tier's breaker: waiting requests go on without it, and later ones pass it over.  A background probe closes
   the breaker again.
2. The cache, each URI and each tag that was ever purged have a counter of purges; purges by prefix are numbered.  The
   counts that were read before its fetch are the generation of a response.  It is valid while they are unchanged and
   no prefix purged since is one of its URI.  So one increment is a purge, also of responses that are on their way.
3. The sidecar's own purges hold at once: a response that one of them covers is not read before Redis has counted it.
4. A purge is one script that begins with a deletion.  Redis allows that when it is full, and then all that follows.
5. Every sidecar reads a stream of purges each `SYNC_EVERY`, and removes purged responses from its memory.  A sidecar
   that has missed a part of the stream clears its memory.
6. While Redis is away each sidecar uses its own memory.  Its purges are published when Redis is back.
7. A server that takes no writes counts as away, such as a replica: it takes no purges either.  A fault closes all
   connections: after a failover the name leads to another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from sidecar.cache.codec import Record, ttl_of
from sidecar.cache.entry import Entry, Variants
from sidecar.cache.redis_client import ENTRIES, RedisClient, Unreadable
from sidecar.core import events, metrics
from sidecar.core.env import Env, TimerHandle
from sidecar.store.redis import RefusedByRedis, refuses_writes
from sidecar.store.spec import RedisSpec

LONGEST: Final = 86400.0
"""Seconds for which a response is kept, at most; counters of purges live twice as long."""
SHORTEST: Final = 0.001
"""Seconds of the shortest expiry that Redis accepts."""
SYNC_EVERY: Final = 1.0
"""Seconds between two reads of the stream of purges."""
SLOWEST_PROBE: Final = 30.0
"""Seconds between two probes of a Redis that stays away."""
STREAM_LENGTH: Final = 10_000
"""Purges that the stream holds."""
SLOWEST_PURGE: Final = 60.0
"""Seconds that publishing all waiting purges may take."""
MAX_UNPUBLISHED: Final = 1000
"""Purges that wait for Redis to come back, at most; more are replaced by one purge of everything."""
MAX_IN_FLIGHT: Final = 256
"""Operations in flight, at most; further requests do not use the tier."""
MAX_BEFORE_WRITE: Final = 32
"""Operations in flight beside which a write may begin.  No request waits for a write, but a queue of writes would delay
the reads."""
LONGEST_KEY: Final = 4096
"""Bytes of the longest key; responses with longer keys stay in memory alone."""
MAX_PREFIXES: Final = 100
"""Purges by prefix since a response was written, at most; a response with more is not used."""
LONGEST_NUMBER: Final = 15
"""Digits of a counter."""
EVERYTHING: Final = "g"
"""Name of the counter of the whole cache."""
PREFIXES: Final = "p"
"""Name of the counter of purges by prefix; each prefix is stored under its number (`x:`)."""
TAGS: Final = "k"
"""Name of the counter of all purges by tag."""
KINDS: Final = frozenset(("uri", "prefix", "tag", "everything"))
PURGE: Final = """
redis.call('del', KEYS[4])
local number = redis.call('incr', KEYS[2])
if ARGV[1] == 'prefix' then
  redis.call('set', KEYS[4] .. number, ARGV[2], 'ex', ARGV[5])
elseif ARGV[1] ~= 'everything' then
  redis.call('expire', KEYS[2], ARGV[5])
end
if ARGV[1] == 'tag' then
  redis.call('incr', KEYS[3])
end
redis.call('xadd', KEYS[1], 'maxlen', ARGV[4], '*', 'kind', ARGV[1], 'what', ARGV[2], 'by', ARGV[3])
return number
"""
"""Script of a purge.  Keys: the stream, the counter, the counter of all tags, the start of a prefix's key.  Arguments:
kind, value, name of this sidecar, longest stream, seconds for which a counter or a prefix is kept.

The deleted key never exists.  A full Redis allows a deletion as the first write, and then all that follows."""

Purged = Callable[[str, bytes], None]
"""`purged(kind, value)`, with the arguments of `RedisTier.purge`."""
Purge = tuple[str, bytes]
"""Kind and value of a purge."""
Operation = Callable[..., Coroutine[Any, Any, Any]]


def _name(kind: bytes, value: bytes) -> str:
    """Return the name of the counter of a URI (`u:`) or tag (`t:`), without the namespace."""
    return (kind + value).decode("latin-1")


def _entry_name(key: bytes) -> str:
    """Return the name of an entry, without the namespace."""
    return ENTRIES + key.decode("latin-1")


class RedisTier:
    """Part of a Redis database that belongs to one cache."""

    def __init__(self, spec: RedisSpec, name: str, env: Env, purged: Purged, largest: Callable[[], int]) -> None:
        """`purged` is called for each purge by another sidecar; `largest` returns the bytes of the largest item of the
        cache."""
        self.timeout = spec.timeout
        self.is_up = True
        """False while the breaker is open."""
        self.last_error = ""
        self._env = env
        self._purged = purged
        self._client = RedisClient(spec, f"sidecar:{name}", env.now, env.wall, env.names, largest=largest)
        self._stream = self._client.build_key("purges")
        self._id = f"{env.rng.getrandbits(64):016x}"
        """Name of this sidecar in the stream."""
        self._cache = name
        self._errors = env.meter.counter(metrics.CACHE_TIER_ERRORS, cache=name)
        self._in_flight: dict[Any, list[Exception]] = {}
        """Tasks of operations, each with a list that is empty until the tier ends the task, then has the error."""
        self._unpublished: dict[Purge, object] = {}
        """Purges to be published, oldest first, each with an object that marks when it was last requested."""
        self._is_publishing = False
        self._is_closed = False
        self._pause = SYNC_EVERY
        """Seconds until the next probe."""
        self._seen = ""
        """Number of the last purge read from the stream; empty before the first read."""
        self._timer: TimerHandle = env.call_later(0.0, self._tick)

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
            if ended:  # the tier ended the task before it began
                return None, None
            raise

    async def _load(self, key: bytes, uri: bytes) -> tuple[Entry | Variants | None, bytes | None]:
        if not self._seen:
            await self._find_end()  # before any read, so that no purge of a found response is missed
        pending = tuple(self._unpublished)
        names = [_entry_name(key), EVERYTHING, _name(b"u:", uri), PREFIXES, TAGS]
        found, *counts, of_all_tags = await self._client.multi_get(names)
        generation = b"%b %b" % (_joined(counts), _joined([of_all_tags]))
        if pending and any(_covers(purge, uri, ()) for purge in pending):
            return None, None
        if found is None:
            return None, generation
        if not isinstance(found, Record) or found.item.key != key:
            self._count(ValueError(found.reason if isinstance(found, Unreadable) else "a record is of another key"))
            return None, generation
        written, _, of_tags = found.generation.partition(b" ")
        item = found.item
        if not await self._is_valid(written, _joined(counts), uri):
            return None, generation
        if isinstance(item, Entry) and item.tags:
            if any(_covers(purge, uri, item.tags) for purge in pending):
                return None, None
            if of_tags != await self._tag_counts(item.tags):
                return None, generation
        return item, generation

    async def _is_valid(self, written: bytes, now: bytes, uri: bytes) -> bool:
        """True if nothing that covers the URI was purged between two generations."""
        if written == now:
            return True
        others, _, first = written.rpartition(b"/")
        others_now, _, last = now.rpartition(b"/")
        if others != others_now or max(len(first), len(last)) > LONGEST_NUMBER or not first.isdigit():
            return False
        numbers = range(int(first) + 1, int(last) + 1)
        if not 0 < len(numbers) <= MAX_PREFIXES:
            return False
        prefixes = await self._client.prefixes(numbers)
        return all(prefix is not None and not uri.startswith(prefix) for prefix in prefixes)

    def save(self, item: Entry | Variants, generation: bytes) -> None:
        """Write an item in the background, unless too much is in flight."""
        if self.is_up and len(self._in_flight) < MAX_BEFORE_WRITE and len(item.key) <= LONGEST_KEY:
            self._start(self.timeout, self._save, item, generation)

    async def _save(self, item: Entry | Variants, generation: bytes) -> None:
        tags = item.tags if isinstance(item, Entry) else ()
        generation, _, of_all_tags = generation.partition(b" ")
        if tags:
            now, *counts = await self._client.multi_get([TAGS, *(_name(b"t:", tag) for tag in tags)])
            if _joined([now]) != of_all_tags:
                return  # a tag was purged since the fetch began, perhaps one of this response
            generation += b" " + _joined(counts)
        ttl = ttl_of(item, self._env.now(), LONGEST)
        if ttl >= SHORTEST:
            await self._client.set(_entry_name(item.key), Record(item, generation), ttl=ttl)

    async def _tag_counts(self, tags: tuple[bytes, ...]) -> bytes:
        return _joined(await self._client.multi_get([_name(b"t:", tag) for tag in tags]))

    # ----- purges

    def purge(self, kind: str, value: bytes) -> None:
        """Publish a purge in the background, as soon as Redis can be reached.

        `kind` is `uri`, `prefix`, `tag` or `everything`; `value` is empty for the last.
        """
        if len(self._unpublished) >= MAX_UNPUBLISHED:
            self._unpublished.clear()
            kind, value = "everything", b""
        self._unpublished[kind, value] = object()
        if self.is_up and not self._is_publishing and len(self._in_flight) < MAX_IN_FLIGHT:
            self._start(SLOWEST_PURGE, self._publish)

    def take_over(self, other: RedisTier) -> None:
        """Publish the purges that another tier, now closed, could not publish."""
        for kind, value in other._unpublished:
            self.purge(kind, value)

    async def _publish(self) -> None:
        """Publish all purges one by one, also those that are added meanwhile."""
        if self._is_publishing:
            return
        self._is_publishing = True
        try:
            while self._unpublished:
                purge, mark = next(iter(self._unpublished.items()))
                await self._purge(*purge)
                if self._unpublished.get(purge) is mark:  # otherwise it was requested again after this one
                    del self._unpublished[purge]
        finally:
            self._is_publishing = False

    async def _purge(self, kind: str, value: bytes) -> None:
        counter = {"uri": _name(b"u:", value), "tag": _name(b"t:", value), "prefix": PREFIXES}.get(kind, EVERYTHING)
        keys = [self._stream, *(self._client.build_key(name) for name in (counter, TAGS, "x:"))]
        await self._client.raw("eval", PURGE, len(keys), *keys, kind, value, self._id, STREAM_LENGTH, int(2 * LONGEST))

    def _tick(self) -> None:
        self._start(max(SYNC_EVERY, self.timeout), self._sync).add_done_callback(self._rearm)

    async def _sync(self) -> None:
        """Read the stream of purges and publish this sidecar's.  Success closes the breaker."""
        if not self.is_up:
            await self._client.prove_primary()
        if not self._seen:
            await self._find_end()
        else:
            streams = await self._client.raw("xread", {self._stream: self._seen}, count=STREAM_LENGTH)
            purges = streams[0][1] if streams else []
            if len(purges) >= STREAM_LENGTH:
                self._purged("everything", b"")
            for number, fields in purges:
                self._seen = number.decode()
                if fields.get(b"by") != self._id.encode():
                    kind = fields.get(b"kind", b"").decode("latin-1")
                    self._purged(kind if kind in KINDS else "everything", fields.get(b"what", b""))
        await self._publish()
        if not self.is_up:
            self.is_up = True
            self._env.emit(events.CACHE_TIER_UP, cache=self._cache)

    async def _find_end(self) -> None:
        """Find the end of the stream, where reading starts."""
        last = await self._client.raw("xrevrange", self._stream, count=1)
        self._seen = self._seen or (last[0][0].decode() if last else "0-0")

    def _rearm(self, _: Any) -> None:
        if self._is_closed:
            return
        self._pause = SYNC_EVERY if self.is_up else min(SLOWEST_PROBE, 2 * self._pause)
        self._timer = self._env.call_later(self._pause, self._tick)

    # ----- faults

    def _start(self, limit: float, operation: Operation, *args: Any) -> Any:
        """Run `operation(*args)` as a task, for `limit` seconds at most."""
        ended: list[Exception] = []
        task = self._env.spawn(self._guarded(ended, operation, args))
        timer = self._env.call_later(limit, self._time_out, task, limit)
        self._in_flight[task] = ended
        task.add_done_callback(partial(self._finish, timer))
        return task

    def _finish(self, timer: TimerHandle, task: Any) -> None:
        timer.cancel()
        del self._in_flight[task]

    async def _guarded(self, ended: list[Exception], operation: Operation, args: tuple[Any, ...]) -> Any:
        """Run an operation; return None if it fails.  Only the caller's own cancellation is raised."""
        try:
            return await operation(*args)
        except asyncio.CancelledError:
            if not ended:
                raise
        except RefusedByRedis as error:
            if refuses_writes(error):
                self._fail(error)
            else:
                self._count(error)
        except Exception as error:  # a client library may raise anything
            self._fail(error)
        return None

    def _time_out(self, task: Any, limit: float) -> None:
        self._fail(TimeoutError(f"no response within {limit:g} s"))
        self._end(task)

    def _fail(self, error: Exception) -> None:
        """Count a fault, open the breaker and close all connections."""
        if self._client.is_name_awaited:
            error = TimeoutError(f"the look-up of {self._client.endpoint} took longer than {self.timeout:g} s")
        self._count(error)
        self._env.spawn(self._after_all(list(self._in_flight), self._client.disconnect))
        if self.is_up:
            self.is_up = False
            self._env.emit(events.CACHE_TIER_DOWN, cache=self._cache, error=self.last_error)
            for task in list(self._in_flight):
                self._end(task)

    def _end(self, task: Any) -> None:
        """End an operation and release the request that waits for it."""
        if task in self._in_flight:
            self._in_flight[task].append(TimeoutError())
            task.cancel()

    @staticmethod
    async def _after_all(tasks: list[Any], operation: Operation) -> None:
        """Run an operation on all connections once these tasks have returned theirs."""
        if tasks:
            await asyncio.wait(tasks)
        await operation()

    def _count(self, error: Exception) -> None:
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values."""
        return {"up": self.is_up, "errors": self._errors.value, "last_error": self.last_error}

    def close(self) -> None:
        """Stop the tier at once; its connections are closed in the background."""
        self._timer.cancel()
        self._is_closed = True
        self.is_up = False
        tasks = list(self._in_flight)
        for task in tasks:
            self._end(task)
        self._env.spawn(self._after_all(tasks, self._client.close))

    def __repr__(self) -> str:
        return f"<RedisTier {self._cache} {'up' if self.is_up else 'down'}>"


def _covers(purge: Purge, uri: bytes, tags: tuple[bytes, ...]) -> bool:
    """True if a purge covers a response with this URI and these tags."""
    kind, value = purge
    if kind == "prefix":
        return uri.startswith(value)
    return uri == value if kind == "uri" else value in tags if kind == "tag" else True


def _joined(counts: list[Any]) -> bytes:
    """Return counters as read from Redis, joined as a part of a generation."""
    return b"/".join(count if isinstance(count, bytes) else b"0" for count in counts)
