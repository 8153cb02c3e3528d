"""Registration of a key rule with a cache.

This module is not compiled, since compiled classes cannot have weak references.
"""

from __future__ import annotations

from sidecar.cache.rfc.key import KeyRule


class RuleHandle:
    """Registration of one policy's key rule, which ends when the policy, its only holder, is freed."""

    __slots__ = ("__weakref__", "rule")

    def __init__(self, rule: KeyRule) -> None:
        self.rule = rule
