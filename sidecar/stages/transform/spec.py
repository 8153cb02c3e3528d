"""Spec of the block `transform`: rules for each direction."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sidecar.core import template
from sidecar.core.conditions import STATUS_CLASSES
from sidecar.core.http1 import HOST
from sidecar.core.message import HOP_BY_HOP
from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, Size, name_or_off
from sidecar.core.uri import readings
from sidecar.expression.spec import ResponseWhen, WholeRequestWhen
from sidecar.stages.transform.fields import BodySpec, HeadersSpec, QuerySpec, RequestBodySpec, check_template
from sidecar.transform.path_rewrite import PathPattern, PrefixMap, literal

FRAMING: Final = HOP_BY_HOP | {b"content-length"}
"""Fields that belong to one connection or to the framing of the body."""
FORWARDING: Final = (b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
"""Fields that describe the client to the upstream."""
RESERVED_UPSTREAM: Final = FRAMING.union(FORWARDING, (b"expect", b"x-sidecar-attempt", b"x-sidecar-hops", b"host"))
"""Request fields that the sidecar writes itself."""


class PatternSpec(Model):
    """Regular expression for a path, and its replacement."""

    pattern: str
    """Regular expression for the whole path; only expressions that take linear time are allowed."""
    to: str
    r"""New path; `\1` and `\g<name>` are groups."""

    @model_validator(mode="after")
    def _is_path(self) -> PatternSpec:
        PathPattern(self.pattern, self.to)
        _path(self.to)
        return self


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f'must start with a slash: write "/{text}"')
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment; write parameters under `query`")
    plain = re.sub(r"\{[A-Za-z][\w.-]*\}|\\\d|\\g<\w+>", "x", text)
    if len(readings(literal(plain))) != 1:
        raise ValueError("is read differently by different servers; leave out dot segments, `//`, `;` and %2F")
    return text


def _prefixes(pairs: dict[str, str]) -> dict[str, str]:
    for prefix in (*pairs, *pairs.values()):
        _path(prefix)
        if "{" in prefix:
            raise ValueError(f"has `{prefix}`; a prefix takes no names in braces, write a template under `path`")
    PrefixMap(pairs)
    return pairs


def _host(text: str) -> str:
    template.names(text)
    if "{" not in text and HOST.fullmatch(text.encode("ascii", "replace")) is None:
        raise ValueError("is not a host; write it such as orders.internal or orders.internal:8080")
    return text


def _method(method: str) -> str:
    if method in ("HEAD", "CONNECT"):
        raise ValueError(f"is {method}, whose responses are of another kind; choose another method")
    return method


class RequestRule(Model):
    """Rewrites a request."""

    when: WholeRequestWhen | None = None
    """Condition in a subset of CEL, such as `request.method == 'POST'`; by default all requests."""
    method: Annotated[str, Field(pattern=r"^[A-Z][A-Z-]*$", max_length=32), AfterValidator(_method)] | None = None
    """Method to send instead."""
    host: Annotated[str, AfterValidator(_host)] | None = None
    """Host to send instead; may be a template."""
    path: Annotated[str, BeforeValidator(check_template), AfterValidator(_path)] | None = None
    """Path to send instead; may be a template, whose values are encoded as one segment each."""
    path_prefix: Annotated[dict[str, str], Field(min_length=1, max_length=100), AfterValidator(_prefixes)] | None = None
    """Prefixes of paths and their replacements, by whole segments."""
    path_regex: PatternSpec | None = None
    """Regular expression for the whole path, and its replacement."""
    query: QuerySpec = QuerySpec.built_in()
    """Operations on query parameters."""
    headers: HeadersSpec = HeadersSpec.built_in()
    """Operations on header fields."""
    body: RequestBodySpec | None = None
    """Operations on the JSON or form body."""

    @model_validator(mode="after")
    def _fits(self) -> RequestRule:
        if sum(each is not None for each in (self.path, self.path_prefix, self.path_regex)) > 1:
            raise ValueError("has more than one of path, path_prefix and path_regex; keep one of them")
        self.headers.refuse(RESERVED_UPSTREAM, {"host": "write `host:` beside `headers`"})
        return self


STATUSES: Final = (*STATUS_CLASSES, *map(str, range(200, 600)))
Status = Annotated[int, Field(ge=200, le=599)]


def _known(status: str) -> str:
    if status not in STATUSES:
        raise ValueError(f"has `{status}`; write a status such as 404, or 5xx for all of a class")
    return status


def _attribute(value: Any) -> Any:
    return name_or_off(value, "to remove it", "its value")


class CookieSpec(Model):
    """Sets attributes of a cookie; all others stay."""

    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$"), BeforeValidator(_attribute)] | None = None
    """Domain of the cookie; `off` removes it, and the cookie is then for the host alone."""
    path: Annotated[str, Field(pattern=r"^(/[!-:<-~]*|off)$"), BeforeValidator(_attribute)] | None = None
    """Path of the cookie; `off` removes it."""
    max_age: Duration | None = None
    """Lifetime of the cookie."""
    secure: bool | None = None
    """True adds the attribute, false removes it."""
    http_only: bool | None = None
    """True adds the attribute, false removes it."""
    same_site: Literal["Strict", "Lax", "None"] | None = None
    """Value of SameSite."""
    partitioned: bool | None = None
    """True adds the attribute, false removes it."""


class ResponseRule(Model):
    """Rewrites a response."""

    when: ResponseWhen | None = None
    """Condition in a subset of CEL, such as `response.status == 404`; by default all responses."""
    status: Status | dict[Annotated[str, AfterValidator(_known)], Status] | None = None
    """Status to send instead, or a mapping of statuses (`404`, `5xx`) to others."""
    headers: HeadersSpec = HeadersSpec.built_in()
    """Operations on header fields."""
    cookies: dict[str, CookieSpec] = Field(default_factory=dict)
    """Attributes of cookies by the cookie's name, `*` for all."""
    body: BodySpec | None = None
    """Operations on the JSON body."""

    @model_validator(mode="after")
    def _fits(self) -> ResponseRule:
        self.headers.refuse(FRAMING, {})
        return self


