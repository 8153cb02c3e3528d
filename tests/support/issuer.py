"""Issuer of tokens: keys, key sets, and signed tokens with any header and claims, made by an independent library.

Keys are made once in a process, because RSA keys take long to make.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Failure, Outcome, failed
from tests.support.clock import WALL
from tests.support.service import response

ISSUER = "https://id.example"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "orders", "sub": "alice", "exp": WALL + 3600, "tenant": "acme"}


@cache
def key(kind: str = "EC", name: str = "one") -> Any:
    """Return a private key or secret: RSA, EC, P-384, P-521, OKP or oct."""
    parameters: dict[str, Any] = {"kid": name}
    match kind:
        case "RSA":
            return RSAKey.generate_key(2048, parameters)
        case "OKP":
            return OKPKey.generate_key("Ed25519", parameters)
        case "oct":
            return OctKey.generate_key(512, parameters)
    return ECKey.generate_key({"EC": "P-256"}.get(kind, kind), parameters)


def jwk(found: Any, **members: Any) -> dict[str, Any]:
    """Return the public key, or the secret, as a JSON Web Key with these members; None takes a member out."""
    whole = {**found.as_dict(private=found.key_type == "oct"), **members}
    return {name: value for name, value in whole.items() if value is not None}


def part(value: Any) -> bytes:
    """Return a value, or bytes, as a part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(signer: Any, claims: Any = None, alg: str = "ES256", **header: Any) -> bytes:
    """Return a signed token; claims are `CLAIMS` with changes, or bytes to sign.  None takes a member out."""
    payload = claims if isinstance(claims, bytes) else _given({**CLAIMS, **(claims or {})})
    return raw(_given({"alg": alg, "typ": "JWT", "kid": signer.kid, **header}), payload, signer, alg)


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def raw(header: Any, payload: Any, signer: Any, alg: str = "ES256") -> bytes:
    """Return a token whose header and payload are signed as they are."""
    signed = part(header) + b"." + part(payload)
    signature = jws.JWSRegistry.algorithms[alg].sign(signed, signer)
    return signed + b"." + part(signature)


class KeyServer:
    """Server of a key set; `status` other than 200 or a failure takes its place, and `seen` counts requests."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.status: int | Failure = 200
        self.document: Any = None
        self.seen: list[Exchange] = []
        self.before: Callable[[], Any] | None = None

    async def __call__(self, x: Exchange) -> Outcome:
        self.seen.append(x)
        if self.before is not None:
            await self.before()
        if isinstance(self.status, Failure):
            return failed(self.status)
        if self.status != 200:
            return response(self.status)
        document = {"keys": self.keys} if self.document is None else self.document
        if x.path == b"/.well-known/openid-configuration":
            document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}
        return response(200, document if isinstance(document, bytes) else json.dumps(document).encode())
