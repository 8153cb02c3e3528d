"""Spec of the block `authorize`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from sidecar.core.message import TOKEN
from sidecar.core.spec import Block, Model
from sidecar.core.units import Network
from sidecar.expression.spec import AuthorizeWhen

SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
"""Matches a scope (RFC 6749 3.3)."""


def _scope(text: str) -> str:
    """Return a scope unchanged.  Raises `ValueError`."""
    if SCOPE.fullmatch(text) is None:
        raise ValueError(f"has `{text}`, which is not one scope (RFC 6749 3.3); write each as an item: [orders:read]")
    return text


def _method(name: str) -> str:
    """Return a method unchanged.  Raises `ValueError`."""
    if re.fullmatch(TOKEN, name.encode("utf-8", "surrogateescape")) is None:
        raise ValueError(f"has `{name}`, which is not a method; write such as GET")
    if name.upper() in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") and name != name.upper():
        raise ValueError(f"has `{name}`; case is significant (RFC 9110 9.1): write {name.upper()}")
    return name


def _field(name: str) -> str:
    """Return the name of a header field unchanged.  Raises `ValueError`."""
    if re.fullmatch(TOKEN, name.encode("utf-8", "surrogateescape")) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as x-tier")
    return name


def _listed(value: Any) -> Any:
    """Return the list for a single value."""
    return [value] if isinstance(value, str) else value


Scope = Annotated[str, AfterValidator(_scope)]
Method = Annotated[str, AfterValidator(_method)]
FieldName = Annotated[str, AfterValidator(_field)]
Values = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    Field(strict=False, min_length=1, max_length=100),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""Values of which one must occur."""


class AllowSpec(Model):
    """Conditions on a request; it must meet all of them."""

    scopes: Annotated[tuple[Scope, ...], Field(strict=False, min_length=1, max_length=100)] = ()
    """Scopes that the caller must all have, as whole words of the claim `scope` or `scp`."""
    callers: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=1000)] = ()
    """Names of callers, of which the caller must have one."""
    networks: Annotated[tuple[Network, ...], Field(strict=False, min_length=1, max_length=1000)] = ()
    """Networks, in one of which the client's address must be: `10.1.0.0/16`."""
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1, max_length=50)] = ()
    """Methods, of which the request must have one."""
    path: Annotated[dict[str, Values], Field(max_length=50)] = Field(default={})
    """Captures of the route's path, and the values of which each must have one: `{tenant: [acme, umbrella]}`."""
    headers: Annotated[dict[FieldName, Values], Field(max_length=50)] = Field(default={})
    """Header fields, and the values of which each must have one."""
    when: AuthorizeWhen | None = None
    """Condition on the request, its `caller`, `client.address` and the captures of its path:
    `caller.claims.tenant == path.tenant`."""

    @property
    def needs_caller(self) -> bool:
        """True if no anonymous request meets the conditions."""
        return bool(self.scopes or self.callers)

    @property
    def is_open(self) -> bool:
        """True if every request meets the conditions."""
        return self == AllowSpec()


class DenySpec(Model):
    """Clients that are refused whatever the rules allow."""

    networks: Annotated[tuple[Network, ...], Field(strict=False, min_length=1, max_length=1000)]
    """Networks: `203.0.113.0/24`."""


class RuleSpec(Model):
    """Rule: `allow` or `deny`."""

    allow: AllowSpec | None = None
    deny: DenySpec | None = None

    @model_validator(mode="after")
    def _is_one(self) -> RuleSpec:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("takes one of allow: {scopes: [orders:read]} and deny: {networks: [203.0.113.0/24]}")
        return self


class Spec(Block):
    """Refuses requests that no rule allows."""

    rules: Annotated[tuple[RuleSpec, ...], Field(strict=False, min_length=1, max_length=200)]
    """Rules: `deny` counts first, wherever it stands; then the first `allow` that a request meets lets it pass.  The
    block may be this list alone, or the conditions of a single `allow`."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"rules": value}
        if isinstance(value, dict) and "rules" not in value:
            if step := next(filter(value.__contains__, RuleSpec.model_fields), ""):
                raise ValueError(f"is a list of rules; begin this one with a dash: `- {step}: ...`")
            conditions = {key: value[key] for key in value if key in AllowSpec.model_fields}
            if conditions:
                rest = {key: value[key] for key in value if key not in AllowSpec.model_fields}
                return {**rest, "rules": [{"allow": conditions}]}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        rules = block["properties"]["rules"]
        allow = handler.resolve_ref_schema(handler(AllowSpec.__pydantic_core_schema__))
        single = {**allow, "properties": {**allow["properties"], "mode": block["properties"]["mode"]}}
        return {"description": cls.__doc__, "anyOf": [rules, block, single]}


EXAMPLES: Final = (
    [
        {"allow": {"methods": ["GET", "HEAD"], "headers": {"x-tier": ["gold", "silver"]}}},
        {"allow": {"networks": ["10.1.0.0/16", "2001:db8::/32"]}},
        {"deny": {"networks": ["203.0.113.0/24"]}},
        {"allow": {"when": "request.method == 'PUT' && client.address == '192.0.2.7'"}},
    ],
    {"methods": ["GET", "HEAD"]},
)
