"""Nodes as pydantic models, and pydantic's errors as problems with a place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError, WithJsonSchema

from sidecar.config.node import OFF, Node
from sidecar.config.pydantic_errors import LocatedError, located, models_in
from sidecar.config.report import Report, suggest

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
EMPTY: Final = "is empty; give it a value, or leave the key out"


def validate(
    model: type[M], node: Node, report: Report, *, partial: bool = False, also: Iterable[str] = ()
) -> M | None:
    """Return the model of a node, None where there are problems, which go to the report.

    `partial`: the node is one layer of several, so that keys may be missing and need not fit together yet.
    `also`: keys that may stand beside the model's own, for suggestions.
    """
    try:
        return model.model_validate(_plain(model, node))
    except ValidationError as failure:
        errors = located(model, node, failure)
    for error in errors:
        if not (partial and _may_be_mended(error)):
            _report(error, report, also if error.node is node else ())
    return None


def _plain(model: type[BaseModel], node: Node) -> Any:
    """Return the node's value for the model, with None for each `off` that turns a key off."""
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
    """True if `off` turns a key off: the key may be absent, and the word could mean nothing else."""
    field = model.model_fields.get(key)
    kinds = set(_kinds(field.annotation)) if field is not None else set()
    return NoneType in kinds and kinds.isdisjoint((str, SecretStr, OFF))


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _may_be_mended(error: LocatedError) -> bool:
    """True if a layer further away may bring what is missing here."""
    unfit = error.kind == "value_error" and not error.key and isinstance(error.node.value, dict)
    return not error.in_list and (error.kind == "missing" or unfit)


def _report(error: LocatedError, report: Report, also: Iterable[str]) -> None:
    node, key = error.node, error.key
    if error.kind == "extra_forbidden":
        extra = node.items[key]
        known = {name for name, _ in error.fields}.union(also)
        hint = suggest(key, {name for name in known if name not in node.items})
        report.error(extra.key, extra.path, f"is not a known key; {hint}")
    elif error.kind == "missing":
        path = f"{node.path}.{key}" if node.path else key
        report.error(node.place, path, f"is missing; add `{key}: {_example(error)}`")
    else:
        report.at(node, _message(error))


def _example(error: LocatedError) -> str:
    for field in (field for name, field in error.fields if name == error.key):
        for extra in field.metadata:
            if isinstance(extra, WithJsonSchema) and extra.json_schema and extra.json_schema.get("examples"):
                return str(extra.json_schema["examples"][0])
        if get_origin(field.annotation) is Literal:
            return " | ".join(map(str, get_args(field.annotation)))
    return "..."


def _message(error: LocatedError) -> str:
    if error.kind == "value_error":
        return str(error.context.get("error", error.message))
    if error.kind == "literal_error":
        expected = str(error.context["expected"])
        word = error.node.value
        near = suggest(word, re.findall(r"'([^']*)'", expected)) if isinstance(word, str) else ""
        return f"must be {expected}" + (f"; {near}" if near.startswith("did") else "")
    if error.kind == "union_tag_invalid":
        key, tag = (str(error.context[name]).strip("'") for name in ("discriminator", "tag"))
        known = re.findall(r"'([^']*)'", str(error.context["expected_tags"]))
        return f"has an unknown {key}, `{tag}`; {suggest(tag, known)}"
    template = MESSAGES.get(error.kind)
    if template is None:
        return error.message[:1].lower() + error.message[1:]
    return EMPTY if error.node.value is None else template.format(**error.context)
