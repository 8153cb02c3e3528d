"""Settings compiled from a `cache` block: the rule for keys, and the limits for storing."""

from __future__ import annotations

from sidecar.cache.fetcher import Limits
from sidecar.cache.rfc.freshness import FreshnessRules
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.storing import credentials
from sidecar.core.env import BuildContext
from sidecar.stages.cache.spec import Spec


def key_rule(spec: Spec, ctx: BuildContext) -> KeyRule:
    """Return the rule for keys.  Routes that share a block share stored responses."""
    return KeyRule(":".join(ctx.owner), spec.key.headers, spec.key.ignore_query, is_per_caller(spec, ctx))


def is_per_caller(spec: Spec, ctx: BuildContext) -> bool:
    """True if authenticated callers share no answers."""
    return ctx.has_callers and not spec.shared


def limits(spec: Spec, per_caller: bool = False) -> Limits:
    """Return the limits for storing: rules of freshness, size of bodies, time beyond freshness.

    `per_caller` is the result of `is_per_caller`.
    """
    rules = FreshnessRules(
        spec.ttl,
        spec.heuristic,
        spec.stale_while_revalidate,
        spec.stale_if_error,
        spec.set_cookie == "store",
        tuple(name.encode() for name in spec.targeted_fields),
        credentials(spec.credentials, spec.key.headers),
        per_caller,
    )
    return Limits(rules, spec.max_body, spec.keep)
