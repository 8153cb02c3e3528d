"""Cache: answers from a store what HTTP allows (RFC 9111, as a shared cache), and stands in when the upstream is sick.

A hit costs no permit, no attempt and no transformation, since it stands outside of them.  What the fields mean and
what may be done is decided in `sidecar.cache`; here is the order of things:

    fresh?  stale and allowed?      answer from the store; where RFC 5861 says so, fetch a new one meanwhile
    somebody fetches it already?    wait for it, within bounds
    else                            validate or fetch, store while it streams
    the upstream fails?             a stale answer within `stale_if_error`; beyond that `fallback: [stale]` may have it

Decisions:

- *Every answer says what was done* in Cache-Status (RFC 9211), with the reason where something was not stored.
- *One fill at a time* for a key.  Those who wait are let go when it turns out that the answer cannot be shared (not
  storable, for another variant, older than they would accept), when the call fails and nothing stale may stand in, or
  after `coalesce.timeout`.  A key whose answer could not be stored is remembered for a minute, in which nobody waits
  for it (Varnish's hit-for-miss); its conditional requests then pass unchanged.
- *A request that asks for a range* of what is not stored is passed on as it is: fetching the whole of a film to answer
  with its first second helps nobody, and a partial answer is never stored.
- *A request with a body*, an upgrade, `If-Match` or `no-store` goes past the cache.
- *Unsafe methods* are written through, and their success invalidates the URI, and those in Location and
  Content-Location of the same origin (RFC 9111 4.4), in all routes that share the store.  A route that does not use a
  store heeds its writes all the same (`heeding`): the URI may be cached under another one.
- *A request that `when` leaves out* goes past the cache, unless it is an unsafe one: those always invalidate.
- `mode: observe` answers nothing from the store and counts what it could have answered.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from sidecar.cache.store import Store
from sidecar.core.env import BuildContext
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Layer, Service
from sidecar.expression import REQUEST, Condition
from sidecar.stages.cache.layer import Cached
from sidecar.stages.cache.observer import Observer
from sidecar.stages.cache.spec import Spec

__all__ = ["Spec", "build", "heeding"]


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The layer of one `cache` block."""
    kind = Cached if spec.is_enforced else Observer

    def layer(inner: Service) -> Service:
        cached = kind(spec, ctx, inner).call
        if spec.when is None:
            return cached
        holds = Condition(spec.when, REQUEST).holds

        def call(x: Exchange) -> Coroutine[Any, Any, Outcome]:
            return cached(x) if x.method not in SAFE_METHODS or holds(x) else inner(x)

        return call

    return layer


def heeding(stores: Sequence[Store]) -> Layer:
    """Let unsafe requests invalidate what stores have that their route does not use.  Safe ones cost a call."""

    def layer(inner: Service) -> Service:
        async def write(x: Exchange) -> Outcome:
            outcome = await inner(x)
            for store in stores:
                store.heed(x, outcome)
            return outcome

        def call(x: Exchange) -> Coroutine[Any, Any, Outcome]:
            return inner(x) if x.method in SAFE_METHODS else write(x)

        return call

    return layer
