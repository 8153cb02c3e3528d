"""What a `transform` block may say."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sidecar.core import template
from sidecar.core.conditions import STATUS_CLASSES
from sidecar.core.headers import HOP_BY_HOP
from sidecar.core.http1 import HOST
from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, Size
from sidecar.core.uri import readings
from sidecar.expression.spec import ResponseWhen, WholeRequestWhen
from sidecar.stages.transform.fields import BodySpec, HeadersSpec, QuerySpec, RequestBodySpec, check_template
from sidecar.transform.paths import PathPattern, PrefixMap, literal

FRAMING: Final = HOP_BY_HOP | {b"content-length"}
FORWARDING: Final = (b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
RESERVED_UPSTREAM: Final = FRAMING.union(FORWARDING, (b"expect", b"x-sidecar-attempt", b"host"))


class PatternSpec(Model):
    """A path by a regular expression."""

    pattern: str
    """For the whole path, of those that take linear time."""
    to: str
    r"""The new path; `\1` and `\g<name>` are groups."""

    @model_validator(mode="after")
    def _is_path(self) -> PatternSpec:
        PathPattern(self.pattern, self.to)
        _path(self.to)
        return self


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f'must start with a slash: write "/{text}"')
    if "?" in text or "#" in text:
        raise ValueError("is a path alone; parameters stand under `query`")
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
        raise ValueError(f"is {method}, whose answers are of another kind; leave it to clients")
    return method


class RequestRule(Model):
    """What becomes of a request."""

    when: WholeRequestWhen | None = None
    """A condition in a subset of CEL, such as `request.method == 'POST'`; all requests without it."""
    method: Annotated[str, Field(pattern=r"^[A-Z][A-Z-]*$", max_length=32), AfterValidator(_method)] | None = None
    """Another method."""
    host: Annotated[str, AfterValidator(_host)] | None = None
    """Another Host; may be a template."""
    path: Annotated[str, BeforeValidator(check_template), AfterValidator(_path)] | None = None
    """Another path; values in it are encoded as one segment each."""
    path_prefix: Annotated[dict[str, str], Field(min_length=1, max_length=100), AfterValidator(_prefixes)] | None = None
    """Prefixes and what they become, by whole segments."""
    path_regex: PatternSpec | None = None
    """A pattern for the whole path, and what the path becomes."""
    query: QuerySpec = QuerySpec()
    """Query parameters."""
    headers: HeadersSpec = HeadersSpec()
    """Header fields."""
    body: RequestBodySpec | None = None
    """The JSON or form body."""

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


class CookieSpec(Model):
    """Attributes of a cookie; those that are not named stay."""

    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = None
    """`off` takes it away: the cookie is then for the host alone."""
    path: Annotated[str, Field(pattern=r"^(/[!-:<-~]*|off)$")] | None = None
    """`off` takes it away."""
    max_age: Duration | None = None
    secure: bool | None = None
    http_only: bool | None = None
    same_site: Literal["Strict", "Lax", "None"] | None = None
    partitioned: bool | None = None


class ResponseRule(Model):
    """What becomes of an answer."""

    when: ResponseWhen | None = None
    """A condition in a subset of CEL, such as `response.status == 404`; all answers without it."""
    status: Status | dict[Annotated[str, AfterValidator(_known)], Status] | None = None
    """Another status, or a mapping of statuses (`404`, `5xx`) to others."""
    headers: HeadersSpec = HeadersSpec()
    """Header fields."""
    cookies: dict[str, CookieSpec] = Field(default_factory=dict)
    """Attributes of cookies by the cookie's name, `*` for all."""
    body: BodySpec | None = None
    """The JSON body."""

    @model_validator(mode="after")
    def _fits(self) -> ResponseRule:
        self.headers.refuse(FRAMING, {})
        return self


Decision = Literal["refuse", "pass"]


class OnErrorSpec(Model):
    """What becomes of a message whose body cannot be rewritten: it passes as it was, or is refused (a request with 400,
    413 or 415, an answer with 502)."""

    invalid: Decision = "refuse"
    """Not JSON, not UTF-8, a key twice in one object, or no place for what is to be set."""
    too_large: Decision = "refuse"
    """Longer than `max_body`, also once it is decoded."""
    coding: Decision = "refuse"
    """A Content-Encoding that is not known here."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return dict.fromkeys(("invalid", "too_large", "coding"), value) if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": " ".join((cls.__doc__ or "").split()), "anyOf": [{"enum": ["refuse", "pass"]}, block]}


class Direction(Model):
    """What holds for all bodies of one direction."""

    max_body: Size = 2**20
    """Longer bodies are not rewritten, nor read for a condition."""
    on_error: OnErrorSpec = OnErrorSpec()
    """What becomes of a message whose body cannot be rewritten: one word, or one for each reason."""


class RequestSpec(RequestRule, Direction):
    """Requests on their way to the upstream."""

    cases: Annotated[tuple[RequestRule, ...], Field(strict=False, max_length=100)] = ()
    """What holds besides, for requests that meet the `when` of each."""


class ResponseSpec(ResponseRule, Direction):
    """Answers on their way to the client."""

    etag: Literal["weaken", "drop"] = "weaken"
    """The ETag of an answer whose body was changed."""
    addresses: Literal["rewrite", "keep"] = "rewrite"
    """Location, and domain and path of Set-Cookie, in the client's terms where path or host of the request was
    rewritten."""
    cases: Annotated[tuple[ResponseRule, ...], Field(strict=False, max_length=100)] = ()
    """What holds besides, for answers that meet the `when` of each."""


class Spec(Block):
    """Requests and answers rewritten."""

    request: RequestSpec = RequestSpec()
    """What becomes of requests on their way to the upstream."""
    response: ResponseSpec = ResponseSpec()
    """What becomes of answers on their way to the client."""