Decision = Literal["refuse", "pass"]


class OnErrorSpec(Model):
    """Decides about messages whose body cannot be rewritten: they pass unchanged, or are refused (a request with 400,
    413 or 415, a response with 502)."""

    invalid: Decision = "refuse"
    """Decision on a body that is not JSON or not UTF-8, repeats a key in an object, or has no place for a new value."""
    too_large: Decision = "refuse"
    """Decision on a body that is longer than `max_body`, as received or decoded."""
    coding: Decision = "refuse"
    """Decision on a body with a Content-Encoding that the sidecar does not know."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return dict.fromkeys(("invalid", "too_large", "coding"), value) if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": " ".join((cls.__doc__ or "").split()), "anyOf": [{"enum": ["refuse", "pass"]}, block]}


class Direction(Model):
    """Limits for all bodies of one direction."""

    max_body: Size = 2**20
    """Longest body that is rewritten or read for a condition."""
    on_error: OnErrorSpec = OnErrorSpec.built_in()
    """`refuse` or `pass` for a message whose body cannot be rewritten: one word, or one for each reason."""


class RequestSpec(RequestRule, Direction):
    """Rewrites requests on their way to the upstream."""

    cases: Annotated[tuple[RequestRule, ...], Field(strict=False, max_length=100)] = ()
    """Further rules, each for requests that meet its `when`."""


class ResponseSpec(ResponseRule, Direction):
    """Rewrites responses on their way to the client."""

    no_transform: Literal["honor", "ignore"] = "honor"
    """`ignore` also rewrites the body of a response that says `Cache-Control: no-transform` (RFC 9110 7.7)."""
    etag: Literal["weaken", "drop"] = "weaken"
    """Treatment of the ETag of a response whose body is changed: `weaken` or `drop`."""
    addresses: Literal["rewrite", "always", "keep"] = "rewrite"
    """Treatment of Location, and of domain and path of Set-Cookie.  `rewrite` maps them to the client's address if path
    or host of the request was rewritten.  `always` also replaces the endpoint's own address, for a service that does
    not know its public name and would lead its clients around the sidecar.  `keep` changes none."""
    cases: Annotated[tuple[ResponseRule, ...], Field(strict=False, max_length=100)] = ()
    """Further rules, each for responses that meet its `when`."""


class Spec(Block):
    """Rewrites requests and responses."""

    request: RequestSpec = RequestSpec.built_in()
    """Rules for requests on their way to the upstream."""
    response: ResponseSpec = ResponseSpec.built_in()
    """Rules for responses on their way to the client."""


EXAMPLES: Final = (
    {"request": {"headers": {"set": {"x-a": "b"}}}, "response": {"headers": {"remove": ["server"]}}},
    {
        "request": {"path": "/x", "body": {"template": {"a": 1}}},
        "response": {"body": {"wrap": "/data"}, "status": {"5xx": 500}},
    },
)
