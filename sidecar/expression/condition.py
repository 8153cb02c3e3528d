"""Compiled conditions of policy files."""

from __future__ import annotations

from typing import Any

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.expression.compiler import Compiler
from sidecar.expression.facts import NO_BODIES, Bodies, Scope
from sidecar.expression.parser import parse
from sidecar.expression.tree import Access, Expression, Literal, Logic, Relation


class Condition:
    """Compiled `when:`."""

    __slots__ = ("_read", "captures", "fixed_facts", "headers", "needs", "text")

    def __init__(self, text: str, scope: Scope) -> None:
        """Compile a condition.  Raises `ExpressionError` (a `ValueError`) if it is not valid in this scope."""
        self.text = text
        tree = parse(text)
        compiler = Compiler(scope)
        self._read = compiler.compile_condition(tree)
        self.needs = frozenset(compiler.needs)
        """Facts that the condition reads, of `request`, `request.body`, `response` and `response.body`."""
        self.headers = frozenset(compiler.headers)
        """Header fields of the request that the condition reads, in lower case."""
        self.captures = frozenset(compiler.captures)
        """Captures of the path that the condition reads."""
        self.fixed_facts = dict(_equalities(tree))
        """Facts that must equal a literal for the condition to hold."""

    def holds(self, x: Exchange, outcome: Outcome | None = None, bodies: Bodies = NO_BODIES) -> bool:
        """True if the condition holds.  False if it does not, or has no value because a fact is absent."""
        return self._read(x, outcome, bodies) is True

    def excludes(self, other: Condition) -> bool:
        """True if this condition and `other` can never hold at once.

        Only the plain case is recognised: a fact that must equal two different literals.
        """
        return any(
            fact in other.fixed_facts and other.fixed_facts[fact] != value for fact, value in self.fixed_facts.items()
        )

    def __repr__(self) -> str:
        return f"<Condition {self.text}>"


def _equalities(tree: Expression) -> list[tuple[str, Any]]:
    """Return the facts that must equal a literal for a condition to hold, with the literal."""
    if isinstance(tree, Logic) and tree.operator == "&&":
        return [pin for operand in tree.operands for pin in _equalities(operand)]
    if isinstance(tree, Relation) and tree.operator == "==":
        sides = (tree.left, tree.right) if isinstance(tree.left, Access) else (tree.right, tree.left)
        if isinstance(sides[0], Access) and isinstance(sides[1], Literal):
            return [(_fact(sides[0]), sides[1].value)]
    return []


def _fact(access: Access) -> str:
    """Return the name of a fact, with header names in lower case, since they ignore case."""
    return str(access).lower() if "headers" in access.steps[1:2] else str(access)
