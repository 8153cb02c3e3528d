"""Errors of pydantic, located in the document.

pydantic finds every error of a model in one pass, but speaks of Python: its paths hold names of unions' branches, which
are no part of a policy file, and it reports errors for each branch of a union.  Here the path follows the nodes, steps
that the document does not have are dropped, and of a union's branches the one that came nearest to fitting is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sidecar.config.node import Node

Models = tuple[type[BaseModel], ...]


class LocatedError(NamedTuple):
    """Error of pydantic with its place in the document."""

    node: Node
    """The wrong value, or the mapping in which a key is missing or unknown."""
    key: str
    """The missing or unknown key; empty where the value itself is wrong."""
    branches: tuple[tuple[Node, str], ...]
    """Unions on the way, outermost first: the value, and the branch in which this is an error."""
    models: Models
    """Models that the value may be, which have its keys."""
    owner: tuple[Models, str]
    """Models that the mapping around the value may be, and the value's key in it; the key is empty for the root."""
    in_list: bool
    """True if the value stands in a list, at any depth."""
    kind: str
    """Type of the error, as pydantic names it."""
    message: str
    context: dict[str, Any]

    @property
    def is_misfit(self) -> bool:
        """True if the value is of another kind than it should be."""
        return self.kind.endswith("_type") or self.kind == "literal_error"

    @property
    def fields(self) -> list[tuple[str, FieldInfo]]:
        """Keys that the mapping may have, with their fields."""
        return [(key_of(name, field), field) for model in self.models for name, field in model.model_fields.items()]


def located(model: type[BaseModel], node: Node, failure: ValidationError) -> list[LocatedError]:
    """Return the errors of a node, each once."""
    found = [_locate(model, node, error) for error in failure.errors(include_url=False, include_input=False)]
    errors = list(_nearest([error for error in found if not _is_echo(error)]))
    unknown: dict[int, list[str]] = {}
    for error in errors:
        if error.kind == "extra_forbidden":
            unknown.setdefault(id(error.node), []).append(error.key)
    return [error for error in errors if not _is_misspelt(error, unknown.get(id(error.node), []))]


def _is_echo(error: LocatedError) -> bool:
    """True if a list seems too short only because pydantic counts without its wrong items, which have their errors."""
    return error.kind == "too_short" and len(error.node.value) >= error.context["min_length"]


def _is_misspelt(error: LocatedError, unknown: list[str]) -> bool:
    """True if a key is missing because one of the unknown ones is a misspelling of it, which alone is reported."""
    return error.kind == "missing" and any(get_close_matches(key, [error.key]) for key in unknown)


def _locate(model: type[BaseModel], root: Node, error: Any) -> LocatedError:
    node, key, in_list = root, "", False
    branches: list[tuple[Node, str]] = []
    models: Models = (model,)
    owner: tuple[Models, str] = ((), "")
    loc: tuple[str | int, ...] = error["loc"]
    for index, step in enumerate(loc):
        if index == len(loc) - 1 and error["type"] in ("missing", "extra_forbidden"):
            key = str(step)
        elif inner := node.child(step):
            in_list = in_list or isinstance(step, int)
            owner = models, str(step)
            node, models = inner, _below(models, step)
        else:
            branches.append((node, str(step)))
            models = tuple(each for each in models if each.__name__ == step) or _below(models, step) or models
    return LocatedError(
        node, key, tuple(branches), models, owner, in_list, error["type"], error["msg"], error.get("ctx", {})
    )


def _below(models: Iterable[type[BaseModel]], step: str | int) -> Models:
    fields = [field for each in models for name, field in each.model_fields.items() if key_of(name, field) == step]
    return tuple(inner for field in fields for inner in models_in(field.annotation)) if fields else tuple(models)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models among the types that a field may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def key_of(name: str, field: FieldInfo) -> str:
    """Return the key by which a policy file has a field."""
    return field.alias or name


def _nearest(errors: list[LocatedError], depth: int = 0) -> Iterator[LocatedError]:
    """Yield all errors outside of unions, and for each union those of the branch that came nearest to fitting."""
    unions: dict[int, dict[str, list[LocatedError]]] = {}
    for error in errors:
        if len(error.branches) <= depth:
            yield error
        else:
            node, name = error.branches[depth]
            unions.setdefault(id(node), {}).setdefault(name, []).append(error)
    for branches in unions.values():
        nearest = min(branches.values(), key=lambda branch: _distance(branch, branch[0].branches[depth][0]))
        yield from _nearest(nearest, depth + 1)


def _distance(errors: list[LocatedError], union: Node) -> tuple[int, int]:
    """Return how far a value is from fitting a branch: first whether its kind is another one, then the errors."""
    first = errors[0]
    is_mapping = isinstance(union.value, dict)
    other = first.node is union and not first.key if is_mapping else first.is_misfit
    return (2 if other and first.kind != "literal_error" else int(other), len(errors))
