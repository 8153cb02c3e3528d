"""Resolver: look-ups of names by c-ares (aiodns), their cache, and Happy Eyeballs (aiohappyeyeballs).

Rules (`docs/design/names.md` has the reasons):

1. Requests for the same name share one look-up (single-flight), which occupies no thread.  A request that stops waiting
   does not cancel the look-up.
2. An answer is used for its records' time to live, within the limits of `ttl`.  While look-ups fail or take longer than
   `PATIENCE`, the last good answer is used for `stale_for` longer (RFC 8767).  A failure is cached for `ttl.min`.
3. `/etc/hosts`, search domains and `ndots` are those of the system; `nameservers` replaces only the system's servers.
   Addresses and `localhost` (RFC 6761 6.3) are never looked up.
4. Addresses of a family without a route are omitted.  IPv6 is first, except unique local addresses (RFC 6724 2.1).
5. Connections start with the addresses in turn.  An address that failed, or lost to a later one, is tried last for
   `SLOW_SECONDS`.  The next address is tried after `STAGGER` or as soon as one fails (RFC 8305 5).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from ipaddress import IPv6Address, IPv6Network, ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakValueDictionary

from sidecar.upstream.endpoint import literal
from sidecar.upstream.spec import ResolveSpec

if TYPE_CHECKING:
    from aiodns import DNSResolver

PATIENCE: Final = 0.2
"""Seconds for which a connection waits for a look-up if there is a stale answer."""
STAGGER: Final = 0.25
"""Seconds after which the next address is tried in parallel (Connection Attempt Delay of RFC 8305)."""
SLOW_SECONDS: Final = 30.0
"""Seconds for which an address that failed is tried last."""
HEDGE: Final = 0.5
"""Seconds after which a second query asks for IPv4 addresses only, because some name servers ignore AAAA queries."""
MAX_ATTEMPTS: Final = 16
"""Most addresses that one connection tries."""
LOOPBACK: Final = ("::1", "127.0.0.1")
UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")
DEFAULTS: Final = ResolveSpec.built_in()

FAMILIES: Final = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
CAUSES: Final = {1: "the name has no addresses", 4: "the name does not exist", 12: "the name servers do not answer"}
"""Descriptions of common c-ares errors: ENODATA, ENOTFOUND, ETIMEOUT."""
DENIALS: Final = frozenset({1, 4})
"""Errors of c-ares with which a name server states that there is no such record."""


class LookupFailedError(OSError):
    """Error of a look-up that found no addresses."""

    def __init__(self, message: str, *, is_denied: bool = False) -> None:
        super().__init__(message)
        self.is_denied = is_denied
        """True if a name server stated that there is no such record."""


class Answer(NamedTuple):
    """Result of a look-up."""

    addresses: tuple[str, ...]
    """IP addresses, the best first."""
    ttl: float
    """Time to live of the records in seconds."""


class Service(NamedTuple):
    """SRV record (RFC 2782)."""

    priority: int
    """Priority: clients use the lowest that they can reach."""
    weight: int
    """Share of the requests among the records of the same priority."""
    port: int
    """Port of the service."""
    target: str
    """Host name; `.` if there is no such service."""


AskServices = Callable[[str], Awaitable[tuple[list[Service], float]]]
"""Function that queries the SRV records of a name and their time to live in seconds.  Raises `LookupFailedError`."""
Ask = Callable[[str, str, bool], Awaitable[Iterable[tuple[str, float]]]]
"""Function that queries a name: `ask(name, family, is_fresh)` returns addresses, each with its time to live in seconds.
With `is_fresh` it bypasses the cache of c-ares.  Raises `LookupFailedError`."""


class Queries:
    """Queries in progress of all resolvers of the process.

    The references keep the resolvers alive: c-ares would end the queries of a deleted one in a thread, at any time.
    """

    def __init__(self) -> None:
        self._resolvers: dict[asyncio.Future[Any], DNSResolver] = {}

    def track(self, query: asyncio.Future[Any], resolver: DNSResolver) -> None:
        """Keep a query and its resolver until the query ends."""
        self._resolvers[query] = resolver
        query.add_done_callback(self._end)

    def _end(self, query: asyncio.Future[Any]) -> None:
        del self._resolvers[query]
        if not query.cancelled():
            query.exception()  # retrieved so that asyncio does not report the error of an abandoned query

    def close(self) -> None:
        """End all queries with an error."""
        for resolver in {*self._resolvers.values()}:
            resolver.cancel()


class Servers:
    """Name servers, queried by c-ares.  An instance is an `Ask`."""

    def __init__(self, queries: Queries, servers: tuple[str, ...] = ()) -> None:
        """Take the addresses of name servers; without them, those of the system are queried."""
        self._queries = queries
        self._servers = servers
        self._resolver: DNSResolver | None = None

    async def __call__(self, name: str, family: str, is_fresh: bool) -> list[tuple[str, float]]:
        """Query the name servers, as `Ask` describes."""
        resolver = await self._find_resolver(is_fresh)
        with _failures():
            return await self._ask(resolver, name, family)

    async def ask_services(self, name: str) -> tuple[list[Service], float]:
        """Query the name servers, as `AskServices` describes; search domains are not tried."""
        resolver = await self._find_resolver(True)
        query = resolver.query_dns(name, "SRV")
        self._queries.track(query, resolver)
        with _failures():
            answer: list[Any] = (await query).answer  # aliases (CNAME) are among the records
        found = [record for record in answer if hasattr(record.data, "target")]
        services = [Service(r.data.priority, r.data.weight, r.data.port, r.data.target or ".") for r in found]
        return services, float(min((record.ttl for record in answer), default=0))

    async def _find_resolver(self, is_fresh: bool) -> DNSResolver:
        """Return a resolver of c-ares, with `is_fresh` one without cached answers."""
        if self._resolver is None:
            await asyncio.to_thread(import_module, "aiodns")  # the import takes long and must not block the loop
        import aiodns

        resolver = self._resolver
        if resolver is None:
            resolver = self._resolver = aiodns.DNSResolver(self._servers)
        elif is_fresh:  # each resolver of c-ares has a cache that a query cannot bypass
            resolver = aiodns.DNSResolver(self._servers)
        return resolver

    async def _ask(self, resolver: DNSResolver, name: str, family: str) -> list[tuple[str, float]]:
        """Query a name; for both families, start a second query for IPv4 only if the first one takes long."""
        asked = self._query(resolver, name, FAMILIES[family])
        if family == "any":
            await asyncio.wait((asked,), timeout=HEDGE)
            if not asked.done():
                hedge = self._query(resolver, name, socket.AF_INET)
                done, _ = await asyncio.wait((asked, hedge), return_when=asyncio.FIRST_COMPLETED)
                if hedge in done and hedge.exception() is None:
                    asked = hedge
        found = await asked
        aliases = [alias.ttl for alias in found.cnames]
        return [(node.addr[0].decode(), min((node.ttl, *aliases))) for node in found.nodes]

    def _query(self, resolver: DNSResolver, name: str, family: socket.AddressFamily) -> asyncio.Future[Any]:
        """Start a query, and keep it alive to its end."""
        query = resolver.getaddrinfo(name, family=family, type=socket.SOCK_STREAM)
        self._queries.track(query, resolver)
        return query


@contextmanager
def _failures() -> Iterator[None]:
    """Raise errors of c-ares as `LookupFailedError`."""
    import aiodns

    try:
        yield
    except aiodns.error.DNSError as error:
        code, text = error.args
        raise LookupFailedError(CAUSES.get(code) or str(text).lower(), is_denied=code in DENIALS) from None


class Entry:
    """Cached result of the look-ups of one name and family."""

    __slots__ = (
        "addresses",
        "asked_at",
        "failed_at",
        "found_at",
        "is_denied",
        "problem",
        "slow",
        "task",
        "ttl",
        "turn",
    )

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        """Addresses of the last good answer; empty before the first."""
        self.ttl = 0.0
        """Time to live of the last good answer in seconds."""
        self.found_at = 0.0
        """Instant of the last good answer."""
        self.asked_at = 0.0
        """Instant at which the last look-up began."""
        self.problem = ""
        """Reason for which the last look-up failed; empty if it succeeded."""
        self.is_denied = False
        """True if the last look-up failed because there is no such record."""
        self.failed_at = 0.0
        """Instant of the last failure."""
        self.task: Any = None
        """Task of the look-up in progress; None without one."""
        self.slow: dict[str, float] = {}
        """Addresses that failed or lost to a later one, with the instant until which they are tried last."""
        self.turn = 0
        """Number of connections that have used the entry."""

    def expires(self, spec: ResolveSpec) -> float:
        """Return the instant at which the answer becomes stale."""
        return self.found_at + within_limits(self.ttl, spec)

    def describe(self, now: float) -> dict[str, Any]:
        """Return the entry as JSON-ready values."""
        return {
            "addresses": list(self.addresses),
            "slow": sorted(address for address, until in self.slow.items() if until > now),
            "found_ago": round(now - self.found_at, 3) if self.addresses else None,
            "ttl": self.ttl,
            "problem": self.problem,
            "looking_up_for": round(now - self.asked_at, 3) if self.task is not None else None,
        }

    def order(self, now: float) -> list[str]:
        """Return the addresses in the order in which the next connection tries them."""
        self.slow = {address: until for address, until in self.slow.items() if until > now}
        fast = [address for address in self.addresses if address not in self.slow]
        turn, self.turn = self.turn, self.turn + 1
        families = [[a for a in fast if (":" in a) is is_v6] for is_v6 in dict.fromkeys(":" in a for a in fast)]
        turned = [family[turn % len(family) :] + family[: turn % len(family)] for family in families]
        taken = [a for a in chain.from_iterable(zip_longest(*turned)) if a is not None]
        return (taken + [a for a in self.addresses if a in self.slow])[:MAX_ATTEMPTS]

    def mark(self, addresses: Sequence[str], now: float) -> None:
        """Mark addresses to be tried last for `SLOW_SECONDS`."""
        for address in addresses:
            self.slow[address] = now + SLOW_SECONDS


class Resolver:
    """Look-ups by the same name servers, with their cache."""

    def __init__(
        self,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
        ask: Ask,
        ask_services: AskServices | None = None,
    ) -> None:
        """Take `now` and `spawn` of an `Env`, and the functions that query the name servers."""
        self.now = now
        self.spawn = spawn
        self.ask_services = ask_services
        """Function that queries SRV records; None if there is none."""
        self._ask = ask
        self._entries: dict[tuple[str, str], Entry] = {}

    def entry(self, name: str, family: str) -> Entry:
        """Return the cached result of a name, empty before its first look-up."""
        key = (name.lower(), family)
        found = self._entries.get(key)
        if found is None:
            found = self._entries[key] = Entry()
        return found

    def describe(self) -> dict[str, Any]:
        """Return the cached results by name as JSON-ready values."""
        now = self.now()
        return {f"{name} ({family})": entry.describe(now) for (name, family), entry in self._entries.items()}

    async def look_up(self, name: str, spec: ResolveSpec) -> Entry:
        """Return an entry with addresses, from the cache or after a look-up.  Raises `LookupFailedError`."""
        entry = self.entry(name, spec.family)
        now = self.now()
        if entry.addresses and now < entry.expires(spec):
            return entry
        if entry.task is None and entry.problem and now < entry.failed_at + spec.ttl.min:
            return self._stale(entry, name, spec)
        task = self._join(entry, name, spec.family)
        if self._is_usable(entry, spec):
            await asyncio.wait((task,), timeout=max(0.0, entry.asked_at + PATIENCE - now))
        else:
            await asyncio.wait((task,))
        return entry if entry.addresses and self.now() < entry.expires(spec) else self._stale(entry, name, spec)

    def is_awaited(self, name: str, spec: ResolveSpec) -> bool:
        """True if a look-up of the name is in progress, and no cached answer can be used meanwhile."""
        entry = self.entry(name, spec.family)
        return entry.task is not None and not self._is_usable(entry, spec)

    async def ask(self, name: str, spec: ResolveSpec) -> Answer:
        """Return the result of a look-up that bypasses the cache.  Raises `LookupFailedError`."""
        entry = self.entry(name, spec.family)
        await asyncio.wait((self._join(entry, name, spec.family),))
        if entry.problem:
            raise LookupFailedError(entry.problem)
        return Answer(entry.addresses, within_limits(entry.ttl, spec))

    def _is_usable(self, entry: Entry, spec: ResolveSpec) -> bool:
        """True if the entry has addresses that are not older than `stale_for` allows."""
        return bool(entry.addresses) and self.now() < entry.expires(spec) + spec.stale_for

    def _stale(self, entry: Entry, name: str, spec: ResolveSpec) -> Entry:
        """Return the entry if its stale answer can be used.  Raises `LookupFailedError` otherwise."""
        if self._is_usable(entry, spec):
            return entry
        raise LookupFailedError(f"looking up {name}: {entry.problem or 'no answer yet'}")

    def _join(self, entry: Entry, name: str, family: str) -> Any:
        """Return the task of the look-up in progress; start one if there is none."""
        if entry.task is None:
            entry.asked_at = self.now()
            entry.task = self.spawn(self._refresh(entry, name, family))
        return entry.task

    async def _refresh(self, entry: Entry, name: str, family: str) -> None:
        """Look a name up and store the result in its entry."""
        # The cache of c-ares must be bypassed if it would only repeat the known answer.
        is_fresh = entry.is_denied or (bool(entry.addresses) and self.now() < entry.found_at + entry.ttl)
        try:
            found = dict(await self._ask(name, family, is_fresh))
            addresses = sort_usable(found)
            if not addresses:
                raise LookupFailedError("the answer has no usable addresses")
        except Exception as error:  # c-ares reports a lack of descriptors by an exception that is not an `OSError`
            entry.problem, entry.failed_at = str(error), self.now()
            entry.is_denied = isinstance(error, LookupFailedError) and error.is_denied
        else:
            entry.addresses, entry.ttl, entry.found_at = addresses, min(found[a] for a in addresses), self.now()
            entry.problem, entry.is_denied = "", False
        finally:
            entry.task = None


class NameResolver:
    """Look-ups and connections of one upstream: a resolver with the upstream's settings."""

    __slots__ = ("_others", "_queries", "_resolver", "_spec")

    def __init__(
        self,
        resolver: Resolver,
        queries: Queries,
        spec: ResolveSpec = DEFAULTS,
        others: WeakValueDictionary[Any, Resolver] | None = None,
    ) -> None:
        self._resolver = resolver
        self._queries = queries
        self._spec = spec
        self._others: WeakValueDictionary[Any, Resolver] = WeakValueDictionary() if others is None else others
        """Resolvers by their name servers, shared by all upstreams with the same `nameservers`."""

    async def look_up(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name, the best first.  Raises `OSError`."""
        return fixed_addresses(name) or (await self._resolver.look_up(name, self._spec)).addresses

    def is_awaited(self, name: str) -> bool:
        """True if connections wait for the look-up of `name`."""
        return not fixed_addresses(name) and self._resolver.is_awaited(name, self._spec)

    async def ask(self, name: str) -> Answer:
        """Return the addresses of a name from a new look-up.  Raises `OSError`."""
        if found := fixed_addresses(name):
            return Answer(found, self._spec.ttl.max)
        return await self._resolver.ask(name, self._spec)

    async def ask_services(self, name: str) -> tuple[list[Service], float]:
        """Return the SRV records of a name from a new look-up, and their time to live.  Raises `OSError`."""
        if self._resolver.ask_services is None:
            raise LookupFailedError("SRV records cannot be looked up in this process")
        found, ttl = await self._resolver.ask_services(name)
        return found, within_limits(ttl, self._spec)

    async def open_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to one of a host's addresses.  Raises `OSError`."""
        if found := fixed_addresses(host):
            return await race(found, port)
        entry = await self._resolver.look_up(host, self._spec)
        now = self._resolver.now
        order, started = entry.order(now()), now()
        try:
            winner = await race(order, port)
        except BaseException:
            entry.mark(order[: 1 + int((now() - started) / STAGGER)], now())
            raise
        address = winner.getpeername()[0]
        entry.mark(order[: order.index(address)] if address in order else (), now())
        return winner

    def with_settings(self, settings: ResolveSpec | None) -> NameResolver:
        """Return a resolver with the settings of an upstream's `resolve` block; None means the defaults."""
        if settings is None:
            return self
        servers = settings.nameservers
        if servers is None:
            return NameResolver(self._resolver, self._queries, settings, self._others)
        resolver = self._others.get(servers)
        if resolver is None:
            own = self._resolver
            resolver = self._others[servers] = _make_resolver(own.now, own.spawn, Servers(self._queries, servers))
        return NameResolver(resolver, self._queries, settings, self._others)

    def describe(self) -> dict[str, Any]:
        """Return the cached results by name servers and by name, as JSON-ready values."""
        others = {", ".join(servers): resolver.describe() for servers, resolver in self._others.items()}
        return {"system": self._resolver.describe(), **others}

    def close(self) -> None:
        """End all look-ups of the process."""
        self._queries.close()


def system_resolver(now: Callable[[], float], spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> NameResolver:
    """Return a resolver with the system's name servers; `now` and `spawn` are those of an `Env`."""
    queries = Queries()
    return NameResolver(_make_resolver(now, spawn, Servers(queries)), queries)


def _make_resolver(
    now: Callable[[], float], spawn: Callable[[Coroutine[Any, Any, Any]], Any], servers: Servers
) -> Resolver:
    """Return a resolver that queries name servers."""
    return Resolver(now, spawn, servers, servers.ask_services)


def within_limits(ttl: float, spec: ResolveSpec) -> float:
    """Return a time to live within the limits of the settings, in seconds."""
    return min(max(ttl, spec.ttl.min), spec.ttl.max)


def fixed_addresses(host: str) -> tuple[str, ...]:
    """Return the addresses of a host that needs no look-up: an IP address or `localhost`; else an empty tuple."""
    if (address := literal(host)) is not None:
        return (address,)
    name = host.lower().removesuffix(".")
    return loopback() if name == "localhost" or name.endswith(".localhost") else ()


@cache
def loopback() -> tuple[str, ...]:
    """Return the addresses of `localhost`."""
    return sort_usable(LOOPBACK)


def sort_usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses to which this host can connect, the best first."""
    parsed = [ip_address(text) for text in addresses]
    parsed = [each for each in parsed if not each.is_unspecified and not each.is_multicast]
    versions = {each.version for each in parsed}
    if len(versions) == 2:
        versions = {each.version for each in parsed if has_route(str(each))} or versions
    parsed = [each for each in parsed if each.version in versions]
    return tuple(str(each) for each in sorted(parsed, key=_rank))


def _rank(address: Any) -> int:
    """Return the sort key of an address: IPv6, then IPv4, then unique local IPv6 addresses."""
    if not isinstance(address, IPv6Address):
        return 1
    return 2 if address in UNIQUE_LOCAL else 0


def has_route(address: str) -> bool:
    """True if this host has a route to an address.  The check sends no packet."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True


async def race(addresses: Sequence[str], port: int) -> socket.socket:
    """Return a socket connected to the first address that accepts, tried in this order.  Raises `OSError`."""
    from aiohappyeyeballs import start_connection

    infos = [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, port, 0, 0) if ":" in address else (address, port),
        )
        for address in addresses
    ]
    try:
        return await start_connection(infos, happy_eyeballs_delay=STAGGER, interleave=0)
    except RuntimeError as error:  # uvloop raises it instead of an `OSError`
        raise OSError(str(error)) from error
