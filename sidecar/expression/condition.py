"""A condition of a policy file, ready to be asked."""

from __future__ import annotations

from typing import Any

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.expression.compiler import Compiler
from sidecar.expression.facts import NO_BODIES, Bodies, Scope
from sidecar.expression.parser import parse
from sidecar.expression.tree import Access, Expression, Literal, Logic, Relation


class Condition:
    """A compiled `when:`.  Raises `ExpressionError` (a `ValueError`) for what is none in this scope."""

    __slots__ = ("_read", "headers", "needs", "pins", "text")

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        tree = parse(text)
        compiler = Compiler(scope)
        self._read = compiler.condition(tree)
        self.needs = frozenset(compiler.needs)
        """Which of `request`, `request.body`, `response` and `response.body` it reads."""
        self.headers = frozenset(compiler.headers)
        """Fields of the request that it reads, in lower case."""
        self.pins = dict(_pins(tree))
        """Facts that must equal a literal for it to hold."""

    def holds(self, x: Exchange, outcome: Outcome | None = None, bodies: Bodies = NO_BODIES) -> bool:
        """Is it true?  False where it is not, and where it has no value because something is missing."""
        return self._read(x, outcome, bodies) is True

    def excludes(self, other: Condition) -> bool:
        """Can both never hold at once?  Sees what is plain to see: one fact that is to equal two literals."""
        return any(fact in other.pins and other.pins[fact] != value for fact, value in self.pins.items())

    def __repr__(self) -> str:
        return f"<Condition {self.text}>"


def _pins(tree: Expression) -> list[tuple[str, Any]]:
    if isinstance(tree, Logic) and tree.operator == "&&":
        return [pin for operand in tree.operands for pin in _pins(operand)]
    if isinstance(tree, Relation) and tree.operator == "==":
        sides = (tree.left, tree.right) if isinstance(tree.left, Access) else (tree.right, tree.left)
        if isinstance(sides[0], Access) and isinstance(sides[1], Literal):
            return [(_fact(sides[0]), sides[1].value)]
    return []


def _fact(access: Access) -> str:
    """One name for one fact: header names mind no case."""
    return str(access).lower() if "headers" in access.steps[1:2] else str(access)
