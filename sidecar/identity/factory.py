"""Factory of identities from their specs, and of the sidecar's own credentials.

The state store has the objects that survive a reload: key sets, caches of verdicts, and the budget of verifications.
Their keys contain digests of the settings on which a verdict depends, so a changed issuer or audience forgets verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.core.env import Env
from sidecar.core.spec import Secret, SecretFile, reveal
from sidecar.core.stage import Service
from sidecar.identity.spec import (
    ApiKeySpec,
    CertificateSpec,
    ExternalSpec,
    IdentitySpec,
    IntrospectionSpec,
    JwtSpec,
    KeysSpec,
)
from sidecar.identity.verification import VerificationBudget, VerificationSpec
from sidecar.upstream.tls import ClientTlsSpec

if TYPE_CHECKING:
    from sidecar.identity.key_source import KeySource
    from sidecar.identity.outgoing.source import Credentials
    from sidecar.identity.outgoing.spec import CredentialsSpec

MODULES: Final = {
    "jwt": ("jwt", "key_source", "verification"),
    "api_key": ("api_keys",),
    "introspection": ("introspection",),
    "certificate": ("certificate",),
    "external": ("external",),
    "credentials": ("outgoing.oauth2", "outgoing.stage"),
}
"""Modules that an identity of each kind needs, and those of credentials of the sidecar at upstreams."""


class Connect(Protocol):
    """Function that returns the upstream of an identity's server, with a breaker."""

    def __call__(self, name: str, url: str, tls: ClientTlsSpec | None) -> Service: ...


class IdentityFactory:
    """Factory of the identities of one set of policies."""

    def __init__(
        self,
        env: Env,
        obtain: Callable[..., Any],
        connect: Connect,
        limits: VerificationSpec,
        read_yaml: Callable[[str], Any],
    ) -> None:
        """`obtain` is that of `BuildContext`; `connect` returns upstreams, `limits` bounds verifications, and
        `read_yaml` returns the content of a file."""
        self._env = env
        self._obtain = obtain
        self._connect = connect
        self._limits = limits
        self._read_yaml = read_yaml

    def make(self, name: str, spec: IdentitySpec) -> Any:
        """Return an identity.  Raises `OSError` and `ValueError` if it cannot be built on this machine."""
        make: Callable[[str, Any], Any] = getattr(self, f"_{spec.kind}")
        return make(name, getattr(spec, spec.kind))

    def _jwt(self, name: str, spec: JwtSpec) -> Any:
        from sidecar.identity.jwt import JwtIdentity

        source, budget = self._keys(name, spec), self._budget()
        settings = spec.model_copy(update={"keys": KeysSpec.built_in()})
        key = ("identity", name, "jwt", digest(settings, *_place(spec)))
        return self._obtain(key, None, lambda: JwtIdentity(name, spec, source, budget, self._env))

    def _api_key(self, name: str, spec: ApiKeySpec) -> Any:
        from sidecar.identity.api_keys import ApiKeys

        key = ("identity", name, "api_key", digest(spec))
        return self._obtain(key, None, lambda: ApiKeys(name, spec, self._read_yaml, self._env))

    def _introspection(self, name: str, spec: IntrospectionSpec) -> Any:
        from sidecar.identity.http_source import HttpSource
        from sidecar.identity.introspection import Introspection

        secret = reveal(spec.client.secret)
        service = self._connect(name, spec.url, spec.tls)
        source = HttpSource(spec.url, service, self._env)
        budget = self._budget()
        key = ("identity", name, "introspection", digest(spec, secret))
        return self._obtain(key, None, lambda: Introspection(name, spec, secret, source, budget, self._env))

    def _certificate(self, name: str, spec: CertificateSpec) -> Any:
        from sidecar.identity.certificate import CertificateIdentity

        key = ("identity", name, "certificate", digest(spec))
        return self._obtain(key, None, lambda: CertificateIdentity(name, spec, self._env))

    def _external(self, name: str, spec: ExternalSpec) -> Any:
        from sidecar.identity.external import External
        from sidecar.identity.http_source import HttpSource

        source = HttpSource(spec.url, self._connect(name, spec.url, spec.tls), self._env)
        key = ("identity", name, "external", digest(spec))
        return self._obtain(key, None, lambda: External(name, spec, source, self._env))

    def _budget(self) -> VerificationBudget:
        limits = self._limits
        budget: VerificationBudget
        budget = self._obtain(("verification",), limits, lambda: VerificationBudget(limits, self._env))
        return budget

    def _keys(self, name: str, spec: JwtSpec) -> KeySource:
        """Return the source of an identity's keys."""
        from sidecar.identity.http_source import HttpSource
        from sidecar.identity.key_source import FileKeys, InlineKeys, RemoteKeys

        keys, env = spec.keys, self._env
        key = ("key_set", name, digest(*_place(spec)))
        source: KeySource
        if keys.inline is not None:
            listed = keys.inline
            source = self._obtain(key, None, lambda: InlineKeys(name, listed))
        elif keys.file is not None:
            path = keys.file
            source = self._obtain(key, None, lambda: FileKeys(name, path, env))
        else:
            url = keys.url or keys.discovery or f"{spec.issuer.removesuffix('/')}/.well-known/openid-configuration"
            service = self._connect(name, url, keys.tls)
            make = lambda: RemoteKeys(name, keys, spec.issuer, HttpSource(url, service, env), env)  # noqa: E731
            source = self._obtain(key, keys, make)
        return source


def make_credentials(
    upstream: str, spec: CredentialsSpec, env: Env, obtain: Callable[..., Any], connect: Connect
) -> Credentials:
    """Return the source of the sidecar's credentials at an upstream.  Raises `OSError` and `ValueError`.

    `obtain` is that of `BuildContext`, and `connect` returns the upstream of a token server.
    """
    source: Credentials
    if (header := spec.header) is not None:
        from sidecar.identity.outgoing.source import HeaderCredentials

        key = ("credentials", upstream, digest(spec, _fixed(header.value)))
        source = obtain(key, None, lambda: HeaderCredentials(upstream, header, env))
        return source
    from sidecar.identity.http_source import HttpSource
    from sidecar.identity.outgoing.oauth2 import ClientCredentials

    oauth2 = spec.oauth2
    assert oauth2 is not None
    service = connect(upstream, oauth2.token_url, oauth2.tls)
    key = ("credentials", upstream, digest(spec, _fixed(oauth2.client.secret)))
    http = HttpSource(oauth2.token_url, service, env)
    source = obtain(key, None, lambda: ClientCredentials(upstream, oauth2, http, env))
    return source


def _fixed(secret: Secret) -> str:
    """Return a secret of the policy; empty for one from a file, which may change."""
    return "" if isinstance(secret, SecretFile) else reveal(secret)


def _place(spec: JwtSpec) -> tuple[Any, ...]:
    """Return the settings that say which keys they are."""
    keys = spec.keys
    return keys.url, keys.discovery or spec.issuer, keys.file, keys.inline, repr(keys.tls)


def digest(*settings: object) -> str:
    """Return a digest of settings for a key of the state store; secrets in them cannot be read from it."""
    return blake2b(repr(settings).encode(), digest_size=8).hexdigest()


def import_kind(kind: str) -> None:
    """Import the modules of a kind of identity, with their libraries; call it in a worker thread."""
    for module in MODULES.get(kind, ()):
        import_module(f"sidecar.identity.{module}")
