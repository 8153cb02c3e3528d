"""The one route of a test that has no policy files."""

from __future__ import annotations

from typing import Any

from sidecar.config.spec import RouteSpec
from sidecar.control.route import Route
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.routing.match_spec import MatchSpec
from sidecar.upstream.slow_places import SlowPlaces


def one_route(service: Service, places: SlowPlaces | None = None) -> Route:
    """Return a route to a service, without policies."""
    nowhere: Any = None
    spec = RouteSpec("all", None, "http", MatchSpec(), "app", (), "default", {}, nowhere)
    return Route(spec, (), Pipeline([], service), places or SlowPlaces((1.0, 4)))
