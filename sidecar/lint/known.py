"""All rules by identifier: those of the table, those along a chain, and those whose findings come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from sidecar.lint.rule import Hit, Rule

CHECK: Final = "R000"
"""Identifier of a plain warning of `sidecar check`."""
COMMENT: Final = "R099"
"""Identifier of a suppression that is wrong."""


def _nothing(_: Any) -> Iterator[Hit]:
    """Yield nothing: the findings come from elsewhere."""
    return iter(())


OTHERS: Final = (
    Rule(
        CHECK,
        "A warning of `sidecar check`",
        "warning",
        "policies",
        "A value has no effect, or another one than expected, which loading reports without computing anything.",
        "the checks in `sidecar/config/checks`",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, retry: {max_attempts: 1}}]\n",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, retry: {max_attempts: 2}}]\n",
        _nothing,
    ),
    Rule(
        COMMENT,
        "A suppression that is wrong",
        "warning",
        "policies",
        "A comment that names no rule, gives no reason, or suppresses nothing hides mistakes that come later.",
        "experience with `noqa` and `nolint`: ruff RUF100, golangci nolintlint",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]  # lint: ignore R024\n",
        "routes: [{name: order, upstream: app}]  # lint: ignore R007: the caller has a deadline\n",
        _nothing,
    ),
)
"""Rules whose findings come from loading and from comments."""


@cache
def every_rule() -> Mapping[str, Rule]:
    """Return all rules by identifier, in its order."""
    from sidecar.lint.rules import chains
    from sidecar.lint.table import RULES

    return {rule.id: rule for rule in sorted((*RULES, *chains.RULES, *OTHERS), key=lambda rule: rule.id)}
