"""Check of the names by which routes refer to other sections: declared, and used."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import DEFAULT_CACHE, INBOUND


class References:
    """Declared names of one document, and those that routes have used so far."""

    def __init__(
        self,
        *,
        upstreams: dict[str, Node],
        bundles: dict[str, Node],
        listeners: dict[str, Node],
        stores: dict[str, Node],
        caches: dict[str, Node],
        identities: dict[str, Node],
        report: Report,
    ) -> None:
        self.listeners = listeners
        self._upstreams = upstreams
        self._bundles = bundles
        self._caches = caches
        self._identities = identities
        self._named_by_caches: list[Node] = []
        """Names of stores in the `caches` section."""
        self._shared = stores
        for cache in caches.values():
            if (named := cache.child("store")) is not None:
                self._named_by_caches.append(named)
        self._stores = {**caches, DEFAULT_CACHE: caches.get(DEFAULT_CACHE)}
        self._report = report
        self._uses_all = False
        """True if a route uses all listeners."""
        self._checked: set[tuple[int, str, bool]] = set()
        """Fallbacks that were checked: `id` of the steps, upstream of the route, and True if the route has a cache."""
        self._used: set[int] = set()
        """`id` of each node that a route uses."""

    def upstream(self, node: Node | None) -> Node | None:
        """Return the upstream that a node names; None if there is none, which is reported."""
        return self._refer("upstream", node, self._upstreams)

    def bundle(self, node: Node) -> Node | None:
        """Return the bundle that a node names; None if there is none, which is reported."""
        return self._refer("bundle", node, self._bundles)

    def listener(self, node: Node | None) -> None:
        """Mark the listener that a route names as used; None stands for `inbound`, or else for all listeners."""
        if node is not None:
            self._refer("listener", node, self.listeners)
        elif INBOUND in self.listeners:
            self._used.add(id(self.listeners[INBOUND]))
        else:
            self._uses_all = True

    def check_fallback(self, blocks: dict[str, Node]) -> None:
        """Check the steps of a route's fallback.

        The upstreams that they name must be declared.  Warn of the route's own upstream, which has failed, and of
        `stale` without a cache.
        """
        fallback, upstream = blocks.get("fallback"), blocks.get("upstream")
        steps = (fallback.child("steps") or fallback) if fallback is not None else None
        if steps is None or not isinstance(steps.value, list):
            return
        own = str(upstream.value) if upstream is not None else ""
        if (check := (id(steps), own, "cache" in blocks)) in self._checked:
            return  # many routes inherit it
        self._checked.add(check)
        for step in steps.value:
            if step.value == "stale" and "cache" not in blocks:
                self._report.warn(step, "never finds a response: this route has no cache; give it a `cache` block")
            target = step.child("upstream")
            if target is None:
                continue
            self.upstream(target)
            if upstream is not None and target.value == upstream.value:
                self._report.warn(target, f"falls back to `{target.value}`, the upstream that failed; name another one")

    def check_mirror(self, blocks: dict[str, Node]) -> None:
        """Check that the upstream of a route's mirror is declared; warn of the route's own upstream."""
        mirror, upstream = blocks.get("mirror"), blocks.get("upstream")
        target = mirror.child("upstream") if mirror is not None else None
        if target is None:
            return
        self.upstream(target)
        if upstream is not None and target.value == upstream.value:
            self._report.warn(target, f"copies requests to `{target.value}`, which gets them already; name another one")

    def check_cache(self, blocks: dict[str, Node]) -> None:
        """Check that the store of a route's cache is declared, or is the default one."""
        cache = blocks.get("cache")
        store = cache.child("store") if cache is not None else None
        if store is not None and store.value != DEFAULT_CACHE:
            self._refer("cache", store, self._stores)
        elif cache is not None:
            self._used.add(id(self._caches.get(DEFAULT_CACHE)))

    def check_authenticate(self, blocks: dict[str, Node]) -> None:
        """Check that the identities of a route are declared."""
        block = blocks.get("authenticate")
        names = block.child("any_of") if block is not None else None
        for name in names.value if names is not None and isinstance(names.value, list) else ():
            self._refer("identity", name, self._identities)

    def check_limits(self, owner: Node | None, blocks: Mapping[str, Node]) -> None:
        """Check that the stores of the rate limits and quotas of a route or upstream are declared."""
        for block, members in (("rate_limit", "limits"), ("quota", "quotas")):
            node = blocks.get(block) if owner is None else owner.child(block)
            limits = (node.child(members) or node) if node is not None else None
            for limit in limits.value if limits is not None and isinstance(limits.value, list) else ():
                named = limit.child("store")
                store = self._refer("store", named, self._shared)
                if named is not None and block == "rate_limit":
                    self._needs_redis(named, store, "a rate limit")

    def _needs_redis(self, named: Node, store: Node | None, what: str) -> None:
        """Report the name of a store that is a file, where only a Redis will do."""
        if store is not None and store.child("file") is not None and not self._report.has_error(named):
            message = f"names a store that is a file, which {what} cannot use; name one with `redis`"
            self._report.error_in(named, message)

    def _check_captures(self) -> None:
        """Check that the upstreams of server names are declared; mark listeners that take redirected connections."""
        for listener in self.listeners.values():
            taken, capture = listener.child("original_destination"), listener.child("capture")
            if taken is not None and taken.value is True:
                self._used.add(id(listener))
            names = capture.child("server_names") if capture is not None else None
            for named in names.items.values() if names is not None else ():
                self._refer("upstream", named, self._upstreams)

    def check_use(self) -> None:
        """Warn of upstreams, stores, caches, identities, bundles and listeners that no route uses."""
        for upstream in self._upstreams.values():
            self.check_limits(upstream, {})
        self._check_captures()
        for node in self._named_by_caches:
            self._needs_redis(node, self._refer("store", node, self._shared), "a cache")
        sections = {
            "upstream": self._upstreams,
            "store": self._shared,
            "cache": self._caches,
            "identity": self._identities,
            "bundle": self._bundles,
        }
        listeners = {} if self._uses_all else self.listeners
        for kind, nodes in {**sections, "listener": listeners}.items():
            for name, node in nodes.items():
                if id(node) not in self._used and self._report.is_whole:
                    self._report.warn(node, f"no route uses the {kind} `{name}`; use it or take it out")

    def _refer(self, kind: str, node: Node | None, known: Mapping[str, Node | None]) -> Node | None:
        """Return the declaration that a node names and mark it as used; report a name that is not declared."""
        if node is None or not isinstance(node.value, str):
            return None  # reported by the validation of the route
        found = known.get(node.value)
        if found is None and self._report.is_whole:
            self._report.error_in(
                node, f"names no {kind}: there is no `{node.value}`; {self._report.suggest(node.value, known)}"
            )
        self._used.add(id(found))
        return found
