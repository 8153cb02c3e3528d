"""Passthrough: routes for captured requests without a route, to the address that the client had dialled.

Rules:

1. Such requests meet no policy, but go through the connection pools, the log and the metrics of all others.
2. The version of HTTP to the destination is the client's.
3. At most `MOST_DESTINATIONS` addresses have a pool at a time.  A new one takes the place of the least recently used
   without a request in flight; without such a one the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.config.process_spec import CaptureSpec
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.control.route import Route
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import OVERLOADED, Outcome, Refusal, failed
from sidecar.engine.pipeline import Call, InFlight, Pipeline
from sidecar.routing.match_spec import MatchSpec
from sidecar.upstream.client import AttemptInFlight, Upstream
from sidecar.upstream.endpoint import Endpoint, EndpointSet, Target
from sidecar.upstream.slow_places import SlowPlaces
from sidecar.upstream.spec import UpstreamSpec

NAME: Final = "(original)"
"""Name of these routes and of their upstream over HTTP/1.1; names in policy files have no parentheses."""
NAME_HTTP2: Final = "(original http2)"
"""Name of their upstream over HTTP/2."""
HTTP2: Final = 20
MOST_DESTINATIONS: Final = 256
"""Most addresses that have a connection pool, for each version of HTTP."""


class Destinations:
    """Addresses of requests without a route, as endpoints of one upstream; reloads keep it."""

    def __init__(self, endpoints: EndpointSet) -> None:
        self._endpoints = endpoints
        self._targets: dict[str, Target] = {}
        """Targets by URL, the least recently used first."""
        self._by_url: dict[str, Endpoint] = {}

    def endpoint(self, url: str) -> Endpoint | None:
        """Return the endpoint of a URL, which is added if necessary; None if all places are in use."""
        target = self._targets.pop(url, None)
        if target is None:
            if len(self._targets) >= MOST_DESTINATIONS:
                idle = next((each for each in self._targets if not self._by_url[each].in_flight), None)
                if idle is None:
                    return None
                del self._targets[idle]
            target = Target(url)
            self._endpoints.assign([*self._targets.values(), target])
            self._by_url = {each.url: each for each in self._endpoints.members}
        self._targets[url] = target
        return self._by_url[url]


class ToDestination:
    """End of the pipeline of requests to one address."""

    def __init__(self, upstream: Upstream, destinations: Destinations, url: str, idle_timeout: float) -> None:
        self._upstream = upstream
        self._destinations = destinations
        self._url = url
        self._idle_timeout = idle_timeout

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Start the attempt; return it in flight, or its outcome at once."""
        upstream = self._upstream
        endpoint = self._destinations.endpoint(self._url)
        if endpoint is None:
            detail = f"Requests are in flight to {MOST_DESTINATIONS} addresses, and no more have a place."
            return failed(OVERLOADED, Refusal("capture", detail=detail, limit=MOST_DESTINATIONS))
        now = upstream.now()
        expires = min(x.deadline, now + x.attempt_timeout)
        x.idle_timeout = self._idle_timeout
        pool = upstream.pools.of(endpoint)
        attempt = AttemptInFlight(x, upstream, endpoint, pool, now, expires)
        x.attempts.append(attempt)
        if x.trace is not None:
            x.trace.attempt(x, attempt)
        endpoint.in_flight += 1
        connection = pool.take(x, now)
        if connection is not None:
            attempt.connection = connection
            connection.exchange(x, expires, now, attempt)
        else:
            attempt.open()
        if attempt.outcome is not None:
            return attempt.outcome
        attempt.call = call
        return attempt


class Passthrough:
    """Routes to original destinations, for one set of policies."""

    def __init__(
        self,
        spec: PolicySpec,
        env: Env,
        obtain: Callable[[Any, Any, Callable[[], Any]], Any],
        metrics: Callable[[RouteSpec], Any],
        settings: CaptureSpec,
    ) -> None:
        """Take the function that returns state objects, and the one that returns the value of `Route.metrics`."""
        self._idle_timeout = settings.idle_timeout
        self._ends: dict[bool, tuple[Upstream, Destinations]] = {}
        """Upstream and addresses, by True for HTTP/2."""
        for name, protocol in ((NAME, "http1"), (NAME_HTTP2, "http2")):
            own = UpstreamSpec.built_in(protocol=protocol, connect_timeout=settings.connect_timeout)
            upstream = Upstream(name, own, env, obtain)
            make = lambda upstream=upstream: Destinations(upstream.endpoints)  # noqa: E731 - bound in the loop
            self._ends[protocol == "http2"] = (upstream, obtain(("destinations", name), None, make))
        connections = UpstreamSpec.built_in().connections
        settings_of_places = (connections.slow_share, connections.max)
        self._places: SlowPlaces = obtain(
            ("slow_places", NAME), settings_of_places, lambda: SlowPlaces(settings_of_places)
        )
        self._spec = RouteSpec(
            name=NAME,
            listener=None,
            scheme="http",
            match=MatchSpec.built_in(),
            upstream=NAME,
            use=(),
            criticality="default",
            blocks={},
            node=spec.node,
        )
        self._metrics = metrics(self._spec)
        self._routes: dict[tuple[str, bool], Route] = {}
        """Routes by URL and True for HTTP/2; all are dropped when there are too many."""

    def route_to(self, authority: str, version: int) -> Route:
        """Return the route to an address, `host:port`, for requests of a version of HTTP (10, 11 or 20)."""
        key = (f"http://{authority}", version == HTTP2)
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= 2 * MOST_DESTINATIONS:
                self._routes.clear()
            end = ToDestination(*self._ends[key[1]], key[0], self._idle_timeout)
            route = Route(self._spec, (), Pipeline((), end), self._places)
            route.metrics = self._metrics
            self._routes[key] = route
        return route
