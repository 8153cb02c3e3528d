"""Spec of the block `fallback`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from sidecar.core import template
from sidecar.core.conditions import CONDITION_WORDS, HTTP_WORDS
from sidecar.core.message import HOP_BY_HOP
from sidecar.core.spec import Block, Model
from sidecar.core.template import header_safe
from sidecar.core.units import Size, status_hint

REFUSALS: Final = ("breaker_open", "overloaded", "no_endpoint", "transform_failed", "part_failed")
"""Failures of the sidecar itself that `on` may name, beside the conditions of retry and breaker."""
DEFAULT_ON: Final = ("connect_failure", "reset", "timeout", "protocol_error", "5xx", *REFUSALS)
RESERVED: Final = HOP_BY_HOP | {b"content-length", b"x-sidecar-fallback", b"x-sidecar-reason"}
"""Fields that the sidecar sets itself."""


def _trigger(value: Any) -> Any:
    if value in CONDITION_WORDS or value in REFUSALS or (value.__class__ is int and 100 <= value <= 599):
        return value
    known = ", ".join((*HTTP_WORDS, *REFUSALS))
    raise ValueError(f"is not a condition; {status_hint(value)}or one of {known}")


def _fields(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"has `{name}`, which is not the name of a header field; take out what is not a token")
        if name.lower().encode() in RESERVED:
            raise ValueError(f"has `{name}`, which the sidecar sets itself; leave it out")
        if header_safe(value) != value:
            raise ValueError(f"has a control character in `{name}`; take it out")
    return headers


def _template(value: Any) -> Any:
    for text in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _template(text)
    if isinstance(value, str):
        template.names(value)
    return value


_STATUS: Final = {"type": "integer", "minimum": 100, "maximum": 599}
Trigger = Annotated[
    str | int,
    BeforeValidator(_trigger),
    WithJsonSchema({"anyOf": [{"enum": [*CONDITION_WORDS, *REFUSALS]}, _STATUS]}),
]
"""Failure or status that is replaced."""
Text = Annotated[str, BeforeValidator(_template)]
"""Text that may be a template."""


class FixedResponseSpec(Model):
    """Fixed response, given in the policy file."""

    status: Annotated[int, Field(ge=200, le=599)]
    """Status of the response."""
    headers: Annotated[dict[str, Text], AfterValidator(_fields)] = Field({})
    """Fields and their values, which may be templates; a field whose template is empty is left out."""
    json_: Annotated[Any, BeforeValidator(_template), Field(alias="json")] = None
    """Body as a JSON value; texts in it may be templates."""
    body: Text | None = None
    """Body as a text, which may be a template."""

    @model_validator(mode="after")
    def _has_one_body(self) -> FixedResponseSpec:
        if self.json_ is not None and self.body is not None:
            raise ValueError("has both json and body; keep one of them")
        if self.status in (204, 205, 304) and (self.json_ is not None or self.body is not None):
            raise ValueError(f"has a body, which a response of status {self.status} cannot have; leave it out")
        return self


class StepSpec(Model):
    """Step to try; written `stale`, `{upstream: NAME}` or `{response: {...}}`."""

    stale: Literal[True] | None = None
    """Use the stale response that the cache has, however old it is."""
    upstream: str | None = None
    """Name of another upstream to ask."""
    response: FixedResponseSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "stale":
                raise ValueError("is not a step; write stale, {upstream: NAME} or {response: {status: 503}}")
            return {"stale": True}
        return value

    @model_validator(mode="after")
    def _is_one(self) -> StepSpec:
        if sum(each is not None for each in (self.stale, self.upstream, self.response)) != 1:
            raise ValueError("must be one step: stale, {upstream: NAME} or {response: {status: 503}}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [{"const": "stale"}, block]}


class Spec(Block):
    """Replaces a response that would be a failure, by the first step that has a response."""

    steps: Annotated[list[StepSpec], Field(min_length=1, max_length=10)]
    """Steps to try, in order."""
    on: Annotated[tuple[Trigger, ...], Field(strict=False, min_length=1)] = DEFAULT_ON
    """Failures and statuses that are replaced."""
    max_body: Size = 64 * 1024
    """Longest request body that is kept for another upstream; a request with a longer one is not sent to it."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and (step := next(filter(value.__contains__, StepSpec.model_fields), "")):
            raise ValueError(f"is a list of steps; begin this one with a dash: `- {step}: ...`")
        if isinstance(value, dict) and any(key in value for key in ("status", "headers", "json", "body")):
            raise ValueError("is a list of steps; write this one as `- response: {status: 503, ...}`")
        return {"steps": value} if isinstance(value, list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [block["properties"]["steps"], block]}


EXAMPLES: Final = (
    [{"response": {"status": 503, "headers": {"retry-after": "{breaker.retry_after}"}, "json": {"error": "later"}}}],
    ["stale", {"upstream": "other"}],
)
