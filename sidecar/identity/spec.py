"""Specs of the `identities` section: who can vouch for a caller."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from sidecar.core.message import HOP_BY_HOP, TOKEN, fold
from sidecar.core.spec import Model
from sidecar.core.units import Duration, DurationOrZero, Size, duration_such_as
from sidecar.identity.outgoing.spec import ClientSpec, FieldName, Url, check_url
from sidecar.telemetry.plain import names_secret
from sidecar.upstream.tls import ClientTlsSpec

SYMMETRIC: Final = frozenset(("HS256", "HS384", "HS512"))
"""Algorithms whose keys can also sign, so that they are never taken from a URL."""


FRAMING: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
"""Folded names of fields that say how a message is read, so that they carry nothing about callers."""


def _cookie(name: str) -> str:
    if re.fullmatch(TOKEN, name.encode("ascii", "replace")) is None:
        raise ValueError(f"has `{name}`, which is not the name of a cookie; write such as session")
    return name


def _no_framing(name: str) -> str:
    if fold(name.encode()) in FRAMING:
        raise ValueError(f"has `{name}`, which says how a message is read; name another field, such as x-api-key")
    return name


def _spiffe(pattern: str) -> str:
    if not pattern.startswith("spiffe://"):
        raise ValueError(
            f"has `{pattern}`, which matches no SPIFFE ID; write such as spiffe://cluster.local/ns/shop/sa/*"
        )
    return pattern


CredentialField = Annotated[FieldName, AfterValidator(_no_framing)]
CookieName = Annotated[str, AfterValidator(_cookie), Field(min_length=1, max_length=100)]
Claim = Annotated[str, Field(min_length=1, max_length=200)]
Algorithm = Literal[
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
    "EdDSA",
    "HS256",
    "HS384",
    "HS512",
]


class KeysSpec(Model):
    """Keys that verify tokens (RFC 7517): from a URL, a file or this file.  Without any of these, the issuer's OpenID
    configuration names the URL."""

    url: Url | None = None
    """URL of the key set."""
    discovery: Url | None = None
    """URL of a document whose `jwks_uri` names the key set; by default `ISSUER/.well-known/openid-configuration`.  The
    key set must be on the same host."""
    file: str | None = None
    """File with the key set as JSON.  A changed file is read again."""
    inline: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1, max_length=100)] | None = None
    """Keys as JSON Web Keys."""
    refresh: Annotated[Duration, Field(ge=1), duration_such_as("5m")] = 300.0
    """Time after which the key set is fetched again (Envoy: 10m)."""
    stale_for: DurationOrZero = 86400.0
    """Time for which keys are used although their URL cannot be reached.  After it, tokens cannot be verified and
    requests get a 503."""
    keep: str | None = None
    """File in which the fetched keys are kept, so that a restart does not need the issuer.  Its directory must exist,
    and others must not be able to write to it."""
    timeout: Duration = 2.0
    """Longest time for one fetch."""
    tls: ClientTlsSpec | None = None
    """TLS settings for an https URL; without the block, the system's certificate authorities are trusted."""

    @model_validator(mode="after")
    def _has_one_source(self) -> KeysSpec:
        given = [name for name in ("url", "discovery", "file", "inline") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; keep one of them")
        if self.keep is not None and given and given[0] in ("file", "inline"):
            raise ValueError(f"has keep beside {given[0]}, which needs none; take keep out")
        return self

    @property
    def is_remote(self) -> bool:
        """True if the keys are fetched."""
        return self.file is None and self.inline is None


class JwtSpec(Model):
    """Signed tokens (RFC 7519, RFC 9068) in `Authorization: Bearer`."""

    issuer: Annotated[str, Field(min_length=1, max_length=2048)]
    """Value that the claim `iss` must equal exactly."""
    audiences: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Names of this service, of which the claim `aud` must have at least one.  Without them a token that was issued for
    another service is accepted too."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1, max_length=14)] = ("RS256", "ES256")
    """Algorithms of signatures.  Each key is used only with the algorithms of its own type."""
    keys: KeysSpec = KeysSpec.built_in()
    leeway: Annotated[DurationOrZero, Field(le=600)] = 30.0
    """Difference of clocks that is allowed for `exp`, `nbf` and `iat`, 10m at most."""
    types: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=20)] | None = None
    """Permitted values of `typ` in the header of a token, such as `at+jwt`, which must then be present.  By default it
    may be absent, `JWT` or `at+jwt`."""
    require: Annotated[tuple[Claim, ...], Field(strict=False, max_length=50)] = ()
    """Claims that a token must have, beside `iss`, `exp` and the claim of `caller`."""
    caller: Claim = "sub"
    """Claim that names the caller."""
    max_token: Annotated[Size, Field(ge=256, le=65536)] = 16 * 1024
    """Longest token."""

    @model_validator(mode="after")
    def _binds_secrets(self) -> JwtSpec:
        if (secret := SYMMETRIC.intersection(self.algorithms)) and self.keys.is_remote:
            raise ValueError(
                f"has {min(secret)}, whose keys are secrets and are not fetched; write keys: {{file: ...}}, "
                "or an algorithm such as RS256"
            )
        if self.keys.is_remote and self.keys.url is None and self.keys.discovery is None:
            check_url(self.issuer)
        return self


