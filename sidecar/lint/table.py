"""Table of all rules of `sidecar lint` over one set of policies.  Rules along a chain are in `rules/chains.py`."""

from __future__ import annotations

from typing import Final

from sidecar.lint.rule import Rule
from sidecar.lint.rules import answers, breakers, capacity, retries, times

RULES: Final[tuple[Rule, ...]] = (*times.RULES, *retries.RULES, *breakers.RULES, *capacity.RULES, *answers.RULES)
"""All rules in the order of their identifiers."""
BY_ID: Final = {rule.id: rule for rule in RULES}
"""Rules by identifier."""
