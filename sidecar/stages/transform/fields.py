"""The parts of a `transform` block: header fields, query parameters, bodies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sidecar.core import template
from sidecar.core.http1 import TOKEN
from sidecar.core.spec import Model
from sidecar.core.template import header_safe
from sidecar.transform import pointer


def check_template(value: Any) -> Any:
    """Check the templates in a JSON value."""
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
        raise ValueError(f"has `{name}`; a star stands at the end of a beginning, such as x-internal-*")
    return _field(name)


def _pointer(text: str) -> str:
    pointer.parse_pointer(text)
    return text


def _compiles(make: Callable[[Any], object]) -> AfterValidator:
    """A value that is right if something can be made of it."""

    def check(value: Any) -> Any:
        make(value)
        return value

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(check_template), AfterValidator(_line)]
"""A text in which names in braces are replaced: `{path.id}`, `{header.x-user}`."""
Json = Annotated[Any, BeforeValidator(check_template)]
FieldName = Annotated[str, AfterValidator(_field)]
Family = Annotated[str, AfterValidator(_family)]
Parameter = Annotated[str, Field(min_length=1)]
Pointer = Annotated[str, AfterValidator(_pointer)]


class HeadersSpec(Model):
    """Header fields: removed, renamed, set, added, in this order."""

    set: Annotated[dict[FieldName, Text], Field(max_length=100)] = Field(default_factory=dict)
    """The one value of each field; a template that comes out empty leaves the field out."""
    add: Annotated[dict[FieldName, Text], Field(max_length=100)] = Field(default_factory=dict)
    """One more line of each field."""
    remove: Annotated[tuple[Family, ...], Field(strict=False, max_length=100)] = ()
    """Fields, or beginnings such as `x-internal-*`."""
    rename: Annotated[dict[FieldName, FieldName], Field(max_length=100)] = Field(default_factory=dict)
    """Old and new names; values stay as they are."""

    def refuse(self, reserved: frozenset[bytes], instead: dict[str, str]) -> None:
        """Raises `ValueError` for a field that is not the policy's to write."""
        for name in (*self.set, *self.add, *self.remove, *self.rename, *self.rename.values()):
            if name.lower().encode() in reserved:
                remedy = instead.get(name.lower(), "leave it out")
                raise ValueError(f"has headers with `{name}`, which the sidecar writes itself; {remedy}")


class QuerySpec(Model):
    """Query parameters: removed, renamed, set, added, in this order."""

    set: Annotated[dict[Parameter, Text], Field(max_length=100)] = Field(default_factory=dict)
    """The one value of each parameter; a template that comes out empty leaves it out."""
    add: Annotated[dict[Parameter, Text], Field(max_length=100)] = Field(default_factory=dict)
    """One more value of each parameter."""
    remove: Annotated[tuple[Parameter, ...], Field(strict=False, max_length=100)] = ()
    rename: Annotated[dict[Parameter, Parameter], Field(max_length=100)] = Field(default_factory=dict)
    """Old and new names; values stay as they are."""


Pointers = Annotated[tuple[Pointer, ...], Field(strict=False, max_length=100)]
Pairs = Annotated[dict[Pointer, Pointer], Field(max_length=100)]


class BodySpec(Model):
    """A JSON body, by JSON Pointers (RFC 6901; `*` is each item of a list).  The operations come in the order below,
    whatever the order in the file."""

    unwrap: Annotated[Pointer, _compiles(pointer.unwrap)] | None = None
    """A member that takes the place of the whole document; with a star, of each of those members."""
    select: Annotated[Pointers, Field(min_length=1)] | None = None
    """Keep only these."""
    remove: Annotated[
        tuple[Annotated[Pointer, _compiles(pointer.remove)], ...], Field(strict=False, max_length=100)
    ] = ()
    rename: Annotated[dict[Pointer, str], Field(max_length=100)] = Field(default_factory=dict)
    """Members and their new names."""
    move: Pairs = Field(default_factory=dict)
    """Where from, and where to."""
    copy_: Annotated[Pairs, Field(alias="copy")] = Field(default_factory=dict)
    """Where from, and where to."""
    default: Annotated[dict[Pointer, Json], Field(max_length=100)] = Field(default_factory=dict)
    """Values for members that are not there; objects on the way are made."""
    set: Annotated[dict[Pointer, Json], Field(max_length=100)] = Field(default_factory=dict)
    """Values for members, there or not; objects on the way are made."""
    wrap: Annotated[Pointer, _compiles(pointer.wrap)] | None = None
    """Keys under which the whole document is put; with a star, each of those members."""

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
    """A request's body."""

    convert: Literal["form_to_json", "json_to_form"] | None = None
    """A form is read as JSON before the operations, or JSON is written as a form after them."""
    template: Json = None
    """The JSON body of a request that has none; texts in it may be templates."""
