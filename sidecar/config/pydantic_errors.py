"""pydantic's errors, located in the document.

pydantic finds every error of a model in one pass but speaks of Python: its paths hold names of unions' branches, which
are no part of a policy file, and it reports errors for each branch of a union.  Here the path follows the nodes,
elements that the document does not have are dropped, and of a union's branches the one that came nearest to fitting is
kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sidecar.config.node import Node

Models = tuple[type[BaseModel], ...]


class Error(NamedTuple):
    """One error of pydantic, located in the document."""

    node: Node
    """Where it is, or the mapping in which a key is missing or unknown."""
    key: str
    """That key; empty where the value itself is wrong."""
    branches: tuple[tuple[Node, str], ...]
    """The unions on the way, outermost first: the value, and the branch in which this is an error."""
    models: Models
    """What the value may be, to know its keys."""
    in_list: bool
    kind: str
    message: str
    context: dict[str, Any]

    @property
    def is_misfit(self) -> bool:
        """Is the value of another kind than it should be?"""
        return self.kind.endswith("_type") or self.kind == "literal_error"

    @property
    def fields(self) -> list[tuple[str, FieldInfo]]:
        """What keys the mapping may have."""
        return [(key_of(name, field), field) for model in self.models for name, field in model.model_fields.items()]


def located(model: type[BaseModel], node: Node, failure: ValidationError) -> list[Error]:
    """What is wrong with a node, each thing once."""
    found = [_locate(model, node, error) for error in failure.errors(include_url=False, include_input=False)]
    errors = list(_nearest([error for error in found if not _is_echo(error)]))
    return [error for error in errors if not any(_is_meant(error, other) for other in errors)]


def _is_echo(error: Error) -> bool:
    """pydantic leaves wrong items out before it counts: where a list only seems too short, its items' errors say it."""
    return error.kind == "too_short" and len(error.node.value) >= error.context["min_length"]


def _is_meant(missing: Error, extra: Error) -> bool:
    """Is a missing key there, but misspelt?  Then the misspelling is all there is to say."""
    same = missing.node is extra.node and (missing.kind, extra.kind) == ("missing", "extra_forbidden")
    return same and bool(get_close_matches(extra.key, [missing.key]))


def _locate(model: type[BaseModel], root: Node, error: Any) -> Error:
    node, key, in_list = root, "", False
    branches: list[tuple[Node, str]] = []
    models: Models = (model,)
    loc: tuple[str | int, ...] = error["loc"]
    for index, step in enumerate(loc):
        if index == len(loc) - 1 and error["type"] in ("missing", "extra_forbidden"):
            key = str(step)
        elif inner := node.child(step):
            in_list = in_list or isinstance(step, int)
            node, models = inner, _below(models, step)
        else:
            branches.append((node, str(step)))
            models = tuple(each for each in models if each.__name__ == step) or _below(models, step) or models
    return Error(node, key, tuple(branches), models, in_list, error["type"], error["msg"], error.get("ctx", {}))


def _below(models: Iterable[type[BaseModel]], step: str | int) -> Models:
    fields = [field for each in models for name, field in each.model_fields.items() if key_of(name, field) == step]
    return tuple(inner for field in fields for inner in models_in(field.annotation)) if fields else tuple(models)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models among what a field may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def key_of(name: str, field: FieldInfo) -> str:
    """How a policy file calls a field."""
    return field.alias or name


def _nearest(errors: list[Error], depth: int = 0) -> Iterator[Error]:
    """All errors outside of unions, and for each union those of the branch that came nearest to fitting."""
    unions: dict[int, dict[str, list[Error]]] = {}
    for error in errors:
        if len(error.branches) <= depth:
            yield error
        else:
            node, name = error.branches[depth]
            unions.setdefault(id(node), {}).setdefault(name, []).append(error)
    for branches in unions.values():
        nearest = min(branches.values(), key=lambda branch: _distance(branch, branch[0].branches[depth][0]))
        yield from _nearest(nearest, depth + 1)


def _distance(errors: list[Error], union: Node) -> tuple[int, int]:
    """How far a value is from fitting a branch: of another kind altogether, or how many errors."""
    first = errors[0]
    is_mapping = isinstance(union.value, dict)
    other = first.node is union and not first.key if is_mapping else first.is_misfit
    return (2 if other and first.kind != "literal_error" else int(other), len(errors))
