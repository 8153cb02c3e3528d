"""Callers of a test: identities whose credentials the test itself makes.

Signed tokens are signed with a key of the test, which takes the place of the issuer's keys.  Opaque tokens and API keys
are made known to their identity.  Client certificates and external servers have no place in a policy test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.config.spec import PolicySpec
from sidecar.policytest.spec import CallerSpec, RequestSpec

if TYPE_CHECKING:
    from sidecar.identity.keys import Signer
    from sidecar.identity.spec import IdentitySpec, JwtSpec

VALID_FOR: Final = 300
"""Seconds until a token ends, unless the test says otherwise."""


class TestCallers:
    """Credentials of one test."""

    __test__ = False  # pytest must not collect it

    def __init__(self, spec: PolicySpec) -> None:
        self._given = spec.identities
        self._signer: Signer | None = None
        self.identities: dict[str, IdentitySpec] = {}
        """Identities that accept the test's credentials, by name."""
        if spec.identities:
            from sidecar.identity.spec import without_files

            self.identities = {name: self._known(without_files(each)) for name, each in spec.identities.items()}

    def _known(self, spec: IdentitySpec) -> IdentitySpec:
        """Return an identity whose tokens the test can sign."""
        if spec.jwt is None:
            return spec
        from sidecar.identity.keys import Signer
        from sidecar.identity.spec import KeysSpec

        self._signer = self._signer or Signer()
        keys = KeysSpec.built_in(inline=(self._signer.jwk,))
        return spec.model_copy(
            update={"jwt": spec.jwt.model_copy(update={"keys": keys, "algorithms": (Signer.ALGORITHM,)})}
        )

    def equip(self, request: RequestSpec, identities: dict[str, Any], wall: float) -> RequestSpec:
        """Return a request with the credentials of its caller; `identities` are those in force, by name.

        Raises `ValueError` if the test cannot make them.
        """
        caller = request.caller
        if caller is None:
            return request
        spec = self._given.get(caller.identity)
        found = identities.get(caller.identity)
        if spec is None or found is None:
            raise ValueError(f"no route uses an identity `{caller.identity}`; known are {', '.join(identities)}")
        claims = {spec.jwt.caller if spec.jwt is not None else "sub": caller.id, **caller.claims}
        if spec.jwt is not None:
            return _with_field(request, "authorization", f"Bearer {self._token(spec.jwt, claims, wall)}")
        if spec.introspection is not None:
            token = f"test-{caller.id}"
            given = {"active": True, spec.introspection.caller: caller.id, "exp": wall + VALID_FOR}
            given["aud"] = list(spec.introspection.audiences)
            found.learn(token.encode(), {**given, **caller.claims})
            return _with_field(request, "authorization", f"Bearer {token}")
        if spec.api_key is not None:
            return self._with_key(request, spec, caller, found)
        raise ValueError(f"a test has no credentials for `{caller.identity}`, which is of the kind {spec.kind}")

    def _token(self, spec: JwtSpec, claims: dict[str, Any], wall: float) -> str:
        assert self._signer is not None
        usual: dict[str, Any] = {"iss": spec.issuer, "exp": wall + VALID_FOR, "iat": wall}
        if spec.audiences:
            usual["aud"] = spec.audiences[0]
        return self._signer.sign({**usual, **claims}, "JWT" if spec.types is None else spec.types[0]).decode()

    @staticmethod
    def _with_key(request: RequestSpec, spec: IdentitySpec, caller: CallerSpec, found: Any) -> RequestSpec:
        key, place = f"test-{caller.id}", spec.api_key
        assert place is not None
        found.learn(key.encode(), caller.id, caller.claims)
        if place.parameter is not None:
            mark = "&" if "?" in request.path else "?"
            return request.model_copy(update={"path": f"{request.path}{mark}{place.parameter}={key}"})
        if place.cookie is not None:
            return _with_field(request, "cookie", f"{place.cookie}={key}")
        return _with_field(request, place.header or "x-api-key", key)


def _with_field(request: RequestSpec, name: str, value: str) -> RequestSpec:
    """Return a request with a field, unless the test has given it."""
    given = {key.lower(): each for key, each in request.headers.items()}
    return request.model_copy(update={"headers": {name: value, **given}})
