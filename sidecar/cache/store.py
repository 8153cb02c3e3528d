"""A cache as the policies name it: memory, Redis behind it where there is one, and the calls that fill it.

Purging and invalidation go through here, because three things must hear of them: the entries in memory, the other
sidecars, and answers that are on their way from the upstream right now and would otherwise be stored after the fact.
A URI is looked up as each key rule in use would normalise it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final
from weakref import ref

from sidecar.cache.entry import Entry, Item, Variants
from sidecar.cache.fill import Flights
from sidecar.cache.memory import MemoryStore
from sidecar.cache.redis_tier import RedisTier
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.location import others
from sidecar.cache.rfc.vary import MAX_NAMES, Names, selecting
from sidecar.cache.spec import CacheSpec
from sidecar.cache.table import Table
from sidecar.cache.tee import Budget
from sidecar.cache.use import Use
from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome

LONGEST_SELECTION: Final = 256
"""Bytes of selecting fields in a key; longer ones are hashed."""
MAX_NAMESPACES: Final = 4096
"""Rules, of policies before too, that are known to have stored something; beyond it those are looked for that have."""
HOTTEST: Final = 20
SHRINK_BY: Final = 500
"""Entries that leave at once when a cache was made smaller: half a millisecond."""
SHRINK_EVERY: Final = 0.01
"""Seconds."""


class Store:
    """One cache of the `caches` section."""

    def __init__(self, name: str, spec: CacheSpec, env: Env) -> None:
        self.name = name
        self.spec = spec
        self._env = env
        meter = env.meter
        self.tier = MemoryStore(spec.memory.max_size, env.now, meter.counter(metrics.CACHE_EVICTIONS, cache=name))
        self.memory: Table = self.tier.table
        self.shared = self._tier(spec)
        self._uses: tuple[ref[Use], ...] = ()
        """Replaced whole: policies are compiled in a thread of their own."""
        self.flights = flights = Flights(meter.counter(metrics.CACHE_FILLS, cache=name))
        self.results: dict[str, dict[str, Counter]] = {}
        """Look-ups by route and result."""
        self.budget = Budget(spec.memory.max_size)
        self._purged = meter.counter(metrics.CACHE_PURGED, cache=name)
        memory = self.memory
        meter.gauge(metrics.CACHE_BYTES, lambda: memory.bytes, cache=name)
        meter.gauge(metrics.CACHE_ENTRIES, lambda: len(memory), cache=name)
        meter.gauge(metrics.CACHE_WAITERS, lambda: flights.waiting, cache=name)

    def _tier(self, spec: CacheSpec) -> RedisTier | None:
        return None if spec.redis is None else RedisTier(spec.redis, self.name, self._env, self._purged_elsewhere)

    def learn(self, rule: KeyRule) -> Use:
        """A policy makes such keys, as long as it holds what this returns."""
        use = Use(rule)
        self._uses = (*(known for known in self._uses if known() is not None), ref(use))
        namespaces = self.memory.namespaces
        if len(namespaces) >= MAX_NAMESPACES:
            namespaces = self.memory.stored_namespaces().union(known.namespace for known in self._rules)
        self.memory.namespaces = namespaces | {rule.namespace}
        return use

    @property
    def _rules(self) -> list[KeyRule]:
        return [use.rule for known in self._uses if (use := known()) is not None]

    # ----- entries

    def find(self, key: bytes, x: Exchange, now: float) -> tuple[bytes, Entry | None, bool]:
        """The key of the answer that the request means, that answer, and whether there are others beside it."""
        return self.choose(self.memory.peek(key, now), key, x, now)

    def choose(self, item: Item | None, key: bytes, x: Exchange, now: float) -> tuple[bytes, Entry | None, bool]:
        """The same, where what is stored under the key has been looked up."""
        if isinstance(item, Variants):
            key = variant_key(key, x, item.names)
            variant = self.memory.peek(key, now)
            return key, variant if isinstance(variant, Entry) else None, True
        return key, item if isinstance(item, Entry) else None, False

    async def fetch(self, key: bytes, uri: bytes, x: Exchange) -> tuple[Entry | None, bytes | None]:
        """What the shared tier has for the request, brought into memory, and the generation for its successor."""
        assert self.shared is not None
        item, generation = await self.shared.fetch(key, uri)
        if isinstance(item, Variants):
            known = self.memory.peek(key, self._env.now())
            if not isinstance(known, Variants) or not set(item.names) <= set(known.names):
                self.memory.put(item)
                known = item
            item, generation = await self.shared.fetch(variant_key(key, x, known.names), uri)
        if not isinstance(item, Entry):
            return None, generation
        return (item if self._keep(key, item, x) else None), generation

    def put(self, key: bytes, entry: Entry, x: Exchange, generation: bytes | None = None) -> bool:
        """Store an answer to `x` under the request's key; False if it is too large or varies by too much."""
        if not self._keep(key, entry, x):
            return False
        if self.flights.uncacheable:
            self.flights.uncacheable.pop(key, None)
        if generation is not None and self.shared is not None:
            if entry.key != key and isinstance(variants := self.memory.get(key), Variants):
                self.shared.store(variants, generation)
            self.shared.store(entry, generation)
        return True

    def _keep(self, key: bytes, entry: Entry, x: Exchange) -> bool:
        memory = self.memory
        if not entry.vary and entry.key == key and memory.fits(entry):
            known = memory.add(entry)
            if known is None:
                return True
        else:
            known = memory.get(key)
        variants = known if isinstance(known, Variants) else None
        if entry.vary and (variants is None or not set(entry.vary) <= set(variants.names)):
            names = tuple(sorted({*entry.vary, *(variants.names if variants else ())}))
            if len(names) > MAX_NAMES:
                return False
            variants = Variants(key, names)
            memory.put(variants)  # takes the answers with it that were keyed by fewer fields
        if variants is None:
            if entry.key != key:
                entry.become(key)
            return memory.put(entry)
        entry.become(variant_key(key, x, variants.names))
        if not memory.put(entry):
            return False
        memory.add_variant(variants, entry.key)
        return True

    def drop(self, entry: Entry) -> None:
        """Forget an answer that the upstream has replaced by one that cannot be stored."""
        self.memory.remove(entry.key)

    # ----- purging

    def heed(self, x: Exchange, outcome: Outcome) -> bool:
        """Invalidate what a request has changed: by an unsafe method, with success (RFC 9111 4.4).  Was it one?"""
        if x.method in SAFE_METHODS or outcome.failure is not None or not 200 <= outcome.status < 400:
            return False
        for path, query in ((x.path, x.query), *others(x, outcome.headers)):
            for uri in {rule.uri(x.scheme, x.authority, path, query) for rule in self._rules}:
                self._purge("uri", uri)
        return True

    def purge_uri(self, text: str) -> int:
        """Drop all answers of an absolute URI.  Returns how many; raises `ValueError` if it is none."""
        uris = {rule.of_text(text) for rule in self._rules} - {None}
        if not uris and KeyRule("").of_text(text) is None:
            raise ValueError(f"{text!r} is not an absolute URI; write it such as http://orders/orders/7")
        return sum(self._purge("uri", uri) for uri in uris if uri is not None)

    def purge_prefix(self, text: str) -> int:
        """Drop all answers whose URI starts so.  Returns how many; raises `ValueError` if no URI can."""
        prefix = KeyRule("").of_text(text)
        if prefix is None:
            raise ValueError(f"{text!r} is not the start of a URI; write it such as http://orders/orders/")
        return self._purge("prefix", prefix)

    def purge_tag(self, tag: str) -> int:
        """Drop all answers that bore the tag in `Cache-Tag` or `Surrogate-Key`.  Returns how many."""
        return self._purge("tag", tag.lower().encode())

    def purge_everything(self) -> int:
        return self._purge("everything", b"")

    def _purge(self, kind: str, what: bytes) -> int:
        if self.shared is not None:
            self.shared.purge(kind, what)
        return self._remove(kind, what)

    def _purged_elsewhere(self, kind: str, what: bytes) -> None:
        self._remove(kind, what)

    def _remove(self, kind: str, what: bytes) -> int:
        self.flights.outdate(what if kind == "uri" else None)
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
        """The policies changed: entries stay as far as they fit, another Redis is met anew."""
        if spec.redis != self.spec.redis:
            if self.shared is not None:
                self.shared.close()
            self.shared = self._tier(spec)
        self.spec = spec
        self.memory.max_bytes = self.budget.limit = spec.memory.max_size
        self._shrink()

    def _shrink(self) -> None:
        """Let go of what no longer fits, in steps: all at once it would be a long pause for everyone."""
        if self.memory.shrink(SHRINK_BY):
            self._env.call_later(SHRINK_EVERY, self._shrink)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for `GET /cache`."""
        now = self._env.now()
        return {
            "entries": len(self.memory),
            "bytes": self.memory.bytes,
            "max_bytes": self.memory.max_bytes,
            "evictions": self.memory.evictions.value,
            "purged": self._purged.value,
            "lookups": {route: {r: c.value for r, c in counters.items()} for route, counters in self.results.items()},
            "filling": len(self.flights),
            "filling_bytes": self.budget.taken,
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
        """No policy names it any more."""
        self.close()

    def close(self) -> None:
        if self.shared is not None:
            self.shared.close()

    def __repr__(self) -> str:
        return f"<Store {self.name} {self.memory!r} {self.shared!r}>"


def variant_key(key: bytes, x: Exchange, names: Names) -> bytes:
    """The key of the answer to a request where answers differ by the named fields."""
    selection = selecting(x, names)
    if len(selection) > LONGEST_SELECTION:
        selection = blake2b(selection, digest_size=20).digest()
    return b"%b\x01%b" % (key, selection)
