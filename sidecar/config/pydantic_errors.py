"""Errors of pydantic, located in the document.

pydantic finds every error of a model in one pass, but in terms of Python.  Its paths contain the names of a union's
branches, which a policy file does not have, and it reports errors for each branch.  Here a path follows the nodes of
the document.  Of the branches of a union, only the one that fits best is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sidecar.config.node import Node
from sidecar.config.scalars import resolve

Models = tuple[type[BaseModel], ...]


class LocatedError(NamedTuple):
    """Error of pydantic with its place in the document."""

    node: Node
    """Value that is wrong, or mapping in which a key is missing or unknown."""
    key: str
    """Key that is missing or unknown; empty if the value itself is wrong."""
    branches: tuple[tuple[Node, str], ...]
    """Unions on the path, outermost first: each is the value, and the name of the branch that has this error."""
    models: Models
    """Models that are allowed for the value."""
    owner: tuple[Models, str]
    """Models that are allowed for the mapping around the value, and the value's key in it; empty for the root."""
    in_list: bool
    """True if the value is in a list, at any depth."""
    kind: str
    """Type of the error in pydantic's terms, such as `int_type`."""
    message: str
    """Message of pydantic."""
    context: dict[str, Any]
    """Parameters of the message, such as `min_length`."""

    @property
    def is_misfit(self) -> bool:
        """True if the value has the wrong type, or is none of the allowed words."""
        return self.kind.endswith("_type") or self.kind == "literal_error"

    @property
    def fields(self) -> list[tuple[str, FieldInfo]]:
        """Keys that the allowed models have, with their fields."""
        return [(key_of(name, field), field) for model in self.models for name, field in model.model_fields.items()]


def located(model: type[BaseModel], node: Node, failure: ValidationError) -> list[LocatedError]:
    """Return the errors of a validated node with their places, without those that only follow from others."""
    found = [_locate(model, node, error) for error in failure.errors(include_url=False, include_input=False)]
    errors = list(_best_branches([error for error in found if not _is_miscounted(error)]))
    unknown: dict[int, list[str]] = {}
    for error in errors:
        if error.kind == "extra_forbidden":
            unknown.setdefault(id(error.node), []).append(error.key)
    return [error for error in errors if not _is_misspelt(error, unknown.get(id(error.node), []))]


def _is_miscounted(error: LocatedError) -> bool:
    """True for the error `too_short` of a list that is long enough: pydantic does not count its wrong items."""
    return error.kind == "too_short" and len(error.node.value) >= error.context["min_length"]


def _is_misspelt(error: LocatedError, unknown: list[str]) -> bool:
    """True if a missing key has an unknown key with a similar name beside it; only the unknown one is reported."""
    return error.kind == "missing" and any(get_close_matches(key, [error.key]) for key in unknown)


def _locate(model: type[BaseModel], root: Node, error: Any) -> LocatedError:
    """Return one error of pydantic with its place; steps of its path that are not in the document are branches."""
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
    """Return the models that a key of these models may hold; the models themselves if the step is no key."""
    fields = [field for each in models for name, field in each.model_fields.items() if key_of(name, field) == step]
    return tuple(inner for field in fields for inner in models_in(field.annotation)) if fields else tuple(models)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def key_of(name: str, field: FieldInfo) -> str:
    """Return the key of a field in a policy file: its alias, or its name."""
    return field.alias or name


def _best_branches(errors: list[LocatedError], depth: int = 0) -> Iterator[LocatedError]:
    """Yield all errors outside of unions, and for each union the errors of the branch that fits best.

    `depth` is the number of unions around these errors that are decided already.
    """
    unions: dict[int, dict[str, list[LocatedError]]] = {}
    for error in errors:
        if len(error.branches) <= depth:
            yield error
        else:
            node, name = error.branches[depth]
            unions.setdefault(id(node), {}).setdefault(name, []).append(error)
    for branches in unions.values():
        if (either := _number_or_word(branches.values())) is not None:
            yield either
            continue
        nearest = min(branches.values(), key=lambda branch: _distance(branch, branch[0].branches[depth][0]))
        yield from _best_branches(nearest, depth + 1)


def _number_or_word(branches: Iterable[list[LocatedError]]) -> LocatedError | None:
    """Return the error of a value that should be a whole number or one of some words; None for any other union."""
    errors = [error for branch in branches for error in branch]
    numbers = [error for error in errors if error.kind in ("int_type", "int_from_float")]
    words = [error for error in errors if error.kind == "literal_error"]
    if len(errors) != 2 or not numbers or not words or numbers[0].node is not words[0].node:
        return None
    value = numbers[0].node.value
    if isinstance(value, str) and isinstance(resolve(value), int):
        return numbers[0]  # in quotes
    return words[0]._replace(context={"expected": f"a whole number or {words[0].context['expected']}"})


def _distance(errors: list[LocatedError], union: Node) -> tuple[int, int]:
    """Return a sort key for how badly a value fits a branch: first its type, then the number of its errors."""
    first = errors[0]
    is_mapping = isinstance(union.value, dict)
    other = first.node is union and not first.key if is_mapping else first.is_misfit
    return (2 if other and first.kind != "literal_error" else int(other), len(errors))
