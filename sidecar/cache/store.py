"""Cache of the `caches` section: its memory, an optional Redis behind it, and the fetches that fill it.

Purges and invalidations reach three places from here: the memory, the other sidecars (by Redis), and the fetches in
flight, whose responses would otherwise be stored later.  A URI is purged in the form that each registered
key rule gives it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from sidecar.cache.entry import Entry, Item, Variants
from sidecar.cache.fetch import Fetch, Fetches
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.location import others
from sidecar.cache.rfc.vary import MAX_NAMES, FieldNames, selecting
from sidecar.cache.rule_handle import RuleHandle
from sidecar.cache.table import Table
from sidecar.cache.tee import ByteBudget
from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome

if TYPE_CHECKING:
    from sidecar.cache.redis_tier import RedisTier
    from sidecar.cache.spec import CacheSpec

LONGEST_SELECTION: Final = 256
"""Bytes of request fields in a variant's key; longer ones are hashed."""
MAX_NAMESPACES: Final = 4096
"""Namespaces that are kept, at most; with more, those of earlier policies are dropped unless a stored key has one."""
HOTTEST: Final = 20
"""Entries that `describe` lists."""
SHRINK_BY: Final = 500
"""Items evicted in one step after the budget was lowered."""
SHRINK_EVERY: Final = 0.01
"""Seconds between two steps of eviction after the budget was lowered."""


