"""Issuer of signed tokens for the benchmark: its key, its key set, and tokens as identity providers make them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ISSUER: Final = "https://id.example"
AUDIENCE: Final = "orders"
KEYS: Final = "keys.json"
"""Name of the file with the key set."""
END: Final = 4_102_444_800
"""Unix time of the tokens' end, in the year 2100."""


def encode(data: bytes) -> str:
    """Return data in base64url without padding (RFC 7515 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Issuer with one RSA key of 2048 bits, which signs with RS256."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)

    def key_set(self) -> str:
        """Return the public key as a JSON Web Key Set."""
        numbers = self.key.public_key().public_numbers()
        members = {"n": encode(numbers.n.to_bytes(256, "big")), "e": encode(numbers.e.to_bytes(3, "big"))}
        return json.dumps({"keys": [{"kty": "RSA", "kid": "bench", "use": "sig", "alg": "RS256", **members}]})

    def token(self, caller: str = "alice", **claims: Any) -> str:
        """Return a token of a caller, with the claims of an access token (RFC 9068)."""
        header = {"alg": "RS256", "typ": "at+jwt", "kid": "bench"}
        whole = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": caller, "iat": 1_700_000_000, "exp": END, "jti": f"{caller:0>36.36}",
            "client_id": "shop", "scope": "orders:read orders:write openid profile", "tenant": "acme", **claims,
        }  # fmt: skip
        signed = ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, whole))
        return f"{signed}.{encode(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@cache
def issuer() -> Issuer:
    """Return the issuer of this process."""
    return Issuer()


@cache
def tokens(count: int) -> list[str]:
    """Return different tokens of this process's issuer."""
    return [issuer().token(f"caller-{number}") for number in range(count)]
