"""Which key rules are in use.  A module of its own, since what is compiled can have no weak references."""

from __future__ import annotations

from sidecar.cache.rfc.key import KeyRule


class Use:
    """A policy's hold on its rule.  Once the policy is gone, so is this, and a cache thinks of the rule no more."""

    __slots__ = ("__weakref__", "rule")

    def __init__(self, rule: KeyRule) -> None:
        self.rule = rule
