"""Router of a listener that has routes with `cors`: finds the route of a CORS preflight.

A preflight is an OPTIONS that announces another request (Fetch standard, "CORS-preflight request").  It belongs to the
route of that request, although its own method may be none of that route's.  Rules:

1. The announced method is matched.  Conditions on fields and `when` see the preflight, which has only fields of its
   own.  The content type is still to come, so a route of gRPC calls matches.
2. If that route answers no preflights, the preflight is a request like others, and goes to the route that takes
   OPTIONS.  A route that answers preflights must not answer this one: it would allow a request to another route.
3. An OPTIONS without Access-Control-Request-Method is a request like others.

Listeners without such routes have a plain `Router`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sidecar.core.exchange import Exchange
from sidecar.routing.router import Router
from sidecar.routing.rule import R, Rule


class PreflightRouter(Router[R]):
    """Rules of one listener, some of whose targets answer preflights."""

    __slots__ = ("_answering",)

    def __init__(self, rules: Iterable[Rule[R]], answering: Collection[R]) -> None:
        """`answering` are the targets that answer preflights."""
        super().__init__(rules)
        self._answering = answering

    def match(self, x: Exchange) -> R | None:
        """Return the target of a request, or the one that answers a preflight."""
        if x.method != b"OPTIONS" or not x.is_preflight:
            return super().match(x)
        announced = self._match_announced(x)
        if announced is not None and announced in self._answering:
            return announced
        found = super().match(x)
        return None if announced is not None and found in self._answering else found

    def _match_announced(self, x: Exchange) -> R | None:
        """Return the target of the request that a preflight announces."""
        method, is_grpc = x.method, x.is_grpc
        announced = x.joined(b"access-control-request-method")
        x.method = announced or method
        x.is_grpc = announced == b"POST"
        try:
            return super().match(x)
        finally:
            x.method, x.is_grpc = method, is_grpc
