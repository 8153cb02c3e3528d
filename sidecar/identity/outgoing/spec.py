"""Spec of the block `credentials` of an upstream: what the sidecar sends to authenticate itself."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from sidecar.core.message import HOP_BY_HOP, TOKEN, fold
from sidecar.core.spec import Block, Model, Secret, SecretFile
from sidecar.core.units import Duration
from sidecar.upstream.tls import ClientTlsSpec

RESERVED: Final = HOP_BY_HOP | {
    b"accept", b"accept-encoding", b"content-encoding", b"content-length", b"content-type", b"date", b"expect",
    b"grpc-timeout", b"host", b"range", b"via", b"x-request-id", b"traceparent", b"tracestate",
}  # fmt: skip
"""Folded names of fields with a meaning of their own, which no credential is sent in."""
TAKEN: Final = ("grant_type", "scope", "client_id", "client_secret")
"""Parameters of a token request that other keys set."""
STAND_IN: Final = "test"
"""Credential in policy tests and in inspected policies."""


def check_url(text: str) -> str:
    """Return an http URL unchanged.  Raises `ValueError` for anything else."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url or parts.fragment or parts.username is not None or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"has {text!r}, which is not a URL of a server; write it such as https://id.example/keys")
    return text


def _field(name: str) -> str:
    if re.fullmatch(TOKEN, name.encode("ascii", "replace")) is None:
        raise ValueError(f"has `{name}`, which is not the name of a header field; write such as x-caller")
    return name.lower()


def _free(name: str) -> str:
    if fold(name.encode()) in RESERVED:
        raise ValueError(f"has `{name}`, which has a meaning of its own; write such as authorization or x-api-key")
    return name


def _scope(text: str) -> str:
    if not re.fullmatch(r"[!#-\[\]-~]+", text):  # RFC 6749 3.3
        raise ValueError(f"has the scope {text!r}; a scope is one word of visible ASCII without quotes and backslashes")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
        raise ValueError(f"has the prefix {text!r}; write a word such as Bearer, to which a space is added")
    return text


Url = Annotated[str, AfterValidator(check_url), Field(max_length=2048)]
FieldName = Annotated[str, AfterValidator(_field), Field(min_length=1, max_length=100)]
"""Name of a header field (RFC 9110 5.1), converted to lower case."""


class ClientSpec(Model):
    """Credentials of the sidecar at an identity provider."""

    id: Annotated[str, Field(min_length=1, max_length=500)]
    """Client ID."""
    secret: Secret
    """Client secret, best as `{file: path}`."""

    @model_validator(mode="after")
    def _is_some(self) -> ClientSpec:
        if isinstance(self.secret, SecretStr) and not self.secret.get_secret_value():
            raise ValueError("has an empty secret; give it a value")
        return self


class OAuth2Spec(Model):
    """Token for the upstream from an OAuth 2.0 server (client credentials grant, RFC 6749 4.4).

    It is sent as `Authorization: Bearer`, in place of what a client has sent there.
    """

    token_url: Url
    """URL of the token endpoint."""
    client: ClientSpec
    """Credentials at the token endpoint.  A secret from a file is read for each token."""
    scopes: Annotated[tuple[Annotated[str, AfterValidator(_scope)], ...], Field(strict=False, max_length=100)] = ()
    """Scopes to ask for; by default the server chooses."""
    parameters: Annotated[dict[str, str], Field(max_length=20)] = Field(default={})
    """Further parameters of the token request, such as `audience` or `resource` (RFC 8707)."""
    client_auth: Literal["basic", "post"] = "basic"
    """Place of the client's credentials: the field Authorization, or parameters of the body (RFC 6749 2.3.1)."""
    timeout: Duration = 2.0
    """Longest time for one token request."""
    tls: ClientTlsSpec | None = None
    """TLS settings for an https URL; without the block, the system's certificate authorities are trusted."""

    @model_validator(mode="after")
    def _are_free(self) -> OAuth2Spec:
        if taken := [name for name in TAKEN if name in self.parameters]:
            key = "scopes" if taken[0] == "scope" else "client" if "client" in taken[0] else "oauth2"
            raise ValueError(f"has the parameter {taken[0]}, which {key} sets; take it out")
        return self


class HeaderSpec(Model):
    """Header field with a fixed secret, in place of what a client has sent under its name."""

    name: Annotated[FieldName, AfterValidator(_free)] = "authorization"
    """Name of the field."""
    prefix: Annotated[str, AfterValidator(_prefix), Field(max_length=100)] | None = None
    """Word before the secret, such as `Bearer`."""
    value: Secret
    """Secret, best as `{file: path}`.  A changed file is read again within a second or two, without a reload."""


class CredentialsSpec(Block):
    """Credentials of the sidecar at the upstream, for all requests and health checks: `oauth2` or `header`."""

    oauth2: OAuth2Spec | None = None
    header: HeaderSpec | None = None

    @model_validator(mode="after")
    def _is_one(self) -> CredentialsSpec:
        if (self.oauth2 is None) == (self.header is None):
            raise ValueError("needs one of oauth2 and header, such as header: {value: {file: /run/token}}")
        if not self.is_enforced:
            raise ValueError("takes no `mode: observe`, since the upstream needs credentials; leave `mode` out")
        return self

    @property
    def files(self) -> list[tuple[tuple[str, ...], str]]:
        """Key and path of each file with a secret."""
        found: list[tuple[tuple[str, ...], Secret]] = []
        if self.oauth2 is not None:
            found.append((("oauth2", "client", "secret", "file"), self.oauth2.client.secret))
        if self.header is not None:
            found.append((("header", "value", "file"), self.header.value))
        return [(keys, secret.file) for keys, secret in found if isinstance(secret, SecretFile)]


def stand_in(spec: CredentialsSpec) -> CredentialsSpec:
    """Return credentials that need neither a file nor a server: the same field, with the secret `test`."""
    name, prefix = "authorization", "Bearer"
    if spec.header is not None:
        name, prefix = spec.header.name, spec.header.prefix or ""
    header = HeaderSpec.built_in(name=name, prefix=prefix or None, value=SecretStr(STAND_IN))
    return CredentialsSpec.built_in(header=header)
