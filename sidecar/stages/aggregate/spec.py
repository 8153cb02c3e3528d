"""Spec of the block `aggregate`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sidecar.core.message import HOP_BY_HOP
from sidecar.core.spec import Block, Model
from sidecar.core.template import header_safe
from sidecar.core.units import Duration, Method, Size
from sidecar.stages.aggregate.texts import PART_NAME, Target, Text, references, references_in

MOST_PARTS: Final = 20
"""Most parts of one block."""
MOST_ITEMS: Final = 1000
"""Most items of one list."""
RESERVED: Final = HOP_BY_HOP | {
    b"content-length", b"host", b"expect", b"accept-encoding", b"x-sidecar-attempt", b"x-sidecar-hops",
}  # fmt: skip
"""Request fields that the sidecar writes itself."""
RESERVED_DOWNSTREAM: Final = HOP_BY_HOP | {
    b"age", b"cache-control", b"cdn-cache-control", b"content-encoding", b"content-length", b"content-type", b"date",
    b"etag", b"expires", b"last-modified", b"server-timing", b"vary", b"x-sidecar-partial",
}  # fmt: skip
"""Response fields that the sidecar writes itself, or that would say something false of the whole."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _part_name(name: str) -> str:
    if not re.fullmatch(PART_NAME, name):
        raise ValueError(f"has `{name}`, which is not the name of a part; use letters, digits, `-` and `_`, at most 63")
    return name


PartName = Annotated[str, AfterValidator(_part_name)]
"""Name of a part, as in references to it."""


def _target(text: str) -> str:
    Target(text, {})
    return text


def _field_name(name: str, reserved: frozenset[bytes]) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"has `{name}`, which is not the name of a header field; take out what is not a token")
    if name.lower().encode() in reserved:
        raise ValueError(f"has `{name}`, which the sidecar sets itself; leave it out")
    return name


def _fields(fields: dict[str, str]) -> dict[str, str]:
    for name, text in fields.items():
        _field_name(name, RESERVED)
        if header_safe(text) != text:
            raise ValueError(f"has a control character in `{name}`; take it out")
        Text(text, {})
    return fields


def _passed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_field_name(name, RESERVED_DOWNSTREAM).lower() for name in names)


def _json(value: Any) -> Any:
    for _ in references_in(value):
        pass
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("is not a JSON value; numbers must be finite, and dates in quotes") from None
    return value


def _fixed(value: Any) -> Any:
    if list(references_in(_json(value))):
        raise ValueError("names a part; a substitute is fixed, since parts may fail together")
    return value


def _reference(text: str) -> str:
    found = references(text)
    if len(found) != 1 or text != f"{{{found[0].text}}}" or not found[0].part:
        raise ValueError('is not one list of another part; write such as "{parts.orders./ids}", in quotes')
    return text


class EachSpec(Model):
    """List for each item of which the part is asked; may be written as its only reference."""

    of: Annotated[str, AfterValidator(_reference)]
    """List in the answer of another part: `"{parts.orders./ids}"`, or `"{parts.orders./items/*/id}"`."""
    max: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = 50
    """Most items; the part fails for a longer list."""
    at_once: Annotated[int, Field(ge=1, le=100)] = 10
    """Most requests at the same time."""
    batch: Annotated[int, Field(ge=1, le=MOST_ITEMS)] | None = None
    """Most items of one request, for a service that takes several: `{items}` has all of them.  Its answers are lists,
    which are joined.  By default each item has a request of its own, with `{item}`."""
    separator: Annotated[str, Field(min_length=1, max_length=3)] = ","
    """Text between the items of a batch, in a path or a query."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"of": value}
        if isinstance(value, dict) and len(value) == 1 and next(iter(value.values())) is None:
            raise ValueError(f'needs quotes, since YAML reads braces as a mapping: "{{{next(iter(value))}}}"')
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [{"type": "string"}, block]}


class OtherwiseSpec(Model):
    """Substitute for a part that has failed; written `stale` or `{json: VALUE}`."""

    stale: Literal[True] | None = None
    """Use the stale response of the cache of the part's route, however old it is."""
    json_: Annotated[Any, BeforeValidator(_fixed), Field(alias="json")] = None
    """Fixed JSON value.  It stands for every value of the part that it does not have."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if value is None:
            return {"json": None}
        if isinstance(value, str):
            if value != "stale":
                raise ValueError("is not a substitute; write stale, or such as {json: []}")
            return {"stale": True}
        return value

    @model_validator(mode="after")
    def _is_one(self) -> OtherwiseSpec:
        if len(self.model_fields_set) != 1:
            raise ValueError("must be one substitute: stale, or such as {json: []}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [{"const": "stale"}, block]}


def _substitutes(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class PartSpec(Model):
    """Part of an answer: a request through a route of its own, or to an upstream."""

    upstream: str | None = None
    """Upstream that is asked, with the policies that its routes inherit."""
    route: str | None = None
    """Route through which the request goes, with all of its policies.  Its match must cover the path."""
    path: Annotated[str, AfterValidator(_target)]
    """Path and query: `/orders?user={path.id}`.  Values are percent-encoded.  `{parts.NAME./POINTER}` is a value from
    another part's answer, which ends first."""
    method: Method = "GET"
    """Method of the request."""
    headers: Annotated[dict[str, str], AfterValidator(_fields)] = Field({})
    """Fields and their values, which may be templates, in addition to those of the client."""
    json_: Annotated[Any, BeforeValidator(_json), Field(alias="json")] = None
    """Body as a JSON value; a text such as `"{parts.user./id}"` is replaced by that value."""
    timeout: Duration | None = None
    """Longest time of the part; without it all the time that the request has left."""
    required: bool = False
    """True if the whole answer fails without the part."""
    otherwise: Annotated[
        tuple[OtherwiseSpec, ...],
        BeforeValidator(_substitutes),
        Field(strict=False, max_length=3),
    ] = ()
    """Substitute if the part fails: `stale`, `{json: VALUE}`, or a list of these, of which the first that is there is
    taken.  By default null."""
    each: EachSpec | None = None
    """List for each item of which the part is asked: `"{parts.orders./ids}"`.  The value of the part is a list."""
    max_body: Size = 2**20
    """Longest body of one answer, also once it is decoded, and of one request."""
    stream: bool = False
    """True to pass the body of the part on as it arrives, rather than to hold it: for a long list or a large object.
    The answer then begins once all other parts have ended and the head of this one has come.  Only strings and
    brackets of the body are checked, and `timeout` is for all of it.  If it fails after its head, the answer is broken
    off.  `max_size` does not count it, and it may be of any length unless `max_body` is written.  An answer that is
    known to be short, compressed, or not marked as JSON does not stream."""

    @model_validator(mode="after")
    def _is_whole(self) -> PartSpec:
        if (self.upstream is None) == (self.route is None):
            raise ValueError("needs one of `upstream` and `route`; write the one that is asked")
        if self.required and self.otherwise:
            raise ValueError("is required and has a substitute; leave one of them out")
        if self.method in ("HEAD", "CONNECT"):
            raise ValueError(f"has the method {self.method}, whose responses are of another kind; choose another one")
        if self.json_ is not None and self.method in ("GET", "DELETE"):
            raise ValueError(f"has a body, which a {self.method} does not have; write method: POST")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        substitutes = handler.resolve_ref_schema(found)["properties"]["otherwise"]
        several = {key: substitutes.pop(key) for key in ("type", "items", "maxItems") if key in substitutes}
        substitutes["anyOf"] = [several["items"], several]
        return found