class Store:
    """Cache that routes share by its name."""

    def __init__(self, name: str, spec: CacheSpec, env: Env) -> None:
        self.name = name
        self.spec = spec
        self._env = env
        meter = env.meter
        self.memory = Table(spec.memory.max_size, meter.counter(metrics.CACHE_EVICTIONS, cache=name))
        """First tier."""
        self.shared = self._tier(spec)
        """Second tier; None if no Redis is configured."""
        self._handles: tuple[ref[RuleHandle], ...] = ()
        """Registered key rules.  The tuple is replaced as a whole, so an iteration never sees a change."""
        self.fetches = fetches = Fetches(meter.counter(metrics.CACHE_FILLS, cache=name))
        self.results: dict[str, dict[str, Counter]] = {}
        """Counters of look-ups, by route and result."""
        self.budget = ByteBudget(spec.memory.max_size)
        """Bytes of bodies that are on their way into the store."""
        self.changes = 0
        """Number of purges and invalidations so far, those of other sidecars included."""
        self._purged = meter.counter(metrics.CACHE_PURGED, cache=name)
        memory = self.memory
        meter.gauge(metrics.CACHE_BYTES, lambda: memory.bytes, cache=name)
        meter.gauge(metrics.CACHE_ENTRIES, lambda: len(memory), cache=name)
        meter.gauge(metrics.CACHE_WAITERS, lambda: fetches.waiting, cache=name)
        meter.gauge(metrics.CACHE_TIER_UP, lambda: float(self.shared is None or self.shared.is_up), cache=name)

    def _tier(self, spec: CacheSpec) -> RedisTier | None:
        if spec.redis is None:
            return None
        from sidecar.cache.redis_tier import RedisTier  # with aiocache and redis-py, which a memory alone does without

        return RedisTier(spec.redis, self.name, self._env, self._purged_elsewhere, self.memory.largest)

    def register(self, rule: KeyRule) -> RuleHandle:
        """Register a key rule; it stays registered while the returned handle is alive."""
        handle = RuleHandle(rule)
        self._handles = (*(known for known in self._handles if known() is not None), ref(handle))
        namespaces = self.memory.namespaces
        if len(namespaces) >= MAX_NAMESPACES:
            namespaces = self.memory.stored_namespaces().union(known.namespace for known in self._rules)
        self.memory.namespaces = namespaces | {rule.namespace}
        return handle

    @property
    def _rules(self) -> list[KeyRule]:
        return [handle.rule for known in self._handles if (handle := known()) is not None]

    # ----- entries

    def find(self, key: bytes, x: Exchange, now: float) -> tuple[bytes, Entry | None, bool]:
        """Return the key of the entry that a request selects, the entry, and True if `key` has variants.

        The entry is None if it is not stored.
        """
        return self.select(self.memory.get(key, now), key, x, now)

    def select(self, item: Item | None, key: bytes, x: Exchange, now: float) -> tuple[bytes, Entry | None, bool]:
        """Return the same as `find`, for an item that was already looked up under `key`."""
        if isinstance(item, Variants):
            key = variant_key(key, x, item.names)
            variant = self.memory.get(key, now)
            return key, variant if isinstance(variant, Entry) else None, True
        return key, item if isinstance(item, Entry) else None, False

    async def load(self, fetch: Fetch) -> Entry | None:
        """Load the entry that a fetch is about from Redis into memory, and return it; None if there is none.

        Sets `fetch.generation`, with which its response is written.  The result is None too if the resource was purged
        or changed during the look-up.
        """
        shared, key, x = self.shared, fetch.key, fetch.x
        assert shared is not None
        item, fetch.generation = await shared.load(key, fetch.uri)
        if isinstance(item, Variants) and not fetch.is_outdated and self._add_names(item):
            item, fetch.generation = await shared.load(variant_key(key, x, item.names), fetch.uri)
        if fetch.is_outdated:
            fetch.is_outdated = False  # the upstream has not been asked yet: its response will be new
            fetch.generation = fetch.stale = None
            return None
        return item if isinstance(item, Entry) and self._keep(key, item, x) else None

    def _add_names(self, found: Variants) -> bool:
        """Note that the responses of a key differ by these fields too.  Returns False if the fields are too many."""
        known = self.memory.peek(found.key)
        names = {*found.names, *(known.names if isinstance(known, Variants) else ())}
        if len(names) > MAX_NAMES:
            return False
        if not isinstance(known, Variants) or len(names) > len(known.names):
            self.memory.put(Variants(found.key, tuple(sorted(names))))
        return True

    def put(self, key: bytes, entry: Entry, x: Exchange, generation: bytes | None = None) -> bool:
        """Store the response to `x` under the request's key.

        Returns False if it is too large or varies by too many fields.
        """
        if not self._keep(key, entry, x):
            return False
        if self.fetches.uncacheable:
            self.fetches.uncacheable.pop(key, None)
        if generation is not None and self.shared is not None:
            if entry.key != key and isinstance(variants := self.memory.peek(key), Variants):
                self.shared.save(variants, generation)
            self.shared.save(entry, generation)
        return True

    def _keep(self, key: bytes, entry: Entry, x: Exchange) -> bool:
        """Store an entry in memory, as a variant if its key has variants."""
        memory = self.memory
        if not entry.vary and entry.key == key and memory.fits(entry):
            known = memory.add(entry)
            if known is None:
                return True
        else:
            known = memory.peek(key)
        variants = known if isinstance(known, Variants) else None
        if entry.vary and (variants is None or not set(entry.vary) <= set(variants.names)):
            names = tuple(sorted({*entry.vary, *(variants.names if variants else ())}))
            if len(names) > MAX_NAMES:
                return False
            variants = Variants(key, names)
            memory.put(variants)  # also removes the responses that were keyed by fewer fields
        if variants is None:
            if entry.key != key:
                entry.change_key(key)
            return memory.put(entry)
        entry.change_key(variant_key(key, x, variants.names))
        if not memory.put(entry):
            return False
        memory.add_variant(variants, entry.key)
        return True

    def drop(self, entry: Entry) -> None:
        """Remove an entry that the upstream has replaced by a response that cannot be stored."""
        if self.memory.peek(entry.key) is entry:
            self.memory.remove(entry.key)

    # ----- purging

    def invalidate(self, x: Exchange, outcome: Outcome) -> bool:
        """Remove the responses of all URIs that a request has changed (RFC 9111 4.4).

        Returns False, and removes nothing, if the request is safe or its outcome is no success or redirection.
        """
        if x.method in SAFE_METHODS or outcome.failure is not None or not 200 <= outcome.status < 400:
            return False
        for path, query in ((x.path, x.query), *others(x, outcome.headers)):
            for uri in {rule.uri(x.scheme, x.host, path, query) for rule in self._rules}:
                self._purge("uri", uri)
        return True

    def purge_uri(self, text: str) -> int:
        """Remove all responses of an absolute URI.  Returns their number; raises `ValueError` for another text."""
        uris = {rule.of_text(text) for rule in self._rules} - {None}
        if not uris and KeyRule("").of_text(text) is None:
            raise ValueError(f"{text!r} is not an absolute URI; write it such as http://orders/orders/7")
        return sum(self._purge("uri", uri) for uri in uris if uri is not None)

    def purge_prefix(self, text: str) -> int:
        """Remove all responses whose URI has the prefix.

        Returns their number; raises `ValueError` if no URI can begin so.
        """
        prefix = KeyRule("").of_text(text)
        if prefix is None:
            raise ValueError(f"{text!r} is not the start of a URI; write it such as http://orders/orders/")
        return self._purge("prefix", prefix)

    def purge_tag(self, tag: str) -> int:
        """Remove all responses with the tag in Cache-Tag or Surrogate-Key.  Returns their number."""
        return self._purge("tag", tag.lower().encode())

    def purge_everything(self) -> int:
        """Remove all responses.  Returns their number."""
        return self._purge("everything", b"")

    def _purge(self, kind: str, what: bytes) -> int:
        if self.shared is not None:
            self.shared.purge(kind, what)
        return self._remove(kind, what)

    def _purged_elsewhere(self, kind: str, what: bytes) -> None:
        self._remove(kind, what)

    def _remove(self, kind: str, what: bytes) -> int:
        self.changes += 1
        self.fetches.outdate(what if kind == "uri" else None)
        memory = self.memory
        if kind == "everything":
            removed = memory.remove_everything()
        else:
            remove = {"uri": memory.remove_uri, "prefix": memory.remove_prefix, "tag": memory.remove_tag}.get(kind)
            removed = 0 if remove is None else remove(what)
        self._purged.add(removed)
        return removed

    # ----- operation

    def retune(self, spec: CacheSpec) -> None:
        """Apply a changed spec: entries that fit stay, and a changed Redis gets new connections."""
        if spec.redis != self.spec.redis:
            before, self.shared = self.shared, self._tier(spec)
            if before is not None:
                before.close()
                if self.shared is not None:
                    self.shared.take_over(before)
        self.spec = spec
        self.memory.max_bytes = self.budget.limit = spec.memory.max_size
        self._shrink()

    def _shrink(self) -> None:
        """Evict items that exceed the budget, in steps, so that the loop is not stalled."""
        if self.memory.shrink(SHRINK_BY):
            self._env.call_later(SHRINK_EVERY, self._shrink)

    def describe(self) -> dict[str, Any]:
        """Return the facts for `GET /cache` as JSON-ready values."""
        now = self._env.now()
        return {
            "entries": len(self.memory),
            "bytes": self.memory.bytes,
            "max_bytes": self.memory.max_bytes,
            "evictions": self.memory.evictions.value,
            "purged": self._purged.value,
            "lookups": {route: {r: c.value for r, c in counters.items()} for route, counters in self.results.items()},
            "filling": len(self.fetches),
            "filling_bytes": self.budget.used,
            "redis": None if self.shared is None else self.shared.describe(),
            "hottest": [
                {
                    "uri": entry.uri.decode("latin-1"),
                    "hits": entry.hits,
                    "bytes": entry.size,
                    "status": entry.status,
                    "age": int(now - entry.born),
                    "fresh_for": int(entry.fresh_until - now),
                }
                for entry in self.memory.hottest(HOTTEST)
            ],
        }

    def retire(self) -> None:
        """Close the cache: no policy names it any more."""
        self.close()

    def close(self) -> None:
        """Close the connections to Redis."""
        if self.shared is not None:
            self.shared.close()

    def __repr__(self) -> str:
        return f"<Store {self.name} {self.memory!r} {self.shared!r}>"


def variant_key(key: bytes, x: Exchange, names: FieldNames) -> bytes:
    """Return the key of the response that a request selects among variants by the named fields."""
    selection = selecting(x, names)
    if len(selection) > LONGEST_SELECTION:
        selection = blake2b(selection, digest_size=20).digest()
    return b"%b\x01%b" % (key, selection)
