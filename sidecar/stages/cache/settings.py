"""Settings that a `cache` block is compiled into: how keys are made, and what is stored."""

from __future__ import annotations

from sidecar.cache.fetcher import Limits
from sidecar.cache.rfc.freshness import FreshnessRules
from sidecar.cache.rfc.key import KeyRule
from sidecar.cache.rfc.storing import credentials
from sidecar.core.env import BuildContext
from sidecar.stages.cache.spec import Spec


def key_rule(spec: Spec, ctx: BuildContext) -> KeyRule:
    """Return how keys are made.  All routes under one block share their answers."""
    return KeyRule(":".join(ctx.owner), spec.key.headers, spec.key.ignore_query)


def limits(spec: Spec) -> Limits:
    """Return which answers are stored, and for how long."""
    rules = FreshnessRules(
        spec.ttl,
        spec.heuristic,
        spec.stale_while_revalidate,
        spec.stale_if_error,
        spec.set_cookie == "store",
        tuple(name.encode() for name in spec.targeted_fields),
        credentials(spec.credentials, spec.key.headers),
    )
    return Limits(rules, spec.max_body, spec.keep)