class PartialSpec(Model):
    """Form of an answer of which an optional part is missing."""

    status: Annotated[int, Field(ge=200, le=299)] = 200
    """Status of a partial answer."""
    member: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Member of the answer with the names of the missing parts; by default none."""


def _answer(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() != {"json"}:
        raise ValueError("must be nested, merged or {json: VALUE}")
    if isinstance(value, str) and value not in ("nested", "merged"):
        raise ValueError("must be nested, merged or {json: VALUE}")
    return value


class AnswerSpec(Model):
    """Answer by a template."""

    json_: Annotated[Any, BeforeValidator(_json), Field(alias="json")]
    """JSON value; a text such as `"{parts.orders./items}"` is replaced by that value."""


class Spec(Block):
    """Makes one answer of the answers of several parts.  It stands where the upstream does."""

    parts: Annotated[dict[PartName, PartSpec], Field(min_length=1, max_length=MOST_PARTS)]
    """Parts by name.  They run at the same time, apart from those that need the answer of another.  Of requests with
    GET or OPTIONS that are the same, through one route or to one upstream, one is made."""
    answer: Annotated[Literal["nested", "merged"] | AnswerSpec, BeforeValidator(_answer)] = "nested"
    """Form of the answer: `nested`, an object with a member for each part; `merged`, an object with the members of all
    parts, of which the last one counts; or `{json: VALUE}`, a template."""
    partial: PartialSpec = PartialSpec.built_in()
    """Form of an answer of which an optional part is missing."""
    headers: Annotated[tuple[str, ...], AfterValidator(_passed), Field(strict=False, max_length=50)] = ()
    """Response fields of the parts that pass to the client; of a field that several parts have, that of the first
    part passes, and of Set-Cookie all."""
    server_timing: bool = True
    """False to leave out `Server-Timing`, which has the duration and the result of each of the first 100 requests."""
    max_size: Size = 4 * 2**20
    """Most bytes that the answers of all parts may have together."""
    max_calls: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Most requests of all parts together, with all items of lists and the parts of parts, but without retries."""

    @model_validator(mode="after")
    def _is_enforced(self) -> Spec:
        if not self.is_enforced:
            raise ValueError("takes no `mode: observe`, since nothing else could answer; leave `mode` out")
        is_object = not isinstance(self.answer, AnswerSpec) or isinstance(self.answer.json_, dict)
        if self.partial.member is not None and not is_object:
            raise ValueError("has partial.member, but an answer that is no object; make it one, or leave that out")
        members = self.answer.json_ if isinstance(self.answer, AnswerSpec) else self.parts
        if self.partial.member is not None and self.answer != "merged" and self.partial.member in members:
            raise ValueError(f"has the member {self.partial.member} twice; give partial.member another name")
        return self


EXAMPLES: Final = (
    {
        "parts": {
            "user": {"upstream": "app", "path": "/users/7", "required": True},
            "orders": {"route": "other", "path": "/other?user={parts.user./id}", "otherwise": {"json": []}},
        },
        "answer": {"json": {"user": "{parts.user}", "orders": "{parts.orders./items}"}},
    },
    {
        "parts": {
            "user": {"upstream": "app", "path": "/users/7"},
            "all": {"route": "other", "path": "/other", "stream": True},
        }
    },
)
