"""Parts of the block `transform` that both directions share: fields, query parameters, bodies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sidecar.core import template
from sidecar.core.message import TOKEN
from sidecar.core.spec import Model
from sidecar.core.template import header_safe
from sidecar.transform import pointer


def check_template(value: Any) -> Any:
    """Check the templates in a JSON value.  Raises `ValueError` for an unknown name."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_template(inner)
    if isinstance(value, str):
        template.names(value)
    return value


def _line(text: str) -> str:
    if header_safe(text) != text:
        raise ValueError("has a control character; take it out")
    return text


def _field(name: str) -> str:
    if re.fullmatch(TOKEN, name.encode("ascii", "replace")) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as x-user")
    return name


def _family(name: str) -> str:
    if "*" in name[:-1] or name == "*":
        raise ValueError(f"has `{name}`; a star may only end a name, such as x-internal-*")
    return _field(name)


def _pointer(text: str) -> str:
    pointer.parse_pointer(text)
    return text


def _compiles(make: Callable[[Any], object]) -> AfterValidator:
    """Return a validator that accepts what `make` accepts."""

    def check(value: Any) -> Any:
        make(value)
        return value

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(check_template), AfterValidator(_line)]
"""Text that may be a template: `{path.id}`, `{header.x-user}`."""
Json = Annotated[Any, BeforeValidator(check_template)]
"""JSON value whose texts may be templates."""
FieldName = Annotated[str, AfterValidator(_field)]
"""Name of a header field."""
Family = Annotated[str, AfterValidator(_family)]
"""Name of a header field, or a prefix with a star."""
Parameter = Annotated[str, Field(min_length=1)]
"""Name of a query parameter."""
Pointer = Annotated[str, AfterValidator(_pointer)]
"""JSON Pointer (RFC 6901), in which a star is each item of a list."""


class HeadersSpec(Model):
    """Edits header fields: removed, renamed, set and added, in this order."""

    set: Annotated[dict[FieldName, Text], Field(max_length=100)] = Field(default_factory=dict)
    """Only value of each field; an empty template leaves the field out."""
    add: Annotated[dict[FieldName, Text], Field(max_length=100)] = Field(default_factory=dict)
    """Value of a further line of each field."""
    remove: Annotated[tuple[Family, ...], Field(strict=False, max_length=100)] = ()
    """Fields to remove; `x-internal-*` removes all with that prefix."""
    rename: Annotated[dict[FieldName, FieldName], Field(max_length=100)] = Field(default_factory=dict)
    """Old and new names; values stay as they are."""

    def refuse(self, reserved: frozenset[bytes], instead: dict[str, str]) -> None:
        """Raise `ValueError` if a reserved field is edited; `instead` has the remedy by field name."""
        for name in (*self.set, *self.add, *self.remove, *self.rename, *self.rename.values()):
            if name.lower().encode() in reserved:
                remedy = instead.get(name.lower(), "leave it out")
                raise ValueError(f"has headers with `{name}`, which the sidecar writes itself; {remedy}")


class QuerySpec(Model):
    """Edits query parameters: removed, renamed, set and added, in this order."""

    set: Annotated[dict[Parameter, Text], Field(max_length=100)] = Field(default_factory=dict)
    """Only value of each parameter; an empty template leaves the parameter out."""
    add: Annotated[dict[Parameter, Text], Field(max_length=100)] = Field(default_factory=dict)
    """Further value of each parameter, beside its present ones."""
    remove: Annotated[tuple[Parameter, ...], Field(strict=False, max_length=100)] = ()
    """Parameters to remove."""
    rename: Annotated[dict[Parameter, Parameter], Field(max_length=100)] = Field(default_factory=dict)
    """Old and new names; values stay as they are."""


Pointers = Annotated[tuple[Pointer, ...], Field(strict=False, max_length=100)]
Pairs = Annotated[dict[Pointer, Pointer], Field(max_length=100)]


class BodySpec(Model):
    """Rewrites a JSON body by JSON Pointers (RFC 6901; `*` is each item of a list).  The operations apply in the order
    below, whatever the order in the file."""

    unwrap: Annotated[Pointer, _compiles(pointer.unwrap)] | None = None
    """Member that takes the place of the whole document; with a star, each item is replaced by its own member."""
    select: Annotated[Pointers, Field(min_length=1)] | None = None
    """Members to keep; all others are removed."""
    remove: Annotated[
        tuple[Annotated[Pointer, _compiles(pointer.remove)], ...], Field(strict=False, max_length=100)
    ] = ()
    """Members to remove."""
    rename: Annotated[dict[Pointer, str], Field(max_length=100)] = Field(default_factory=dict)
    """Members and their new names."""
    move: Pairs = Field(default_factory=dict)
    """Members and their new places."""
    copy_: Annotated[Pairs, Field(alias="copy")] = Field(default_factory=dict)
    """Members, and the places of their copies."""
    default: Annotated[dict[Pointer, Json], Field(max_length=100)] = Field(default_factory=dict)
    """Values for missing members; missing objects on the way are made."""
    set: Annotated[dict[Pointer, Json], Field(max_length=100)] = Field(default_factory=dict)
    """Values for members, present or missing; missing objects on the way are made."""
    wrap: Annotated[Pointer, _compiles(pointer.wrap)] | None = None
    """Place in a new object to which the whole document moves; with a star, each matched member moves into one."""

    @model_validator(mode="after")
    def _fit_together(self) -> BodySpec:
        for source, target in self.move.items():
            pointer.move(source, target)
        for source, target in self.copy_.items():
            pointer.copy(source, target)
        for source, name in self.rename.items():
            if "/" in name:
                raise ValueError(f"renames `{source}` to `{name}`; a new name is a word without slashes, else use move")
            pointer.rename(source, name)
        return self


class RequestBodySpec(BodySpec):
    """Rewrites a request's body."""

    convert: Literal["form_to_json", "json_to_form"] | None = None
    """Conversion of the body: a form is read as JSON before the operations, or JSON is written as a form after them."""
    template: Json = None
    """JSON body of a request that has none; texts in it may be templates."""
