"""Base classes of specs, `Model` for a mapping and `Block` for a policy, and `Problem` for an error in a file."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Problem(NamedTuple):
    """Error in a policy file, written `file:line:column: path: message`."""

    file: str
    line: int
    """Line number; the first is 1."""
    column: int
    """Column number; the first is 1."""
    path: str
    """Keys that lead to the value, such as `routes.order.retry.on`; empty for an error of the whole file."""
    message: str
    """Description of the error, and its remedy."""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}"


class Model(BaseModel):
    """Mapping in a policy file: strict, closed and frozen.  An unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True)

    @classmethod
    def built_in(cls, **values: Any) -> Self:
        """Return a spec of default values, some of which `values` replace.  All keys of the model must have defaults.

        Unlike `cls()`, this does not build pydantic's validator of the model, which takes long.
        """
        return cls.model_construct(**values)


class Block(Model):
    """Policy block of a file; base class of the `Spec` of each stage."""

    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` refuses nothing, and counts the requests that `enforce` would have refused."""

    @property
    def is_enforced(self) -> bool:
        """True unless the block has `mode: observe`."""
        return self.mode == "enforce"