class ApiKeySpec(Model):
    """API keys, known by their digests."""

    file: str
    """File with the digests as YAML, which `sidecar key new` writes.  A changed file is read again."""
    header: CredentialField | None = None
    """Header field with the key; by default `x-api-key`."""
    parameter: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Query parameter with the key, named so that spans hide it, such as `api_key`.  Proxies and services log URLs, so
    prefer a header."""
    cookie: CookieName | None = None
    """Cookie with the key."""

    @model_validator(mode="after")
    def _has_one_place(self) -> ApiKeySpec:
        given = [name for name in ("header", "parameter", "cookie") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; keep one of them")
        if self.parameter is not None and not names_secret(self.parameter):
            raise ValueError(f"has the parameter `{self.parameter}`, which spans would show; write such as api_key")
        return self


class IntrospectionSpec(Model):
    """Opaque tokens in `Authorization: Bearer` that their issuer is asked about (RFC 7662)."""

    url: Url
    """URL of the introspection endpoint."""
    client: ClientSpec
    audiences: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Names of this service, of which `aud` of the answer must have at least one; by default it is not checked."""
    caller: Claim = "sub"
    """Member of the answer that names the caller."""
    cache: DurationOrZero = 60.0
    """Time for which an answer is used again, but never beyond the end of the token.  A revoked token is accepted for
    as long."""
    on_failure: Literal["deny", "allow_stale"] = "deny"
    """Result while the endpoint fails: a 503, or the last answer for the token."""
    stale_for: Duration = 600.0
    """Time beyond `cache` for which `allow_stale` uses an answer, never beyond the end of the token."""
    timeout: Duration = 1.0
    """Longest time for one question."""
    tls: ClientTlsSpec | None = None
    """TLS settings for an https URL; without the block, the system's certificate authorities are trusted."""
    max_token: Annotated[Size, Field(ge=16, le=65536)] = 4096
    """Longest token."""


Pattern = Annotated[str, Field(min_length=1, max_length=500)]
Patterns = Annotated[tuple[Pattern, ...], Field(strict=False, min_length=1)]
SpiffePattern = Annotated[Pattern, AfterValidator(_spiffe)]


class CertificateSpec(Model):
    """Client certificates that the listener has verified (`tls.client_ca`)."""

    spiffe: SpiffePattern | Annotated[tuple[SpiffePattern, ...], Field(strict=False, min_length=1)] | None = None
    """Patterns for the SPIFFE ID; `*` stands for any characters but `/`."""
    dns: Pattern | Patterns | None = None
    """Patterns for a DNS name of the certificate; `*` stands for any characters but `.`."""
    subject: Pattern | Patterns | None = None
    """Patterns for the common name of the subject; `*` stands for any characters."""

    @model_validator(mode="after")
    def _has_one_name(self) -> CertificateSpec:
        given = [name for name in ("spiffe", "dns", "subject") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "needs one of spiffe, dns and subject, such as spiffe: spiffe://cluster.local/ns/shop/sa/*"
            )
        return self


class ExternalSpec(Model):
    """Server that is asked about each request (as Envoy's `ext_authz` over HTTP, nginx's `auth_request`).

    The server gets the method, the path appended to the URL, and the named fields.  2xx accepts the request, 401 and
    403 refuse it with the same status, and anything else is a failure.
    """

    url: Url
    """URL of the server; the path of the request is appended to its path."""
    append_path: bool = True
    """False to ask for the URL itself by GET.  The server then learns of the request from the fields `X-Forwarded-`
    `Method`, `Proto`, `Host`, `Uri` and `For`, and `X-Original-Method`, `X-Original-URI` and `X-Original-URL`."""
    keep_host: bool = False
    """True to send the host of the request in the field Host, in place of that of the URL."""
    headers: Annotated[tuple[CredentialField, ...], Field(strict=False, max_length=50)] = ("authorization", "cookie")
    """Header fields of the request that the server gets.  A request with none of them is anonymous."""
    forward: Annotated[tuple[CredentialField, ...], Field(strict=False, max_length=50)] = ()
    """Header fields of the answer that go on to the upstream; what a client sends under these names is dropped."""
    caller: FieldName | None = None
    """Header field of the answer that names the caller; without it, the caller has the name of the identity."""
    cache: DurationOrZero = 0.0
    """Time for which an answer is used again for a request with the same method, path and fields."""
    timeout: Duration = 0.2
    """Longest time for one question."""
    tls: ClientTlsSpec | None = None
    """TLS settings for an https URL; without the block, the system's certificate authorities are trusted."""


class IdentitySpec(Model):
    """Way to identify callers: exactly one of these keys."""

    jwt: JwtSpec | None = None
    api_key: ApiKeySpec | None = None
    introspection: IntrospectionSpec | None = None
    certificate: CertificateSpec | None = None
    external: ExternalSpec | None = None

    @model_validator(mode="after")
    def _is_one(self) -> IdentitySpec:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}; give each a name of its own" if given else "is empty"
            raise ValueError(f"{has}; write one of {', '.join(KINDS)}")
        return self

    @property
    def kind(self) -> str:
        """Key that the identity has."""
        return next(name for name in KINDS if getattr(self, name) is not None)


def without_files(spec: IdentitySpec) -> IdentitySpec:
    """Return an identity that can be built on any machine: one that reads no file, and accepts nobody for now."""
    changed: dict[str, Any] = {}
    if spec.jwt is not None and spec.jwt.keys.inline is None:
        keys = KeysSpec.built_in(url="https://issuer.invalid/keys")
        changed["jwt"] = spec.jwt.model_copy(update={"keys": keys})
    if spec.api_key is not None:
        changed["api_key"] = spec.api_key.model_copy(update={"file": ""})
    if spec.introspection is not None:
        client = spec.introspection.client.model_copy(update={"secret": SecretStr("none")})
        changed["introspection"] = spec.introspection.model_copy(update={"client": client, "tls": None})
    if spec.external is not None:
        changed["external"] = spec.external.model_copy(update={"tls": None})
    return spec.model_copy(update=changed)


KINDS: Final = ("jwt", "api_key", "introspection", "certificate", "external")
"""Keys of an identity, one of which it has."""
