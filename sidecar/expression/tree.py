"""What a condition consists of, as the parser finds it.  Columns count from 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that is written out."""

    value: Scalar
    column: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list that is written out."""

    items: tuple[Expression, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Access:
    """`request.headers['x-tier']`: a name, and the steps from it on.  An int is an index of a list."""

    steps: tuple[str | int, ...]
    columns: tuple[int, ...]
    """Where each step stands."""

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
    """`!operand`"""

    operand: Expression
    column: int


@dataclass(frozen=True, slots=True)
class Logic:
    """`a && b && c` or `a || b || c`, flat."""

    operator: str
    operands: tuple[Expression, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Relation:
    """`a == b` and the like, `in` included."""

    operator: str
    left: Expression
    right: Expression
    column: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function; of `a.startsWith(b)` the receiver is the first argument."""

    name: str
    arguments: tuple[Expression, ...]
    column: int


Expression = Any
"""One of the above."""
