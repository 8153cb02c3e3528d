"""Validation of nodes as pydantic models; errors become problems with a place and a remedy."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo

from sidecar.config.node import OFF, Node
from sidecar.config.pydantic_errors import LocatedError, key_of, located, models_in
from sidecar.config.report import Report, suggest
from sidecar.config.scalars import resolve
from sidecar.core.spec import Block
from sidecar.core.units import NEGATIONS, write_quantity
from sidecar.stages import BY_NAME

M = TypeVar("M", bound=BaseModel)

MESSAGES: Final = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys and values",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "frozen_set_type": "must be a list, such as [a, b]",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list, such as [a, b]",
    "mapping_type": "must be a mapping of keys and values",
    "model_attributes_type": "must be a mapping of keys and values",
    "model_type": "must be a mapping of keys and values",
    "set_type": "must be a list, such as [a, b]",
    "string_pattern_mismatch": "does not match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text; put it in quotes",
    "too_long": "has too many items; at most {max_length}",
    "too_short": "has too few items; at least {min_length}",
    "tuple_type": "must be a list, such as [a, b]",
    "union_tag_not_found": "does not say what it is; add the key {discriminator}",
}
BOUNDS: Final = ("gt", "ge", "lt", "le")
"""Parameters of messages about a number, which are told in the unit of the value."""
MAPPINGS: Final = ("dict_type", "mapping_type", "model_attributes_type", "model_type")
"""Kinds of errors in a value that should be a mapping."""
AFFIRMATIONS: Final = ("on", "yes", "true")
"""Words that only say *yes*; no example of a mapping is made from them."""
MAX_SHOWN: Final = 80
"""Most characters of a value that a remedy repeats."""
EMPTY: Final = "is empty; give it a value, or leave the key out"


def validate(
    model: type[M], node: Node, report: Report, *, partial: bool = False, also: Iterable[str] = ()
) -> M | None:
    """Return the model of a node; None if there are problems, which go to the report.

    `partial`: True for one layer of several, in which keys may be missing and need not fit together.
    `also`: further keys that the node may have, for suggestions.
    """
    try:
        found = model.model_validate(_plain(model, node))
    except ValidationError as failure:
        errors = located(model, node, failure)
    else:
        empty = list(_empty_members(found, node))
        for member in empty:
            report.error_in(member, EMPTY)
        return None if empty else found
    for error in errors:
        if not (partial and _can_be_corrected(error)):
            _report(error, report, also if error.node is node else ())
    return None


def _empty_members(found: object, node: Node) -> Iterator[Node]:
    """Yield the members without a value, which a model takes like a key that is left out."""
    if isinstance(found, BaseModel):
        for name, field in type(found).model_fields.items():
            member = node.items.get(key_of(name, field))
            if member is None or Any in _kinds(field.annotation):
                continue
            if member.value is None:
                yield member
            else:
                yield from _empty_members(getattr(found, name), member)
    elif isinstance(found, dict):
        for key, value in found.items():
            if isinstance(value, BaseModel) and (member := node.items.get(key)) is not None:
                yield from _empty_members(value, member)
    elif isinstance(found, list | tuple) and isinstance(node.value, list):
        for value, member in zip(found, node.value, strict=False):
            yield from _empty_members(value, member)


def _plain(model: type[BaseModel], node: Node) -> Any:
    """Return the value of a node as input for the model, with None for each `off` that turns a key off."""
    if not isinstance(node.value, dict):
        return node.plain()
    return {key: _plain_member(model, key, member) for key, member in node.value.items()}


def _plain_member(model: type[BaseModel], key: str, member: Node) -> Any:
    if member.value == OFF and takes_off(model, key):
        return None
    if isinstance(member.value, dict) and key in model.model_fields:
        inner = list(models_in(model.model_fields[key].annotation))
        if len(inner) == 1:
            return _plain(inner[0], member)
    return member.plain()


@cache
def takes_off(model: type[BaseModel], key: str) -> bool:
    """True if `off` turns a key off: the key may be absent, and `off` is not a value of its type."""
    field = model.model_fields.get(key)
    kinds = set(_kinds(field.annotation)) if field is not None else set()
    return NoneType in kinds and kinds.isdisjoint((bool, str, SecretStr, OFF))


def _knows_off(model: type[BaseModel], key: str) -> bool:
    """True if `off` is among the values of a key."""
    return any(
        OFF in _kinds(field.annotation) for name, field in model.model_fields.items() if key_of(name, field) == key
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and all its type arguments, at any depth."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _can_be_corrected(error: LocatedError) -> bool:
    """True if another layer may still correct the error, by a missing key or a value that fits better."""
    unfit = error.kind == "value_error" and not error.key and isinstance(error.node.value, dict)
    return not error.in_list and (error.kind == "missing" or unfit)


def _report(error: LocatedError, report: Report, also: Iterable[str]) -> None:
    """Report an error with its remedy."""
    node, key = error.node, error.key
    if error.kind == "extra_forbidden":
        extra = node.items[key]
        if place := _proper_place(error, also):
            report.error(extra.key, extra.path, f"belongs under {place}")
            return
        known = {name for name, _ in error.fields}.union(also)
        hint = suggest(key, {name for name in known if name not in node.items})
        report.error(extra.key, extra.path, f"is not a known key; {hint}")
    elif error.kind == "missing":
        path = f"{node.path}.{key}" if node.path else key
        report.error(node.place, path, f"is missing; add `{key}: {_example(error)}`")
    else:
        report.error_in(node, _message(error))


def _proper_place(error: LocatedError, also: Iterable[str]) -> str:
    """Return the place where an unknown key belongs, with an example; empty if none is known."""
    node, key = error.node, error.key
    if not node.path and key.startswith("x-"):
        return "`policies` if several routes share it: policies: {common: {...}}, and use: [common] on each route"
    if not node.path and key in BY_NAME:
        return f"a route, or under `defaults` for all routes: defaults: {{{key}: ...}}"
    written = _flow(node.items[key].shown())
    homes = [name for name, field in error.fields if any(key in inner.model_fields for inner in _nested(field))]
    if not homes or key in also or len(written) > MAX_SHOWN:
        return ""
    return f"{' or '.join(f'`{name}`' for name in homes)}: {homes[0]}: {{{key}: {written}}}"


def _nested(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """Yield the models that a field may hold directly, not in a list."""
    annotation = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    yield from (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _mapping_remedy(error: LocatedError) -> str:
    """Return the remedy for a value that should be a mapping, with an example; empty if no example is known."""
    value, model = error.node.value, error.models[0] if error.models else None
    if model is None or isinstance(value, list):
        return ""
    takes_nothing = issubclass(model, Block)
    if (value in NEGATIONS or value == 0) and takes_nothing:
        return "; `off` turns it off"
    if not takes_nothing and (isinstance(value, bool) or value in AFFIRMATIONS or value in NEGATIONS):
        return ""
    for name, field in model.model_fields.items():
        kinds = set(_kinds(field.annotation))
        if name != "mode" and str not in kinds and isinstance(value, str | int | float) and _fits(model, name, value):
            return f", such as {{{key_of(name, field)}: {_flow(error.node.shown())}}}"
    for name in ("path_prefix", "path"):
        if name in model.model_fields and isinstance(value, str) and value.startswith("/"):
            return f", such as {{{name}: {_flow(error.node.shown())}}}"
    example = _model_example(model)
    return f", such as {_flow(example)}" if example is not None else ""


def _fits(model: type[BaseModel], name: str, value: Any) -> bool:
    """True if a value is valid for one key of a model."""
    key = key_of(name, model.model_fields[name])
    try:
        model.model_validate({key: value})
    except ValidationError as failure:
        return all(error["loc"] and error["loc"][0] != key for error in failure.errors(include_input=False))
    return True


def _model_example(model: type[BaseModel]) -> Any:
    """Return the first example of a block; None if its module has none."""
    examples = getattr(sys.modules[model.__module__], "EXAMPLES", ())
    return examples[0] if examples and issubclass(model, Block) and model.__name__ == "Spec" else None


def _flow(value: Any) -> str:
    """Return a value on one line, in YAML's flow style."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(member)}' for key, member in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return value if isinstance(value, str) and re.fullmatch(r"[\w./%*~+-]+", value) else json.dumps(value)


