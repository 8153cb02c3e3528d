"""Base classes of policy files: `Model` for a mapping, `Block` for a policy, `Problem` for a mistake in one."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Problem(NamedTuple):
    """One mistake in the policy files, written `file:line:column: path: message`."""

    file: str
    line: int
    """1 for the first."""
    column: int
    """1 for the first."""
    path: str
    """Keys that lead to the value, such as `routes.order.retry.on`."""
    message: str
    """Mistake, and what would be right."""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}"


class Model(BaseModel):
    """Mapping in a policy file: strict, closed and frozen.  An unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True)

    @classmethod
    def built_in(cls, **values: Any) -> Self:
        """Return the spec of an empty mapping, for models whose keys all have defaults; `values` replace some of them.

        Unlike `cls()` it needs no validator, which pydantic builds for each model at its first validation.
        """
        return cls.model_construct(**values)


class Block(Model):
    """Policy as a file says it.  The `Spec` of each stage is one."""

    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` lets everything pass and counts what it would have done."""

    @property
    def is_enforced(self) -> bool:
        """False under `mode: observe`."""
        return self.mode == "enforce"
