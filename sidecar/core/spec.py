"""Base classes of specs, `Model` for a mapping and `Block` for a policy; secrets; `Problem` for an error in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, SecretStr


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


class SecretFile(Model):
    """Secret that is read from a file, such as a mounted Kubernetes secret."""

    file: str
    """Path of the file.  The file is read again at each reload, and a new secret holds from then on."""


Secret = SecretStr | SecretFile


def reveal(secret: Secret) -> str:
    """Return the secret; of a file, its text without the line end.  Raises `OSError` if the file cannot be read."""
    if isinstance(secret, SecretFile):
        return Path(secret.file).read_text(encoding="utf-8").rstrip("\r\n")
    return secret.get_secret_value()
