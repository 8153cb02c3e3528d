"""Issuer of bearer tokens: the load sends them, and a service answers with its keys or tells that a token is active.

All parts have the same key, which is made from a fixed number: it protects nothing.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER: Final = "https://id.example"
AUDIENCE: Final = "shop"
END: Final = 4_102_444_800
"""Unix time of the tokens' end, in the year 2100."""
SIZE: Final = 32
"""Bytes of a number of the curve."""


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(b"a key of chaos scenarios alone"), ec.SECP256R1())


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(value: Any) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def key_set() -> bytes:
    """Return the public key as a JSON Web Key Set (RFC 7517)."""
    numbers = _key().public_key().public_numbers()
    x, y = (_encode(number.to_bytes(SIZE)) for number in (numbers.x, numbers.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "chaos", "x": x, "y": y}]}).encode()


def active() -> bytes:
    """Return the answer of an introspection endpoint for a valid token (RFC 7662)."""
    return json.dumps({"active": True, "sub": "alice", "aud": AUDIENCE, "exp": END}).encode()


@cache
def signed_token(number: int) -> str:
    """Return the signed token with this number (RFC 7519)."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"caller-{number}", "exp": END}
    text = f"{_part({'alg': 'ES256', 'typ': 'JWT', 'kid': 'chaos'})}.{_part(claims)}"
    r, s = decode_dss_signature(_key().sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_encode(r.to_bytes(SIZE) + s.to_bytes(SIZE))}"


def token(kind: str, number: int) -> str:
    """Return the token with this number: a `signed` one, or else an opaque one."""
    return signed_token(number) if kind == "signed" else f"opaque-{number}"
