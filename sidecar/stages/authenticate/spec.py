"""Spec of the block `authenticate`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from sidecar.core.message import HOP_BY_HOP, fold
from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, duration_such_as
from sidecar.identity.outgoing.spec import FieldName
from sidecar.identity.spec import Claim

RESERVED: Final = HOP_BY_HOP | {
    b"accept", b"accept-encoding", b"authorization", b"cache-control", b"content-encoding", b"content-length",
    b"content-type", b"cookie", b"date", b"expect", b"forwarded", b"grpc-timeout", b"host", b"max-forwards", b"range",
    b"via", b"x-criticality", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id", b"x-request-timeout-ms",
    b"x-sidecar-attempt", b"x-sidecar-hops", b"traceparent", b"tracestate",
}  # fmt: skip
"""Folded names of fields with a meaning of their own, which cannot tell the upstream about the caller."""


def _free(name: str) -> str:
    """Return the name of a field that the caller may be told in.  Raises `ValueError`."""
    if fold(name.encode()) in RESERVED:
        raise ValueError(f"has `{name}`, which has a meaning of its own; write a field such as x-caller")
    return name


OwnField = Annotated[FieldName, AfterValidator(_free)]


ABOUT_TOKENS: Final = ("iss", "aud", "sub", "exp", "iat", "nbf", "identity")
"""Claims that a signed token has anyway."""


class TokenSpec(Model):
    """Signed token about the caller, for a service that must not trust fields alone (RFC 7519, EdDSA).

    `sub` is the caller's name, `identity` the name of the identity, and `iss` the name of the service in this file.
    The admin listener has the public keys under `/keys`.
    """

    header: OwnField = "x-caller-token"
    """Field with the token."""
    audience: Annotated[str, Field(min_length=1, max_length=500)]
    """Claim `aud`: name of the service that gets the token."""
    claims: Annotated[tuple[Claim, ...], Field(strict=False, max_length=50)] = ()
    """Claims of the caller that the token has too."""
    lifetime: Annotated[Duration, Field(ge=10, le=3600), duration_such_as("2m")] = 120.0
    """Time from `iat` to `exp`.  Each caller's token is renewed at half of it."""
    key: str | None = None
    """File with a private Ed25519 key in PEM, which is read at each reload.  By default each process makes its own."""

    @model_validator(mode="after")
    def _are_free(self) -> TokenSpec:
        if taken := set(self.claims).intersection(ABOUT_TOKENS):
            raise ValueError(f"has the claim {min(taken)}, which each token has; take it out")
        return self


class ForwardSpec(Model):
    """Header fields about the caller for the upstream.  What a client sends under their names is dropped."""

    caller: OwnField | None = None
    """Field for the caller's name."""
    claims: Annotated[dict[Claim, OwnField], Field(max_length=50)] = Field(default={})
    """Field for each claim, by the name of the claim."""
    token: TokenSpec | None = None
    """Signed token about the caller."""
    credentials: Literal["pass", "drop"] = "pass"
    """Treatment of the header fields with credentials, such as Authorization: `drop` keeps them from the upstream."""

    def fields(self) -> list[str]:
        """Return the names of all fields about the caller."""
        token = None if self.token is None else self.token.header
        return [name for name in (*self.claims.values(), self.caller, token) if name is not None]

    @model_validator(mode="after")
    def _are_different(self) -> ForwardSpec:
        names = [fold(name.encode()) for name in self.fields()]
        if len(set(names)) < len(names):
            raise ValueError("names one field twice; give each claim a field of its own")
        return self


class Spec(Block):
    """Identifies callers, and refuses requests without valid credentials."""

    any_of: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=20)]
    """Names of `identities`, in the order in which they are tried; the first that accepts the credentials wins."""
    optional: bool = False
    """True to let requests without credentials pass as anonymous.  Wrong credentials are refused all the same."""
    forward: ForwardSpec = ForwardSpec.built_in()
    """Header fields about the caller for the upstream; by default none."""


EXAMPLES: Final = (
    {"any_of": ["corporate", "partners"], "forward": {"caller": "x-caller", "claims": {"tenant": "x-tenant"}}},
    {"any_of": ["corporate"], "forward": {"token": {"audience": "orders", "claims": ["tenant"]}}},
    {"any_of": ["partners"], "optional": True, "forward": {"credentials": "drop"}},
)
