"""Spec of the block `cors`."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from sidecar.core.message import TOKEN
from sidecar.core.spec import Block
from sidecar.core.units import DurationOrZero
from sidecar.stages.cors.origins import ANY, check_origin

NORMALIZED: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
"""Methods that browsers send in upper case however a script writes them (Fetch standard, "Methods")."""
FORBIDDEN: Final = ("CONNECT", "TRACE", "TRACK")
"""Methods that no script can use."""


def _method(name: str) -> str:
    """Return a method that a script may use, or a star.  Raises `ValueError`."""
    if re.fullmatch(TOKEN, name.encode("utf-8", "surrogateescape")) is None:
        raise ValueError(f"has `{name}`, which is not a method; write such as PUT")
    if name.upper() in FORBIDDEN:
        raise ValueError(f"has `{name}`, which no browser lets a script use; take it out")
    if name.upper() in (*NORMALIZED, "PATCH") and name != name.upper():
        raise ValueError(f"has `{name}`; case is significant: write {name.upper()}")
    return name


def _field(name: str) -> str:
    """Return the name of a header field, or a star.  Raises `ValueError`."""
    if re.fullmatch(TOKEN, name.encode("utf-8", "surrogateescape")) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as content-type")
    return name


Origin = Annotated[str, AfterValidator(check_origin)]
Method = Annotated[str, AfterValidator(_method)]
FieldName = Annotated[str, AfterValidator(_field)]


class Spec(Block):
    """Lets pages of other origins read responses (CORS), and answers their preflight requests."""

    origins: Annotated[tuple[Origin, ...], Field(strict=False, min_length=1, max_length=1000)]
    """Origins of the pages: `https://shop.example`; `https://*.shop.example`, whose star stands for one label; or `*`
    for all."""
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1, max_length=50)] = ("GET", "HEAD", "POST")
    """Methods that scripts may use; `*` is all of them, without credentials only."""
    headers: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=100)] = ()
    """Request fields that scripts may set beside those that are always allowed, such as `content-type` for JSON; `*` is
    all of them but `authorization`, without credentials only."""
    expose: Annotated[tuple[FieldName, ...], Field(strict=False, max_length=100)] = ()
    """Response fields that scripts may read beside those that are always exposed; `*` is all of them, without
    credentials only."""
    credentials: bool = False
    """True if browsers may send cookies, and scripts read the responses to such requests."""
    max_age: DurationOrZero | None = None
    """Time for which a browser may use the answer to a preflight again; without it five seconds.  Browsers have limits
    of their own, of hours."""
    private_network: bool = False
    """True if pages of public sites may call this service in a private network."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Spec:
        if ANY in self.origins and len(self.origins) > 1:
            raise ValueError("has `*` beside other origins, which then have no effect; keep one of the two")
        if self.credentials:
            for key in ("origins", "methods", "headers", "expose"):
                if ANY in getattr(self, key):
                    raise ValueError(
                        f"has `*` in {key} beside credentials: true, which browsers refuse; write out the {key}"
                    )
        return self


EXAMPLES: Final = (
    {
        "origins": ["https://shop.example", "https://*.shop.example"],
        "methods": ["GET", "POST"],
        "headers": ["content-type"],
        "credentials": True,
        "max_age": "10m",
    },
    {"origins": ["*"], "expose": ["x-total"]},
)