def _example(error: LocatedError) -> str:
    """Return an example of the value of a missing key; `...` if none is known."""
    for field in (field for name, field in error.fields if name == error.key):
        for extra in field.metadata:
            if isinstance(extra, WithJsonSchema) and extra.json_schema and extra.json_schema.get("examples"):
                return str(extra.json_schema["examples"][0])
        if get_origin(field.annotation) is Literal:
            return " | ".join(map(str, get_args(field.annotation)))
    for model in error.models:
        example = _model_example(model)
        if isinstance(example, list):  # a block that may be written as its only list
            return _flow(example)
    return "..."


def _message(error: LocatedError) -> str:
    """Return the message for a wrong value, with a hint at `off` if the value is another word for it."""
    message = _bare_message(error)
    models, key = error.owner
    is_negation = error.node.value in NEGATIONS and error.node.value != OFF
    if is_negation and OFF not in message and any(takes_off(model, key) or _knows_off(model, key) for model in models):
        return f"{message}; `off` turns it off"
    return message


def _bare_message(error: LocatedError) -> str:
    """Return the message for a wrong value without hints about `off`."""
    if error.kind == "value_error":
        return str(error.context.get("error", error.message))
    if error.kind == "literal_error":
        expected = str(error.context["expected"])
        word = error.node.value
        near = suggest(word, re.findall(r"'([^']*)'", expected)) if isinstance(word, str) else ""
        quoted = ", without quotes" if isinstance(word, str) and word == expected else ""
        return f"must be {expected}{quoted}" + (f"; {near}" if near.startswith("did") else "")
    if error.kind == "union_tag_invalid":
        key, tag = (str(error.context[name]).strip("'") for name in ("discriminator", "tag"))
        known = re.findall(r"'([^']*)'", str(error.context["expected_tags"]))
        return f"has an unknown {key}, `{tag}`; {suggest(tag, known)}"
    template = MESSAGES.get(error.kind)
    if template is None:
        return error.message[:1].lower() + error.message[1:]
    if error.node.value is None:
        return EMPTY
    message = template.format(**error.context | _bounds(error))
    if error.kind in MAPPINGS:
        shape = _mapping_remedy(error)
        if shape.startswith(", such as ["):  # the block is usually written as its only list
            message = "must be a list, or a mapping of keys and values"
        return message + shape
    return message + _unquoting_remedy(error)


def _bounds(error: LocatedError) -> dict[str, Any]:
    """Return the bounds that an error names, in the notation of policy files."""
    models, key = error.owner
    bounds = {name: value for name, value in error.context.items() if name in ("ge", "gt", "le", "lt")}
    for model in models if bounds else ():
        for name, field in model.model_fields.items():
            for extra in field.metadata if key_of(name, field) == key else ():
                if isinstance(extra, WithJsonSchema) and (pattern := (extra.json_schema or {}).get("pattern")):
                    return {name: write_quantity(value, pattern) for name, value in bounds.items()}
    return {name: int(value) if value % 1 == 0 else value for name, value in bounds.items()}


def _unquoting_remedy(error: LocatedError) -> str:
    """Return the remedy for a quoted number or boolean; empty for any other value."""
    value = error.node.value
    meant = resolve(value) if isinstance(value, str) and value else None
    kinds = {"int_type": int, "float_type": (int, float), "bool_type": bool}
    is_meant = error.kind in kinds and isinstance(meant, kinds[error.kind])  # type: ignore[arg-type]
    return "; take the quotes off" if is_meant and (error.kind == "bool_type" or not isinstance(meant, bool)) else ""
