"""Nodes of a parsed condition.  Columns count from 1."""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Literal:
    """Literal value."""

    value: Scalar
    column: int


@dataclass(frozen=True, slots=True)
class Items:
    """Literal list."""

    items: tuple[Expression, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Access:
    """Access to a fact, such as `request.headers['x-tier']`: a name, and the steps from it on."""

    steps: tuple[str | int, ...]
    """Names, and ints as indexes of lists."""
    columns: tuple[int, ...]
    """Column of each step."""

    @property
    def column(self) -> int:
        return self.columns[0]

    def __str__(self) -> str:
        words = [str(self.steps[0])]
        words += [
            f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in self.steps[1:]
        ]
        return "".join(words)


@dataclass(frozen=True, slots=True)
class Not:
    """Negation: `!operand`."""

    operand: Expression
    column: int


@dataclass(frozen=True, slots=True)
class Logic:
    """Flat conjunction or disjunction: `a && b && c` or `a || b || c`."""

    operator: str
    operands: tuple[Expression, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Relation:
    """Relation of two operands, such as `a == b` or `a in b`."""

    operator: str
    left: Expression
    right: Expression
    column: int


@dataclass(frozen=True, slots=True)
class Call:
    """Call of a function; the receiver of `a.startsWith(b)` is the first argument."""

    name: str
    arguments: tuple[Expression, ...]
    column: int


Expression = Literal | Items | Access | Not | Logic | Relation | Call
"""Node of a condition."""
