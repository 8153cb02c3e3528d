"""Bases of what policy files say: `Model` for a mapping, `Block` for a policy, `Problem` for a mistake."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict


class Problem(NamedTuple):
    """One thing that is wrong with the policy files: `file:line:column: path: message`."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}"


class Model(BaseModel):
    """Strict, closed and frozen: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Block(Model):
    """A policy block as a file says it.  Each stage's `Spec` is one."""

    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` lets everything pass and counts what it would have done."""

    @property
    def is_enforced(self) -> bool:
        return self.mode == "enforce"
